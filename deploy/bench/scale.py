"""`python deploy/bench/scale.py`: what a request costs by the number of shards, a search by the size of one.

Both are measured on one core and fitted by a straight line, cost = a + b x size. The lines say what a larger fleet
would take; what lies beyond what was measured is said to be so.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from compare import say
from fleet import Fleet, Programs, bench, run, time_text
from machine import ROOT, NotRun, describe, environment, pinned, split_cores

MODEL = "search-ranker"
IN_FLIGHT = 8
DIM = 64
BUDGET_MS = 50.0
# What an index keeps of an item: f32 always, and what is scanned first.
ITEM_BYTES = {"f32": 4 * DIM, "f16": 4 * DIM + 2 * DIM, "int8": 4 * DIM + DIM + 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT / ".tools/shop-source", help="a bundle source with vectors")
    parser.add_argument("--queries", type=Path, default=ROOT / ".tools/shop/queries_open.parquet", help="to replay")
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of the built programs")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--precisions", nargs="+", default=["f32", "f16", "int8"])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path, default=ROOT / "target/bench/scale.md")
    arguments = parser.parse_args()
    machine, programs = describe(), Programs(arguments.programs.resolve())
    try:
        by_shards = [(count, request_ms(arguments, programs, count)) for count in arguments.shards]
        by_items = {
            precision: [(items, search_ms(arguments, programs, items, precision)) for items in arguments.items]
            for precision in arguments.precisions
        }
    except NotRun as reason:
        sys.exit(f"scale.py: {reason}")
    lines = ["# What size costs", "", *(f"- {name}: {value}" for name, value in machine.items())]
    lines += [f"- made by `python deploy/bench/scale.py {' '.join(sys.argv[1:])}`", ""]
    lines += shards_report(by_shards) + items_report(by_items)
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text("\n".join(lines) + "\n")
    series = {"request, by shards": by_shards}
    arguments.report.with_name("scale-shards.svg").write_text(plot(series, "shards", "ms a request"))
    arguments.report.with_name("scale-items.svg").write_text(plot(by_items, "items of a shard", "ms a search"))
    print("\n".join(lines))


def request_ms(arguments: argparse.Namespace, programs: Programs, shards: int) -> float:
    """Time of the core that gateway and worker share, a request; the best round, since others only add to it."""
    say(f"{shards} shards")
    server_cores, client_cores = split_cores()
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "scale.endcap"
        pack = ["bundle", "pack", str(arguments.source), "--shards", str(shards)]
        run([str(programs.endcap), *pack, "--created", "2026-01-01T00:00:00Z", "--file", str(packed)])
        settings = [f"gateway.default_model={MODEL}"]
        with Fleet(programs, packed, server_cores, settings, probe=["kettle"]) as fleet:
            options = ["--queries", str(arguments.queries), "--closed", "--max-outstanding", str(IN_FLIGHT)]
            options += ["--deadline", "20s"]
            options += ["--duration", time_text(arguments.seconds), "--warm-up", time_text(arguments.seconds / 3)]
            asked = ["--gateway", fleet.gateway, "bench", "--model", MODEL, *options]
            steps = [bench(programs, client_cores, asked)["steps"][0] for _ in range(arguments.rounds)]
    if any(step["errors"] or step["rungs"].keys() - {"FULL"} for step in steps):
        raise NotRun(f"{shards} shards: errors {steps[0]['errors']}, rungs {steps[0]['rungs']}")
    return 1000 / max(step["rate_answered"] for step in steps)


def search_ms(arguments: argparse.Namespace, programs: Programs, items: int, precision: str) -> float:
    say(f"{items} items, {precision}")
    command = [str(programs.floor("bare-scan")), str(items), str(DIM), precision, str(arguments.seconds)]
    cores = split_cores()[0]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), preexec_fn=pinned(cores), check=False
    )
    if done.returncode != 0:
        raise NotRun(done.stderr.strip()[-200:] or f"bare-scan ended with {done.returncode}")
    return float(done.stdout)


def law(points: list[tuple[int, float]]) -> tuple[float, float]:
    """a and b of cost = a + b x size, by least squares of the relative error: small sizes count as large ones do, and
    none costs less than nothing."""
    sizes, costs = np.array(points, dtype=float).T
    inputs = np.stack([np.ones_like(sizes), sizes], axis=1) / costs[:, None]
    a, b = np.linalg.lstsq(inputs, np.ones_like(costs), rcond=None)[0]
    if a < 0:
        a, b = 0.0, float(np.sum(sizes / costs) / np.sum((sizes / costs) ** 2))
    return float(a), float(b)


def shards_report(points: list[tuple[int, float]]) -> list[str]:
    a, b = law(points)
    rows = [f"| {count} | {cost:.2f} ms | {a + b * count:.2f} ms |" for count, cost in points]
    return [
        "## A request, by the number of shards (all on one worker, gateway and worker on one core)",
        "",
        "| shards | measured | line |",
        "|---|---|---|",
        *rows,
        "",
        f"Cost = {a:.2f} ms + {b:.3f} ms a shard: each shard ranks its own best `depth` items.",
        "",
        "![a request, by the number of shards](scale-shards.svg)",
        "",
    ]


def items_report(by_items: dict[str, list[tuple[int, float]]]) -> list[str]:
    lines = [f"## A search for the best 100, by the items of the shard ({DIM} numbers each, one core)", ""]
    billion = ["## A billion items, beyond what was measured, at the cost of the largest shard that was", ""]
    for precision, points in by_items.items():
        a, b = law(points)
        lines += [f"| {precision}: items | measured | line |", "|---|---|---|"]
        lines += [f"| {items:,} | {cost:.3f} ms | {a + b * items:.3f} ms |" for items, cost in points]
        lines += ["", f"Cost = {a:.3f} ms + {b * 1e6:.2f} ms a million items.", ""]
        # Small shards lie in the CPU's cache, and are cheaper by the item than any that is larger.
        items, cost = points[-1]
        seconds, memory = cost / items * 1e6, ITEM_BYTES[precision]
        cores = seconds * 1000 / BUDGET_MS
        billion += [
            f"- {precision}: {seconds:.1f} s of one core a query, or {cores:.0f} cores for {BUDGET_MS:.0f} ms, "
            f"each with {1e3 / cores:.1f} million items in {memory / cores:.1f} GB; {memory} GB in all."
        ]
    return [*lines, "![a search, by the items of the shard](scale-items.svg)", "", *billion]


def plot(series: dict[str, list[tuple[int, float]]], across: str, up: str) -> str:
    """Points and their lines, both axes logarithmic, as SVG."""
    width, height, edge = 640, 400, 60
    everything = np.log10([point for points in series.values() for point in points])
    (left, _), (right, _) = everything.min(axis=0), everything.max(axis=0)
    low, high = np.floor(everything.min(axis=0)[1]), np.ceil(everything.max(axis=0)[1])

    def at(size: float, cost: float) -> tuple[float, float]:
        x = edge + (np.log10(size) - left) / max(right - left, 1e-9) * (width - 2 * edge)
        y = height - edge - (np.log10(cost) - low) / max(high - low, 1e-9) * (height - 2 * edge)
        return round(float(x), 1), round(float(y), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<path d="M{edge},{edge} V{height - edge} H{width - edge}" fill="none" stroke="black"/>',
        f'<text x="{width / 2}" y="{height - 15}" text-anchor="middle">{across}</text>',
        f'<text x="15" y="{height / 2}" text-anchor="middle" transform="rotate(-90 15 {height / 2})">{up}</text>',
    ]
    for size in sorted({size for points in series.values() for size, _ in points}):
        x, y = at(size, 10**low)
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{int(size):,}</text>')
    for power in range(int(low), int(high) + 1):
        x, y = at(10**left, 10.0**power)
        parts.append(f'<path d="M{x},{y} H{width - edge}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{10.0**power:g}</text>')
    colours = ["#0b6bcb", "#c2410c", "#15803d", "#7e22ce"]
    for number, (name, points) in enumerate(series.items()):
        colour, (a, b) = colours[number % len(colours)], law(points)
        fitted = [(size, a + b * size) for size in np.geomspace(10**left, 10**right, 50)]
        inside = [at(size, cost) for size, cost in fitted if low <= np.log10(max(cost, 1e-9)) <= high]
        line = " ".join(f"{x},{y}" for x, y in inside)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
        for point in points:
            x, y = at(*point)
            parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{edge + 10}" y="{edge + 15 * (number + 1)}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
