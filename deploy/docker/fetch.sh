#!/usr/bin/env bash
# Puts a Docker engine with Compose 2 into DEST, for tests that build and run images: nothing if the machine's own
# answers, else Debian's packages, unpacked without being installed. Where neither is to be had, those tests say so.
set -euo pipefail

dest=${1:-.tools/docker}
mkdir -p "$dest"
if docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
  echo "the machine's own Docker engine answers"
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "fetch.sh: no Docker engine answers, and only root on Debian can start one here: tests of images will be skipped"
  exit 0
fi
echo "fetching a Docker engine from the distribution's packages"
unpack="$(dirname "$0")/../debian/unpack.sh"
"$unpack" "$dest" docker.io containerd runc iptables libxtables12 libnftnl11 libmnl0 libip4tc2 libip6tc2 \
  libnetfilter-conntrack3 libnfnetlink0
# Later releases have the client and its builder in packages of their own.
[ -x "$dest/usr/bin/docker" ] || "$unpack" "$dest" docker-cli docker-buildx
# Bookworm's Compose is the first, which reads other files.
SUITE=trixie "$unpack" "$dest" docker-compose
for name in {ip,ip6}tables{,-save,-restore}; do ln -sf xtables-nft-multi "$dest/usr/sbin/$name"; done
mkdir -p "$dest/config"
ln -sfn ../usr/libexec/docker/cli-plugins "$dest/config/cli-plugins"
rm -rf "$dest/usr/share"
"$dest/usr/bin/docker" --version
