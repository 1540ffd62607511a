"""A ranker by the recipe that the parameters name, or by the better of two, as ONNX."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from endcap_pipelines import metrics, optimize, personal, pools
from endcap_pipelines.data import DataError
from endcap_pipelines.params import BEST, Params
from endcap_pipelines.pools import Pool
from endcap_pipelines.recipes import Examples, Fitted, recipe
from endcap_pipelines.source import say, write_json
from endcap_pipelines.stages import prepare
from endcap_pipelines.stages.prepare import Prepared

MODEL = "trained/ranker.onnx"
FACTS = "trained/training.json"
# Of what `best` is chosen: the one that learns from few queries, and the one that makes most of many.
CHOICES = ["linear", "lightgbm"]
# What a conversion may move a score by, in units of the scores' spread.
CONVERSION = 1e-4


def run(params: Params, work: Path) -> None:
    prepared = prepare.load(params, work)
    params = replace(params, train=replace(params.train, recipe=chosen(params, prepared)))
    data, features = prepared.data, prepared.features
    fitted = fit(params, features.names, [prepared.pools[i] for i in prepared.trained_on])
    model = fitted.to_onnx()
    facts: dict[str, object] = {
        "recipe": params.train.recipe,
        "parameters": dict(recipe(params.train.recipe).defaults) | params.train.parameters,
        "shuffled_labels": params.train.shuffle_labels,
    }
    path = work / MODEL
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    facts["conversion"] = moved(fitted, path, prepared.pools)
    if features.candidates.personal:
        facts["taste"] = taste = personal.fit(data, features)
        onnx.save(personal.add(model, features.names, taste), path)
    write_json(work / FACTS, facts)
    say(
        f"  {params.train.recipe} it is, trained on {len(prepared.trained_on)} queries: "
        f"{path.stat().st_size / 1024:.0f} KiB; the conversion moved no score by more than {facts['conversion']:.0e}"
    )


def chosen(params: Params, prepared: Prepared) -> str:
    """The recipe that is named, or the one that orders better what it was not trained on."""
    if params.train.recipe != BEST:
        return params.train.recipe
    found = {}
    for name in CHOICES:
        answers, _ = cross_validated(replace(params, train=replace(params.train, recipe=name)), prepared)
        found[name] = float(np.mean([metrics.ndcg(10, r, prepared.data.gains[i]) for i, r in answers.items()]))
        say(f"  {name}: ndcg@10 {found[name]:.4f}, cross-validated")
    return max(found, key=found.__getitem__)


def as_trained(params: Params, work: Path) -> Params:
    """With the recipe that was chosen."""
    recipe = json.loads((work / FACTS).read_text())["recipe"]
    return replace(params, train=replace(params.train, recipe=recipe))


def cross_validated(params: Params, prepared: Prepared) -> tuple[dict[int, list[str]], list[Fitted]]:
    """Each query that is trained on, as a ranker orders it that was trained without it and those of the same words; and
    the rankers by fold."""
    made, fold = prepared.pools, folds(params, prepared)
    answers: dict[int, list[str]] = {}
    rankers = []
    for left_out in range(params.evaluate.folds):
        fitted = fit(params, prepared.features.names, [made[i] for i in fold if fold[i] != left_out])
        rankers.append(fitted)
        for i in (i for i in fold if fold[i] == left_out):
            answers[i] = pools.ranking(prepared.data, made[i].retrieved, fitted.scores(made[i].rows))
    return answers, rankers


def folds(params: Params, prepared: Prepared) -> dict[int, int]:
    """By query that is trained on: its fold."""
    queries = prepared.trained_on
    found = pools.folds([prepared.data.queries[i] for i in queries], params.evaluate.folds)
    if len(set(found)) < params.evaluate.folds:
        raise DataError(
            f"evaluate.folds is {params.evaluate.folds}; there are only {len(set(found))} different queries"
        )
    return dict(zip(queries, found, strict=True))


def fit(params: Params, names: Sequence[str], learnt: Sequence[Pool]) -> Fitted:
    """Trains on these pools: those of all queries that are not held out, or of some folds."""
    try:
        trainer = recipe(params.train.recipe)
    except (KeyError, ImportError) as error:
        raise DataError(f"train.recipe: {error.args[0]}") from error
    grades = [pool.grades for pool in learnt]
    if params.train.shuffle_labels:
        random = np.random.default_rng(params.seed)
        grades = [random.permutation(each) for each in grades]
    examples = Examples(list(names), [pool.training_rows for pool in learnt], grades)
    try:
        return trainer.fit(examples, dict(trainer.defaults) | params.train.parameters, params.seed)
    except ValueError as error:
        raise DataError(f"{params.train.recipe} cannot be trained: {error}") from error


def moved(fitted: Fitted, path: Path, made: Sequence[Pool]) -> float:
    """By how much the conversion moves a score at most, in units of their spread. Raises DataError above 1e-4."""
    rows = np.concatenate([pool.rows for pool in made[:20]])
    before = fitted.scores(rows)
    after = optimize.session(path).run(["score"], {"features": rows})[0][:, 0]
    difference = float(np.abs(before - after).max() / max(float(np.std(before)), 1e-9))
    if not difference <= CONVERSION:
        raise DataError(
            f"the conversion to ONNX moved a score by {difference:.1e} spreads, at most {CONVERSION} may be"
        )
    return difference
