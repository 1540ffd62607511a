#!/usr/bin/env bash
# Makes the Python environment of the tests of what is deployed (chart, image, units), pinned by hash, in DEST.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dest=${1:-.tools/helm}
stamp="$dest/.requirements"

if [ -f "$stamp" ] && cmp -s "$stamp" "$here/requirements.txt"; then
  exit 0
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup.sh: Python 3.11 or newer is needed for the tests of the chart" >&2
  exit 1
}
echo "installing the tools of the chart's tests"
python3 -m venv --clear "$dest"
"$dest/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$here/requirements.txt"
cp "$here/requirements.txt" "$stamp"
