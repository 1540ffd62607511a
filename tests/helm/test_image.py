"""The image: its Dockerfile, and the root that it is made of."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import chart
from conftest import assemble

DOCKERFILE = chart.ROOT / "deploy/docker/Dockerfile"


def test_the_linter_of_dockerfiles_finds_nothing():
    hadolint = Path(sys.executable).parent / "hadolint"
    linted = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert linted.returncode == 0 and not linted.stdout, linted.stdout


def test_every_image_runs_as_a_user_without_rights_and_says_what_it_is():
    text = DOCKERFILE.read_text()
    for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        name = re.match(r"\S+ AS (\S+)", stage).group(1)
        if not name.startswith("build"):
            assert re.search(r"^USER [1-9][0-9]*:[0-9]+$", stage, re.MULTILINE), name
        if name.startswith("endcap"):
            assert "ORT_DISABLE_TELEMETRY=1" in stage and "org.opencontainers.image.revision" in stage, name
    # What `docker build` without a target makes.
    assert text.rstrip().rsplit("FROM ", 1)[1].startswith("scratch AS endcap\n")


def test_compose_builds_targets_that_exist():
    text = DOCKERFILE.read_text()
    for target in re.findall(r"target: ([a-z-]+)", (chart.ROOT / "deploy/compose.yaml").read_text()):
        assert f" AS {target}\n" in text


def test_the_root_holds_the_binary_its_libraries_and_nothing_to_break_in_with(image):
    files = {str(path.relative_to(image)) for path in image.rglob("*") if path.is_file() and not path.is_symlink()}
    libraries = {file for file in files if file.startswith("usr/lib/")}
    assert files - libraries == {
        "etc/group",
        "etc/nsswitch.conf",
        "etc/passwd",
        "etc/ssl/certs/ca-certificates.crt",
        "usr/local/bin/endcap",
        "usr/local/bin/libonnxruntime.so",
        "usr/local/share/endcap/sbom.spdx.json",
        "usr/local/share/endcap/search-ranker.endcap",
    }
    assert libraries and all(
        re.fullmatch(r"(lib[a-z_+]+|ld-linux\S*)\.so\.[0-9]+", Path(lib).name) for lib in libraries
    )


def test_the_same_content_makes_the_same_root(tmp_path):
    first, again = (assemble(tmp_path / name, binary=Path("/bin/true")) for name in ("first", "again"))
    assert digest(first) == digest(again)


def digest(root):
    tar = ["tar", "--sort=name", "--create", "--file=-", f"--directory={root}", "."]
    return hashlib.sha256(subprocess.run(tar, check=True, capture_output=True).stdout).hexdigest()


def test_the_list_of_parts_names_what_is_linked_in(image):
    document = json.loads((image / "usr/local/share/endcap/sbom.spdx.json").read_text())
    parts = {package["name"]: package for package in document["packages"]}
    assert {"endcap", "tonic", "ort", "onnxruntime", "libc6", "libstdc++6", "ca-certificates"} <= parts.keys()
    # Only for tests, or for builds.
    assert not {"proptest", "insta", "protox", "endcap-shop"} & parts.keys()
    locked = (chart.ROOT / "Cargo.lock").read_text()
    assert f'name = "tonic"\nversion = "{parts["tonic"]["versionInfo"]}"' in locked
    assert len({package["SPDXID"] for package in document["packages"]}) == len(document["packages"])
