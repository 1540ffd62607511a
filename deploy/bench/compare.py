"""`python deploy/bench/compare.py`: the fleet against its floors and its peers, as ratios of one run, in one report.

Everything under test has the same core, every client the others. Each round measures everybody once, in turn, and a
ratio is taken within its round, so that a machine that is slow for a while is slow for all; the report says the median
over the rounds, and the spread.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import parts
import peers
from fleet import MODEL, Fleet, Programs, Sizes, bench, recommend, time_text
from machine import ROOT, NotRun, Server, describe, environment, pinned, split_cores

IN_FLIGHT = 32
FLOOR = "bare ONNX Runtime loop"
WORKER = "Endcap worker, ModelInfer"
STREAM = "Endcap worker, Score on a gateway's stream"
GATEWAY = "Endcap gateway, Recommend"
ECHO = "bare tonic, the same answer each time"

Measure = Callable[[int], float]


@dataclass
class Lane:
    """Somebody who is measured: a rate for a number of rows, or the reason why there is none."""

    name: str
    measure: Measure | None = None
    reason: str = ""
    # By rows: a rate per round, and its ratio to the floor of the same round.
    rates: dict[int, list[float]] = field(default_factory=dict)
    ratios: dict[int, list[float]] = field(default_factory=dict)


@dataclass
class Run:
    """What all measurements share."""

    programs: Programs
    sizes: Sizes
    seconds: float
    stack: ExitStack
    server_cores: set[int]
    client_cores: set[int]
    started: Fleet | None = None

    def load(self, arguments: list[str]) -> float:
        options = ["--closed", "--max-outstanding", str(IN_FLIGHT), "--deadline", "20s"]
        options += ["--duration", time_text(self.seconds), "--warm-up", time_text(self.seconds / 5)]
        step = bench(self.programs, self.client_cores, [*arguments, *options])["steps"][0]
        if step["errors"] or step["answered"] == 0:
            raise NotRun(f"answered {step['answered']}, errors {step['errors']}")
        if step["rungs"].keys() - {"FULL"}:
            raise NotRun(f"answers of other rungs than FULL: {step['rungs']}")
        return step["rate_answered"]

    def candidates(self, rows: int) -> list[str]:
        return ["--candidates", str(rows), "--bundle", str(self.sizes.bundle(self.programs))]

    def infer(self, url: str, rows: int) -> float:
        options = ["--rpc", "infer", "--url", url, "--model", MODEL, "--rows", str(rows)]
        return self.load(["bench", *options, "--ids-below", str(self.sizes.rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of the built programs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--table-rows", type=int, default=20_000)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 200], help="rows a request")
    parser.add_argument("--peers", nargs="*", default=list(peers.ALL), help="which peers to measure")
    parser.add_argument("--report", type=Path, default=ROOT / "target/bench/report.md")
    arguments = parser.parse_args()
    machine = describe()
    server_cores, client_cores = split_cores()
    with ExitStack() as stack:
        sizes = Sizes(arguments.items, arguments.table_rows)
        run = Run(Programs(arguments.programs.resolve()), sizes, arguments.seconds, stack, server_cores, client_cores)
        lanes = start(run, arguments.peers)
        transport = [lane(ECHO, lambda: echo(run)), gateway_lane(run, "Endcap gateway, one candidate")]
        measure(lanes, arguments.rows, arguments.rounds)
        measure(transport, [1], arguments.rounds)
    text = report(machine, arguments, lanes, transport)
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(text)
    print(text)
    print(f"written to {arguments.report}", file=sys.stderr)


def lane(name: str, start_it: Callable[[], Measure]) -> Lane:
    say(f"starting: {name}")
    try:
        return Lane(name, start_it())
    except NotRun as reason:
        return Lane(name, reason=str(reason))


def start(run: Run, chosen: list[str]) -> list[Lane]:
    lanes = [lane(FLOOR, lambda: floor(run)), lane(WORKER, lambda: worker(run)), lane(STREAM, lambda: stream(run))]
    lanes.append(gateway_lane(run, GATEWAY))
    for name in peers.ALL:
        if name in chosen:
            lanes.append(lane(name, lambda name=name: peer(run, name)))
        else:
            lanes.append(Lane(name, reason="not asked for (--peers)"))
    return lanes


def floor(run: Run) -> Measure:
    program = run.programs.floor("bare-ort")
    run.sizes.bundle(run.programs)
    model = run.sizes.source() / "ranker.onnx"

    def measure(rows: int) -> float:
        done = subprocess.run(
            [str(program), str(model), str(rows), str(run.sizes.rows), str(run.seconds)],
            capture_output=True,
            text=True,
            env=environment(),
            preexec_fn=pinned(run.server_cores),
            check=False,
        )
        if done.returncode != 0:
            raise NotRun(done.stderr.strip()[-200:])
        return float(done.stdout)

    return measure


def fleet(run: Run) -> Fleet:
    """One for all lanes that need it."""
    if run.started is None:
        bundle = run.sizes.bundle(run.programs)
        run.started = run.stack.enter_context(Fleet(run.programs, bundle, run.server_cores))
    return run.started


def worker(run: Run) -> Measure:
    url = fleet(run).worker
    return lambda rows: run.infer(url, rows)


def stream(run: Run) -> Measure:
    """One stream, as one gateway has it: the worker looks the items' features up itself, and answers ids and scores."""
    bundle = run.sizes.bundle(run.programs)
    options = ["--rpc", "score", "--url", fleet(run).worker, "--model", MODEL, "--bundle", str(bundle)]
    return lambda rows: run.load(["bench", *options, "--rows", str(rows), "--connections", "1"])


def gateway_lane(run: Run, name: str) -> Lane:
    def start_it() -> Measure:
        url = fleet(run).gateway
        return lambda rows: run.load(recommend(url, *run.candidates(rows)))

    return lane(name, start_it)


def echo(run: Run) -> Measure:
    log = run.programs.folder / "bench-echo.log"
    server = run.stack.enter_context(Server([str(run.programs.floor("bench-echo"))], log, run.server_cores))
    url = server.printed(r"(http://\S+)")[1]
    return lambda rows: run.load(recommend(url, *run.candidates(rows)))


def peer(run: Run, name: str) -> Measure:
    run.sizes.bundle(run.programs)
    url = peers.start(name, run.sizes.source() / "ranker.onnx", run.server_cores, run.stack)
    return lambda rows: run.infer(url, rows)


def measure(lanes: list[Lane], rows: list[int], rounds: int) -> None:
    for count in rows:
        for number in range(rounds):
            say(f"{count} rows: round {number + 1} of {rounds}")
            # Another order each round: whoever comes after a heavy one is not always the same.
            turn = number % len(lanes)
            for each in lanes[turn:] + lanes[:turn]:
                if each.measure is None:
                    continue
                try:
                    each.rates.setdefault(count, []).append(each.measure(count))
                except NotRun as reason:
                    each.measure, each.reason = None, f"{count} rows: {reason}"
        for each in lanes:
            pairs = zip(each.rates.get(count, []), lanes[0].rates.get(count, []), strict=False)
            each.ratios[count] = [rate / base for rate, base in pairs]


def report(machine: dict[str, str], arguments: argparse.Namespace, lanes: list[Lane], transport: list[Lane]) -> str:
    lines = ["# Endcap beside its floors and its peers", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += [
        f"- model: 64 dense features, 8 tables x {arguments.table_rows} x 16, 2 cross layers, 256-128-1, fp32; "
        f"{arguments.items} items",
        f"- method: {arguments.rounds} rounds of {arguments.seconds} s each, in turn, {IN_FLIGHT} requests in flight; "
        "ratios within a round, their median and spread; servers on one core, clients on the others",
        f"- made by `{' '.join(['python deploy/bench/compare.py', *sys.argv[1:]])}`",
        "",
        "## The same rows of the same model, requests a second relative to the floor",
        "",
        *table(lanes, arguments.rows),
        "",
        "## What the gateway costs a request, relative to a server that does nothing",
        "",
        *table(transport, [1]),
        "",
        *parts.table(),
    ]
    return "\n".join(lines) + "\n"


def table(lanes: list[Lane], rows: list[int]) -> list[str]:
    lines = ["| | " + " | ".join(f"{count} rows" if count > 1 else "1 row" for count in rows) + " |"]
    lines.append("|---|" + "---|" * len(rows))
    for each in lanes:
        cells = [cell(each, count) for count in rows]
        lines.append(f"| {each.name} | " + " | ".join(cells) + " |")
    return lines


def cell(each: Lane, count: int) -> str:
    """A value, or the reason why there is none. Never nothing."""
    if each.reason and not each.ratios.get(count):
        return "not run: " + each.reason.replace("|", "/").replace("\n", " ")
    ratios, rates = each.ratios.get(count), each.rates.get(count)
    if not ratios or not rates:
        return f"{statistics.median(rates):.0f}/s (no floor)" if rates else "not run: no round was finished"
    middle = statistics.median(ratios)
    return f"{middle:.1%} ({min(ratios):.1%} to {max(ratios):.1%}; {statistics.median(rates):.0f}/s)"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
