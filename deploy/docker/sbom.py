#!/usr/bin/env python3
"""Prints what is in Endcap's image as SPDX 2.3: the crates that the binary is linked from (Cargo.lock, without those of
builds and tests), ONNX Runtime, and the Debian packages of the files given as arguments; with --gpu, ONNX Runtime for
GPUs and NVIDIA's libraries instead, for an image whose Debian lists its packages itself.

    sbom.py FILE…
    sbom.py --gpu
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def crates() -> set[tuple[str, str, str]]:
    tree = output("cargo", "tree", "--locked", "--package=endcap", "--edges=normal", "--prefix=none", "--format={p}")
    found = re.findall(r"^(\S+) v(\S+)( \(/.*)?", tree, re.MULTILINE)
    return {(name, version, f"pkg:cargo/{name}@{version}") for name, version, _ in found}


def debian(files: list[str]) -> set[tuple[str, str, str]]:
    owners = {owner(file) for file in files}
    installed = output("dpkg-query", "--show", "--showformat=${Package} ${Version}\\n", "ca-certificates", *owners)
    pairs = [line.split() for line in installed.splitlines()]
    return {(name, version, f"pkg:deb/debian/{name}@{version}") for name, version in pairs}


def owner(file: str) -> str:
    """The package of a file, which dpkg may know with or without /usr before it."""
    for path in (file, f"/usr{file}", file.removeprefix("/usr")):
        search = subprocess.run(["dpkg-query", "--search", path], capture_output=True, text=True)
        if search.returncode == 0:
            return search.stdout.split(":", 1)[0]
    raise SystemExit(f"sbom.py: {file} belongs to no Debian package")


def onnxruntime(name: str, script: str) -> set[tuple[str, str, str]]:
    [version] = re.findall(r"^version=(.*)$", (ROOT / "deploy/onnxruntime" / script).read_text(), re.MULTILINE)
    return {(name, version, f"pkg:pypi/{name}@{version}")}


def cuda() -> set[tuple[str, str, str]]:
    pinned = re.findall(r"^(nvidia-\S+)==(\S+) ", (ROOT / "deploy/onnxruntime/cuda.txt").read_text(), re.MULTILINE)
    return {(name, version, f"pkg:pypi/{name}@{version}") for name, version in pinned}


def document(parts: list[tuple[str, str, str]]) -> dict:
    packages = [
        {
            "SPDXID": f"SPDXRef-Package-{number}",
            "name": name,
            "versionInfo": version,
            "downloadLocation": "NOASSERTION",
            "externalRefs": [
                {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
            ],
        }
        for number, (name, version, purl) in enumerate(parts)
    ]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    created = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "endcap",
        # The same parts are the same document.
        "documentNamespace": f"urn:endcap:sbom:{digest}",
        "creationInfo": {
            "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: deploy/docker/sbom.py"],
        },
        "documentDescribes": [package["SPDXID"] for package in packages],
        "packages": packages,
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["--gpu"]:
        libraries = onnxruntime("onnxruntime-gpu", "fetch-gpu.sh") | cuda()
    else:
        libraries = onnxruntime("onnxruntime", "fetch.sh") | debian(sys.argv[1:])
    json.dump(document(sorted(crates() | libraries)), sys.stdout, indent=1)
    print()
