#!/usr/bin/env bash
# Fetches what ONNX Runtime's libraries for NVIDIA GPUs need beside a driver, pinned by hash, out of NVIDIA's Python
# packages (cuda.txt; 1.3 GB to fetch, 2 GB unpacked): CUDA 13 and cuDNN 9, all in DEST. Whoever loads them names DEST in
# LD_LIBRARY_PATH.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dest=${1:-.tools/cuda}

if [ ! -f "$dest/stamp" ] || ! cmp -s "$here/cuda.txt" "$dest/stamp"; then
  # Beside it: the machine's folder for what is temporary may be small.
  mkdir -p "$dest"
  work=$(mktemp -d "$dest/.incoming.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "fetching CUDA 13 and cuDNN 9, 1.3 GB"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.11 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux2014_x86_64 --dest "$work" --requirement "$here/cuda.txt"
  for wheel in "$work"/*.whl; do
    python3 -m zipfile --extract "$wheel" "$work/wheels"
    rm "$wheel"
  done
  rm -f "$dest"/*.so*
  mv "$work"/wheels/nvidia/*/lib/*.so.* "$dest/"
  # Last: where it is, the others are.
  cp "$here/cuda.txt" "$dest/stamp"
fi
