"""`python deploy/bench/quantized.py`: what the smaller forms of a version's models cost and gain, as ratios of one run.

Two versions of the same data, as trained and in the forms that the pipeline chose, are asked the data's own queries in
turn, by fleets on the same core without a cache of queries. A ratio is taken within its round.
"""

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from compare import IN_FLIGHT, Lane, Measure, Run, measure
from fleet import Fleet, Programs, Sizes, run
from machine import ROOT, NotRun, describe, split_cores

MODEL = "search-ranker"
SETTINGS = [f"gateway.default_model={MODEL}", "gateway.query_cache_entries=0"]
AS_TRAINED, CHOSEN = "as trained", "in the forms chosen"
KINDS = {AS_TRAINED: ["--as-trained"], CHOSEN: []}
# What the data's shoppers asked, or what is labelled.
QUERIES = ["replay_queries.parquet", "queries_open.parquet"]


@dataclass
class Built:
    """A packed bundle; and of its source the offline figures and the bytes of both models."""

    packed: Path
    evaluation: dict[str, Any]
    bytes: dict[str, int]

    @property
    def ndcg(self) -> float:
        return self.evaluation["metrics"]["ndcg@10"]

    def model(self, name: str) -> str:
        """Its form with its size."""
        forms = self.evaluation["forms"].get(name, [])
        form = next((form["form"] for form in forms if form["served"]), "fp32")
        return f"{form}, {self.bytes[name] / 1024:,.0f} KiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of the built programs")
    parser.add_argument("--data", type=Path, default=ROOT / ".tools/shop", help="the data folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--report", type=Path, default=ROOT / "target/bench/quantized.md")
    arguments = parser.parse_args()
    programs, data = Programs(arguments.programs.resolve()), arguments.data.resolve()
    server_cores, client_cores = split_cores()
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="endcap-quantized-")))
            built = {name: build(programs, data, folder / name.replace(" ", "-"), KINDS[name]) for name in KINDS}
            machine = describe()
            shared = Run(programs, Sizes(), arguments.seconds, stack, server_cores, client_cores)
            lanes = start(shared, built, replayed(data, folder / "queries.txt"))
            measure(lanes, [1], arguments.rounds)
        found = table(lanes, built)
    except NotRun as reason:
        sys.exit(f"quantized.py: {reason}")
    lines = ["# What the smaller forms cost and gain", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += [
        f"- method: {arguments.rounds} rounds of {arguments.seconds} s each, in turn, {IN_FLIGHT} Recommend in flight, "
        f"the queries of {data.name}; ratios within a round, their median and spread; the fleet on one core, its "
        "client on the others",
        f"- made by `{' '.join(['python deploy/bench/quantized.py', *sys.argv[1:]])}`",
        "",
        *found,
    ]
    text = "\n".join(lines) + "\n"
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(text)
    print(text)


def build(programs: Programs, data: Path, out: Path, options: list[str]) -> Built:
    """As `make bundle` does it."""
    print(f"building {out.name}", file=sys.stderr, flush=True)
    run([sys.executable, "-m", "endcap_pipelines.bundle", "--data", str(data), "--out", str(out), *options])
    packed = out.with_suffix(".endcap")
    run([str(programs.endcap), "bundle", "pack", str(out), "--file", str(packed), "--shards", "1"])
    evaluation = json.loads((out / "evaluation.json").read_text())
    return Built(packed, evaluation, {name: (out / f"{name}.onnx").stat().st_size for name in ["ranker", "encoder"]})


def replayed(data: Path, into: Path) -> Path:
    """The data's queries, one a line."""
    found = next((data / name for name in QUERIES if (data / name).is_file()), None)
    if found is None:
        raise NotRun(f"{data} has none of {', '.join(QUERIES)}")
    into.write_text("\n".join(pl.read_parquet(found, columns=["query"])["query"].to_list()))
    return into


def start(shared: Run, built: dict[str, Built], queries: Path) -> list[Lane]:
    lanes = []
    with queries.open() as lines:
        probe = ["--model", MODEL, next(lines).strip()]
    for name, bundle in built.items():
        fleet = shared.stack.enter_context(
            Fleet(shared.programs, bundle.packed, shared.server_cores, SETTINGS, probe=probe)
        )
        lanes.append(Lane(name, asking(shared, fleet.gateway, queries)))
    return lanes


def asking(shared: Run, gateway: str, queries: Path) -> Measure:
    return lambda _: shared.load(["--gateway", gateway, "bench", "--model", MODEL, "--queries", str(queries)])


def table(lanes: list[Lane], built: dict[str, Built]) -> list[str]:
    lines = [
        "| | answers a second | of as trained | encoder | ranker | ndcg@10 | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    before = built[AS_TRAINED].ndcg
    for lane in lanes:
        bundle, rates, ratios = built[lane.name], lane.rates.get(1), lane.ratios.get(1)
        if not rates or not ratios:
            raise NotRun(f"{lane.name}: {lane.reason or 'no round was finished'}")
        speed = [f"{statistics.median(rates):.0f}", f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}x to "
                 f"{max(ratios):.2f}x)"]  # fmt: skip
        cells = [lane.name, *speed, bundle.model("encoder"), bundle.model("ranker")]
        lines.append(f"| {' | '.join([*cells, f'{bundle.ndcg:.4f}', f'{before - bundle.ndcg:+.4f}'])} |")
    lines += ["", "ndcg@10 is that of the final files on all labelled queries, those trained on among them."]
    for name, forms in built[CHOSEN].evaluation["forms"].items():
        served = next(form for form in forms if form["served"])
        over = "queries that their ranker was not trained on" if name == "encoder" else "queries that it was trained on"
        lines.append(f"The pipeline judged the {name}'s form on {over}: a loss of {served['loss']:+.4f}.")
    return lines


if __name__ == "__main__":
    main()
