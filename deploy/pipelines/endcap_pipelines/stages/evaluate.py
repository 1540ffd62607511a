"""The trained ranker beside the plain order by vector, on the queries it was trained on and on ones it was not."""

from pathlib import Path

import onnx

from endcap_pipelines import metrics, optimize, pools
from endcap_pipelines.data import DataError
from endcap_pipelines.params import Params
from endcap_pipelines.source import say, write_json
from endcap_pipelines.stages import prepare, train
from endcap_pipelines.stages.prepare import Prepared

EVALUATION = "evaluated/evaluation.json"
# The ranker that was trained without a fold's queries: an encoder's forms are judged with them, too.
FOLD = "evaluated/fold-{}.onnx"


def run(params: Params, work: Path) -> None:
    prepared = prepare.load(params, work)
    data, gains = prepared.data, prepared.data.gains
    answers = pools.rankings(data, prepared.pools, optimize.session(work / train.MODEL))
    plain = [[data.ids[item] for item in pool.retrieved] for pool in prepared.pools]
    (work / EVALUATION).parent.mkdir(parents=True, exist_ok=True)
    unseen = cross_validated(params, prepared, work)
    found = {
        f"{name}{figure}": value
        for name, rankings in [("trained_", answers), ("cv_", unseen), ("dense_", plain)]
        for figure, value in metrics.summary(rankings, gains, len(data.ids)).items()
        if figure != "queries"
    }
    cv, dense = ([metrics.ndcg(10, r, g) for r, g in zip(rs, gains, strict=True)] for rs in (unseen, plain))
    low, high = metrics.paired_interval(cv, dense, params.seed)
    found |= {"cv_minus_dense_ndcg@10_low": low, "cv_minus_dense_ndcg@10_high": high}
    write_json(work / EVALUATION, {"metrics": found})
    for name, text in [("dense_", "by vector alone"), ("trained_", "trained"), ("cv_", "on queries not trained on")]:
        say(f"  ndcg@10 {found[f'{name}ndcg@10']:.4f} {text}")
    say(f"  95 % interval of what ranking adds on queries not trained on: {low:+.4f} to {high:+.4f}")


def cross_validated(params: Params, prepared: Prepared, work: Path) -> list[list[str]]:
    """Each query as a ranker orders it that was trained without it and without queries of the same words."""
    data, made = prepared.data, prepared.pools
    fold = pools.folds(data.queries, params.evaluate.folds)
    if len(set(fold)) < params.evaluate.folds:
        raise DataError(f"evaluate.folds is {params.evaluate.folds}; there are only {len(set(fold))} different queries")
    answers: list[list[str]] = [[] for _ in made]
    for held_out in range(params.evaluate.folds):
        others = [pool for pool, f in zip(made, fold, strict=True) if f != held_out]
        fitted = train.fit(params, prepared.features.names, others)
        onnx.save(fitted.to_onnx(), work / FOLD.format(held_out))
        for i in (i for i, f in enumerate(fold) if f == held_out):
            answers[i] = pools.ranking(data, made[i].retrieved, fitted.scores(made[i].rows))
    return answers
