#!/usr/bin/env bash
# Fetches ONNX Runtime's library, pinned by hash, out of its Python package: DEST/libonnxruntime.so.
# 1.28.0 is the last release line before Linux builds began to report usage by default.
set -euo pipefail

dest=${1:-.tools/onnxruntime}
version=1.28.0

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) platform=manylinux_2_28_x86_64
    hash=a166b78ee04f3a37fa1ef82034b6a3ce96d9684e582d4d30b296de83e9998bb5 ;;
  Linux-aarch64) platform=manylinux_2_28_aarch64
    hash=8d66f9ceb29909c70839e4e4fb3435c7b490050d8f162bd5f3aba4ca01ee517f ;;
  *) echo "fetch.sh: no pinned ONNX Runtime for $(uname -s) on $(uname -m);" \
       "put a libonnxruntime.so of version 1.24 or newer at $dest/libonnxruntime.so" >&2
     exit 1 ;;
esac

library="$dest/libonnxruntime.so.$version"
if [ ! -f "$library" ]; then
  python3 -m pip --version >/dev/null 2>&1 || {
    echo "fetch.sh: python3 with pip is needed to fetch ONNX Runtime" >&2
    exit 1
  }
  echo "fetching ONNX Runtime $version for $platform"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  echo "onnxruntime==$version --hash=sha256:$hash" > "$work/requirements.txt"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.11 --implementation cp --abi cp311 --platform "$platform" \
    --dest "$work" --requirement "$work/requirements.txt"
  python3 -m zipfile --extract "$work"/onnxruntime-*.whl "$work/wheel"
  mkdir -p "$dest"
  # Under its final name only when complete.
  mv "$work/wheel/onnxruntime/capi/libonnxruntime.so.$version" "$dest/.incoming"
  mv "$dest/.incoming" "$library"
fi
ln -sf "libonnxruntime.so.$version" "$dest/libonnxruntime.so"
