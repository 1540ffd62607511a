"""Peers: other servers of the Open Inference Protocol, on the same model. Each is a program that is started with a
model, its name, a port for gRPC and one for HTTP; one that cannot be had here says why, in the report."""

import os
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from fleet import MODEL, free_port
from machine import ROOT, NotRun, Server

HERE = Path(__file__).resolve().parent
TOOLS = ROOT / ".tools/peers"
# Seconds that an installation may take.
PATIENCE = 900
FURNACE = "furnace"

# By the name in the report: the environment, and for Python the program in it.
ALL = {
    "plain Python: grpcio and onnxruntime": ("grpcio", "grpcio_server.py"),
    "KServe SDK": ("kserve", "kserve_server.py"),
    "MLServer": ("mlserver", "mlserver_server.py"),
    "furnace-server": (FURNACE, ""),
}


def start(name: str, model: Path, cores: set[int], stack: ExitStack) -> tuple[str, Server, float]:
    """Starts a peer; gives its address, its process, and the seconds until it answered; or raises why not."""
    folder, program = ALL[name]
    command = furnace() if folder == FURNACE else python(folder, program)
    grpc, http = free_port(), free_port()
    command = [*command, str(model), MODEL, str(grpc), str(http)]
    began = time.monotonic()
    server = stack.enter_context(Server(command, TOOLS / f"{folder}.log", cores))
    server.until(lambda: accepts(grpc), f"port {grpc}")
    return f"http://127.0.0.1:{grpc}", server, time.monotonic() - began


def python(folder: str, program: str) -> list[str]:
    install([str(HERE / "setup.sh"), str(TOOLS), folder])
    return [str(TOOLS / folder / "bin/python"), str(HERE / program)]


def furnace() -> list[str]:
    target = TOOLS / FURNACE / "target"
    manifest = str(HERE / FURNACE / "Cargo.toml")
    build = [os.environ.get("CARGO", "cargo"), "build", "--release", "--locked", "--manifest-path", manifest]
    install([*build, "--target-dir", str(target)])
    return [str(target / "release/furnace-peer")]


def install(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (subprocess.TimeoutExpired, OSError) as error:
        raise NotRun(f"its installation failed: {error}") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise NotRun(f"its installation failed: {lines[-1][:200]}")


def accepts(port: int) -> bool | None:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return True if probe.connect_ex(("127.0.0.1", port)) == 0 else None
