"""`python deploy/bench/telemetry.py`: what metrics and traces cost the fleet, as ratios of one run.

Fleets on the same core, one without metrics and traces, are asked in turn; a ratio is taken within its round.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from compare import IN_FLIGHT, Lane, Measure, Run, measure, table
from fleet import Fleet, Programs, Sizes, recommend
from machine import ROOT, NotRun, Server, describe, split_cores

SINK = Path(__file__).with_name("otlp_sink.py")
# Settings, and whether traces are sent.
KINDS = {
    "neither metrics nor traces": (["telemetry.metrics=false"], False),
    "metrics": ([], False),
    "metrics, and traces of 1 %": (["telemetry.traces.sample_ratio=0.01"], True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of the built programs")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--table-rows", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 200], help="of each Recommend")
    parser.add_argument("--report", type=Path, default=ROOT / "target/bench/telemetry.md")
    arguments = parser.parse_args()
    machine = describe()
    server_cores, client_cores = split_cores()
    programs, sizes = Programs(arguments.programs.resolve()), Sizes(arguments.items, arguments.table_rows)
    with ExitStack() as stack:
        run = Run(programs, sizes, arguments.seconds, stack, server_cores, client_cores)
        try:
            lanes = start(run)
        except NotRun as reason:
            sys.exit(f"telemetry.py: {reason}")
        measure(lanes, arguments.candidates, arguments.rounds)
    lines = ["# What telemetry costs", "", *(f"- {name}: {value}" for name, value in machine.items())]
    lines += [
        f"- method: {arguments.rounds} rounds of {arguments.seconds} s each, in turn, {IN_FLIGHT} Recommend in flight; "
        "ratios within a round, their median and spread; the fleet on one core, its client and a receiver of traces on "
        "the others",
        f"- made by `{' '.join(['python deploy/bench/telemetry.py', *sys.argv[1:]])}`",
        "",
        *table(lanes, arguments.candidates),
    ]
    text = "\n".join(lines) + "\n"
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(text)
    print(text)


def start(run: Run) -> list[Lane]:
    python = ROOT / ".tools/tests/bin/python"
    sink = Server([str(python), str(SINK)], run.programs.folder / "otlp-sink.log", run.client_cores)
    receiver = run.stack.enter_context(sink).printed(r"(http://\S+)")[1]
    bundle = run.sizes.bundle(run.programs)
    lanes = []
    for name, (settings, traced) in KINDS.items():
        settings = [*settings, *([f"telemetry.traces.endpoint={receiver}"] if traced else [])]
        fleet = run.stack.enter_context(Fleet(run.programs, bundle, run.server_cores, settings))
        lanes.append(Lane(name, asking(run, fleet.gateway)))
    return lanes


def asking(run: Run, gateway: str) -> Measure:
    return lambda rows: run.load(recommend(gateway, *run.candidates(rows)))


if __name__ == "__main__":
    main()
