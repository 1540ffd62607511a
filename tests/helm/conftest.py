import os
import shutil
import subprocess

import pytest

import chart


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
    return assemble(tmp_path_factory.mktemp("image") / "root")
