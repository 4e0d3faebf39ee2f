#!/usr/bin/env bash
# Build the image with the embedded family and run it as it is meant to be run: tests/image/run.sh (make test-image)
#
# Ends with 0 only if all of it was done and was right, and with 77 where this machine has no place for it. It uses the
# docker daemon that is there; where none is, and this is Debian and root, it starts one of its own (docker.io), which it
# takes away again. Where no registry can be reached, the base image is made from Debian's packages (mmdebstrap) and the
# dependencies are fetched by this machine's pip, both kept in ANIMATEDIFF_IMAGE_CACHE. What a pip needs here to reach its
# packages does not come into any layer.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${ANIMATEDIFF_IMAGE_CACHE:-$HOME/.cache/animatediff-image}
work=$(mktemp -d)
tag=animatediff-serverless:test-$$
frames=16 side=64
started=$SECONDS
pids=() containers=() images=() build_options=() private=""
export DOCKER_BUILDKIT=1
# shellcheck source-path=SCRIPTDIR source=../../scripts/container_engine.sh
. "$root/scripts/container_engine.sh"

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

cannot() { # for want of something that this machine has not
    echo "NOT RUN: $*" >&2
    exit 77
}

passed() {
    printf '%4d s  %s\n' "$((SECONDS - started))" "$*"
}

# Whatever was started is ended by its own name or number, and in the other order.
cleanup() {
    status=$?
    set +e
    trap '' INT TERM
    for container in "${containers[@]}"; do "$docker" rm --force "$container" > /dev/null 2>&1; done
    if [ -z "$private" ]; then # else they go with the daemon
        for image in "${images[@]}"; do "$docker" rmi --force "$image" > /dev/null 2>&1; done
    fi
    for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null && wait "$pid" 2> /dev/null; done
    if [ -n "$private" ]; then
        grep -o " $private/[^ ]*" /proc/self/mounts | sort -r | while read -r mount; do umount "$mount"; done
    fi
    if grep -q " $work/" /proc/self/mounts; then
        echo "something is still mounted below $work, which is left there" >&2
        status=1
    else
        rm -rf --one-file-system "$work"
    fi
    [ "$status" -eq 0 ] && passed "ALL PASSED, and cleaned up" || echo "ENDED WITH $status" >&2
    exit "$status"
}
docker=""
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# wait_for SECONDS COMMAND...: until COMMAND succeeds
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.2
    done
}

install() {
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
        cannot "$1 is needed and not here; installing it takes apt-get and root"
    fi
    apt-get install -y --no-install-recommends "$@" > "$work/apt.log" 2>&1 ||
        { apt-get update >> "$work/apt.log" 2>&1 && apt-get install -y --no-install-recommends "$@" >> "$work/apt.log" 2>&1; } ||
        cannot "could not install $*: $(tail -n 3 "$work/apt.log")"
}

# --- an engine
start_daemon() {
    [ "$(id -u)" -eq 0 ] || cannot "no docker daemon is here, and only root can start one"
    unshare --mount true 2> /dev/null || cannot "no docker daemon is here, and this machine's root may not mount"
    command -v dockerd > /dev/null || install docker.io
    private=$work/docker
    mkdir -p "$private"
    dockerd --data-root "$private/data" --exec-root "$private/exec" --host "unix://$private/docker.sock" \
        --pidfile "$private/pid" --iptables=false --ip6tables=false --bridge=none \
        > "$work/dockerd.log" 2>&1 &
    pids+=("$!")
    export DOCKER_HOST=unix://$private/docker.sock
    docker=$(docker_client) || fail "no docker client is here that can build with BuildKit"
    build_options+=(--network host) # it has no bridge
    wait_for 60 "$docker" info || cannot "dockerd did not start: $(tail -n 5 "$work/dockerd.log")"
}

if docker=$(docker_client) && "$docker" info > /dev/null 2>&1; then
    passed "the docker daemon that is here: $("$docker" version --format '{{.Server.Version}}')"
else
    start_daemon
    passed "a docker daemon of our own: $("$docker" version --format '{{.Server.Version}}')"
fi
export DOCKER=$docker

# --- a base image, and a way to the packages
BASE_IMAGE=${BASE_IMAGE:-python:3.11-slim-bookworm}
if ! "$docker" image inspect "$BASE_IMAGE" > /dev/null 2>&1 && ! timeout 120 "$docker" pull "$BASE_IMAGE" > /dev/null 2>&1; then
    tarball=$cache/base-bookworm.tar
    mkdir -p "$cache"
    if [ ! -f "$tarball" ]; then
        command -v mmdebstrap > /dev/null || install mmdebstrap
        # shellcheck disable=SC2016 # $1 is the hook's
        mmdebstrap --format=tar --variant=minbase --include=ca-certificates,python3,python3-venv \
            --customize-hook='ln -s python3 "$1/usr/bin/python"' bookworm "$work/base.tar" 2> "$work/base.log" ||
            cannot "could not make a base image: $(tail -n 3 "$work/base.log")"
        mv "$work/base.tar" "$tarball.part-$$" && mv "$tarball.part-$$" "$tarball"
    fi
    BASE_IMAGE=localhost/animatediff-base:$$
    "$docker" import "$tarball" "$BASE_IMAGE" > /dev/null
    images+=("$BASE_IMAGE")
    passed "base image from Debian's packages ($(du -m "$tarball" | cut -f1) MB)"

    wheels=$cache/wheels-$(cat "$root/requirements.txt" "$root/builder/requirements.txt" | sha256sum | cut -c1-12)
    if [ ! -f "$wheels/complete" ]; then
        python3 -m pip download --quiet --disable-pip-version-check --python-version 3.11 --only-binary=:all: \
            --dest "$wheels" -r "$root/requirements.txt" > "$work/pip.log" 2>&1 ||
            fail "this machine's pip could not fetch the dependencies: $(tail -n 3 "$work/pip.log")"
        touch "$wheels/complete"
    fi
    port=$(free_port)
    python3 -m http.server --bind 127.0.0.1 --directory "$wheels" "$port" > /dev/null 2>&1 &
    pids+=("$!")
    printf '[global]\nno-index = true\nfind-links = http://127.0.0.1:%s/\n' "$port" > "$work/pip_conf"
    build_options+=(--network host --secret "id=pip_conf,src=$work/pip_conf")
    export REQUIREMENTS=requirements.txt # these wheels may be others than the public index's, with other hashes
    passed "dependencies fetched by this machine's pip ($(du -sm "$wheels" | cut -f1) MB)"
else
    passed "base image $BASE_IMAGE"
fi
export BASE_IMAGE

# --- build
token=hf_$(python3 -c 'import secrets; print(secrets.token_hex(16))')
build() { # build CONTEXT LOG
    HF_TOKEN=$token VERSION=1.2.3 REVISION=test "$root/scripts/build_image.sh" --profile shapeworld --tag "$tag" --context "$1" \
        -- --progress plain "${build_options[@]}" > "$2" 2>&1 || { tail -n 40 "$2" >&2 && fail "the build failed"; }
}
before=$SECONDS
images+=("$tag")
build "$root" "$work/build.log"
passed "image built in $((SECONDS - before)) s"

# --- who runs in it, and how
value() { "$docker" image inspect --format "$1" "$tag"; }
[ "$(value '{{json .Config.Cmd}}')" = '["python","-u","handler.py"]' ] || fail "CMD is $(value '{{json .Config.Cmd}}')"
[ "$(value '{{index .Config.Labels "org.opencontainers.image.version"}}')" = 1.2.3 ] || fail "the version label is missing"
[ "$(value '{{index .Config.Labels "org.opencontainers.image.revision"}}')" = test ] || fail "the revision label is missing"
hard=(--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges)
uid=$("$docker" run --rm --network none "${hard[@]}" "$tag" id -u)
[ "$uid" = 10001 ] || fail "the user id is $uid"
passed "runs as user $uid"

# --- a job, without network or a writable root
mkdir "$work/outputs"
chmod 777 "$work/outputs"
volumes=(--volume "$work/outputs:/outputs" --env ANIMATEDIFF_OUTPUT_DIR=/outputs)
check_clip() { # check_clip FILE
    "$docker" run --rm --network none "${hard[@]}" --volume "$work/outputs:/outputs:ro" \
        --volume "$root/tests/image/check_clip.py:/check_clip.py:ro" "$tag" \
        python /check_clip.py "/outputs/$1" "$side" "$side" "$frames" || fail "$1 is not the clip that was asked for"
}
before=$SECONDS
"$docker" run --rm --network none "${hard[@]}" "${volumes[@]}" --env ANIMATEDIFF_RESULT_FILE=/outputs/result.json "$tag" \
    > "$work/job.log" 2>&1 || { tail -n 30 "$work/job.log" >&2 && fail "the job of test_input.json failed"; }
clip=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["url"].rpartition("/")[2])' "$work/outputs/result.json")
case $clip in *.mp4) ;; *) fail "$clip is no MP4" ;; esac
took=$((SECONDS - before))
timings=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["timings"])' "$work/outputs/result.json")
passed "test_input.json in $took s, start to end: $(check_clip "$clip")"
echo "        $timings"

# --- the local API
port=$(free_port)
api=$("$docker" run --detach --network host "${hard[@]}" "${volumes[@]}" "$tag" \
    python -u handler.py --rp_serve_api --rp_api_host 127.0.0.1 --rp_api_port "$port")
containers+=("$api")
before=$SECONDS
wait_for 120 python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" ||
    { "$docker" logs "$api" >&2 && fail "the local API did not come up"; }
ready=$((SECONDS - before))
answer=$(python3 - "$port" "$work/outputs" << 'PYTHON'
import hashlib, json, pathlib, sys, urllib.request

port, folder = sys.argv[1], pathlib.Path(sys.argv[2])
body = json.dumps({"input": {"prompt": "a blue square on a white background, growing", "seed": 7}}).encode()
request = urllib.request.Request(f"http://127.0.0.1:{port}/runsync", body, {"Content-Type": "application/json"})
with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=300) as response:
    answer = json.load(response)
if answer.get("status") != "COMPLETED":
    sys.exit(f"/runsync: {answer}")
output = answer["output"]
clip = folder / output["url"].rpartition("/")[2]
content = clip.read_bytes()
if (len(content), hashlib.sha256(content).hexdigest()) != (output["bytes"], output["sha256"]):
    sys.exit(f"{clip.name} is not what the answer says: {output}")
print(clip.name, json.dumps(output["timings"]))
PYTHON
) || { "$docker" logs "$api" 2>&1 | tail -n 30 >&2 && fail "/runsync did not complete"; }
read -r clip timings <<< "$answer"
passed "local API up in $ready s, /runsync COMPLETED: $(check_clip "$clip")"
echo "        $timings"

# --- stopping
before=$(date +%s%N)
"$docker" stop --time 30 "$api" > /dev/null
tenths=$((($(date +%s%N) - before) / 100000000))
code=$("$docker" inspect --format '{{.State.ExitCode}}' "$api")
[ "$tenths" -lt 100 ] || fail "docker stop took $((tenths / 10)) s"
[ "$code" -eq 0 ] || fail "after docker stop the exit code was $code"
passed "docker stop: $((tenths / 10)).$((tenths % 10)) s, exit code 0"

# --- nothing secret in any layer
"$docker" save "$tag" | tar -x -C "$work" --one-top-level=saved
"$docker" history --no-trunc --format '{{.CreatedBy}}' "$tag" > "$work/saved/history.txt"
base_layers=$("$docker" image inspect --format '{{len .RootFS.Layers}}' "$BASE_IMAGE")
python3 - "$work/saved" "$base_layers" "$token" << 'PYTHON' || fail "an image layer holds what it must not"
import gzip, json, pathlib, sys, tarfile

folder, base_layers, token = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
layers = json.loads((folder / "manifest.json").read_text())[0]["Layers"]
wrong = []
for path in folder.rglob("*"):
    if path.is_file():
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            rest = b""
            while chunk := file.read(1 << 24):
                if token in rest + chunk:
                    wrong.append(f"{path.name}: the build's token")
                    break
                rest = chunk[-len(token):]
marks = (b"index-url", b"find-links", b"trusted-host", b"no-index")
for layer in layers[base_layers:]:
    with tarfile.open(folder / layer) as archive:
        for member in archive:
            name = pathlib.PurePosixPath(member.name)
            if name.name in ("pip.conf", ".netrc", ".pypirc", "id_rsa", "token") and member.size:
                wrong.append(f"{layer[:12]}: {member.name}")
            if member.isfile() and name.suffix in (".conf", ".cfg", ".ini", ".toml") and member.size < 1 << 20:
                content = archive.extractfile(member).read()
                if "site-packages" not in name.parts and any(mark in content for mark in marks):
                    wrong.append(f"{layer[:12]}: {member.name} names a package index")
print("\n".join(wrong) or f"{len(layers)} layers, {len(layers) - base_layers} of them ours: clean", file=sys.stderr)
sys.exit(bool(wrong))
PYTHON
rm -rf "$work/saved"
passed "no secret in any layer"

# --- what a change of the code costs
layers() { "$docker" image inspect --format '{{range .RootFS.Layers}}{{println .}}{{end}}' "$tag" | grep .; }
layers > "$work/layers.before"
mkdir "$work/context"
tar -c -C "$root" --exclude __pycache__ Dockerfile .dockerignore requirements.txt requirements.lock builder animatediff schemas models/shapeworld \
    handler.py test_input.json | tar -x -C "$work/context"
echo "# a change" >> "$work/context/animatediff/engine.py"
before=$SECONDS
build "$work/context" "$work/rebuild.log"
took=$((SECONDS - before))
layers > "$work/layers.after"
same=$(python3 -c '
import sys
before, after = (open(path).read().split() for path in sys.argv[1:])
print(next(i for i, (a, b) in enumerate(zip(before, after)) if a != b), len(after))' "$work/layers.before" "$work/layers.after")
read -r kept all <<< "$same"
[ $((all - kept)) -le 3 ] || fail "after a change of the code only $kept of $all layers were kept"
[ "$took" -le 60 ] || fail "after a change of the code the build took $took s"
passed "a change of the code: built in $took s, $kept of $all layers kept ($(grep -c CACHED "$work/rebuild.log") steps cached)"

"$root/scripts/image_report.sh" "$tag"
