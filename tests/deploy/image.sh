#!/usr/bin/env bash
# Build deploy/Dockerfile as it stands and run the result with a read-only root, as its user, without capabilities. For machines that
# have no container engine and cannot pull images: needs root, a Debian mirror, PyPI, and
#   apt-get install buildah debootstrap
# The image that FROM names is made here, of Debian's own Python. Takes three minutes, therefore no part of the tests. Exit 0: it served.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
image() { buildah --root "$work/store" --runroot "$work/run" "$@"; }
trap 'image rm --all >/dev/null 2>&1 || true; rm -rf --one-file-system "$work"' EXIT

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/root" http://deb.debian.org/debian
ln -s python3 "$work/root/usr/bin/python"
cp -L /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/" # those that this machine trusts
base=$(image from scratch)
image add -q "$base" "$work/root" /
image config --env PATH=/usr/bin:/bin:/usr/sbin:/sbin --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$base"
image commit -q "$base" docker.io/library/python:3.11-slim
image bud --pull-never --format docker -f "$repo/deploy/Dockerfile" -t routerd "$repo"

root=$(image mount "$(image from --pull-never localhost/routerd)")
mkdir "$work/etc"
cp "$repo/deploy/compose/routerd/routes.yaml" "$work/etc"
cat >"$work/inside" <<'END'
touch /x 2>/dev/null && { echo "the root can be written to"; exit 1; }
cd /etc/routerd
routerd serve --listen 127.0.0.1:18080 --admin 127.0.0.1:18079 &
for _ in $(seq 100); do routerd status --admin 127.0.0.1:18079 >/dev/null 2>&1 && break; sleep 0.2; done
routerd status --admin 127.0.0.1:18079
routerd probe --url http://127.0.0.1:18080 --key "$DEMO_KEY" --model demo
kill $!
wait $!
END
unshare --mount --pid --fork bash -euc '
  mount --make-rprivate / && mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"
  mount --bind "$2/etc" "$1/etc/routerd" && mount -o remount,bind,ro "$1/etc/routerd"
  mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev"
  exec chroot "$1" /usr/bin/setpriv --reuid 10001 --regid 10001 --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \
    /usr/bin/env -i PATH=/opt/routerd/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 DEMO_KEY=sk-demo-change-me-0123456789 \
    ROUTERD_CONFIG=/etc/routerd/routes.yaml sh -euc "$(cat "$2/inside")"' bash "$root" "$work"
