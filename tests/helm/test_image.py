"""The image: its Dockerfile, and the root that it is made of."""

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import chart
from conftest import DOCKERFILE, assemble
from engine import docker, log


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


@pytest.fixture(scope="module")
def built(builder, image):
    return builder.endcap(image, "image", "--build-arg=COMMIT=0a1b2c3d")


def test_the_image_is_small_has_no_shell_and_says_which_commit_it_is_of(built, image):
    [seen] = json.loads(docker("inspect", built))
    assert seen["Config"]["Labels"]["org.opencontainers.image.revision"] == "0a1b2c3d"
    assert seen["Config"]["User"] == "65532:65532" and seen["Config"]["Entrypoint"] == ["endcap"]
    files = sum(path.stat().st_size for path in image.rglob("*") if path.is_file() and not path.is_symlink())
    # What it is made of, and nothing else.
    assert seen["Size"] == pytest.approx(files, rel=0.01)
    for program in ("sh", "bash", "apt-get"):
        ran = subprocess.run(
            ["docker", "run", "--rm", f"--entrypoint={program}", built], capture_output=True, text=True
        )
        assert ran.returncode == 127 and "executable file not found" in ran.stderr, ran


def test_the_same_content_makes_the_same_layers(built, builder, image, tmp_path):
    again = assemble(tmp_path / "again/root-of-image")
    layers = [json.loads(docker("inspect", built))[0]["RootFS"]["Layers"]]
    layers.append(json.loads(docker("inspect", builder.endcap(again, "again", "--no-cache")))[0]["RootFS"]["Layers"])
    assert layers[0] == layers[1]


@contextlib.contextmanager
def demonstrated(image):
    """In the strictest of containers: nothing to write to but /tmp, no rights, no network but its own loopback."""
    strict = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    container = docker("run", "--detach", "--network=none", *strict, image, "demo").strip()
    yield container
    docker("rm", "--force", container)


def recommended(container):
    ask = ["docker", "exec", container, "endcap", "--output=json", "recommend", "grey pine bar stool"]
    # It listens before its model is released.
    while (asked := subprocess.run(ask, capture_output=True, text=True)).returncode:
        assert json.loads(docker("inspect", container))[0]["State"]["Running"], log(container)
    return json.loads(asked.stdout)


@pytest.fixture
def demo(built):
    with demonstrated(built) as container:
        yield container


def test_in_the_strictest_container_it_answers_and_ends_when_it_is_told_to(demo):
    answer = recommended(demo)
    assert answer["quality"]["rung"] == "FULL" and answer["items"]
    docker("exec", demo, "endcap", "ready")
    # As process 1 it is sent no signal that it does not handle; it must end by itself, not be killed.
    docker("stop", "--time=30", demo)
    assert json.loads(docker("inspect", demo))[0]["State"]["ExitCode"] == 0


CUDA = chart.ROOT / ".tools/cuda"
ONNXRUNTIME = chart.ROOT / ".tools/onnxruntime-gpu"


def debian(folder):
    """The files of a slim Debian that matter here: of the packages that a GPU's libraries are linked with."""
    packages = ["libc6", "libstdc++6", "libgcc-s1", "zlib1g"]
    listed = subprocess.run(["dpkg-query", "--listfiles", *packages], check=True, capture_output=True, text=True)
    for file in map(Path, re.findall(r"^((?:/usr)?/lib\S+\.so(?:\.[0-9.]+)?)$", listed.stdout, re.MULTILINE)):
        # To /usr/lib, where /lib leads in a Debian, though its packages may still name that.
        place = folder / "usr" / file.relative_to("/usr" if file.is_relative_to("/usr") else "/")
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    for link in ("lib", "lib64"):
        (folder / link).symlink_to(f"usr/{link}")
    return folder


@pytest.fixture(scope="module")
def built_gpu(builder, image, tmp_path_factory):
    if not (CUDA / "stamp").exists():
        pytest.skip("needs NVIDIA's libraries, 1.3 GB to fetch: make test-gpu-image")
    parts = subprocess.run([chart.ROOT / "deploy/docker/sbom.py", "--gpu"], check=True, capture_output=True)
    (image.parent / "sbom-gpu.spdx.json").write_bytes(parts.stdout)
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "onnxruntime").symlink_to(ONNXRUNTIME)
    (folder / "cuda").symlink_to(CUDA)
    libraries = builder.imported(folder, f"{builder.name}-libraries:gpu", follow=True)
    base = builder.imported(debian(tmp_path_factory.mktemp("debian")), f"{builder.name}-debian:gpu")
    bases = [f"--build-arg=DEBIAN_IMAGE={base}", f"--build-arg=BUILT_GPU={libraries}"]
    return builder.endcap(image, "gpu", *bases, target="endcap-gpu")


def test_the_image_for_gpus_lacks_nothing_but_a_driver(built_gpu):
    libraries = [f"/usr/local/bin/{path.name}" for path in ONNXRUNTIME.glob("*.so")]
    libraries += [f"/usr/local/lib/cuda/{path.name}" for path in CUDA.glob("*.so*")]
    assert len(libraries) > 15
    # As ldd asks, which is not in the image.
    loader = ["--env=LD_TRACE_LOADED_OBJECTS=1", "--entrypoint=/lib64/ld-linux-x86-64.so.2", built_gpu]
    needed = {library: docker("run", "--rm", "--network=none", *loader, library) for library in libraries}
    missing = {name for told in needed.values() for name in re.findall(r"(\S+) => not found", told)}
    assert missing == {"libcuda.so.1"}, missing
    assert "/usr/local/lib/cuda/libcublasLt.so.13" in needed["/usr/local/bin/libonnxruntime_providers_cuda.so"]


def test_the_image_for_gpus_says_what_is_in_it_and_what_the_runtime_is_to_bring(built_gpu):
    [seen] = json.loads(docker("inspect", built_gpu))
    config = seen["Config"]
    assert config["User"] == "65532:65532" and config["Entrypoint"] == ["endcap"]
    assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"} <= set(config["Env"])
    container = docker("create", built_gpu).strip()
    with subprocess.Popen(
        ["docker", "cp", f"{container}:/usr/local/share/endcap/sbom.spdx.json", "-"], stdout=subprocess.PIPE
    ) as copied:
        listed = subprocess.run(
            ["tar", "--extract", "--to-stdout", "--file=-"], stdin=copied.stdout, check=True, capture_output=True
        )
    docker("rm", container)
    parts = {package["name"] for package in json.loads(listed.stdout)["packages"]}
    assert {"endcap", "onnxruntime-gpu", "nvidia-cublas", "nvidia-cudnn-cu13"} <= parts and "libc6" not in parts


def test_without_a_gpu_its_image_answers_on_the_cpu_or_says_what_is_missing(built_gpu):
    with demonstrated(built_gpu) as container:
        assert recommended(container)["quality"]["rung"] == "FULL"
    told = ["docker", "run", "--rm", "--network=none", "--tmpfs=/tmp", built_gpu, "demo", "--set=worker.device=cuda"]
    refused = subprocess.run(told, capture_output=True, text=True)
    assert refused.returncode != 0 and 'worker.device is "cuda"' in refused.stderr, refused
    assert "libcuda.so.1" in refused.stderr, refused.stderr
