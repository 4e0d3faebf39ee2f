#!/bin/sh
# How large an image is, layer by layer: scripts/image_report.sh [NAME:TAG]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=container_engine.sh
. "$here/container_engine.sh"
client=$(docker_client) || { echo "no docker client is here" >&2 && exit 1; }
tag=${1:-animatediff-serverless:dev}

"$client" image inspect --format '{{.Size}}' "$tag" | awk -v tag="$tag" '{ printf "%s: %.1f MB\n", tag, $1 / 1e6 }'
"$client" history --no-trunc --human=false --format '{{.Size}}\t{{.CreatedBy}}' "$tag" |
    awk -F '\t' '$1 > 0 { sub(/^\/bin\/sh -c (#\(nop\) )?/, "", $2); gsub(/ +/, " ", $2)
                          printf "%9.1f MB  %.100s\n", $1 / 1e6, $2 }'
