#!/bin/sh
# Ceph's daemons and tools, from the distribution's packages where they lack: tests/ceph/install.sh (make test-ceph)
#
# Ends with 0 only if all of them are there; with 77 where they lack and cannot be installed: no apt-get, neither root nor a
# sudo that asks nothing, or no way to the packages.
set -eu

missing() {
    for program in ceph ceph-authtool ceph-mon ceph-osd monmaptool radosgw radosgw-admin setpriv; do
        command -v "$program" > /dev/null || echo "$program"
    done
}

fail() { # STATUS WORDS
    status=$1
    shift
    word=FAILED
    [ "$status" -ne 77 ] || word="NOT RUN"
    echo "$word: Ceph is not installed ($(missing | tr '\n' ' ')not found), and $*" >&2
    exit "$status"
}

[ -n "$(missing)" ] || exit 0
command -v apt-get > /dev/null || fail 77 "there is no apt-get: install a Ceph cluster's daemons and tools yourself"
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif sudo -n true 2> /dev/null; then
    as_root="sudo -n"
else
    fail 77 "this is not root: apt-get install radosgw ceph-mon ceph-osd ceph-common"
fi
echo "installing Ceph's packages ..." >&2
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
apt install -y --no-install-recommends radosgw ceph-mon ceph-osd ceph-common
[ -z "$(missing)" ] || fail 1 "its packages do not bring them"
