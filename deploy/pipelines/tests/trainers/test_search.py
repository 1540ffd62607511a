"""The search of parameters keeps its budget, repeats itself by seed, and never answers worse than the defaults."""

from collections.abc import Mapping
from time import monotonic, sleep
from typing import ClassVar

import numpy as np
import optuna
import pytest

from conftest import COLUMNS, examples
from endcap_pipelines import pools
from endcap_pipelines.data import Data, DataError
from endcap_pipelines.recipes import Parameters, crossval, recipe
from endcap_pipelines.recipes.search import Budget, judge_by_folds, proposed, search


class Hill:
    """A recipe of which only the bounds are looked at."""

    defaults: ClassVar[Parameters] = {"height": 3.0, "steps": 4, "shape": "round"}
    space: ClassVar[Mapping] = {"height": (0.01, 10.0), "steps": (1, 6), "shape": ["flat", "round"]}


def _climb(parameters: Parameters) -> float:
    return -abs(float(parameters["height"]) - 1) + (parameters["shape"] == "flat")


def _task(queries: list[str]) -> crossval.Task:
    """Made-up examples as labelled queries, item by item."""
    made = examples(1, queries=len(queries))
    gains = {3: "Exact", 2: "Substitute", 1: "Complement", 0: "Irrelevant"}
    ids = [f"{i:03}" for i in range(len(made.rows[0]))]
    labels = [{item: gains[int(g)] for item, g in zip(ids, grades, strict=True)} for grades in made.grades]
    data = Data(None, ids, {}, {}, [str(i) for i in range(len(queries))], queries, labels, {})
    every = np.arange(len(ids))
    taken = [pools.Pool(every, rows, every, rows, g) for rows, g in zip(made.rows, made.grades, strict=True)]
    return crossval.Task(data, made.names, taken, {})


def test_the_same_seed_tries_the_same_and_another_seed_something_else() -> None:
    def tried(seed: int) -> list[Parameters]:
        seen: list[Parameters] = []
        search(Hill(), lambda parameters: seen.append(parameters) or _climb(parameters), Budget(60, 12), seed)
        return seen

    assert tried(1) == tried(1)
    assert tried(1) != tried(2)


def test_the_defaults_come_first_and_the_best_is_no_worse() -> None:
    seen: list[Parameters] = []
    best = search(Hill(), lambda parameters: seen.append(parameters) or _climb(parameters), Budget(60, 25), 1)
    assert seen[0] == Hill.defaults
    assert best.defaults_ndcg == _climb(Hill.defaults)
    assert best.ndcg == max(map(_climb, seen)) > best.defaults_ndcg


def test_no_trial_begins_once_the_time_is_spent() -> None:
    started = monotonic()

    def slow(parameters: Parameters) -> float:
        sleep(0.2)
        return _climb(parameters)

    best = search(Hill(), slow, Budget(1.0, 1000), 1)
    assert best.trials < 20 and monotonic() - started < 10


def test_every_value_lies_within_its_bounds() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(30):
        values = proposed(Hill(), study.ask())
        assert (
            0.01 <= values["height"] <= 10 and values["steps"] in range(1, 7) and values["shape"] in ("flat", "round")
        )


def test_queries_of_the_same_words_never_stand_on_both_sides_of_a_fold() -> None:
    queries = [text for i in range(10) for text in (f"red lamp {i}", f"{i} Lamp red")]
    task = _task(queries)
    seen: list[set[int]] = []
    place = {id(rows): i for i, rows in enumerate(pool.training_rows for pool in task.pools)}

    def fit(given: crossval.Examples) -> crossval.Fitted:
        seen.append({place[id(rows)] for rows in given.rows})
        return recipe("linear").fit(given, {}, 7)

    rankings = crossval.held_out(task, fit, 5)
    assert len(seen) == 5 and all(len(ranking) == 40 for ranking in rankings)
    for trained in seen:
        assert all((i in trained) == (i + 1 in trained) for i in range(0, 20, 2))
    assert set.intersection(*seen) == set()


def test_a_real_recipe_is_judged_on_queries_that_it_was_not_trained_on() -> None:
    task = _task([f"query {i}" for i in range(20)])
    judge = judge_by_folds(task, recipe("linear"), 5, 7)
    # The line finds two of the three columns that matter.
    assert 0.5 < judge({"ridge": 0.1}) < 0.9
    assert len(task.names) == COLUMNS


def test_more_folds_than_different_queries_are_refused() -> None:
    with pytest.raises(DataError, match="5 folds of 1 different queries"):
        crossval.held_out(_task(["a b", "b a"]), lambda given: recipe("linear").fit(given, {}, 7), 5)
