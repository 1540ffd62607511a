#!/usr/bin/env bash
# Makes the Python environment of the pipelines, pinned by hash, in DEST.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dest=${1:-.tools/pipelines}
stamp="$dest/.requirements"

if [ -f "$stamp" ] && cmp -s "$stamp" "$here/requirements.txt"; then
  exit 0
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup.sh: Python 3.11 or newer is needed for the pipelines" >&2
  exit 1
}
echo "installing the pipelines' packages"
python3 -m venv --clear "$dest"
"$dest/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$here/requirements.txt"
# The package itself, from where it stands.
site=$("$dest/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$here" > "$site/endcap_pipelines.pth"
cp "$here/requirements.txt" "$stamp"
