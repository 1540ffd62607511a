#!/usr/bin/env bash
# Puts a redis-server at DEST/redis-server: the machine's own where there is one, else Debian's package, unpacked without
# being installed. For tests; production brings its own.
set -euo pipefail

dest=$(mkdir -p "${1:-.tools/redis}" && cd "${1:-.tools/redis}" && pwd)
if [ -x "$dest/redis-server" ] && "$dest/redis-server" --version >/dev/null 2>&1; then
  exit 0
fi
if own=$(command -v redis-server); then
  ln -sf "$own" "$dest/redis-server"
  exit 0
fi
echo "fetching Redis from the distribution's packages"
"$(dirname "$0")/../debian/unpack.sh" "$dest/root" redis-server redis-tools libatomic1 libjemalloc2 liblzf1 || {
  echo "fetch.sh: no redis-server on PATH either; install Redis 6 or newer" >&2
  exit 1
}
# Its libraries lie beside it.
libraries=$(dirname "$(find "$dest/root" -name 'libjemalloc.so*' | head -n 1)")
cat >"$dest/redis-server" <<RUN
#!/bin/sh
LD_LIBRARY_PATH=$libraries exec $dest/root/usr/bin/redis-server "\$@"
RUN
chmod +x "$dest/redis-server"
"$dest/redis-server" --version
