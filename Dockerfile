# The worker's image. Every stage stands on the same base: the CUDA libraries come with torch's wheel, the driver from
# the host. What changes most often comes last, so that a change of the code builds in seconds.
#   scripts/build_image.sh --profile sd15-v3      or: docker buildx bake
ARG BASE_IMAGE=python:3.11-slim-bookworm

# --- the locked dependencies, in /opt/venv
FROM ${BASE_IMAGE} AS dependencies
# A file whose pins take the place of those in requirements.txt; requirements.txt itself: none do.
ARG REQUIREMENTS_OVERRIDE=requirements.txt
WORKDIR /build
COPY requirements.txt ${REQUIREMENTS_OVERRIDE} ./
# The secret pip_conf is for who installs from an index of their own; pip reads it if it is there, and nothing of it
# stays.
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip_conf \
    awk -F '==' 'FNR == 1 { file++ } file == 1 { given[$1] = 1; print; next } !($1 in given)' \
        "${REQUIREMENTS_OVERRIDE}" requirements.txt > locked.txt \
    && python -m venv /opt/venv \
    && PIP_CACHE_DIR=/var/cache/pip PIP_CONFIG_FILE=/run/secrets/pip_conf \
        /opt/venv/bin/python -m pip install --disable-pip-version-check -r locked.txt

# --- the weights as published: needs the manifest and its reader, and nothing else of the project
FROM ${BASE_IMAGE} AS fetch
WORKDIR /build
COPY builder/requirements.txt ./
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip_conf \
    python -m venv /opt/venv \
    && PIP_CACHE_DIR=/var/cache/pip PIP_CONFIG_FILE=/run/secrets/pip_conf \
        /opt/venv/bin/python -m pip install --disable-pip-version-check -r requirements.txt
COPY animatediff/__init__.py animatediff/atomic.py animatediff/
COPY builder/__init__.py builder/manifest.py builder/manifest.json builder/fetch_models.py builder/
# One of the manifest's profiles. ALLOW_UNPINNED=1: take what nobody has pinned as it comes.
ARG MODELS_PROFILE=shapeworld
ARG ALLOW_UNPINNED=0
# A token, where a repository asks for one, is a secret: docker build --secret id=hf_token,src=FILE
RUN --mount=type=cache,target=/downloads --mount=type=secret,id=hf_token \
    if [ "${ALLOW_UNPINNED}" = 1 ]; then set -- --allow-unpinned; fi \
    && mkdir -p /models \
    && HF_TOKEN_PATH=/run/secrets/hf_token HF_HUB_DISABLE_TELEMETRY=1 /opt/venv/bin/python -m builder.fetch_models \
        --profile "${MODELS_PROFILE}" --models-dir /models --cache /downloads "$@"

# --- the weights as the worker reads them fastest. Of the package, only what reads weight files
FROM dependencies AS weights
WORKDIR /build
COPY animatediff/__init__.py animatediff/atomic.py animatediff/config.py animatediff/errors.py animatediff/
COPY animatediff/catalog animatediff/catalog
COPY animatediff/checkpoints animatediff/checkpoints
COPY builder/__init__.py builder/convert.py builder/
RUN --mount=type=bind,from=fetch,source=/models,target=/fetched \
    mkdir -p /models && /opt/venv/bin/python -m builder.convert /fetched --output /models

# --- the worker
FROM dependencies AS worker
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin worker
# HOME and all that is written are below /tmp: the root may be read-only, with a tmpfs there. ANIMATEDIFF_OFFLINE and
# HF_HUB_OFFLINE: jobs use what the image or a volume holds; 0 for both lets them name files on the hub and URLs.
# RUNPOD_DEBUG_LEVEL: at the SDK's default every answer is logged, videos and all.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    ANIMATEDIFF_OUTPUT_DIR=/tmp/animatediff/outputs \
    ANIMATEDIFF_CACHE_DIR=/tmp/animatediff/cache \
    ANIMATEDIFF_OFFLINE=1 \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    RUNPOD_DEBUG_LEVEL=INFO \
    TRANSFORMERS_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
COPY --from=weights --chmod=0755 /models models
COPY --chmod=0755 models/shapeworld models/shapeworld
COPY --chmod=0755 schemas schemas
COPY --chmod=0755 animatediff animatediff
COPY --chmod=0755 handler.py test_input.json ./
# Bytecode that is taken without looking at the sources' times: with a read-only root nothing could write it later.
RUN python -m compileall -q --invalidation-mode unchecked-hash animatediff schemas handler.py
USER 10001:10001
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="animatediff-serverless" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Python itself is process 1: it gets SIGTERM, and whatever it started ends with it.
CMD ["python", "-u", "handler.py"]
