"""`python deploy/bench/gpu.py`: a worker on an NVIDIA GPU beside the same worker on the CPU, and its versions swapped.

Needs the GPU build of ONNX Runtime (`deploy/onnxruntime/fetch-gpu.sh`) in ORT_DYLIB_PATH, and CUDA 13 and cuDNN 9 where
the loader finds them. Half of the cores are the servers'. Bundles named by --golden are validated first: their golden
requests must be answered on the device as they were recorded.
"""

import argparse
import os
import re
import statistics
import sys
import threading
from pathlib import Path

import stress
from fleet import MODEL, Fleet, Programs, Sizes, bench, run, time_text
from machine import ROOT, NotRun, describe, output

IN_FLIGHT = (1, 8, 32)
QUERY = ["nvidia-smi", "--format=csv,noheader,nounits"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of the built programs")
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 1000, 4000, 16384], help="of a request")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--swaps", type=int, default=20, help="under load")
    parser.add_argument("--golden", type=Path, nargs="*", default=[], help="bundles to validate on the device")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--table-rows", type=int, default=20_000)
    parser.add_argument("--report", type=Path, default=ROOT / "target/bench/gpu.md")
    arguments = parser.parse_args()
    own = sorted(os.sched_getaffinity(0))
    servers, clients = set(own[: len(own) // 2]) or set(own), set(own[len(own) // 2 :])
    programs, sizes = Programs(arguments.programs.resolve()), Sizes(arguments.items, arguments.table_rows)
    lines = ["# A worker on a GPU", "", *(f"- {name}: {value}" for name, value in describe().items())]
    lines += [f"- device: {device()}", f"- made by `python deploy/bench/gpu.py {' '.join(sys.argv[1:])}`", ""]
    try:
        bundles = [sizes.bundle(programs, seed) for seed in (7, 8, 9)]
        # As many rows as are asked for at once may be one run, and the rest of them may wait.
        limits = [f"worker.queue_rows={max(IN_FLIGHT) * max(arguments.rows)}"]
        limits += [f"worker.max_batch_rows{device}={max(arguments.rows)}" for device in ("", "_cuda")]
        with Fleet(programs, bundles[0], servers, ["worker.device=cuda", *limits, "telemetry.log=info"]) as fleet:
            lines += golden(fleet, arguments.golden)
            lines += throughput(arguments, sizes, fleet, limits, servers, clients)
            lines += swaps(arguments, fleet, bundles, clients)
    except NotRun as reason:
        sys.exit(f"gpu.py: {reason}")
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    arguments.report.write_text(text)
    print(text)


def device() -> str:
    return output([*QUERY, "--query-gpu=name,driver_version,memory.total"]) or "nvidia-smi says nothing"


def memory_mib() -> int:
    """What every program holds on the first card."""
    return int((output([*QUERY, "--query-gpu=memory.used"]) or "0").splitlines()[0])


def golden(fleet: Fleet, bundles: list[Path]) -> list[str]:
    for bundle in bundles:
        print(fleet.model("register", str(bundle), "--validate"), file=sys.stderr)
    found = re.findall(r"golden requests agree.*", fleet.server.log.read_text(errors="replace"))
    if not found:
        raise NotRun("no version's golden requests were answered")
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in found]
    return ["## Golden requests", "", *(f"- {line}" for line in plain), ""]


def throughput(
    arguments: argparse.Namespace, sizes: Sizes, cuda: Fleet, limits: list[str], servers: set[int], clients: set[int]
) -> list[str]:
    threads = [f"worker.threads={len(servers)}", "worker.device=cpu", *limits]
    lines = ["## ModelInfer, thousands of rows a second and p99", ""]
    heads = [f"{name}, {n} in flight" for n in IN_FLIGHT for name in ("GPU", f"CPU, {len(servers)} cores")]
    lines += ["| rows | bare loop on the GPU | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    with Fleet(cuda.programs, cuda.bundle, servers, threads) as cpu:
        for rows in arguments.rows:
            bare = floor(cuda.programs, sizes, rows, arguments.seconds, servers)
            cells = [str(rows), f"{bare * rows / 1000:.0f}"]
            for in_flight in IN_FLIGHT:
                for fleet in (cuda, cpu):
                    step = infer(fleet, sizes, rows, in_flight, arguments.seconds, clients)
                    p99 = step["latency_us"]["p99"] / 1000
                    cells.append(f"{step['rate_answered'] * rows / 1000:.0f}, {p99:.1f} ms")
            print(" | ".join(cells), file=sys.stderr)
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def floor(programs: Programs, sizes: Sizes, rows: int, seconds: float, cores: set[int]) -> float:
    model = str(sizes.source() / "ranker.onnx")
    command = [str(programs.floor("bare-ort")), model, str(rows), str(sizes.rows), str(seconds), "cuda"]
    return float(run(command, cores))


def infer(fleet: Fleet, sizes: Sizes, rows: int, in_flight: int, seconds: float, cores: set[int]) -> dict:
    asked = ["bench", "--rpc", "infer", "--url", fleet.worker, "--model", MODEL, "--ids-below", str(sizes.rows)]
    asked += ["--rows", str(rows), "--closed", "--max-outstanding", str(in_flight), "--deadline", "20s"]
    asked += ["--duration", time_text(seconds), "--warm-up", time_text(seconds / 3)]
    step = bench(fleet.programs, cores, asked)["steps"][0]
    if step["errors"] or not step["answered"]:
        raise NotRun(f"{rows} rows, {in_flight} in flight: answered {step['answered']}, errors {step['errors']}")
    return step


def swaps(arguments: argparse.Namespace, fleet: Fleet, bundles: list[Path], clients: set[int]) -> list[str]:
    """As `stress.py swap`, with the device's memory beside it."""
    scene = stress.Scene(fleet, clients, "200ms")
    scene.find_peak(arguments.seconds)
    before, held, done = memory_mib(), [], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            held.append(memory_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        again = arguments.swaps - len(bundles) + 1
        table = stress.swap(scene, arguments.seconds * 2, bundles, again)
    finally:
        done.set()
        watcher.join()
    quarter = max(1, len(held) // 4)
    return [
        f"## {arguments.swaps} swaps at 70 % load",
        "",
        *table,
        "",
        f"Device memory: {before} MiB with one version before, {max(held)} MiB at most, "
        f"{statistics.median(held[:quarter]):.0f} MiB in the first quarter of the time, "
        f"{statistics.median(held[-quarter:]):.0f} MiB in the last, {memory_mib()} MiB after.",
    ]


if __name__ == "__main__":
    main()
