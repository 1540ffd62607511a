#!/usr/bin/env bash
# Makes a Python environment, pinned by hash: venv.sh DEST REQUIREMENTS [PACKAGE]. PACKAGE is a folder that the
# environment imports from where it stands.
set -euo pipefail

dest=$1
requirements=$2
package=${3:-}
stamp="$dest/.requirements"

if [ -f "$stamp" ] && cmp -s "$stamp" "$requirements"; then
  exit 0
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "venv.sh: Python 3.11 or newer is needed for $requirements" >&2
  exit 1
}
echo "installing $requirements into $dest"
# pip stays outside: an environment is what its lock says, and paddle2onnx would call it at run time. A lock is complete,
# so nothing is looked up beside it.
python3 -m venv --clear --without-pip "$dest"
python3 -m pip --python "$dest/bin/python" install --quiet --disable-pip-version-check \
  --no-deps --require-hashes -r "$requirements"
if [ -n "$package" ]; then
  site=$("$dest/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  (cd "$package" && pwd) > "$site/$(basename "$package").pth"
fi
cp "$requirements" "$stamp"
