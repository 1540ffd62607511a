#!/usr/bin/env bash
# Makes the Python environment of what tests talk to and lints run (an S3 server, buf, Triton's client), pinned by hash, in DEST.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dest=${1:-.tools/tests}
stamp="$dest/.requirements"

if [ -f "$stamp" ] && cmp -s "$stamp" "$here/requirements.txt"; then
  exit 0
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup.sh: Python 3.11 or newer is needed for the tools of tests and lints" >&2
  exit 1
}
echo "installing the tools of tests and lints"
python3 -m venv --clear "$dest"
"$dest/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$here/requirements.txt"
cp "$here/requirements.txt" "$stamp"
