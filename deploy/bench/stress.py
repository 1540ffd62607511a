"""`python deploy/bench/stress.py overload|swap`: what a fleet does with too much load, and while a version is swapped.

Both start a fleet of their own, measure its peak and its steady state first, and report everything relative to those.
"""

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fleet import MODEL, Fleet, Members, Programs, Sizes, bench, recommend, time_text
from machine import ROOT, NotRun, describe, split_cores

# Share of requests inside their deadline that counts as normal.
NORMAL = 0.99
# Of the peak: a load that a healthy fleet carries easily.
STEADY = 0.5
# Seconds that a swap may take to load.
LOADING = 3.0


@dataclass
class Scene:
    """A fleet and how it is asked."""

    fleet: Fleet
    cores: set[int]
    deadline: str
    # Of each request.
    rows: int = 200
    peak: float = 0.0

    def candidates(self) -> list[str]:
        return ["--candidates", str(self.rows), "--bundle", str(self.fleet.bundle)]

    def open(self, rate: float, seconds: float, window: str = "100ms", warm_up: str = "0s") -> dict:
        options = [*self.candidates(), "--deadline", self.deadline, "--window", window, "--warm-up", warm_up]
        options += ["--rate", f"{rate:.2f}", "--duration", time_text(seconds)]
        return bench(self.fleet.programs, self.cores, recommend(self.fleet.gateway, *options))["steps"][0]

    def find_peak(self, seconds: float) -> None:
        """The most ranked answers inside their deadline that any number of callers in flight gives."""
        for in_flight in (4, 16, 64):
            options = [*self.candidates(), "--deadline", self.deadline, "--closed", "--max-outstanding"]
            options += [str(in_flight), "--duration", time_text(seconds)]
            step = bench(self.fleet.programs, self.cores, recommend(self.fleet.gateway, *options))["steps"][0]
            ranked = step["rungs"].get("FULL", 0) / max(1, sum(step["rungs"].values()))
            self.peak = max(self.peak, step["rate_in_deadline"] * ranked)
        if self.peak == 0:
            raise NotRun("no request was ranked inside its deadline")


def overload(scene: Scene, factors: list[float], seconds: float) -> list[str]:
    lines = [
        f"Peak: {scene.peak:.0f} ranked answers a second inside {scene.deadline} ({scene.rows} candidates). "
        f"Steady: {STEADY:.0%} of it.",
        "",
        "| load | answers in deadline, of peak | their rungs | p99 of good answers | p99 of refusals | p99 of send lag "
        "| not sent | errors | normal again |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    steady = scene.open(scene.peak * STEADY, seconds, warm_up="1s")
    lines.append(row(f"{STEADY:g}x", scene, steady, "-"))
    for factor in factors:
        step = scene.open(scene.peak * factor, seconds)
        ended = step["started_unix_ms"] / 1000 + seconds
        after = scene.open(scene.peak * STEADY, max(5.0, seconds / 4))
        lines.append(row(f"{factor:g}x", scene, step, recovery(after, ended)))
    return lines


def row(name: str, scene: Scene, step: dict, recovered: str) -> str:
    good = sum(window["in_deadline"] for window in step["windows"]) / step["seconds"] / scene.peak
    refused = step["error_latency_us"]
    cells = [
        name,
        f"{good:.0%}",
        ", ".join(f"{name} {count / sum(step['rungs'].values()):.0%}" for name, count in step["rungs"].items())
        or "none",
        f"{step['latency_us']['p99'] / 1000:.1f} ms" if step["latency_us"]["count"] else "none",
        f"{refused['p99'] / 1000:.1f} ms" if refused["count"] else "none",
        f"{step['send_lag_us']['p99'] / 1000:.1f} ms",
        str(step["not_sent"]),
        ", ".join(f"{code} {count}" for code, count in step["errors"].items()) or "none",
        recovered,
    ]
    return "| " + " | ".join(cells) + " |"


def recovery(step: dict, ended: float) -> str:
    """From the end of the overload to the first window from which on all are normal."""
    windows, length = step["windows"], 0.1
    normal = len(windows)
    while normal > 0 and windows[normal - 1]["in_deadline"] >= NORMAL * windows[normal - 1]["offered"]:
        normal -= 1
    if normal == len(windows):
        return f"not within {len(windows) * length:.0f} s"
    gap = step["started_unix_ms"] / 1000 - ended
    return f"{max(0.0, gap + normal * length):.1f} s"


@dataclass
class Phases:
    """What the operator did when, in seconds since 1970: of each kind, every time that it was done."""

    marks: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def run(self, kind: str, work: Callable[[], object]) -> None:
        started = time.time()
        work()
        self.marks.setdefault(kind, []).append((started, time.time()))


def swap(scene: Scene, seconds: float, bundles: list[Path], again: int) -> list[str]:
    """Releases the other versions under load, and then all of them in turn.

    Only `stable` and `last_good` stay loaded, so each of those swaps loads one and unloads another.
    """
    rate = scene.peak * 0.7
    phases, outcome = Phases(), {}
    steady, rest = seconds / 2, seconds / 16
    swaps = len(bundles) - 1 + again

    def operate() -> None:
        phases.run("steady", lambda: time.sleep(steady))
        for number, bundle in enumerate(bundles[1:], start=2):
            phases.run("register and validate", lambda b=bundle: scene.fleet.model("register", str(b), "--validate"))
            phases.run("flip", lambda n=number: scene.fleet.model("promote", MODEL, str(n)))
            phases.run("after a flip", lambda: time.sleep(rest))
        for number in (1 + i % len(bundles) for i in range(again)):
            phases.run("load", lambda n=number: scene.fleet.model("validate", MODEL, str(n)))
            phases.run("flip", lambda n=number: scene.fleet.model("promote", MODEL, str(n)))
            phases.run("after a flip, unloading", lambda: time.sleep(rest))

    def guarded() -> None:
        try:
            operate()
        except NotRun as reason:
            outcome["failed"] = str(reason)

    operator = threading.Thread(target=guarded)
    operator.start()
    step = scene.open(rate, steady + swaps * (rest + LOADING), window="50ms")
    operator.join()
    if "failed" in outcome:
        raise NotRun(outcome["failed"])
    started = step["started_unix_ms"] / 1000
    lines = [
        f"{rate:.0f} requests a second, 70 % of the peak of {scene.peak:.0f}. Errors: {step['errors'] or 'none'}. "
        f"Rungs: {step['rungs']}.",
        "",
        "| phase | times | took | requests | in deadline | p99 | of steady |",
        "|---|---|---|---|---|---|---|",
    ]
    base = None
    for kind, marks in phases.marks.items():
        windows = [window for begin, end in marks for window in inside(step, begin - started, end - started)]
        base = base or percentile(windows, 0.99)
        lines.append(phase_row(kind, [end - begin for begin, end in marks], windows, base))
    return lines


def phase_row(kind: str, took: list[float], windows: list[dict], base: int | None) -> str:
    offered = sum(window["offered"] for window in windows)
    good = sum(window["in_deadline"] for window in windows)
    p99 = percentile(windows, 0.99)
    head = f"| {kind} | {len(took)} | {sum(took) / len(took):.2f} s | {offered} "
    if p99 is None or not offered:
        return head + "| not run: no request was answered in it | | |"
    relative = f"{p99 / base:.2f}" if base else "no steady figure"
    return head + f"| {good / offered:.2%} | {p99 / 1000:.1f} ms | {relative} |"


def inside(step: dict, begin: float, end: float, length: float = 0.05) -> list[dict]:
    """Windows that overlap the time, in seconds from the step's start."""
    return [w for i, w in enumerate(step["windows"]) if (i + 1) * length > begin and i * length < end]


def percentile(windows: list[dict], share: float) -> int | None:
    """Windows carry counts by latency, so they add up exactly."""
    counts: Counter[int] = Counter()
    for window in windows:
        counts.update(dict(window["latency_us"]))
    rest = sum(counts.values()) * share
    for latency, count in sorted(counts.items()):
        rest -= count
        if rest <= 0:
            return latency
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=["overload", "swap"])
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of the built programs")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    parser.add_argument("--deadline", default="200ms", help="of each request")
    parser.add_argument("--factors", type=float, nargs="+", default=[2.0, 5.0], help="of the peak, for overload")
    parser.add_argument("--candidates", type=int, default=200, help="of each request")
    parser.add_argument("--again", type=int, default=9, help="swaps after the first ones, for swap")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting, key=value, of all")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--table-rows", type=int, default=20_000)
    parser.add_argument("--report", type=Path, help="default: target/bench/SCENARIO.md")
    arguments = parser.parse_args()
    machine = describe()
    programs = Programs(arguments.programs.resolve())
    sizes = Sizes(arguments.items, arguments.table_rows)
    # The third makes the first one unneeded: only `stable` and `last_good` stay loaded.
    seeds = [7, 8, 9] if arguments.scenario == "swap" else [7]
    bundles = [sizes.bundle(programs, seed) for seed in seeds]
    server_cores, _ = split_cores()
    try:
        with Members(programs, bundles[0], server_cores, arguments.settings) as fleet:
            scene = Scene(fleet, fleet.clients, arguments.deadline, arguments.candidates)
            scene.find_peak(min(5.0, arguments.seconds))
            if arguments.scenario == "overload":
                lines = overload(scene, arguments.factors, arguments.seconds)
            else:
                lines = swap(scene, arguments.seconds, bundles, arguments.again)
    except NotRun as reason:
        sys.exit(f"stress.py {arguments.scenario}: {reason}")
    head = [f"# {arguments.scenario.capitalize()}", "", *(f"- {name}: {value}" for name, value in machine.items())]
    head += [f"- made by `python deploy/bench/stress.py {' '.join(sys.argv[1:])}`", ""]
    report = arguments.report or ROOT / f"target/bench/{arguments.scenario}.md"
    report.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([*head, *lines]) + "\n"
    report.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
