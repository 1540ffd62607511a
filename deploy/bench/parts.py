"""The parts: what criterion measured last (`make bench` runs it before the comparison)."""

import json
from pathlib import Path

from machine import ROOT

CRITERION = ROOT / "target/criterion"


def table(folder: Path = CRITERION) -> list[str]:
    """Every benchmark that criterion has an estimate of, with its 95 % interval."""
    lines = ["## Parts (criterion)", ""]
    found = sorted(folder.glob("**/new/estimates.json"))
    if not found:
        return [*lines, "not run: `make bench-parts` has not been run here"]
    lines += ["| part | time | 95 % interval |", "|---|---|---|"]
    for path in found:
        estimates = json.loads(path.read_text())
        # A slope is there when criterion varied the number of runs, else the mean.
        best = estimates.get("slope") or estimates["mean"]
        interval = best["confidence_interval"]
        name = "/".join(path.relative_to(folder).parts[:-2])
        low, high = (time_text(interval[end]) for end in ("lower_bound", "upper_bound"))
        lines.append(f"| {name} | {time_text(best['point_estimate'])} | {low} to {high} |")
    return lines


def time_text(nanoseconds: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"
