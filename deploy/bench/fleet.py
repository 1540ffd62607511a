"""A fleet to measure, and `endcap bench` against it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from machine import ROOT, NotRun, Server, environment, pinned

MODEL = "bench-ranker"
# A bundle of the simulated model, made once per size and seed.
CACHE = ROOT / ".tools/bench"


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


def run(command: list[str]) -> str:
    """As if from another machine: what is measured goes first."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        check=False,
        preexec_fn=lambda: os.nice(19),
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

    def __enter__(self) -> "Fleet":
        self.folder = tempfile.TemporaryDirectory(prefix="endcap-bench-")
        home = Path(self.folder.name)
        self.worker = f"http://127.0.0.1:{(port := free_port())}"
        given = [
            "gateway.grpc.listen=127.0.0.1:0",
            "registry.grpc.listen=127.0.0.1:0",
            "admin.listen=127.0.0.1:0",
            f"worker.grpc.listen=127.0.0.1:{port}",
            "worker.device=cpu",
            f"gateway.default_model={MODEL}",
            "telemetry.log=warn",
            *self.settings,
        ]
        command = [str(self.programs.endcap), "dev", "--data-dir", str(home / "state"), "--workers", "1"]
        command += [part for setting in given for part in ("--set", setting)]
        try:
            self.server = Server(command, home / "fleet.log", self.cores)
            self.gateway = self.server.printed(r"gateway (http://\S+)")[1]
            self.registry = self.server.printed(r"registry (http://\S+)")[1]
            self.model("register", str(self.bundle), "--promote")
            self.server.until(self.is_routed, "a full answer")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "server"):
            self.server.stop()
        self.folder.cleanup()

    def is_routed(self) -> bool | None:
        """The gateway hears of a promotion by a watch, a moment later."""
        asked = ["recommend", *self.probe, "--deadline", "5s"]
        answer = run([str(self.programs.endcap), "--gateway", self.gateway, "-o", "json", *asked])
        return True if '"FULL"' in answer else None

    def model(self, *verb: str) -> str:
        return run([str(self.programs.endcap), "--registry", self.registry, "model", *verb])


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
