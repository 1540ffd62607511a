"""How well a recipe ranks queries that it was not trained on, over the candidates that the fleet would give it."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from endcap_pipelines import metrics, pools
from endcap_pipelines.candidates import TRAINED, Candidates, lambdamart_22
from endcap_pipelines.data import Data, DataError, read
from endcap_pipelines.encoder import prepare
from endcap_pipelines.features import Features
from endcap_pipelines.pools import Pool
from endcap_pipelines.recipes import Examples, Fitted

# What is ranked, by which features; told whether the data is of shoppers.
CANDIDATES: dict[str, Callable[[bool], Candidates]] = {**TRAINED, "lambdamart-22": lambda _: lambdamart_22()}


@dataclass(frozen=True)
class Task:
    """Labelled queries, each with its pool; and the orders that need no training, to compare with."""

    data: Data
    names: Sequence[str]
    pools: Sequence[Pool]
    references: dict[str, list[list[str]]]


def task(folder: Path, candidates: str, seed: int) -> Task:
    """Raises DataError. Items' vectors are taken as stored, rounded to f16."""
    data = read(folder)
    with tempfile.TemporaryDirectory() as work:
        encoder = prepare(data, Path(work), seed)
    features = Features(data, CANDIDATES[candidates](data.personal))
    made = [pools.pool(features, encoder, i) for i in range(len(data.queries))]
    return Task(data, features.names, made, pools.untrained(data, encoder))


def examples(names: Sequence[str], chosen: Sequence[Pool]) -> Examples:
    return Examples(list(names), [pool.training_rows for pool in chosen], [pool.grades for pool in chosen])


def held_out(task: Task, fit: Callable[[Examples], Fitted], folds: int) -> list[list[str]]:
    """Each query as a ranker orders it that was trained without it and without queries of the same words."""
    fold = np.array(pools.folds(task.data.queries, folds))
    if len(set(fold.tolist())) < folds:
        raise DataError(f"{folds} folds of {len(set(fold.tolist()))} different queries; expected fewer folds")
    answers: list[list[str]] = [[] for _ in task.pools]
    for each in range(folds):
        fitted = fit(examples(task.names, [task.pools[i] for i in np.flatnonzero(fold != each).tolist()]))
        for i in np.flatnonzero(fold == each).tolist():
            pool = task.pools[i]
            answers[i] = pools.ranking(task.data, pool.retrieved, fitted.scores(pool.rows))
    return answers


def ndcg(task: Task, rankings: Sequence[Sequence[str]]) -> np.ndarray:
    """NDCG@10 by query."""
    return np.array([metrics.ndcg(10, r, g) for r, g in zip(rankings, task.data.gains, strict=True)])
