"""The machine a measurement ran on: what it is, which cores servers and clients get, and programs pinned to them."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
# Seconds that a server may take to be there.
PATIENCE = 90


T = TypeVar("T")


class NotRun(Exception):
    """Why something could not be measured. It goes into the report."""


def split_cores() -> tuple[set[int], set[int]]:
    """One core for every server that is compared, the others for clients. With one core they share it."""
    own = sorted(os.sched_getaffinity(0))
    return {own[0]}, set(own[1:]) or {own[0]}


def describe() -> dict[str, str]:
    """Hardware and commit, without which no figure means anything."""
    processor = next(
        (line.split(":", 1)[1].strip() for line in read("/proc/cpuinfo").splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    memory = int(re.search(r"MemTotal:\s+(\d+)", read("/proc/meminfo"))[1]) / 2**20
    commit = output(["git", "rev-parse", "--short", "HEAD"]) or "unknown"
    if output(["git", "status", "--porcelain", "--untracked-files=no"]):
        commit += " with changes"
    return {
        "commit": commit,
        "processor": f"{processor}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.1f} (1 minute; more than 0.5 and the figures are doubtful)",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def read(path: str) -> str:
    return Path(path).read_text()


def output(command: list[str]) -> str:
    """Nothing if it failed, or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def pinned(cores: set[int]) -> Callable[[], None]:
    """For `preexec_fn`: what `taskset` does."""
    return lambda: os.sched_setaffinity(0, cores)


def environment() -> dict[str, str]:
    """One thread per library everywhere: each server has one core."""
    single = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")
    library = str(ROOT / ".tools/onnxruntime/libonnxruntime.so")
    return {"ORT_DYLIB_PATH": library, **os.environ, **single, "ORT_DISABLE_TELEMETRY": "1"}


class Server:
    """A program that runs until the end of a `with`."""

    def __init__(self, command: list[str], log: Path, cores: set[int], cwd: Path = ROOT) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment(),
                preexec_fn=pinned(cores),
                cwd=cwd,
            )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def until(self, ready: Callable[[], T | None], what: str) -> T:
        """Asks until there is an answer; the end of the server is one, too."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if (found := ready()) is not None:
                return found
            if self.process.poll() is not None:
                raise NotRun(f"it ended at its start: {self.last_line()}")
            time.sleep(0.1)
        raise NotRun(f"{what} did not come in {PATIENCE} s: {self.last_line()}")

    def memory_mib(self) -> float:
        """What it and its children hold now."""
        pids, kib = [self.process.pid], 0
        for pid in pids:
            kib += int(re.search(r"VmRSS:\s+(\d+)", read(f"/proc/{pid}/status"))[1])
            pids += map(int, read(f"/proc/{pid}/task/{pid}/children").split())
        return kib / 1024

    def printed(self, pattern: str) -> re.Match[str]:
        return self.until(
            lambda: re.search(pattern, self.log.read_text(errors="replace")), f"{pattern!r} in its output"
        )

    def last_line(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:200] if lines else "it said nothing"
