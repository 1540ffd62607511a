import os
import shutil
import subprocess

import pytest

import chart
from engine import DOCKERD, answers, docker, started

DOCKERFILE = chart.ROOT / "deploy/docker/Dockerfile"


def assemble(folder, binary=None):
    """The root of Endcap's image, as its Dockerfile makes it, of the debug build or another program."""
    library = chart.ROOT / ".tools/onnxruntime/libonnxruntime.so"
    bundle = chart.ROOT / "deploy/demo/search-ranker.endcap"
    command = [chart.ROOT / "deploy/docker/root.sh", folder, binary or chart.binary(), library, bundle]
    subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1767225600"})
    return folder


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    if not shutil.which("dpkg-query"):
        pytest.skip("needs Debian, of whose packages the image's root is made")
    return assemble(tmp_path_factory.mktemp("image") / "root-of-image")


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    """A Docker engine that answers: the process of one of the tests' own, or None for the machine's."""
    if answers():
        yield
    elif DOCKERD.exists() and os.geteuid() == 0:
        with started(tmp_path_factory.mktemp("engine")) as daemon:
            yield daemon
    else:
        pytest.skip("needs a Docker engine with Compose 2, or Debian and root to start one")


class Builder:
    """Builds images by the Dockerfile, of a root that was assembled before instead of compiling for minutes again."""

    def __init__(self):
        self.name = f"endcap-test-{os.getpid()}"
        self.images = set()

    def imported(self, folder, image, *changes, follow=False):
        """An image that holds what the folder holds, or where its links lead."""
        links = ["--dereference"] if follow else []
        tar = ["tar", *links, "--numeric-owner", "--create", "--file=-", f"--directory={folder}", "."]
        with subprocess.Popen(tar, stdout=subprocess.PIPE) as archive:
            docker("import", *(f"--change={change}" for change in changes), "-", image, stdin=archive.stdout)
        self.images.add(image)
        return image

    def endcap(self, root, tag, *options, target="endcap"):
        built = self.imported(root.parent, f"{self.name}-root:{tag}")
        image = f"{self.name}:{tag}"
        arguments = [f"--build-arg=BUILT={built}", f"--tag={image}", f"--target={target}", *options]
        docker("build", f"--file={DOCKERFILE}", *arguments, chart.ROOT, env={**os.environ, "DOCKER_BUILDKIT": "1"})
        self.images.add(image)
        return image


@pytest.fixture(scope="session")
def builder(engine):
    builder = Builder()
    yield builder
    if builder.images:
        docker("rmi", "--force", *builder.images)
