"""`python -m endcap_pipelines.pipeline`: from a data folder to `stable`, in one process and with its progress."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

from endcap_pipelines import gate, stages
from endcap_pipelines.cli import Arguments, add_arguments, stopping_on_faults
from endcap_pipelines.params import Params
from endcap_pipelines.source import say
from endcap_pipelines.stages import bundle, optimize, register


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args(namespace=Arguments())
    with stopping_on_faults("endcap_pipelines.pipeline"):
        run(arguments.read_params(), arguments.work)


def run(params: Params, work: Path) -> None:
    """Raises Refused when the gate refuses, after the table."""
    steps = [(name, stages.run) for name in stages.STAGES] + [(name, gate.run) for name in stages.GATE]
    for number, (name, do) in enumerate(steps, 1):
        say(f"[{number}/{len(steps)}] {name}")
        started = perf_counter()
        try:
            do(name, params, work)
        except gate.Refused:
            print("\n".join(table(params, work, "refused; stable stays as it was")))
            raise
        say(f"  {perf_counter() - started:.1f} s")
    print("\n".join(table(params, work, "promoted: it is stable")))


def table(params: Params, work: Path, verdict: str) -> Iterator[str]:
    """Quality before and after each step, size, latency, verdict, and the way from the version back to the data."""
    compared = json.loads((work / gate.COMPARED).read_text())
    version = json.loads((work / register.REGISTERED).read_text())
    found, lineage = version["evaluation"], version["lineage"]
    yield ""
    yield f"{'step':34}{'ndcg@10':>9}{'recall@100':>12}{'p50 ms':>9}"
    for name, key in [
        ("by vector alone", "dense_"),
        ("both lists fused", "rrf_"),
        ("trained, where trained on", "trained_"),
        ("on queries not trained on", "unseen_"),
        (f"  of these the {found['held_out_queries']:.0f} held out", "held_out_"),
        ("in the form that is served, all", ""),
    ]:
        yield f"{name:34}{found[f'{key}ndcg@10']:9.4f}{found[f'{key}recall@100']:12.4f}{'-':>9}"
    forms = optimize.forms(work)
    if "encoder" in forms:
        name, quality = "cross-validated, encoder as served", _served(forms["encoder"])["quality"]
        yield f"{name:34}{quality:9.4f}{'-':>12}{'-':>9}"
    for name in ["candidate", "stable"]:
        if measured := compared[name]:
            label = f"through the fleet: {name} {measured['version']}"
            figures = f"{measured['metrics']['ndcg@10']:9.4f}{measured['metrics']['recall@100']:12.4f}"
            yield f"{label:34}{figures}{measured['latency_ms']['p50']:9.1f}"
            held_out = mean(measured["queries"][i] for i in compared["held_out"])
            yield f"{'  on the queries held out':34}{held_out:9.4f}{'-':>12}{'-':>9}"
    yield ""
    yield f"{'95 % paired interval':34}{'ndcg@10':20}{'recall@100':20}"
    for text, plain in [("by vector alone", "dense"), ("both lists fused", "rrf")]:
        ends = [
            "{:+.4f} to {:+.4f}".format(*(found[f"unseen_minus_{plain}_{figure}_{end}"] for end in ("low", "high")))
            for figure in ("ndcg@10", "recall@100")
        ]
        yield f"{'not trained on - ' + text:34}{ends[0]:20}{ends[1]:20}".rstrip()
    if interval := compared["decision"]["interval"]:
        yield f"{'candidate - stable, held out':34}{interval[0]:+.4f} to {interval[1]:+.4f}"
    yield ""
    yield f"{'model':10}{'form':14}{'KiB before':>11}{'KiB':>9}{'takes':>8}{'ndcg@10 lost':>14}"
    for name, tried in forms.items():
        served = _served(tried)
        sizes = f"{tried[0]['bytes'] / 1024:11.1f}{served['bytes'] / 1024:9.1f}"
        yield f"{name:10}{served['form']:14}{sizes}{served['time']:7.2f}x{served['loss']:14.4f}"
    yield ""
    name = f"{version['model']} version {version['version']}"
    yield f"verdict: {name} {verdict}"
    for note in compared["decision"]["notes"]:
        yield f"  note     {note}"
    yield f"  bundle   {version['digest']}  {(work / bundle.PACKED).stat().st_size / 1024:.0f} KiB"
    for part in ["ranker", "encoder"]:
        yield f"  {part:8} {lineage[part]}  {lineage[f'{part}.form']}"
    yield f"  data     {lineage['data']}  {params.data}"
    yield f"  (endcap model show {version['model']} {version['version']} tells the digest of each file of the data)"


def _served(forms: list[dict[str, Any]]) -> dict[str, Any]:
    return next(form for form in forms if form["served"])


if __name__ == "__main__":
    main()
