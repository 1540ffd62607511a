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
echo "fetching Prometheus and Alertmanager from the distribution's packages"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$(dirname "$0")/../debian/unpack.sh" "$work/root" prometheus prometheus-alertmanager || {
  echo "fetch.sh: no Prometheus; put ${programs[*]} into $dest" >&2
  exit 1
}
bin="$work/root/usr/bin"
# Debian's names carry a prefix, lest they meet others' on a PATH.
if [ -x "$bin/prometheus-alertmanager" ]; then mv "$bin/prometheus-alertmanager" "$bin/alertmanager"; fi
# Debian's Alertmanager looks for its templates where they would be installed. Here they lie in DEST/templates, so the path
# is replaced by one of the same length, from the working directory (`.///…/templates`): run it in DEST.
mkdir -p "$dest/templates"
installed=/usr/share/prometheus/alertmanager
cp "$work/root$installed/"*.tmpl "$dest/templates/"
here=$(printf '.%*stemplates' $((${#installed} - 10)) '' | tr ' ' /)
LC_ALL=C sed -i "s|$installed|$here|g" "$bin/alertmanager"
for program in "${programs[@]}"; do mv "$bin/$program" "$dest/$program"; done
found=$("$dest/prometheus" --version 2>&1)
echo "${found%%$'\n'*}"
