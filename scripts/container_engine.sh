# shellcheck shell=sh
# Sourced by the scripts that build and look at images: which program to build with.

# A docker client that can build with BuildKit: one that has buildx, or one from before 23, which has it built in.
docker_client() {
    for client in ${DOCKER:-docker /usr/bin/docker}; do
        command -v "$client" > /dev/null || continue
        if "$client" buildx version > /dev/null 2>&1; then
            command -v "$client" && return
        fi
        major=$("$client" version --format '{{.Client.Version}}' 2> /dev/null | cut -d. -f1)
        if [ -n "$major" ] && [ "$major" -lt 23 ]; then
            command -v "$client" && return
        fi
    done
    return 1
}
