"""Examples to learn from, made up: one shape that a line can follow, one column that only a curve can."""

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest

# Paddle crashes where TensorFlow was imported before it; the other order works. PyTorch's environment has neither.
if importlib.util.find_spec("paddle"):
    import paddle2onnx  # noqa: F401

from endcap_pipelines.recipes import Examples
from endcap_pipelines.recipes.linear import GAINS

COLUMNS = 6
ITEMS = 40


def installed(name: str) -> object:
    """A recipe's name as a test's parameter, skipped where its framework is absent."""
    missing = name.startswith("torch") and importlib.util.find_spec("torch") is None
    return pytest.param(
        name,
        marks=pytest.mark.skipif(missing, reason=f"{name}: PyTorch is not installed (6 GB; `make test-torch` runs it)"),
    )


def examples(seed: int, queries: int = 80) -> Examples:
    random = np.random.default_rng(seed)
    rows = [random.normal(size=(ITEMS, COLUMNS)).astype(np.float32) for _ in range(queries)]
    return Examples([f"column_{i}" for i in range(COLUMNS)], rows, [_grades(each, random) for each in rows])


def shuffled(given: Examples, seed: int) -> Examples:
    random = np.random.default_rng(seed)
    return Examples(given.names, given.rows, [random.permutation(grades) for grades in given.grades])


def ndcg(given: Examples, scores: Callable[[np.ndarray], np.ndarray]) -> float:
    discounts = 1 / np.log2(np.arange(10) + 2)
    found = []
    for rows, grades in zip(given.rows, given.grades, strict=True):
        gains = GAINS[grades]
        order = np.argsort(-scores(rows), kind="stable")[:10]
        found.append((gains[order] * discounts).sum() / (np.sort(gains)[::-1][:10] * discounts).sum())
    return float(np.mean(found))


def _grades(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    liking = rows[:, 0] + 1.5 * np.abs(rows[:, 1]) - 0.5 * rows[:, 2] + 0.3 * random.normal(size=len(rows))
    place = np.argsort(np.argsort(-liking))
    return np.select([place < 4, place < 10, place < 14], [3, 2, 1], 0)
