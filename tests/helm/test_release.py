"""A release of the chart, its own pods as processes on the image's root, read-only, and without rights: it comes up,
the bootstrap job promotes, `helm test`'s pod is answered from every shard, an upgrade and its rollback under load fail
no request, and SIGTERM drains within the grace."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import chart

NAMESPACES = ["unshare", "--net", "--mount", "--propagation", "private"]


def may_make_namespaces():
    return bool(shutil.which("unshare")) and subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not may_make_namespaces(), reason="needs the right to make network and mount namespaces")
def test_a_release_comes_up_promotes_answers_is_upgraded_under_load_and_drains(image, tmp_path):
    root = tmp_path / "image"
    subprocess.run(["cp", "--archive", "--link", image, root], check=True)
    shutil.copy(chart.ROOT / ".tools/etcd/etcd", root / "usr/local/bin/etcd")
    driver = Path(__file__).parent / "release.py"
    ran = subprocess.run([*NAMESPACES, sys.executable, driver, root, tmp_path], capture_output=True, text=True)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert "succeeded: endcap-bootstrap-0" in ran.stdout and "succeeded: endcap-test-0" in ran.stdout
    assert "FULL" in ran.stdout and ran.stdout.count("drained:") == 7
    rolled = [
        line.split(": ")[1].split() for line in ran.stdout.splitlines() if line.startswith(("upgraded", "rolled"))
    ]
    assert [len(names) for names in rolled] == [7, 7], ran.stdout
