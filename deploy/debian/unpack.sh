#!/usr/bin/env bash
# Unpacks Debian's PACKAGES into the folder ROOT, without installing them: deploy/debian/unpack.sh ROOT PACKAGES...
# SUITE=trixie takes them from that release of Debian instead of the machine's own, and then also the sources of a
# package, as its authors released them: source:NAME, into ROOT/NAME.
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
options=()
if [ -n "${SUITE:-}" ]; then
  # Lists of its own: the machine's stay as they are.
  site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' | head -n 1)
  key=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -n "$site" ] && [ -e "$key" ] || {
    echo "unpack.sh: this machine takes no packages from Debian, or has not its keys" >&2
    exit 1
  }
  for kind in deb deb-src; do echo "$kind [signed-by=$key] $site $SUITE main"; done >"$work/sources.list"
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  chmod -R 777 "$work"
  options=(-o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache")
  apt-get "${options[@]}" update -qq
fi
download() {
  local packages=() package
  for package in "$@"; do
    case $package in
      source:*) (cd "$work" && apt-get "${options[@]}" source -qq --download-only "${package#source:}") || return ;;
      *) packages+=("$package") ;;
    esac
  done
  (cd "$work" && apt-get "${options[@]}" download -qq "${packages[@]}")
}
if ! download "$@" 2>"$work/error"; then
  if [ "$(id -u)" = 0 ]; then apt-get update -qq; else sudo -n apt-get update -qq; fi || {
    cat "$work/error" >&2
    echo "unpack.sh: the package lists are missing or old: run 'apt-get update' as root and try again" >&2
    exit 1
  }
  download "$@"
fi
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$root"; done
for archive in "$work"/*.orig.tar.*; do
  [ -e "$archive" ] || continue
  name=$(basename "$archive")
  mkdir -p "$root/${name%%_*}"
  tar --extract --file "$archive" --directory "$root/${name%%_*}" --strip-components=1
done
