#!/usr/bin/env bash
# Puts prometheus, promtool, alertmanager and amtool into DEST: Debian's packages, unpacked without being installed.
# For tests; production brings its own.
set -euo pipefail

dest=${1:-.tools/prometheus}
programs=(prometheus promtool alertmanager amtool)
mkdir -p "$dest"
whole() { for program in "${programs[@]}"; do [ -x "$dest/$program" ] || return 1; done; }
if whole; then
  exit 0
fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
  echo "fetch.sh: no apt to get Prometheus with; put ${programs[*]} into $dest" >&2
  exit 1
}
echo "fetching Prometheus and Alertmanager from the distribution's packages"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# apt drops its rights to another user, who must be able to write here.
chmod 777 "$work"
download() { (cd "$work" && apt-get download -qq prometheus prometheus-alertmanager); }
if ! download 2>"$work/error"; then
  if [ "$(id -u)" = 0 ]; then apt-get update -qq; else sudo -n apt-get update -qq; fi || {
    cat "$work/error" >&2
    echo "fetch.sh: the package lists are missing or old: run 'apt-get update' as root and try again" >&2
    exit 1
  }
  download
fi
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/root"; done
bin="$work/root/usr/bin"
# Debian's names carry a prefix, lest they meet others' on a PATH.
if [ -x "$bin/prometheus-alertmanager" ]; then mv "$bin/prometheus-alertmanager" "$bin/alertmanager"; fi
for program in "${programs[@]}"; do mv "$bin/$program" "$dest/$program"; done
found=$("$dest/prometheus" --version 2>&1)
echo "${found%%$'\n'*}"
