"""A fleet to measure, and `endcap bench` against it."""

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from machine import PATIENCE, ROOT, NotRun, Server, environment, pinned, split_cores

MODEL = "bench-ranker"
# A bundle of the simulated model, made once per size and seed.
CACHE = ROOT / ".tools/bench"


SETTINGS = [f"gateway.default_model={MODEL}", "telemetry.log=warn", "worker.device=cpu"]


@dataclass
class Programs:
    """What was built."""

    folder: Path

    @property
    def endcap(self) -> Path:
        return self.folder / "endcap"

    def floor(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise NotRun(f"{name} was not built")
        return path


@dataclass
class Sizes:
    items: int = 20_000
    rows: int = 20_000

    def bundle(self, programs: Programs, seed: int = 7) -> Path:
        """The packed bundle, and beside it its source; made by `model.py` if it is not there."""
        packed = CACHE / f"{self.items}-{self.rows}-{seed}.endcap"
        source = self.source(seed)
        if not packed.is_file():
            CACHE.mkdir(parents=True, exist_ok=True)
            sizes = ["--items", str(self.items), "--rows", str(self.rows), "--seed", str(seed)]
            run([sys.executable, str(ROOT / "deploy/bench/model.py"), str(source), *sizes])
            pack = ["bundle", "pack", str(source), "--shards", "1", "--created", "2026-01-01T00:00:00Z"]
            unfinished = packed.with_suffix(".partial")
            run([str(programs.endcap), *pack, "--file", str(unfinished)])
            unfinished.rename(packed)
        return packed

    def source(self, seed: int = 7) -> Path:
        return CACHE / f"{self.items}-{self.rows}-{seed}"


def run(command: list[str], cores: set[int] | None = None) -> str:
    """As if from another machine: what is measured goes first. On `cores`, it is what is measured."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        check=False,
        preexec_fn=pinned(cores) if cores else lambda: os.nice(19),
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise NotRun(f"{Path(command[0]).name} {command[1]}: {lines[-1][:300]}")
    return done.stdout


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Fleet:
    """`endcap dev` with one worker: gateway, worker, registry and feature-cache in one process on the servers' core."""

    programs: Programs
    bundle: Path
    cores: set[int]
    settings: list[str] = field(default_factory=list)
    # A request that this bundle answers in full.
    probe: list[str] = field(default_factory=lambda: ["--candidates", "item-000000", "--fields", "id_0"])

    def __enter__(self) -> Self:
        self.folder = tempfile.TemporaryDirectory(prefix="endcap-bench-")
        home = Path(self.folder.name)
        self.worker = f"http://127.0.0.1:{(port := free_port())}"
        given = [
            "gateway.grpc.listen=127.0.0.1:0",
            "registry.grpc.listen=127.0.0.1:0",
            "feature_cache.grpc.listen=127.0.0.1:0",
            "admin.listen=127.0.0.1:0",
            f"worker.grpc.listen=127.0.0.1:{port}",
            *SETTINGS,
            *self.settings,
        ]
        self.command = [str(self.programs.endcap), "dev", "--data-dir", str(home / "state"), "--workers", "1"]
        self.command += [part for setting in given for part in ("--set", setting)]
        try:
            self.start()
            self.model("register", str(self.bundle), "--promote")
            self.server.until(self.is_routed, "a full answer")
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        self.server = Server(self.command, Path(self.folder.name) / "fleet.log", self.cores)
        self.gateway = self.server.printed(r"gateway (http://\S+)")[1]
        self.registry = self.server.printed(r"registry (http://\S+)")[1]

    def restart(self) -> float:
        """Seconds from its start, with its version on disk, to a full answer."""
        self.server.stop()
        began = time.monotonic()
        self.start()
        self.server.until(self.is_routed, "a full answer")
        return time.monotonic() - began

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "server"):
            self.server.stop()
        self.folder.cleanup()

    def is_routed(self) -> bool | None:
        """The gateway hears of a promotion by a watch, a moment later; until then it has nothing to answer from."""
        asked = ["recommend", *self.probe, "--deadline", "5s"]
        try:
            answer = run([str(self.programs.endcap), "--gateway", self.gateway, "-o", "json", *asked])
        except NotRun:
            return None
        return True if '"FULL"' in answer else None

    def model(self, *verb: str) -> str:
        return run([str(self.programs.endcap), "--registry", self.registry, "model", *verb])


@dataclass
class Members(Fleet):
    """`fleet.sh up` with one worker: every member a process. The worker has the servers' core for itself; the gateway
    has one as well where there are three, else it shares the clients' with the rest."""

    others: set[int] = field(default_factory=lambda: split_cores()[1])

    def __enter__(self) -> Self:
        self.folder = tempfile.TemporaryDirectory(prefix="endcap-bench-")
        base = free_block()
        self.gateway, self.registry, self.worker = (f"http://127.0.0.1:{base + port}" for port in (0, 20, 101))
        given = dict(setting.split("=", 1) for setting in [*SETTINGS, *self.settings])
        self.environment = {
            **environment(),
            **{"ENDCAP_" + key.upper().replace(".", "__"): value for key, value in given.items()},
            **{"ENDCAP": str(self.programs.endcap), "ETCD": str(ROOT / ".tools/etcd/etcd"), "BUNDLE": str(self.bundle)},
            **{"DIR": self.folder.name, "BASE_PORT": str(base), "WORKERS": "1", "GATEWAYS": "1", "REGISTRIES": "1"},
        }
        try:
            # All on one core, so that each has the threads that one core asks for.
            self.script("up", self.cores)
            for pid in Path(self.folder.name).glob("pids/*.pid"):
                if pid.stem != "worker-1":
                    move(int(pid.read_text()), self.gateway_core if pid.stem == "gateway-1" else self.clients)
            waited = time.monotonic() + PATIENCE
            while not self.is_routed():
                if time.monotonic() > waited:
                    raise NotRun(f"no full answer in {PATIENCE} s")
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def gateway_core(self) -> set[int]:
        return {min(self.others)}

    @property
    def clients(self) -> set[int]:
        """The cores for whoever asks."""
        return self.others - self.gateway_core or self.others

    def __exit__(self, *_: object) -> None:
        self.script("down", self.cores)
        self.folder.cleanup()

    def script(self, verb: str, cores: set[int]) -> None:
        command = [str(ROOT / "deploy/fleet/fleet.sh"), verb]
        # Not a pipe: what stays up would hold it open.
        log = Path(self.folder.name) / f"{verb}.txt"
        with log.open("wb") as file:
            done = subprocess.run(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                cwd=ROOT,
                preexec_fn=pinned(cores),
                check=False,
            )
        if done.returncode != 0:
            raise NotRun(f"fleet.sh {verb}: {(log.read_text().strip().splitlines() or ['no message'])[-1][:300]}")


def move(pid: int, cores: set[int]) -> None:
    """All of a process's threads."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def free_block() -> int:
    """The first of the ports that a small fleet needs."""
    for base in random.sample(range(12_000, 30_000, 200), 50):
        with ExitStack() as stack:
            try:
                for port in range(base, base + 110):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise NotRun("no 110 free ports in a row")


def bench(programs: Programs, cores: set[int], arguments: list[str]) -> dict:
    """Runs `endcap bench` on the clients' cores and reads what it measured."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.json"
        command = [str(programs.endcap), *arguments, "--json", str(path)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(), preexec_fn=pinned(cores), check=False
        )
        if done.returncode != 0:
            raise NotRun((done.stderr.strip().splitlines() or ["endcap bench failed"])[-1][:300])
        return json.loads(path.read_text())


def time_text(seconds: float) -> str:
    """As `endcap` reads times, which are whole numbers of a unit."""
    return f"{round(seconds * 1000)}ms"


def recommend(gateway: str, *options: str) -> list[str]:
    return ["--gateway", gateway, "bench", "--model", MODEL, *options]
