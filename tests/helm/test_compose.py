"""The fleet in containers: what its file says and, where a Docker engine is, that it does it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import chart
from conftest import DOCKERFILE
from engine import docker

FILE = chart.ROOT / "deploy/compose.yaml"
SERVICES = yaml.safe_load(FILE.read_text())["services"]
ROLES = {"gateway", "worker", "registry", "feature-cache"}
MEMBERS = sorted(name for name, service in SERVICES.items() if service["command"][0] in ROLES)


def test_starting_what_was_killed_promotes_nothing():
    promoting = [service for service in SERVICES.values() if "--promote" in service["command"]]
    assert promoting and all(service["profiles"] for service in promoting)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_takes_its_settings_and_is_reached_by_its_name(member):
    service = SERVICES[member]
    role, identity = service["command"][0], service["command"][1:3]
    assert identity == ["--id", member]
    command = [chart.binary(), *service["command"], "--check-config"]
    checked = subprocess.run(command, env=service["environment"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    found = dict(re.findall(r'^(\S+) = "(.*)"  #', checked.stdout, re.MULTILINE))
    # Registries are asked through their published port or by this file's names; they tell nobody their own.
    if role != "registry":
        section = role.replace("-", "_")
        port = found[f"{section}.grpc.listen"].removeprefix("0.0.0.0:")
        assert found[f"{section}.grpc.advertise"] == f"{member}:{port}"


def etcd_changes():
    """What the Dockerfile says of its user and its program."""
    [body] = re.findall(r"^FROM \S+ AS etcd$(.*?)(?=^FROM)", DOCKERFILE.read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^((?:USER|ENTRYPOINT) .*)$", body, re.MULTILINE)


def etcd_root(folder):
    """Of the etcd that tests use and the libraries that it is linked with: its stage asks for packages."""
    root_of(folder, chart.ROOT / ".tools/etcd/etcd")
    (folder / "data").mkdir()
    os.chown(folder / "data", 65534, 65534)
    return folder


def root_of(folder, program, libraries=""):
    """A root for a program of the tests' and what it is linked with, some of it in a folder of its own."""
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, env={"LD_LIBRARY_PATH": str(libraries)})
    for library in map(Path, re.findall(r"(/\S+) \(0x", linked.stdout)):
        place = Path("usr/lib", library.name) if library.is_relative_to(chart.ROOT) else library.relative_to("/")
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, folder / place)
    (folder / "usr/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(program, folder / "usr/bin" / program.name)
    return folder


class Fleet:
    """A project of its own, whose images are made of the debug build and which publishes no port."""

    def __init__(self, builder, image, folder):
        self.tag = self.project = builder.name
        self.override = folder / "override.yaml"
        published = [name for name, service in SERVICES.items() if "ports" in service]
        self.override.write_text("services:\n" + "".join(f"  {name}: {{ ports: !reset [] }}\n" for name in published))
        docker("tag", builder.endcap(image, "compose"), f"endcap:{self.tag}")
        builder.imported(etcd_root(folder / "etcd"), f"endcap-etcd:{self.tag}", *etcd_changes())
        builder.images.add(f"endcap:{self.tag}")

    def run(self, *command):
        files = [f"--file={FILE}", f"--file={self.override}"]
        compose = ["docker", "compose", f"--project-name={self.project}", *files, *command]
        environment = {**os.environ, "ENDCAP_TAG": self.tag}
        ran = subprocess.run(compose, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def up(self):
        # Waits until every health check says healthy.
        self.run("up", "--no-build", "--detach", "--wait", "--wait-timeout=120")

    def endcap(self, service, *command):
        return json.loads(self.run("exec", "--no-TTY", service, "endcap", "--output=json", *command))

    def rung(self, service):
        return self.endcap(service, "recommend", "grey pine bar stool")["quality"]["rung"]

    def answers_in_full(self, service):
        """Within a hundred asks: a gateway hears of a promotion, or of workers, a moment after they are there."""
        for _ in range(100):
            try:
                if self.rung(service) == "FULL":
                    return True
            except AssertionError as refused:
                print(refused)
        return False

    def left(self):
        label = f"--filter=label=com.docker.compose.project={self.project}"
        kinds = (["ps", "--all"], ["volume", "ls"], ["network", "ls"])
        return "".join(docker(*kind, "--quiet", label) for kind in kinds)

    def remove(self):
        self.run("down", "--volumes", "--timeout=10")


@pytest.fixture
def fleet(builder, image, tmp_path):
    fleet = Fleet(builder, image, tmp_path)
    try:
        yield fleet
    finally:
        fleet.remove()
    assert not fleet.left()


def test_in_containers_it_gets_healthy_and_answers_whatever_is_killed(fleet):
    fleet.up()
    released = fleet.run("run", "--rm", "--no-TTY", "release")
    assert "stable=1" in released
    assert fleet.answers_in_full("gateway-1") and fleet.answers_in_full("gateway-2")
    fleet.run("kill", "worker-1", "registry-1", "gateway-2", "etcd-1")
    assert [fleet.rung("gateway-1") for _ in range(10)] == ["FULL"] * 10
    fleet.up()
    assert fleet.answers_in_full("gateway-2")
