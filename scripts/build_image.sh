#!/bin/sh
# Build the worker's image with docker (BuildKit), or with buildah where there is no docker.
set -eu

usage() {
    cat << 'USAGE'
scripts/build_image.sh [--profile NAME] [--tag NAME:TAG] [--target cuda13|cuda12-8] [-- OPTION ...]

  --profile   weights in the image: one of the profiles that animatediff fetch --list shows (default: shapeworld)
  --tag       default: animatediff-serverless:dev
  --target    cuda13: with requirements.lock (default); cuda12-8: with requirements-cuda12.8.lock
  --context   folder to build (default: this repository)
  --          what follows goes to docker build, or buildah build, as it is

Environment: BASE_IMAGE, ALLOW_UNPINNED, REQUIREMENTS, VERSION, REVISION as in the Dockerfile; HF_TOKEN becomes the build secret hf_token,
which no layer keeps; DOCKER names the docker client.
USAGE
}

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=container_engine.sh
. "$here/container_engine.sh"
profile=shapeworld tag=animatediff-serverless:dev target=cuda13 context=$(dirname "$here")
while [ $# -gt 0 ]; do
    case $1 in
        --profile) profile=$2 && shift 2 ;;
        --tag) tag=$2 && shift 2 ;;
        --target) target=$2 && shift 2 ;;
        --context) context=$2 && shift 2 ;;
        --help | -h) usage && exit 0 ;;
        --) shift && break ;;
        *) usage >&2 && exit 2 ;;
    esac
done
case $target in
    cuda13) lock=requirements.lock ;;
    cuda12-8) lock=requirements-cuda12.8.lock ;;
    *) echo "no target $target, only cuda13 and cuda12-8" >&2 && exit 2 ;;
esac
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$context/animatediff/__init__.py")
revision=${REVISION:-$(git -C "$context" rev-parse HEAD 2> /dev/null || echo unknown)}

set -- --build-arg "MODELS_PROFILE=$profile" --build-arg "REQUIREMENTS=${REQUIREMENTS:-$lock}" \
    --build-arg "VERSION=${VERSION:-${version:-dev}}" --build-arg "REVISION=$revision" "$@"
[ -z "${BASE_IMAGE:-}" ] || set -- --build-arg "BASE_IMAGE=$BASE_IMAGE" "$@"
[ -z "${ALLOW_UNPINNED:-}" ] || set -- --build-arg "ALLOW_UNPINNED=$ALLOW_UNPINNED" "$@"
if [ -n "${HF_TOKEN:-}" ]; then
    secret=$(mktemp)
    trap 'rm -f "$secret"' EXIT
    trap 'exit 130' INT TERM
    printf %s "$HF_TOKEN" > "$secret"
    set -- --secret "id=hf_token,src=$secret" "$@"
fi

if client=$(docker_client); then
    DOCKER_BUILDKIT=1 "$client" build --tag "$tag" --target worker "$@" "$context"
elif command -v buildah > /dev/null; then
    buildah build --format docker --layers --tag "$tag" --target worker "$@" "$context"
else
    echo "neither a docker client with BuildKit nor buildah is here" >&2
    exit 1
fi
