#!/usr/bin/env bash
# Puts an etcd at DEST/etcd (and etcdctl beside it): the machine's own where there is one, else Debian's package,
# unpacked without being installed. For tests and `make fleet`; production brings its own cluster.
set -euo pipefail

dest=${1:-.tools/etcd}
mkdir -p "$dest"
if [ -x "$dest/etcd" ] && "$dest/etcd" --version >/dev/null 2>&1; then
  exit 0
fi
if own=$(command -v etcd); then
  ln -sf "$own" "$dest/etcd"
  if ctl=$(command -v etcdctl); then ln -sf "$ctl" "$dest/etcdctl"; fi
  exit 0
fi
echo "fetching etcd from the distribution's packages"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$(dirname "$0")/../debian/unpack.sh" "$work/root" etcd-server etcd-client || {
  echo "fetch.sh: no etcd on PATH either; install etcd 3.4 or newer" >&2
  exit 1
}
mv "$work/root/usr/bin/etcdctl" "$dest/etcdctl"
mv "$work/root/usr/bin/etcd" "$dest/etcd"
# Not `| head`: etcd writes more than a line, and with pipefail its SIGPIPE would fail the script now and then.
found=$("$dest/etcd" --version)
echo "${found%%$'\n'*}"
