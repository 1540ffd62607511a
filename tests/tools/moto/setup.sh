#!/usr/bin/env bash
# Makes the Python environment of the local S3 server that tests talk to, pinned by hash, in DEST.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dest=${1:-.tools/moto}
stamp="$dest/.requirements"

if [ -f "$stamp" ] && cmp -s "$stamp" "$here/requirements.txt"; then
  exit 0
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup.sh: Python 3.11 or newer is needed for the tests' S3 server" >&2
  exit 1
}
echo "installing the tests' S3 server"
python3 -m venv --clear "$dest"
"$dest/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$here/requirements.txt"
cp "$here/requirements.txt" "$stamp"
