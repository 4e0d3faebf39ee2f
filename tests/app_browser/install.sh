#!/bin/sh
# Chromium, from the distribution's packages where it lacks: tests/app_browser/install.sh (make test-app)
#
# Ends with 0 only if it is there; with 77 where it lacks and cannot be installed: no apt-get, neither root nor a sudo that
# asks nothing, or no way to the packages.
set -eu

fail() { # STATUS WORDS
    status=$1
    shift
    word=FAILED
    [ "$status" -ne 77 ] || word="NOT RUN"
    echo "$word: the page's tests need Chromium, and $*" >&2
    exit "$status"
}

present() { command -v chromium > /dev/null; }

if present; then exit 0; fi
command -v apt-get > /dev/null || fail 77 "there is no apt-get: install it yourself"
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif sudo -n true 2> /dev/null; then
    as_root="sudo -n"
else
    fail 77 "this is not root: apt-get install chromium"
fi
echo "installing Chromium's package ..." >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    # shellcheck disable=SC2086 # nothing, or two words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q "$@" > "$log" 2>&1 || {
        tail -n 20 "$log" >&2
        fail 77 "apt-get $1 failed"
    }
}
apt update
apt install -y --no-install-recommends chromium
present || fail 1 "its package does not bring it"
