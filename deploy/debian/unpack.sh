#!/usr/bin/env bash
# Unpacks Debian's PACKAGES into the folder ROOT, without installing them: deploy/debian/unpack.sh ROOT PACKAGES...
set -euo pipefail

root=$1
shift
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
  echo "unpack.sh: no apt to get $* with" >&2
  exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# apt drops its rights to another user, who must be able to write here.
chmod 777 "$work"
download() { (cd "$work" && apt-get download -qq "$@"); }
if ! download "$@" 2>"$work/error"; then
  if [ "$(id -u)" = 0 ]; then apt-get update -qq; else sudo -n apt-get update -qq; fi || {
    cat "$work/error" >&2
    echo "unpack.sh: the package lists are missing or old: run 'apt-get update' as root and try again" >&2
    exit 1
  }
  download "$@"
fi
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$root"; done
