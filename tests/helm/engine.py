"""A Docker engine with Compose 2: the machine's own, or one that lives as long as the tests do."""

import contextlib
import os
import shutil
import subprocess

import chart

# What `make setup-tests` unpacks where the machine has none of its own.
TOOLS = chart.ROOT / ".tools/docker"
DOCKERD = TOOLS / "usr/sbin/dockerd"


def answers():
    commands = (["docker", "info"], ["docker", "compose", "version"])
    return bool(shutil.which("docker")) and all(
        subprocess.run(command, capture_output=True).returncode == 0 for command in commands
    )


def log(container):
    """What it has written so far, mostly on its error stream."""
    command = ["docker", "logs", container]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def docker(*command, **options):
    """What it prints; an error with what it says if it fails."""
    ran = subprocess.run(["docker", *map(str, command)], capture_output=True, text=True, **options)
    assert ran.returncode == 0, f"docker {command}: {ran.stdout}{ran.stderr}"
    return ran.stdout


def libraries():
    """Of the unpacked one."""
    return next((TOOLS / "usr/lib").glob("*-linux-gnu"))


@contextlib.contextmanager
def started(folder):
    """Runs the unpacked one, with its networks and mounts apart from the machine's. Root's alone."""
    os.environ.update(
        PATH=f"{TOOLS}/usr/sbin:{TOOLS}/usr/bin:{os.environ['PATH']}",
        DOCKER_HOST=f"unix://{folder}/docker.sock",
        DOCKER_CONFIG=str(TOOLS / "config"),
    )
    own = {"LD_LIBRARY_PATH": str(libraries()), "XTABLES_LIBDIR": str(libraries() / "xtables")}
    command = ["unshare", "--net", "--mount", DOCKERD, f"--host={os.environ['DOCKER_HOST']}", "--ip6tables=false"]
    places = [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
    said = folder / "log"
    with said.open("w") as written:
        daemon = subprocess.Popen([*command, *places], env={**os.environ, **own}, stdout=written, stderr=written)
    try:
        while not answers():
            assert daemon.poll() is None, f"the engine did not start:\n{said.read_text()[-2000:]}"
        yield daemon
    finally:
        daemon.terminate()
        daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)
