# The commands of the README. Everything is installed into .venv, from the pinned requirements files.
PYTHON ?= python3
PORT ?= 8000
PROFILE ?= shapeworld
TAG ?= animatediff-serverless:dev
BIN := .venv/bin

JOBS ?= 300
WORKERS ?= 3
KILLS ?= 10
SLOW ?= 5
HOSTILE ?= 5
CASES ?= 5000
SEED ?=
MINUTES ?= 0
VERSION ?=
COVERAGE ?=
ENDPOINT ?=
DRY_RUN ?=

.PHONY: demo app test test-app quick coverage lint format serve schemas image test-image test-queue test-ceph fuzz soak wheel train-shapeworld release lock pin clean

demo: .venv/requirements
	@$(BIN)/python -m scripts.demo

app: .venv-app/requirements
	@.venv-app/bin/python -u app.py $(if $(ENDPOINT),--endpoint $(ENDPOINT))

# a process for each CPU; each computes on one, which at the size of these models is fastest
test: .venv/requirements-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal \
		$(if $(COVERAGE),--cov --cov-report=term:skip-covered)

quick: .venv/requirements-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 8 --dist worksteal

coverage:
	$(MAKE) test COVERAGE=1

lint: .venv/requirements-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/hadolint Dockerfile

format: .venv/requirements-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

serve: .venv/requirements
	$(BIN)/python -m animatediff serve --port $(PORT)

schemas: .venv/requirements
	$(BIN)/python -m schemas.generate
	$(BIN)/python -m scripts.tables

image:
	scripts/build_image.sh --profile $(PROFILE) --tag $(TAG)
	scripts/image_report.sh $(TAG)

test-queue: .venv/requirements-dev
	$(BIN)/python -m pytest tests/queue

# in a real browser, on the page as a process of its own
test-app: .venv/requirements-dev .venv-app/requirements
	tests/app_browser/install.sh
	$(BIN)/python -m pytest tests/app_browser

test-ceph: .venv/requirements-dev
	tests/ceph/install.sh
	$(BIN)/python -m pytest tests/ceph

fuzz: .venv/requirements-dev
	$(BIN)/python -m pytest tests/fuzz --cases $(CASES) $(if $(SEED),--hypothesis-seed $(SEED))

soak: .venv/requirements-dev
	$(BIN)/python -m lab.soak --bucket --jobs $(JOBS) --minutes $(MINUTES) --workers $(WORKERS) --kills $(KILLS) \
		--slow $(SLOW) --hostile $(HOSTILE)

wheel: .venv/requirements-dev
	$(BIN)/python -m lab.check_wheel

test-image:
	tests/image/run.sh

train-shapeworld: .venv/requirements-train
	$(BIN)/python -m lab.train_shapeworld

release: .venv/requirements-dev
	$(BIN)/python -m scripts.release $(VERSION) $(if $(DRY_RUN),--dry-run)

lock: .venv/requirements
	$(BIN)/python -m scripts.lock

pin: .venv/requirements
	$(BIN)/python -m builder.pin

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed")'
	@$(PYTHON) -m venv .venv

.venv/requirements: requirements.txt | .venv/bin/python
	@echo "installing requirements.txt into .venv ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . >&2
	@touch $@

.venv/requirements-train: requirements-train.txt .venv/requirements
	@echo "installing requirements-train.txt into .venv ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-train.txt >&2
	@touch $@

.venv/requirements-dev: requirements-dev.txt requirements-train.txt .venv/requirements
	@echo "installing requirements-dev.txt into .venv ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt >&2
	@touch $@

# The page's own environment, see requirements-app.txt.
.venv-app/requirements: requirements-app.txt requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed")'
	@test -x .venv-app/bin/python || $(PYTHON) -m venv .venv-app
	@echo "installing requirements-app.txt into .venv-app ..." >&2
	@.venv-app/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-app.txt >&2
	@.venv-app/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$$(grep '^runpod==' requirements.txt)" >&2
	@touch $@

clean:
	rm -rf .venv .venv-app outputs
