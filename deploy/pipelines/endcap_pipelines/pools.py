"""What each labelled query is ranked over, and the order that a model gives it: what the fleet will answer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from endcap_pipelines.candidates import rrf
from endcap_pipelines.data import GRADES, Data
from endcap_pipelines.encoder import Encoder
from endcap_pipelines.features import Features
from endcap_pipelines.text import tokens


@dataclass
class Pool:
    """What a query is ranked over: the retrieved items, and for training the judged ones too."""

    retrieved: np.ndarray
    rows: np.ndarray
    training: np.ndarray
    training_rows: np.ndarray
    grades: np.ndarray


def pool(features: Features, encoder: Encoder, i: int) -> Pool:
    """A labelled query's, for training with the judged items beside what is retrieved."""
    data, query = features.data, features.data.queries[i]
    lists = features.lists(query, encoder)
    retrieved = features.retrieved(lists)
    index = {item: row for row, item in enumerate(data.ids)}
    judged = {index[item]: GRADES[label] for item, label in data.labels[i].items()}
    training = np.array(sorted({*retrieved.tolist(), *judged}), dtype=np.int64)
    return Pool(
        retrieved=retrieved,
        rows=features.rows(query, lists, retrieved),
        training=training,
        training_rows=features.rows(query, lists, training),
        grades=np.array([judged.get(item, 0) for item in training]),
    )


def ranking(data: Data, retrieved: np.ndarray, scores: np.ndarray) -> list[str]:
    order = sorted(range(len(retrieved)), key=lambda i: (-scores[i], data.ids[retrieved[i]]))
    return [data.ids[retrieved[i]] for i in order]


def rankings(data: Data, pools: Sequence[Pool], session: ort.InferenceSession) -> list[list[str]]:
    """What the fleet will answer to each labelled query."""
    return [ranking(data, p.retrieved, session.run(["score"], {"features": p.rows})[0][:, 0]) for p in pools]


def answer(features: Features, encoder: Encoder, query: str, session: ort.InferenceSession) -> list[str]:
    """The same for one query, with this encoder."""
    lists = features.lists(query, encoder)
    retrieved = features.retrieved(lists)
    scores = session.run(["score"], {"features": features.rows(query, lists, retrieved)})[0][:, 0]
    return ranking(features.data, retrieved, scores)


def untrained(data: Data, encoder: Encoder) -> dict[str, list[list[str]]]:
    """The orders that need no training: by vector alone, and both lists fused."""
    features = Features(data, rrf())
    lists = [features.lists(query, encoder) for query in data.queries]
    return {
        "dense": [[data.ids[row] for row in each.dense] for each in lists],
        "rrf": [[data.ids[row] for row in features.retrieved(each)] for each in lists],
    }


def folds(queries: Sequence[str], count: int) -> list[int]:
    """A fold for each query. Queries of the same words are in one: apart they would tell each other's labels."""
    groups: dict[str, int] = {}
    return [groups.setdefault(words(query), len(groups)) % count for query in queries]


def held_out(queries: Sequence[str], share: float) -> np.ndarray:
    """Which queries no ranker is trained on. Their words alone decide, so that queries of the same words go together,
    and whatever else joins the data, the next run holds out the same ones."""
    digests = [hashlib.sha256(words(query).encode()).digest() for query in queries]
    return np.array([int.from_bytes(digest[:8]) < share * 2**64 for digest in digests])


def words(query: str) -> str:
    """The same for queries of the same words."""
    return " ".join(sorted(tokens(query)))


def save(path: Path, pools: Sequence[Pool]) -> None:
    flat: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in pools]) for name in Pool.__annotations__}
    lengths = np.array([[len(p.retrieved), len(p.training)] for p in pools])
    np.savez(path, lengths=lengths, **flat)


def load(path: Path) -> list[Pool]:
    with np.load(path) as found:
        ends = np.cumsum(found["lengths"], axis=0)[:-1]
        parts = {
            name: np.split(found[name], ends[:, 0 if name in {"retrieved", "rows"} else 1])
            for name in Pool.__annotations__
        }
    return [Pool(**dict(zip(parts, values, strict=True))) for values in zip(*parts.values(), strict=True)]
