"""`python -m endcap_pipelines.gate validate|compare|promote`: from a registered version to `stable`, or a refusal.

The version loads beside what serves and answers its golden requests on every replica (validate). Then candidate and
stable are asked the same labelled queries through the fleet (compare), and the candidate is promoted when it is no
worse on those that it was not trained on (`prepare.held_out`). "No worse" is a test of non-inferiority: the lower end
of the 95 % paired bootstrap interval of the mean difference in ndcg@10 lies above -margin. These are few, so what the
pipeline measured by cross-validation on the others must hold, too.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from endcap_pipelines import metrics
from endcap_pipelines.cli import Arguments, add_arguments, stopping_on_faults
from endcap_pipelines.data import DataError
from endcap_pipelines.fleet import Endcap
from endcap_pipelines.params import Gate, Params
from endcap_pipelines.source import say, write_json
from endcap_pipelines.stages import GATE, bundle, prepare, register

COMPARED = "compared.json"
FIGURE = "ndcg@10"


class Refused(DataError):
    """The candidate must not serve. The message says why."""


@dataclass(frozen=True)
class Measured:
    """A version as it answered through the fleet, and what its bundle says of itself."""

    version: int
    queries: Mapping[str, float]
    metrics: Mapping[str, float]
    answered: list[int]
    degraded: int
    latency_ms: Mapping[str, float]
    offline: Mapping[str, float]
    lineage: Mapping[str, str]

    @property
    def figure(self) -> float:
        return self.metrics[FIGURE]


@dataclass(frozen=True)
class Decision:
    """Refused if there are reasons. The interval is that of candidate - stable; nothing without a stable version."""

    reasons: list[str]
    notes: list[str]
    interval: tuple[float, float] | None

    @property
    def promotes(self) -> bool:
        return not self.reasons


def decide(candidate: Measured, stable: Measured | None, held_out: Sequence[str], rules: Gate, seed: int) -> Decision:
    """Whether the candidate may serve. Every reason against it is told. `held_out`: ids of queries not trained on."""
    reasons = [*_alone(candidate, rules)]
    if stable is None:
        return Decision(reasons, ["nothing is stable yet: there is nothing to compare with"], None)
    reasons += [f"stable: {fault}" for fault in _answers(stable)]
    if candidate.queries.keys() != stable.queries.keys():
        reasons.append("candidate and stable were asked different queries; run the comparison again")
        return Decision(reasons, [], None)
    ids = sorted(held_out)
    mine, its = ([measured.queries[i] for i in ids] for measured in (candidate, stable))
    low, high = metrics.paired_interval(mine, its, seed)
    if low < -rules.margin:
        reasons.append(
            f"on {len(ids)} queries held out, {FIGURE} through the fleet is {mean(mine):.4f}, stable's is "
            f"{mean(its):.4f}: the difference is {low:+.4f} to {high:+.4f}, and may not reach below "
            f"{-rules.margin:+.4f}"
        )
    against, notes = _unseen(candidate, stable, rules)
    # Which queries are held out follows from their words: a larger share has those of a smaller one.
    if float(stable.lineage.get("held_out", 0)) < float(candidate.lineage.get("held_out", 0)):
        notes.append("stable was trained on some of the queries held out, which speaks for it")
    return Decision(reasons + against, notes, (low, high))


def _answers(measured: Measured) -> list[str]:
    faults = []
    if measured.answered != [measured.version]:
        faults.append(f"versions {measured.answered} answered; expected {measured.version} alone")
    if measured.degraded:
        faults.append(f"{measured.degraded} answers were degraded, so its figure is not the model's; mend the fleet")
    return faults


def _alone(candidate: Measured, rules: Gate) -> list[str]:
    reasons = _answers(candidate)
    offline = candidate.offline.get(FIGURE)
    if offline is None or abs(candidate.figure - offline) > rules.tolerance:
        reasons.append(
            f"{FIGURE} through the fleet is {candidate.figure:.4f}, outside it {offline}: they may differ by "
            f"{rules.tolerance}"
        )
    for plain, text in [("dense", "the order by vector"), ("rrf", "both lists fused")]:
        low, high = (candidate.offline.get(f"unseen_minus_{plain}_{FIGURE}_{end}") for end in ("low", "high"))
        if low is not None and low < -rules.unseen_margin:
            reasons.append(
                f"on queries it was not trained on, it changes {FIGURE} of {text} by {low:+.4f} to {high:+.4f}, and "
                f"may not reach below {-rules.unseen_margin:+.4f}"
            )
    return reasons


def _unseen(candidate: Measured, stable: Measured, rules: Gate) -> tuple[list[str], list[str]]:
    """Means over all queries, each ranked without having been trained on: comparable only if they are of the same data.
    Reasons and notes."""
    name = f"unseen_{FIGURE}"
    if name not in candidate.offline or name not in stable.offline:
        return [], ["stable has no figure for queries that it was not trained on"]
    if candidate.lineage.get("data") != stable.lineage.get("data"):
        return [], ["stable was trained on other data: figures for queries not trained on are not compared"]
    mine, its = candidate.offline[name], stable.offline[name]
    if mine < its - rules.margin:
        return [f"on queries it was not trained on, {FIGURE} is {mine:.4f}, stable's is {its:.4f}"], []
    return [], []


def validate(params: Params, work: Path) -> None:
    fleet, registered = Endcap.found(), _registered(work)
    version = registered["version"]
    found = fleet.show(params.model, version)["digest"]
    if found != registered["digest"]:
        raise DataError(
            f"version {version} of this fleet is {found[:12]}, not {registered['digest'][:12]}: register again"
        )
    replicas = fleet.validate(params.model, version)["ready_replicas"]
    say(f"  version {version}: golden requests answered by {sum(replicas)} replicas of {len(replicas)} shards")


def compare(params: Params, work: Path) -> None:
    """Writes the decision; that it is a refusal is for `promote` to say."""
    fleet, version = Endcap.found(), _registered(work)["version"]
    rollout = fleet.rollout(params.model)
    serving = rollout["aliases"].get("stable")
    labels = ["--labels", work / bundle.SOURCE / "labels.jsonl"]
    candidate = _measured(fleet, params.model, version, [*labels, "--record"])
    stable = _measured(fleet, params.model, serving, labels) if serving not in {None, version} else None
    held_out = prepare.held_out(work)
    decision = decide(candidate, stable, held_out, params.gate, params.seed)
    if serving == version:
        decision = Decision(decision.reasons, ["this version is stable already"], None)
    found = {"revision": rollout["revision"], "candidate": asdict(candidate), "decision": asdict(decision)}
    found["held_out"] = held_out
    write_json(work / COMPARED, found | {"stable": asdict(stable) if stable else None})
    for name, measured in [("candidate", candidate), ("stable", stable)]:
        if measured:
            say(f"  {name:10} version {measured.version:3}  {FIGURE} {measured.figure:.4f}  "
                f"p50 {measured.latency_ms['p50']:.1f} ms")  # fmt: skip
    if decision.interval:
        say("  95 % interval of the difference on {} queries held out: {:+.4f} to {:+.4f}".format(
            len(held_out), *decision.interval))  # fmt: skip
    for note in decision.notes:
        say(f"  {note}")


def promote(params: Params, work: Path) -> None:
    """Raises Refused with every reason, and FleetError if `stable` has moved since the comparison."""
    found = json.loads((work / COMPARED).read_text())
    version, reasons = found["candidate"]["version"], found["decision"]["reasons"]
    if version != _registered(work)["version"]:
        raise Refused(f"version {version} was compared, another was registered since; compare again")
    if reasons:
        raise Refused(f"{params.model} version {version} is refused:\n" + "\n".join(f"  - {each}" for each in reasons))
    interval = found["decision"]["interval"]
    against = "ndcg@10 {:+.4f} to {:+.4f} against stable"
    why = against.format(*interval) if interval else found["decision"]["notes"][0]
    moved = Endcap.found().promote(params.model, version, found["revision"], f"gate: {why}")
    say(f"  {params.model}: {' '.join(f'{alias}={at}' for alias, at in sorted(moved['aliases'].items()))}")


def run(step: str, params: Params, work: Path) -> None:
    {"validate": validate, "compare": compare, "promote": promote}[step](params, work)


def _registered(work: Path) -> dict[str, Any]:
    path = work / register.REGISTERED
    if not path.is_file():
        raise DataError(f"{path} is missing; the stage `register` writes it")
    return json.loads(path.read_text())


def _measured(fleet: Endcap, model: str, version: int, arguments: list[object]) -> Measured:
    # Once before: the gateway keeps queries' vectors, and only of a version that was compared before it has them.
    fleet.evaluate(model, version, *arguments)
    found, known = fleet.evaluate(model, version, *arguments), fleet.show(model, version)
    return Measured(
        version=version,
        queries=found["queries"],
        metrics=found["metrics"],
        answered=found["versions"],
        degraded=found["degraded"],
        latency_ms=found["latency_ms"],
        offline=known["evaluation"],
        lineage=known["lineage"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("step", choices=GATE)
    add_arguments(parser)
    arguments = parser.parse_args(namespace=Arguments())
    with stopping_on_faults(arguments.step):
        run(arguments.step, arguments.read_params(), arguments.work)


if __name__ == "__main__":
    main()
