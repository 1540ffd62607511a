"""Reading a data folder."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from endcap_pipelines.text import normalised

REQUIRED = ["products", "queries_open", "labels_open"]
# What else a run may have learnt from.
OPTIONAL = ["events.parquet", "shoppers.parquet", "encoder_fp32.onnx", "tokenizer.json", "item_emb_f16.npy"]
OPTIONAL += ["item_encoder_fp32.onnx", "towers.json"]
GAINS = {"Exact": 1.0, "Substitute": 0.1, "Complement": 0.01, "Irrelevant": 0.0}
GRADES = {"Exact": 3, "Substitute": 2, "Complement": 1, "Irrelevant": 0}


@dataclass
class Data:
    """Products as columns; labelled queries; fingerprints of the files they came from."""

    folder: Path
    ids: list[str]
    columns: dict[str, list[str]]
    numbers: dict[str, np.ndarray]
    query_ids: list[str]
    queries: list[str]
    labels: list[dict[str, str]]
    fingerprints: dict[str, str]

    @property
    def personal(self) -> bool:
        """Whether there are clicks of shoppers to learn their tastes from."""
        return (self.folder / "events.parquet").is_file()

    @property
    def gains(self) -> list[dict[str, float]]:
        return [{item: GAINS[label] for item, label in judged.items()} for judged in self.labels]


class DataError(Exception):
    """The folder is not what was expected."""


def read(folder: Path) -> Data:
    paths = {name: folder / f"{name}.parquet" for name in REQUIRED}
    for path in paths.values():
        if not path.is_file():
            raise DataError(f"{path} is missing; see deploy/pipelines/README.md for the layout")
    products, queries, labels = (pq.read_table(paths[name]).to_pydict() for name in REQUIRED)
    texts = ["name", "product_class", "category_hierarchy", "brand", "color", "text"]
    columns = {name: [value or "" for value in products[name]] for name in texts}
    numbers = {
        name: np.array([np.nan if v is None else v for v in products[name]], dtype=np.float64)
        for name in ["rating", "review_count", "price"]
    }
    ids = [str(item) for item in products["product_id"]]
    if len(set(ids)) != len(ids):
        raise DataError(f"{paths['products']}: product_id is not unique")
    known = set(ids)
    judged: dict[object, dict[str, str]] = {query: {} for query in queries["query_id"]}
    for query, item, label in zip(labels["query_id"], labels["product_id"], labels["label"], strict=True):
        if label not in GAINS:
            raise DataError(f"{paths['labels_open']}: label {label!r}; expected one of {', '.join(GAINS)}")
        if query in judged and item in known:
            judged[query][item] = label
    return Data(
        folder=folder,
        ids=ids,
        columns=columns,
        numbers=numbers,
        query_ids=[str(query) for query in queries["query_id"]],
        queries=[normalised(query) for query in queries["query"]],
        labels=[judged[query] for query in queries["query_id"]],
        fingerprints=fingerprints(folder),
    )


def fingerprints(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the folder that a run reads, by its name without the ending."""
    paths = [*(folder / f"{name}.parquet" for name in REQUIRED), *(folder / name for name in OPTIONAL)]
    return {path.stem: sha256(path) for path in paths if path.is_file()}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
