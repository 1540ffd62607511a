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
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
  echo "fetch.sh: no etcd on PATH and no apt to get one with; install etcd 3.4 or newer" >&2
  exit 1
}
echo "fetching etcd from the distribution's packages"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# apt drops its rights to another user, who must be able to write here.
chmod 777 "$work"
download() { (cd "$work" && apt-get download -qq etcd-server etcd-client); }
if ! download 2>"$work/error"; then
  if [ "$(id -u)" = 0 ]; then apt-get update -qq; else sudo -n apt-get update -qq; fi || {
    cat "$work/error" >&2
    echo "fetch.sh: the package lists are missing or old: run 'apt-get update' as root and try again" >&2
    exit 1
  }
  download
fi
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/root"; done
mv "$work/root/usr/bin/etcdctl" "$dest/etcdctl"
mv "$work/root/usr/bin/etcd" "$dest/etcd"
# Not `| head`: etcd writes more than a line, and with pipefail its SIGPIPE would fail the script now and then.
found=$("$dest/etcd" --version)
echo "${found%%$'\n'*}"
