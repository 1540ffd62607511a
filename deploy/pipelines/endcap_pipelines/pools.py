"""What each labelled query is ranked over, and the order that a model gives it: what the fleet will answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from endcap_pipelines.data import GRADES, Data
from endcap_pipelines.encoder import Encoder
from endcap_pipelines.features import Features
from endcap_pipelines.text import tokens

DEPTH = 200


@dataclass
class Pool:
    """What a query is ranked over: the retrieved items, and for training the judged ones too."""

    retrieved: np.ndarray
    rows: np.ndarray
    training: np.ndarray
    training_rows: np.ndarray
    grades: np.ndarray


def best(scores: np.ndarray, ids: Sequence[str], items: np.ndarray, limit: int) -> np.ndarray:
    """Items by score descending, then id ascending."""
    return np.array(sorted(items, key=lambda item: (-scores[item], ids[item]))[:limit], dtype=np.int64)


def retrieve(data: Data, encoder: Encoder, query: str) -> tuple[np.ndarray, np.ndarray]:
    """The nearest items, best first, and every item's similarity."""
    similarities = encoder.items.astype(np.float32) @ encoder.encode(query)
    return best(similarities, data.ids, np.argsort(-similarities)[: DEPTH + 50], DEPTH), similarities


def pool(data: Data, encoder: Encoder, features: Features, i: int) -> Pool:
    query = data.queries[i]
    retrieved, similarities = retrieve(data, encoder, query)
    index = {item: row for row, item in enumerate(data.ids)}
    judged = {index[item]: GRADES[label] for item, label in data.labels[i].items()}
    training = np.array(sorted({*retrieved.tolist(), *judged}), dtype=np.int64)
    return Pool(
        retrieved=retrieved,
        rows=features.rows(query, similarities[retrieved], retrieved),
        training=training,
        training_rows=features.rows(query, similarities[training], training),
        grades=np.array([judged.get(item, 0) for item in training]),
    )


def ranking(data: Data, retrieved: np.ndarray, scores: np.ndarray) -> list[str]:
    order = sorted(range(len(retrieved)), key=lambda i: (-scores[i], data.ids[retrieved[i]]))
    return [data.ids[retrieved[i]] for i in order]


def rankings(data: Data, pools: Sequence[Pool], session: ort.InferenceSession) -> list[list[str]]:
    """What the fleet will answer to each labelled query."""
    return [ranking(data, p.retrieved, session.run(["score"], {"features": p.rows})[0][:, 0]) for p in pools]


def folds(queries: Sequence[str], count: int) -> list[int]:
    """A fold for each query. Queries of the same words are in one: apart they would tell each other's labels."""
    groups: dict[str, int] = {}
    return [groups.setdefault(" ".join(sorted(tokens(query))), len(groups)) % count for query in queries]


def save(path: Path, pools: Sequence[Pool]) -> None:
    flat = {name: np.concatenate([getattr(p, name) for p in pools]) for name in Pool.__annotations__}
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
