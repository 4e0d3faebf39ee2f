# The worker's image: scripts/build_image.sh --profile sd15-v3, or docker buildx bake.
# All stages share one base image. torch's wheel brings the CUDA libraries, the host brings the driver. The parts that
# change most often come last, so a change of the code builds in seconds.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# --- The locked dependencies, in /opt/venv.
FROM ${BASE_IMAGE} AS dependencies
# A lock with hashes, which pip then requires of every package. A build from other wheels than the public index's
# passes requirements.txt instead.
ARG REQUIREMENTS=requirements.lock
WORKDIR /build
COPY ${REQUIREMENTS} requirements
# The secret pip_conf configures pip for another package index. It is optional, and no layer keeps it.
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip_conf \
    python -m venv /opt/venv \
    && PIP_CACHE_DIR=/var/cache/pip PIP_CONFIG_FILE=/run/secrets/pip_conf \
        /opt/venv/bin/python -m pip install --disable-pip-version-check -r requirements

# --- The weights as published. This stage needs only the table of files and the client of the hub.
FROM ${BASE_IMAGE} AS fetch
WORKDIR /build
COPY builder/requirements.txt ./
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip_conf \
    python -m venv /opt/venv \
    && PIP_CACHE_DIR=/var/cache/pip PIP_CONFIG_FILE=/run/secrets/pip_conf \
        /opt/venv/bin/python -m pip install --disable-pip-version-check -r requirements.txt
COPY animatediff/__init__.py animatediff/atomic.py animatediff/deadline.py animatediff/errors.py animatediff/progress.py \
     animatediff/shown.py animatediff/
# Without catalog/__init__.py, which would import the other tables: files.py needs nothing but its JSON file.
COPY animatediff/catalog/files.py animatediff/catalog/files.json animatediff/catalog/
COPY animatediff/fetch animatediff/fetch
COPY builder/__init__.py builder/fetch_models.py builder/
# A profile of catalog/files.json. ALLOW_UNPINNED=1 accepts files without a known hash.
ARG MODELS_PROFILE=shapeworld
ARG ALLOW_UNPINNED=0
# A repository may ask for a token. Pass it as a secret: docker build --secret id=hf_token,src=FILE
RUN --mount=type=cache,target=/downloads --mount=type=secret,id=hf_token \
    if [ "${ALLOW_UNPINNED}" = 1 ]; then set -- --allow-unpinned; fi \
    && mkdir -p /models \
    && HF_TOKEN_PATH=/run/secrets/hf_token HF_HUB_DISABLE_TELEMETRY=1 /opt/venv/bin/python -m builder.fetch_models \
        "${MODELS_PROFILE}" --models-dir /models --cache /downloads "$@"

# --- The weights in the format that loads fastest. This stage needs only the code that reads weight files.
FROM dependencies AS weights
WORKDIR /build
COPY animatediff/__init__.py animatediff/atomic.py animatediff/config.py animatediff/errors.py animatediff/shown.py \
     animatediff/
COPY animatediff/catalog animatediff/catalog
COPY animatediff/families animatediff/families
COPY animatediff/fetch animatediff/fetch
COPY animatediff/checkpoints animatediff/checkpoints
COPY builder/__init__.py builder/convert.py builder/
RUN --mount=type=bind,from=fetch,source=/models,target=/fetched \
    mkdir -p /models && /opt/venv/bin/python -m builder.convert /fetched --output /models

# --- The Triton kernels, compiled for every card, so that no job waits for it. torch's CPU wheels never run them.
FROM dependencies AS kernels
WORKDIR /app
COPY animatediff/__init__.py animatediff/errors.py animatediff/shown.py animatediff/
COPY animatediff/kernels animatediff/kernels
COPY builder/__init__.py builder/kernels.py builder/
# Triton notes whole paths, so the folder is the worker's. A folder called triton would be a package here. The C compiler makes Triton's binding of the driver.
# hadolint ignore=DL3008
RUN mkdir kernel-cache \
    && if /opt/venv/bin/python -c "import sys, torch; sys.exit(torch.version.cuda is None)"; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/* \
        && /opt/venv/bin/python -m builder.kernels /app/kernel-cache; \
    fi

# --- The page, with Gradio: docker buildx bake app. Its packages are not the worker's, see requirements-app.txt.
FROM ${BASE_IMAGE} AS app
WORKDIR /app
COPY requirements.txt requirements-app.txt ./
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip_conf \
    export PIP_CACHE_DIR=/var/cache/pip PIP_CONFIG_FILE=/run/secrets/pip_conf \
    && python -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --disable-pip-version-check -r requirements-app.txt \
    && /opt/venv/bin/python -m pip install --disable-pip-version-check --no-deps "$(grep '^runpod==' requirements.txt)" \
    && useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin page
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    ANIMATEDIFF_OUTPUT_DIR=/tmp/animatediff/outputs \
    ANIMATEDIFF_CACHE_DIR=/tmp/animatediff/cache \
    HF_HUB_DISABLE_TELEMETRY=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=weights --chmod=0755 /models models
COPY --chmod=0755 models/shapeworld models/shapeworld
COPY --chmod=0755 schemas schemas
COPY --chmod=0755 animatediff animatediff
COPY --chmod=0755 app.py handler.py ./
USER 10001:10001
EXPOSE 7860
CMD ["python", "-u", "app.py", "--host", "0.0.0.0"]

# --- The worker. It comes last, so that it is what a build without a target makes.
FROM dependencies AS worker
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin worker
# The worker writes only below /tmp, so the root file system may be read-only with a tmpfs at /tmp.
# ANIMATEDIFF_OFFLINE and HF_HUB_OFFLINE: jobs use only weights in the image or on a volume. Set both to 0 to let jobs
# name URLs and files on the hub.
# PYTORCH_ALLOC_CONF: blocks of GPU memory grow, so that jobs of changing sizes leave no gaps. Older releases of torch
# call it PYTORCH_CUDA_ALLOC_CONF.
# TRITON_CACHE_DIR: compiled kernels. The worker keeps others below /tmp.
# RUNPOD_DEBUG_LEVEL: the SDK's default level logs every answer, including the videos in it.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    ANIMATEDIFF_OUTPUT_DIR=/tmp/animatediff/outputs \
    ANIMATEDIFF_CACHE_DIR=/tmp/animatediff/cache \
    ANIMATEDIFF_OFFLINE=1 \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PYTORCH_ALLOC_CONF=expandable_segments:True \
    RUNPOD_DEBUG_LEVEL=INFO \
    TRITON_CACHE_DIR=/app/kernel-cache \
    TRANSFORMERS_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
COPY --from=weights --chmod=0755 /models models
COPY --chmod=0755 models/shapeworld models/shapeworld
COPY --from=kernels --chmod=0755 /app/kernel-cache kernel-cache
COPY --chmod=0755 schemas schemas
COPY --chmod=0755 animatediff animatediff
COPY --chmod=0755 handler.py test_input.json ./
# Python uses this bytecode without comparing it with the sources. A read-only root file system allows no other.
RUN python -m compileall -q --invalidation-mode unchecked-hash animatediff schemas handler.py
USER 10001:10001
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="animatediff-serverless" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Python is process 1, so it receives SIGTERM, and its child processes end with it.
CMD ["python", "-u", "handler.py"]
