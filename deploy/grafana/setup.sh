#!/usr/bin/env bash
# Makes the Python environment that writes the dashboards, pinned by hash, in DEST.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dest=${1:-.tools/grafana}
stamp="$dest/.requirements"

if [ -f "$stamp" ] && cmp -s "$stamp" "$here/requirements.txt"; then
  exit 0
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup.sh: Python 3.11 or newer is needed to write the dashboards" >&2
  exit 1
}
echo "installing what writes the dashboards"
python3 -m venv --clear "$dest"
"$dest/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$here/requirements.txt"
cp "$here/requirements.txt" "$stamp"
