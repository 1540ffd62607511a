"""Runs the pods of rendered manifests as processes, without Kubernetes.

To be run by `unshare --net --mount`, as root: every pod gets an address on the loopback of that network, and a
read-only root with nothing in it but libraries, the binaries, its volumes and the names of Services; it runs as the
user that its manifest says. What is not as in a cluster: pods share one network, so "0.0.0.0" becomes the pod's own
address; a Service is the address of its first ready pod; limits, policies and scheduling do nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

import chart

# The kernel's folders, which every container has.
SYSTEM = ("proc", "sys")
PR_SET_NO_NEW_PRIVS = 38
SERVING = b"\x08\x01"
# The file of names is written in one go and never gets shorter, so that no reader finds half of it.
HOSTS_BYTES = 16_384


@dataclass
class Pod:
    name: str
    address: str
    owner: dict[str, Any]
    manifest: dict[str, Any]
    root: Path
    process: subprocess.Popen | None = field(default=None)
    # Whether Services send to it.
    endpoint: bool = True

    @property
    def container(self) -> dict[str, Any]:
        [container] = self.manifest["spec"]["containers"]
        return container

    @property
    def log(self) -> Path:
        return self.root.with_name(f"{self.root.name}.log")


class Cluster:
    def __init__(self, objects: list[dict[str, Any]], image: Path, folder: Path) -> None:
        """`image` is the root of all containers: Endcap's, with etcd in it."""
        self.objects, self.image, self.folder = objects, image, folder
        self.pods: list[Pod] = []
        self.serial = itertools.count(1)
        self.hosts = folder / "hosts"
        self.hosts.touch()
        run("ip", "link", "set", "lo", "up")
        for obj in chart.of_kind(objects, *chart.WORKLOADS):
            for ordinal in range(obj["spec"].get("replicas", 1)):
                self.add(obj, f"{obj['metadata']['name']}-{ordinal}")

    def add(self, owner: dict[str, Any], name: str, *, endpoint: bool = True) -> Pod:
        """A pod that does not run yet, with an address of its own."""
        serial = next(self.serial)
        root = self.folder / f"{name}.{serial}"
        pod = Pod(name, f"10.254.0.{serial}", owner, chart.pod(owner), root, endpoint=endpoint)
        run("ip", "address", "add", f"{pod.address}/32", "dev", "lo")
        self.pods.append(pod)
        self.name_services()
        return pod

    def of(self, *kinds: str) -> list[Pod]:
        return [pod for pod in self.pods if pod.owner["kind"] in kinds]

    def start(self, pod: Pod, *arguments: str) -> None:
        """`arguments` instead of the manifest's, if there are any."""
        if not pod.root.exists():
            self.make_root(pod)
        command = [*pod.container.get("command", ["endcap"]), *(arguments or pod.container["args"])]
        command = [self.expanded(pod, word) for word in command]
        with pod.log.open("ab") as log:
            pod.process = subprocess.Popen(
                [f"/usr/local/bin/{command[0]}", *command[1:]],
                env=self.environment(pod),
                stdout=log,
                stderr=log,
                preexec_fn=lambda: enter(pod),
            )

    def run(self, pod: Pod, timeout: float) -> int:
        self.start(pod)
        return pod.process.wait(timeout)

    def environment(self, pod: Pod) -> dict[str, str]:
        env = {"ORT_DISABLE_TELEMETRY": "1"}
        for variable in pod.container.get("env", []):
            source = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            env[variable["name"]] = self.downward(pod, source) if source else self.expanded(pod, variable["value"])
        return env

    @staticmethod
    def downward(pod: Pod, path: str) -> str:
        return {"metadata.name": pod.name, "status.podIP": pod.address, "spec.nodeName": f"node-of-{pod.name}"}[path]

    def expanded(self, pod: Pod, text: str) -> str:
        for variable in pod.container.get("env", []):
            if f"$({variable['name']})" in text:
                path = variable["valueFrom"]["fieldRef"]["fieldPath"]
                text = text.replace(f"$({variable['name']})", self.downward(pod, path))
        return text.replace("0.0.0.0", pod.address)

    def make_root(self, pod: Pod) -> None:
        """A read-only folder with mounts on it; they are gone with the namespace."""
        run("cp", "--archive", "--link", str(self.image), str(pod.root))
        mounts = {place: (Path("/", place), True) for place in SYSTEM}
        volumes = {volume["name"]: volume for volume in pod.manifest["spec"].get("volumes", [])}
        for mount in pod.container.get("volumeMounts", []):
            source = self.volume(pod, volumes.get(mount["name"], {}), mount["name"])
            mounts[mount["mountPath"][1:]] = (source, mount.get("readOnly", False))
        for place in mounts:
            (pod.root / place).mkdir(parents=True, exist_ok=True)
        (pod.root / "etc/hosts").touch()
        run("mount", "--bind", str(pod.root), str(pod.root))
        run("mount", "-o", "remount,bind,ro", str(pod.root))
        for place, (source, read_only) in mounts.items():
            run("mount", "--bind", str(source), str(pod.root / place))
            if read_only:
                run("mount", "-o", "remount,bind,ro", str(pod.root / place))
        run("mount", "--bind", str(self.hosts), str(pod.root / "etc/hosts"))

    def volume(self, pod: Pod, volume: dict[str, Any], name: str) -> Path:
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        folder = self.folder / "volumes" / (claim or f"{pod.name}-{name}")
        if not folder.exists():
            folder.mkdir(parents=True)
            group = pod.manifest["spec"]["securityContext"]["fsGroup"]
            os.chown(folder, -1, group)
            folder.chmod(0o2775)
        for key, text in self.config(volume).items():
            (folder / key).write_text(text.replace("0.0.0.0", pod.address))
        return folder

    def config(self, volume: dict[str, Any]) -> dict[str, str]:
        if "configMap" not in volume:
            return {}
        return chart.named(self.objects, "ConfigMap", volume["configMap"]["name"])["data"]

    def name_services(self) -> None:
        lines = ["127.0.0.1 localhost"]
        for service in chart.of_kind(self.objects, "Service"):
            name, selector = service["metadata"]["name"], service["spec"]["selector"]
            domain = f"{name}.{chart.NAMESPACE}.svc.cluster.local"
            pods = [pod for pod in self.pods if chart.matches(pod.manifest["metadata"].get("labels", {}), selector)]
            ready = [pod for pod in pods if pod.endpoint] or pods
            lines += [f"{pod.address} {name} {domain}" for pod in ready[:1]]
            lines += [f"{pod.address} {pod.name}.{domain}" for pod in pods]
        text = ("\n".join(lines) + "\n").encode()
        assert len(text) <= HOSTS_BYTES
        with self.hosts.open("r+b", buffering=0) as file:
            file.write(text.ljust(HOSTS_BYTES, b"\n"))

    def probe(self, pod: Pod, name: str) -> bool:
        probe = pod.container[name]
        ports = {port["name"]: port["containerPort"] for port in pod.container["ports"]}
        if "grpc" in probe:
            with grpc.insecure_channel(f"{pod.address}:{probe['grpc']['port']}") as channel:
                check = channel.unary_unary("/grpc.health.v1.Health/Check")
                with contextlib.suppress(grpc.RpcError):
                    return check(b"", timeout=probe["timeoutSeconds"]) == SERVING
            return False
        get = probe["httpGet"]
        with contextlib.suppress(OSError):
            url = f"http://{pod.address}:{ports[get['port']]}{get['path']}"
            return urllib.request.urlopen(url, timeout=probe.get("timeoutSeconds", 1)).status == 200
        return False

    def wait(self, what: str, pods: list[Pod], is_so: Callable[[Pod], bool], timeout: float) -> None:
        """Until it is so for all; a pod that ended is started again, as its restart policy says."""
        end = time.monotonic() + timeout
        while missing := [pod for pod in pods if not is_so(pod)]:
            if time.monotonic() > end:
                tail = missing[0].log.read_text(errors="replace")[-3000:]
                raise AssertionError(f"{[pod.name for pod in missing]} not {what} after {timeout} s:\n{tail}")
            for pod in missing:
                if pod.process.poll() is not None:
                    self.start(pod)
            time.sleep(0.2)

    def upgrade(self, objects: list[dict[str, Any]], timeout: float) -> list[str]:
        """Applies other manifests, to all workloads at once, as a cluster does. Names the pods that were replaced."""
        before, self.objects = self.objects, objects
        end, replaced, rolls = time.monotonic() + timeout, [], []
        for obj in chart.of_kind(objects, "StatefulSet", "Deployment"):
            pods = [pod for pod in self.pods if chart.identity(pod.owner) == chart.identity(obj)]
            if chart.pod(chart.named(before, *chart.identity(obj))) != chart.pod(obj):
                roll = self.replace_in_turn if obj["kind"] == "StatefulSet" else self.surge
                rolls.append(roll(obj, pods))
                replaced += [pod.name for pod in pods]
        while rolls:
            assert time.monotonic() < end, f"not rolled out after {timeout} s"
            rolls = [roll for roll in rolls if next(roll, StopIteration) is not StopIteration]
            time.sleep(0.1)
        return replaced

    def replace_in_turn(self, obj: dict[str, Any], pods: list[Pod]) -> Iterator[None]:
        """A StatefulSet: from the last to the first, each with its name and its volumes."""
        for old in reversed(pods):
            yield from self.end(old)
            new = self.add(obj, old.name, endpoint=False)
            yield from self.come(new)

    def surge(self, obj: dict[str, Any], pods: list[Pod]) -> Iterator[None]:
        """A Deployment with maxSurge 1 and maxUnavailable 0: a new pod is ready before an old one goes."""
        assert obj["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        for old in pods:
            new = self.add(obj, f"{obj['metadata']['name']}-{next(self.serial)}", endpoint=False)
            yield from self.come(new)
            yield from self.end(old)

    def come(self, pod: Pod) -> Iterator[None]:
        self.start(pod)
        while not self.probe(pod, "readinessProbe"):
            if pod.process.poll() is not None:
                self.start(pod)
            yield
        pod.endpoint = True
        self.name_services()
        available = time.monotonic() + pod.owner["spec"].get("minReadySeconds", 0)
        while time.monotonic() < available:
            yield

    def end(self, pod: Pod) -> Iterator[None]:
        pod.endpoint = False
        self.name_services()
        pod.process.send_signal(signal.SIGTERM)
        killed = time.monotonic() + pod.manifest["spec"]["terminationGracePeriodSeconds"]
        while pod.process.poll() is None:
            assert time.monotonic() < killed, f"{pod.name} would have been killed:\n{pod.log.read_text()[-3000:]}"
            yield
        assert pod.process.returncode == 0, f"{pod.name} ended with {pod.process.returncode}"
        self.pods.remove(pod)
        self.name_services()

    def stop(self) -> None:
        for pod in self.pods:
            if pod.process and pod.process.poll() is None:
                pod.process.kill()
                pod.process.wait()


def enter(pod: Pod) -> None:
    """The rest of its life a process has this root, this user, and no way to more rights."""
    security = pod.manifest["spec"]["securityContext"]
    os.chroot(pod.root)
    os.chdir("/")
    os.setgroups([security["fsGroup"]])
    os.setresgid(*[security["runAsGroup"]] * 3)
    os.setresuid(*[security["runAsUser"]] * 3)
    assert ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0


def run(*command: str) -> None:
    subprocess.run(command, check=True)
