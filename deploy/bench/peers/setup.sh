#!/usr/bin/env bash
# Makes the Python environment of one peer, pinned, in DEST/NAME: setup.sh DEST NAME. Peers need each other's packages in
# other versions, so each has its own.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dest=$1/$2
requirements="$here/$2.txt"

if [ -f "$dest/.requirements" ] && cmp -s "$dest/.requirements" "$requirements"; then
  exit 0
fi
python3 -m venv --clear "$dest"
"$dest/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: -r "$requirements"
cp "$requirements" "$dest/.requirements"
