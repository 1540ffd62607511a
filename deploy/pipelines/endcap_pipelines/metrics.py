"""Ranking quality. Unjudged items gain nothing; a gain of 1 is relevant; the ideal is made of all judged items."""

from collections.abc import Mapping, Sequence

import numpy as np

Floats = Sequence[float] | np.ndarray


def _discounted(gains: Sequence[float]) -> float:
    return float(sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains)))


def ndcg(k: int, ranking: Sequence[str], gains: Mapping[str, float]) -> float:
    ideal = _discounted(sorted(gains.values(), reverse=True)[:k])
    return _discounted([gains.get(item, 0.0) for item in ranking[:k]]) / ideal if ideal else 0.0


def recall(k: int, ranking: Sequence[str], gains: Mapping[str, float]) -> float:
    relevant = sum(gain >= 1 for gain in gains.values())
    return sum(gains.get(item, 0.0) >= 1 for item in ranking[:k]) / relevant if relevant else 0.0


def precision(k: int, ranking: Sequence[str], gains: Mapping[str, float]) -> float:
    return sum(gains.get(item, 0.0) >= 1 for item in ranking[:k]) / k


def summary(rankings: Sequence[Sequence[str]], gains: Sequence[Mapping[str, float]], items: int) -> dict[str, float]:
    """Means over queries, and how much of the catalogue is in any top ten."""
    pairs = list(zip(rankings, gains, strict=True))
    shown = {item for ranking in rankings for item in ranking[:10]}
    return {
        "ndcg@10": float(np.mean([ndcg(10, r, g) for r, g in pairs])),
        "recall@10": float(np.mean([recall(10, r, g) for r, g in pairs])),
        "recall@100": float(np.mean([recall(100, r, g) for r, g in pairs])),
        "precision@10": float(np.mean([precision(10, r, g) for r, g in pairs])),
        "coverage@10": len(shown) / items,
        "queries": float(len(pairs)),
    }


def paired_interval(left: Floats, right: Floats, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the mean difference left - right over the same queries."""
    differences = np.asarray(left) - np.asarray(right)
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(differences), (2000, len(differences)))
    low, high = np.percentile(differences[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
