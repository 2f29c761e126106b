#!/bin/sh
# Try this working tree on Debian for arm64, under emulation: `dora doctor`, a dataflow of ten nodes, the
# tests that every engine has to pass, and all tests that start no process. Without a board it shows what is
# wrong on another processor with other wheels. It does not show faults in the order of memory accesses: an
# emulated program keeps the stricter order of the machine that emulates it.
#
#     tools/arm64.sh [OPTION OF PYTEST | TEST]...
#
# Needs root, and the packages debootstrap and qemu-user-binfmt. FOLDER (/var/tmp/dora-arm64) gets a Debian
# of 0.7 GB, which the next run uses again; MIRROR says where from. All that is mounted and started here ends
# with the script.
set -eu

FOLDER=${FOLDER:-/var/tmp/dora-arm64}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
SUITE=${SUITE:-trixie}
MADE=.made-for-dora  # marks a folder that this script may change
# Those of the extra `dev` that the tests import, and not the tools around them.
TEST_PACKAGES="foxglove-schemas-protobuf hatchling hypothesis ipykernel jsonschema nbclient pytest
    pytest-timeout pytest-xdist"
RULES=/usr/lib/binfmt.d/qemu-aarch64.conf  # how the kernel knows a program for arm64

refuse() {
    echo "make arm64: $1" >&2
    exit 1
}

if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || refuse "only root can make and enter another Debian: sudo make arm64"
    command -v debootstrap > /dev/null && [ -f "$RULES" ] ||
        refuse "two packages are missing: apt-get install debootstrap qemu-user-binfmt"
    exec unshare --mount --propagation private --pid --fork --kill-child "$0" --inside "$@"
fi
shift
cd "$(dirname "$0")/.."

inside() {
    chroot "$FOLDER" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/opt/venv/bin:/usr/bin:/bin \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt "$@"
}

if [ "$(uname -m)" != aarch64 ]; then
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    [ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] ||
        head -n 1 "$RULES" | tr -d '\n' > /proc/sys/fs/binfmt_misc/register
fi

if [ ! -e "$FOLDER/$MADE" ]; then
    [ ! -e "$FOLDER" ] || refuse "$FOLDER is there already, but not made by this command"
    echo "Making a Debian for arm64 in $FOLDER, which takes minutes"
    rm -rf "$FOLDER.part"
    debootstrap --variant=minbase --arch=arm64 --include=python3,python3-venv,ca-certificates \
        "$SUITE" "$FOLDER.part" "$MIRROR" > "$FOLDER.log" || refuse "debootstrap failed, see $FOLDER.log"
    touch "$FOLDER.part/$MADE"
    mv "$FOLDER.part" "$FOLDER"
fi

# A mount point, so tests may mount file systems in it; a /dev/shm of its own, so nothing of this machine's
# is in it.
mount --bind "$FOLDER" "$FOLDER"
mount -t proc proc "$FOLDER/proc"
mount --rbind /sys "$FOLDER/sys"
mount --rbind /dev "$FOLDER/dev"
mount -t tmpfs -o size=512m,mode=1777 tmpfs "$FOLDER/dev/shm"
for file in /etc/resolv.conf /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    if [ -e "$file" ]; then cp -L "$file" "$FOLDER$file"; fi
done

rm -rf "$FOLDER/src"
mkdir "$FOLDER/src"
git -c safe.directory='*' ls-files -z | tar -c --null --ignore-failed-read -T - | tar -x -C "$FOLDER/src"
if [ ! -e "$FOLDER/opt/venv/bin/uv" ]; then
    inside python3 -m venv /opt/venv
    inside pip install --quiet --disable-pip-version-check uv
fi
inside uv pip install --quiet --python /opt/venv/bin/python --reinstall-package dora-dataflow \
    "/src[examples,telemetry,tls]" $TEST_PACKAGES

tests() {
    inside DORA_TEST_SLOWDOWN=10 sh -c 'cd /src && exec python -m pytest -n logical --dist worksteal --timeout 3000 "$@"' pytest "$@"
}

inside dora doctor
if [ $# -gt 0 ]; then
    tests "$@"
    exit
fi
status=0
tests tests/end_to_end/test_little_shared_memory.py -k ten_nodes || status=1
tests tests/transport -k shm || status=1
tests --fast || status=1
exit $status
