"""The fleet in containers: what its file says and, where a Docker engine is, that it does it."""

import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

import chart

FILE = chart.ROOT / "deploy/compose.yaml"
SERVICES = yaml.safe_load(FILE.read_text())["services"]
ROLES = {"gateway", "worker", "registry", "feature-cache"}
MEMBERS = sorted(name for name, service in SERVICES.items() if service["command"][0] in ROLES)


def has_docker():
    commands = (["docker", "info"], ["docker", "compose", "version"])
    return shutil.which("docker") and all(subprocess.run(c, capture_output=True).returncode == 0 for c in commands)


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


def packed(root, image, stage):
    """Makes an image of a folder, with what the Dockerfile's stage says of users and programs."""
    text = (chart.ROOT / "deploy/docker/Dockerfile").read_text()
    [body] = re.findall(rf"^FROM \S+ AS {stage}$(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL)
    changes = re.findall(r"^((?:ENV|WORKDIR|USER|ENTRYPOINT) .*)$", body, re.MULTILINE)
    tar = ["tar", "--numeric-owner", "--create", "--file=-", f"--directory={root}", "."]
    command = ["docker", "import", *(f"--change={change}" for change in changes), "-", image]
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as archive:
        subprocess.run(command, stdin=archive.stdout, check=True, capture_output=True)


def etcd_root(folder):
    """Of the etcd that tests use and the libraries that it is linked with."""
    etcd = chart.ROOT / ".tools/etcd/etcd"
    linked = subprocess.run(["ldd", etcd], capture_output=True, text=True).stdout
    for source, path in [(etcd, "/usr/bin/etcd"), *((lib, lib) for lib in re.findall(r"(/\S+) \(0x", linked))]:
        (folder / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / path[1:])
    (folder / "data").mkdir()
    os.chown(folder / "data", 65534, 65534)
    return folder


class Fleet:
    """A project of its own, whose images are made of the debug build and which publishes no port."""

    def __init__(self, image, folder):
        self.tag = self.project = f"endcap-test-{os.getpid()}"
        self.override = folder / "override.yaml"
        published = [name for name, service in SERVICES.items() if "ports" in service]
        self.override.write_text("services:\n" + "".join(f"  {name}: {{ ports: !reset [] }}\n" for name in published))
        packed(image, f"endcap:{self.tag}", "endcap")
        packed(etcd_root(folder / "etcd"), f"endcap-etcd:{self.tag}", "etcd")

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
        listed = (subprocess.run(["docker", *kind, "--quiet", label], capture_output=True, text=True) for kind in kinds)
        return "".join(listing.stdout for listing in listed)

    def remove(self):
        self.run("down", "--volumes", "--timeout=10")
        images = [f"endcap:{self.tag}", f"endcap-etcd:{self.tag}"]
        subprocess.run(["docker", "rmi", *images], check=True, capture_output=True)


@pytest.fixture
def fleet(image, tmp_path):
    fleet = Fleet(image, tmp_path)
    try:
        yield fleet
    finally:
        fleet.remove()
    assert not fleet.left()


@pytest.mark.skipif(not has_docker(), reason="needs a Docker engine with Compose 2")
def test_in_containers_it_gets_healthy_and_answers_whatever_is_killed(fleet):
    fleet.up()
    released = fleet.run("run", "--rm", "--no-TTY", "release")
    assert "stable=1" in released
    assert fleet.answers_in_full("gateway-1") and fleet.answers_in_full("gateway-2")
    fleet.run("kill", "worker-1", "registry-1", "gateway-2", "etcd-1")
    assert [fleet.rung("gateway-1") for _ in range(10)] == ["FULL"] * 10
    fleet.up()
    assert fleet.answers_in_full("gateway-2")
