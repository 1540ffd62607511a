"""The whole catalogue's lists for a query, by words and by vectors, as the fleet makes them."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from endcap_pipelines.text import tokens

K1, B = 1.2, 0.75
RRF_K = 60


class Bm25:
    """BM25 with Lucene's idf over texts; sums as f64 in the order of the query's tokens, scores as f32."""

    def __init__(self, texts: Sequence[str]) -> None:
        documents = [tokens(text) for text in texts]
        self.lengths = np.array([len(document) for document in documents], dtype=np.float64)
        self.average = self.lengths.mean()
        postings: dict[str, tuple[list[int], list[int]]] = {}
        for row, document in enumerate(documents):
            for token, count in Counter(document).items():
                rows, counts = postings.setdefault(token, ([], []))
                rows.append(row)
                counts.append(count)
        self.postings = {t: (np.array(r), np.array(c, dtype=np.float64)) for t, (r, c) in postings.items()}

    def idf(self, token: str) -> float:
        n = len(self.postings[token][0]) if token in self.postings else 0
        return math.log(1 + (len(self.lengths) - n + 0.5) / (n + 0.5))

    def scores(self, query: str) -> np.ndarray:
        scores = np.zeros(len(self.lengths))
        for token in tokens(query):
            if token in self.postings:
                rows, counts = self.postings[token]
                norms = K1 * (1 - B + B * self.lengths[rows] / self.average)
                scores[rows] += self.idf(token) * (K1 + 1) * counts / (counts + norms)
        return scores.astype(np.float32)


@dataclass
class Lists:
    """Scores of every item, and rows of the best `depth`, by vector and by words; ties by item id."""

    cosine: np.ndarray
    bm25: np.ndarray
    dense: np.ndarray
    lexical: np.ndarray

    @classmethod
    def of(cls, cosine: np.ndarray, bm25: np.ndarray, by_id: np.ndarray, depth: int) -> "Lists":
        """`by_id` is each item's place among all ids."""
        dense = np.lexsort((by_id, -cosine))[:depth]
        lexical = np.lexsort((by_id, -bm25))[:depth]
        return cls(cosine, bm25, dense, lexical[bm25[lexical] > 0])

    def ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """By row: its rank by vector and by words, from 1; 0 outside the list."""
        return _ranks(self.dense, len(self.cosine)), _ranks(self.lexical, len(self.cosine))

    def fused(self, by_id: np.ndarray) -> np.ndarray:
        """Rows of either list by reciprocal rank fusion, best first."""
        dense, lexical = self.ranks()
        sums = reciprocal(dense) + reciprocal(lexical)
        rows = np.flatnonzero(sums)
        return rows[np.lexsort((by_id[rows], -sums[rows]))]

    def tops(self) -> tuple[float, float]:
        """The best score by vector and by words; 0 where no item has any of the words."""
        lexical = float(self.bm25[self.lexical[0]]) if len(self.lexical) else 0.0
        return float(self.cosine[self.dense[0]]), lexical

    def standing(self, rows: np.ndarray) -> dict[str, object]:
        """Where these rows stand, as golden requests record it."""
        dense, lexical = self.ranks()
        dense_top, lexical_top = self.tops()
        return {
            "dense_top": dense_top,
            "lexical_top": lexical_top,
            "dense_ranks": dense[rows].tolist(),
            "lexical_ranks": lexical[rows].tolist(),
        }


def reciprocal(ranks: np.ndarray, k: int = RRF_K) -> np.ndarray:
    """1 / (k + rank), 0 outside the list."""
    return np.where(ranks > 0, 1 / (k + np.maximum(ranks, 1)), 0)


def _ranks(rows: np.ndarray, n: int) -> np.ndarray:
    ranks = np.zeros(n, dtype=np.int64)
    ranks[rows] = np.arange(1, len(rows) + 1)
    return ranks
