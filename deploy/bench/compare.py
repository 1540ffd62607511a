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
from fleet import MODEL, Fleet, Members, Programs, Sizes, bench, recommend, time_text
from machine import ROOT, NotRun, Server, describe, environment, pinned, split_cores

IN_FLIGHT = 32
# Of these, too, the delays are compared.
FEW_IN_FLIGHT = (1, 8)
# Requests a second at which nobody waits for another: what is left is the way itself.
LONE_RATE = 100
FLOOR = "bare ONNX Runtime loop"
WORKER = "Endcap worker, ModelInfer"
STREAM = "Endcap worker, Score on a gateway's stream"
GATEWAY = "Endcap gateway beside its clients, worker alone, Recommend"
TOGETHER = "Endcap gateway and worker on one core, Recommend"
ECHO = "bare tonic, the same answer each time"

Measure = Callable[[int], float]
# What the load generator saw, for so many rows a request and requests in flight.
Ask = Callable[[int, int], dict]


@dataclass
class Lane:
    """Somebody who is measured: a rate for a number of rows, or the reason why there is none."""

    name: str
    measure: Measure | None = None
    reason: str = ""
    # Of those that are asked over the network.
    ask: Ask | None = None
    server: Server | None = None
    # Seconds from its start until it answered.
    ready: float | None = None
    # By rows and requests in flight: milliseconds, a round each.
    p99: dict[tuple[int, int], list[float]] = field(default_factory=dict)
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
    ready: float | None = None
    apart: Members | None = None

    def load(self, arguments: list[str]) -> float:
        return self.closed(arguments, IN_FLIGHT)["rate_answered"]

    def closed(self, arguments: list[str], in_flight: int) -> dict:
        return self.step([*arguments, "--closed", "--max-outstanding", str(in_flight)])

    def step(self, arguments: list[str]) -> dict:
        options = ["--duration", time_text(self.seconds), "--warm-up", time_text(self.seconds / 5)]
        step = bench(self.programs, self.client_cores, [*arguments, *options, "--deadline", "20s"])["steps"][0]
        if step["errors"] or step["answered"] == 0:
            raise NotRun(f"answered {step['answered']}, errors {step['errors']}")
        if step["rungs"].keys() - {"FULL"}:
            raise NotRun(f"answers of other rungs than FULL: {step['rungs']}")
        return step

    def candidates(self, rows: int) -> list[str]:
        return ["--candidates", str(rows), "--bundle", str(self.sizes.bundle(self.programs))]

    def infer(self, url: str) -> Ask:
        options = ["bench", "--rpc", "infer", "--url", url, "--model", MODEL, "--ids-below", str(self.sizes.rows)]
        return lambda rows, in_flight: self.closed([*options, "--rows", str(rows)], in_flight)

    def recommend(self, gateway: str) -> Ask:
        return lambda rows, in_flight: self.closed(recommend(gateway, *self.candidates(rows)), in_flight)


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
        transport = [asked(ECHO, lambda: echo(run)), asked("Endcap gateway, one candidate", lambda: together(run))]
        measure(lanes, arguments.rows, arguments.rounds)
        measure(transport, [1], arguments.rounds)
        measure_delays(lanes, arguments.rows, arguments.rounds)
        way = measure_way(run, arguments.rows, arguments.rounds)
        held = [f"| {each.name} | {resources(each)} |" for each in lanes[1:]]
    text = report(machine, arguments, lanes, transport, [*way, "", *HELD, *held])
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


def asked(name: str, start_it: Callable[[], tuple[Ask, Server | None, float | None]]) -> Lane:
    say(f"starting: {name}")
    try:
        ask, server, ready = start_it()
    except NotRun as reason:
        return Lane(name, reason=str(reason))
    return Lane(name, lambda rows: ask(rows, IN_FLIGHT)["rate_answered"], ask=ask, server=server, ready=ready)


def start(run: Run, chosen: list[str]) -> list[Lane]:
    lanes = [lane(FLOOR, lambda: floor(run)), asked(WORKER, lambda: worker(run)), asked(STREAM, lambda: stream(run))]
    lanes += [asked(GATEWAY, lambda: apart(run)), asked(TOGETHER, lambda: together(run))]
    for name in peers.ALL:
        if name in chosen:
            lanes.append(asked(name, lambda name=name: peer(run, name)))
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


Started = tuple[Ask, Server | None, float | None]


def fleet(run: Run) -> Fleet:
    """One for all lanes that need it. It is started twice, as peers are started with a model that is there."""
    if run.started is None:
        bundle = run.sizes.bundle(run.programs)
        run.started = run.stack.enter_context(Fleet(run.programs, bundle, run.server_cores))
        run.ready = run.started.restart()
    return run.started


def worker(run: Run) -> Started:
    return run.infer(fleet(run).worker), fleet(run).server, run.ready


def stream(run: Run) -> Started:
    """One stream, as one gateway has it: the worker looks the items' features up itself, and answers ids and scores."""
    options = score(run, fleet(run).worker)
    return lambda rows, in_flight: run.closed([*options, "--rows", str(rows)], in_flight), None, None


def score(run: Run, worker: str) -> list[str]:
    bundle = run.sizes.bundle(run.programs)
    options = ["--rpc", "score", "--url", worker, "--model", MODEL, "--bundle", str(bundle)]
    return ["bench", *options, "--connections", "1"]


def together(run: Run) -> Started:
    return run.recommend(fleet(run).gateway), None, None


def members(run: Run) -> Members:
    """The gateway and its worker as processes with a core each. It rests while others are measured."""
    if run.apart is None:
        bundle = run.sizes.bundle(run.programs)
        run.apart = run.stack.enter_context(Members(run.programs, bundle, run.server_cores, others=run.client_cores))
    return run.apart


def apart(run: Run) -> Started:
    return run.recommend(members(run).gateway), None, None


def echo(run: Run) -> Started:
    log = run.programs.folder / "bench-echo.log"
    server = run.stack.enter_context(Server([str(run.programs.floor("bench-echo"))], log, run.server_cores))
    return run.recommend(server.printed(r"(http://\S+)")[1]), None, None


def peer(run: Run, name: str) -> Started:
    run.sizes.bundle(run.programs)
    url, server, ready = peers.start(name, run.sizes.source() / "ranker.onnx", run.server_cores, run.stack)
    return run.infer(url), server, ready


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


def measure_delays(lanes: list[Lane], rows: list[int], rounds: int) -> None:
    """p99 of those that are asked over the network, by requests in flight."""
    for count in rows:
        for number in range(rounds):
            say(f"{count} rows, few in flight: round {number + 1} of {rounds}")
            turn = number % len(lanes)
            for each in lanes[turn:] + lanes[:turn]:
                for in_flight in (*FEW_IN_FLIGHT, IN_FLIGHT):
                    if each.ask is None or each.measure is None:
                        continue
                    try:
                        p99 = each.ask(count, in_flight)["latency_us"]["p99"] / 1000
                        each.p99.setdefault((count, in_flight), []).append(p99)
                    except NotRun as reason:
                        each.ask, each.reason = None, f"{count} rows: {reason}"


def delays(lanes: list[Lane], rows: list[int]) -> list[str]:
    heads = [(count, in_flight) for count in rows for in_flight in (*FEW_IN_FLIGHT, IN_FLIGHT)]
    lines = ["| | " + " | ".join(f"{count} row{'s' * (count > 1)}, {n} in flight" for count, n in heads) + " |"]
    lines.append("|---|" + "---|" * len(heads))
    for each in lanes[1:]:
        cells = [f"{statistics.median(p99):.2f} ms" if (p99 := each.p99.get(head)) else "not run" for head in heads]
        lines.append(f"| {each.name} | {' | '.join(cells)} |")
    return lines


def measure_way(run: Run, rows: list[int], rounds: int) -> list[str]:
    """What a gateway adds to a request that waits for no other: the same rows asked of its worker, and of itself."""
    lines = [
        f"## What the gateway adds to a lone request, {LONE_RATE} a second",
        "",
        "| rows | worker p50 | gateway p50 | adds | worker p99 | gateway p99 | adds |",
        "|---|---|---|---|---|---|---|",
    ]
    try:
        fleet = members(run)
        for count in rows:
            say(f"{count} rows, one at a time")
            ways = {
                "worker": [*score(run, fleet.worker), "--rows", str(count)],
                "gateway": recommend(fleet.gateway, *run.candidates(count)),
            }
            steps: dict[str, list[dict]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, arguments in ways.items():
                    steps[name].append(run.step([*arguments, "--rate", str(LONE_RATE)])["latency_us"])
            cells = [str(count)]
            for share in ("p50", "p99"):
                pairs = [(worker[share], gateway[share]) for worker, gateway in zip(*steps.values(), strict=True)]
                each = (statistics.median(column) for column in zip(*pairs, strict=True))
                added = statistics.median(gateway - worker for worker, gateway in pairs)
                cells += [f"{us / 1000:.2f} ms" for us in (*each, added)]
            lines.append(f"| {' | '.join(cells)} |")
    except NotRun as reason:
        lines.append(f"| not run: {reason} |" + " - |" * 6)
    return lines


HELD = [
    "## What they hold, and how long they take to answer from a cold start",
    "",
    "Endcap's is a whole fleet in one process: gateway, worker with its catalogue, registry and feature-cache.",
    "",
    "| | memory after the load | start to answering |",
    "|---|---|---|",
]


def resources(each: Lane) -> str:
    if each.server is None or each.ready is None:
        return f"{cell(each, 0)} | not run" if each.reason else "as above | as above"
    return f"{each.server.memory_mib():.0f} MiB | {each.ready:.1f} s"


def report(
    machine: dict[str, str], arguments: argparse.Namespace, lanes: list[Lane], transport: list[Lane], rest: list[str]
) -> str:
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
        "## How long an answer takes at most (p99) by requests in flight",
        "",
        *delays(lanes, arguments.rows),
        "",
        *rest,
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
