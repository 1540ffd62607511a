"""A ranker by the recipe that the parameters name, as ONNX."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from endcap_pipelines import optimize, personal
from endcap_pipelines.data import DataError
from endcap_pipelines.params import Params
from endcap_pipelines.pools import Pool
from endcap_pipelines.recipes import Examples, Fitted, recipe
from endcap_pipelines.source import say, write_json
from endcap_pipelines.stages import prepare

MODEL = "trained/ranker.onnx"
FACTS = "trained/training.json"
# What a conversion may move a score by, in units of the scores' spread.
CONVERSION = 1e-4


def run(params: Params, work: Path) -> None:
    prepared = prepare.load(params, work)
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
        facts["taste"] = personal.fit(data, features)
        onnx.save(personal.add(model, features.names, facts["taste"]), path)
    write_json(work / FACTS, facts)
    say(f"  {params.train.recipe}: {path.stat().st_size / 1024:.0f} KiB, conversion moved no score by more than "
        f"{facts['conversion']:.0e}")  # fmt: skip


def fit(params: Params, names: Sequence[str], pools: Sequence[Pool]) -> Fitted:
    """Trains on these pools: those of all queries that are not held out, or of some folds."""
    try:
        trainer = recipe(params.train.recipe)
    except (KeyError, ImportError) as error:
        raise DataError(f"train.recipe: {error.args[0]}") from error
    grades = [pool.grades for pool in pools]
    if params.train.shuffle_labels:
        random = np.random.default_rng(params.seed)
        grades = [random.permutation(each) for each in grades]
    examples = Examples(list(names), [pool.training_rows for pool in pools], grades)
    try:
        return trainer.fit(examples, dict(trainer.defaults) | params.train.parameters, params.seed)
    except ValueError as error:
        raise DataError(f"{params.train.recipe} cannot be trained: {error}") from error


def moved(fitted: Fitted, path: Path, pools: Sequence[Pool]) -> float:
    """By how much the conversion moves a score at most, in units of their spread. Raises DataError above 1e-4."""
    rows = np.concatenate([pool.rows for pool in pools[:20]])
    before = fitted.scores(rows)
    after = optimize.session(path).run(["score"], {"features": rows})[0][:, 0]
    difference = float(np.abs(before - after).max() / max(float(np.std(before)), 1e-9))
    if not difference <= CONVERSION:
        raise DataError(
            f"the conversion to ONNX moved a score by {difference:.1e} spreads, at most {CONVERSION} may be"
        )
    return difference
