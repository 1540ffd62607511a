#!/usr/bin/env bash
# Fetches ONNX Runtime's libraries for NVIDIA GPUs (CUDA 13, cuDNN 9), pinned by hash, out of their Python package:
# DEST/libonnxruntime.so and its providers beside it. Builds from 1.29.0 on report usage unless ORT_DISABLE_TELEMETRY=1,
# which endcap sets before it loads the library, and the image, too.
set -euo pipefail

dest=${1:-.tools/onnxruntime-gpu}
version=1.31.1
hash=e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6

if [ ! -f "$dest/libonnxruntime.so.$version" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  echo "fetching ONNX Runtime $version for GPUs"
  echo "onnxruntime-gpu==$version --hash=sha256:$hash" > "$work/requirements.txt"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.11 --implementation cp --abi cp311 --platform manylinux_2_28_x86_64 \
    --dest "$work" --requirement "$work/requirements.txt"
  python3 -m zipfile --extract "$work"/onnxruntime_gpu-*.whl "$work/wheel"
  mkdir -p "$dest"
  libraries="$work/wheel/onnxruntime/capi"
  mv "$libraries"/libonnxruntime_providers_{shared,cuda}.so "$dest/"
  # Last: where it is, the others are.
  mv "$libraries/libonnxruntime.so.$version" "$dest/"
fi
ln -sf "libonnxruntime.so.$version" "$dest/libonnxruntime.so"
