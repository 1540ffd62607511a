"""The files of a bundle source that every recipe writes."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from endcap_pipelines.data import Data
from endcap_pipelines.encoder import Encoder
from endcap_pipelines.features import Features

POPULAR = 500


def popular(data: Data) -> list[str]:
    """By reviews, weighted with their rating."""
    rating, reviews = np.nan_to_num(data.numbers["rating"]), np.nan_to_num(data.numbers["review_count"])
    weight = reviews * rating
    order = sorted(range(len(data.ids)), key=lambda item: (-weight[item], data.ids[item]))
    return [data.ids[item] for item in order[:POPULAR]]


def lineage(data: Data, seed: int) -> dict[str, str]:
    """Where a version comes from: digests of the data, seed, commit."""
    digest = hashlib.sha256("".join(sorted(data.fingerprints.values())).encode()).hexdigest()
    found = {"data": digest, "seed": str(seed), "trainer": "endcap_pipelines"}
    found |= {f"data.{name}": value for name, value in data.fingerprints.items()}
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    if commit.returncode == 0:
        found["git_commit"] = commit.stdout.strip()
    return found


def model(name: str, encoder: Encoder, features: Features, came_from: dict[str, str]) -> dict[str, object]:
    return {
        "model": name,
        "ranker": {
            "file": "ranker.onnx",
            "inputs": [{"name": "features", "features": features.names}],
            "output": "score",
        },
        "encoder": encoder.spec,
        "retrieval": features.candidates.retrieval(),
        "lineage": came_from,
    }


def write_items(
    path: Path, data: Data, vectors: np.ndarray, texts: dict[str, list[str]], numbers: dict[str, np.ndarray]
) -> None:
    """Texts and numbers by column; NaN where an item has none."""
    columns: dict[str, pa.Array] = {"item_id": pa.array(data.ids)}
    for name, values in texts.items():
        columns[name] = pa.array(values)
    price = data.numbers["price"].astype(np.float32)
    columns["price"] = pa.array(price, mask=np.isnan(price))
    for name, column in numbers.items():
        columns[name] = pa.array(column, mask=np.isnan(column))
    flat = pa.array(vectors.reshape(-1))
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    pq.write_table(pa.table(columns), path)


def labels(data: Data) -> list[dict[str, object]]:
    rows = zip(data.query_ids, data.queries, data.gains, strict=True)
    return [{"query_id": i, "query": query, "gains": gains} for i, query, gains in rows]


def floats(values: np.ndarray) -> list[float]:
    return [float(value) for value in values]


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_lines(path: Path, values: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
