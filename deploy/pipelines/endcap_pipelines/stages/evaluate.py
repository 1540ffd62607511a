"""The trained ranker beside the orders that need no training, on queries it was trained on and on ones it was not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from endcap_pipelines import metrics, optimize, pools
from endcap_pipelines.params import Params
from endcap_pipelines.source import say, write_json
from endcap_pipelines.stages import prepare, train
from endcap_pipelines.stages.prepare import Prepared

EVALUATION = "evaluated/evaluation.json"
# The ranker that was trained without a fold's queries: an encoder's forms are judged with them, too.
FOLD = "evaluated/fold-{}.onnx"
# What has an interval.
COMPARED = {"ndcg@10": metrics.ndcg, "recall@100": metrics.recall}

Rankings = Sequence[Sequence[str]]


def run(params: Params, work: Path) -> None:
    prepared = prepare.load(params, work)
    data, every, learnt = prepared.data, range(len(prepared.pools)), prepared.trained_on
    apart = np.flatnonzero(prepared.held_out).tolist()
    (work / EVALUATION).parent.mkdir(parents=True, exist_ok=True)
    trained = pools.rankings(data, prepared.pools, optimize.session(work / train.MODEL))
    folds, rankers = train.cross_validated(train.as_trained(params, work), prepared)
    for fold, fitted in enumerate(rankers):
        onnx.save(fitted.to_onnx(), work / FOLD.format(fold))
    # Each query as a ranker orders it that was not trained on it.
    unseen = [folds.get(i, trained[i]) for i in every]
    plain = pools.untrained(data, prepared.encoder)
    found: dict[str, float] = {}
    for name, rankings, queries in [
        *((name, rankings, every) for name, rankings in plain.items()),
        ("trained", trained, learnt),
        ("unseen", unseen, every),
        ("held_out", unseen, apart),
    ]:
        gains = [data.gains[i] for i in queries]
        figures = metrics.summary([rankings[i] for i in queries], gains, len(data.ids))
        found |= {f"{name}_{figure}": value for figure, value in figures.items()}
    for name, rankings in plain.items():
        found |= added(unseen, rankings, prepared, params.seed, f"unseen_minus_{name}")
    write_json(work / EVALUATION, {"metrics": found})
    for name, text in [
        ("dense", "by vector alone"),
        ("rrf", "both lists fused"),
        ("trained", "trained, on the queries it was trained on"),
        ("unseen", "on queries not trained on"),
        ("held_out", "on those held out"),
    ]:
        say(f"  ndcg@10 {found[f'{name}_ndcg@10']:.4f} {text} ({found[f'{name}_queries']:.0f})")


def added(left: Rankings, right: Rankings, prepared: Prepared, seed: int, name: str) -> dict[str, float]:
    """Paired 95 % intervals of left - right over all queries, by figure."""
    found = {}
    for figure, measure in COMPARED.items():
        k = int(figure.partition("@")[2])
        mine, its = ([measure(k, r, g) for r, g in zip(rs, prepared.data.gains, strict=True)] for rs in (left, right))
        found[f"{name}_{figure}_low"], found[f"{name}_{figure}_high"] = metrics.paired_interval(mine, its, seed)
    return found
