"""`python -m endcap_pipelines.recipes.two_tower --data FOLDER --recipe keras_towers --pairs clicks --out TOWERS`.

Trains towers (towers.py) over a data folder's encoder, says how they retrieve for queries that they were not trained
on, and with `--out` writes a data folder whose encoder is the query's tower and whose vectors are the item's. From
there everything goes on as from any other folder. Queries whose labels trained the towers are not labelled there: what
is trained and judged on the rest has not seen them.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq

from endcap_pipelines import metrics, pools
from endcap_pipelines.cli import stopping_on_faults
from endcap_pipelines.data import Data, DataError, read
from endcap_pipelines.encoder import STEPS, Encoder, prepare
from endcap_pipelines.recipes.towers import DEFAULTS, TOWERS, Fitted, Pairs, joined, two_tower
from endcap_pipelines.source import say, write_json
from endcap_pipelines.text import normalised

DEPTH = 100
Fit = Callable[[Pairs], Fitted]


@dataclass(frozen=True)
class Material:
    """A data folder's encoder, and the pairs to learn from: rows of `queries` and of the products."""

    data: Data
    encoder: Encoder
    # Where `prepare` left the encoder's files.
    work: Path
    queries: list[str]
    vectors: np.ndarray
    pairs: np.ndarray

    @property
    def items(self) -> np.ndarray:
        return self.encoder.items.astype(np.float32)

    def of(self, chosen: np.ndarray) -> Pairs:
        """The pairs of these queries; `chosen` is a mask over them."""
        return Pairs(self.vectors, self.items, self.pairs[chosen[self.pairs[:, 0]]])


def material(folder: Path, source: str, work: Path, seed: int, steps: int = STEPS) -> Material:
    """`source`: `clicks` of events.parquet, or `labels`, whose Exact items count. `steps`: of the encoder's training,
    where the folder brings none. Raises DataError where there are no pairs.
    """
    data = read(folder)
    found = _labels(data) if source == "labels" else _clicks(data)
    if not found:
        raise DataError(f"{folder} has no pairs of queries and items by {source}; --pairs says where they are from")
    encoder = prepare(data, work, seed, steps)
    queries = list(dict.fromkeys(query for query, _ in found))
    place = {query: i for i, query in enumerate(queries)}
    rows = {item: row for row, item in enumerate(data.ids)}
    pairs = np.array([(place[query], rows[item]) for query, item in found if item in rows], np.int64)
    vectors = np.stack([encoder.encode(query) for query in queries])
    return Material(data, encoder, work, queries, vectors, pairs)


def unseen(made: Material, fit: Fit, folds: int) -> list[list[str]]:
    """The nearest of each labelled query, by towers trained without it and without queries of the same words."""
    data = made.data
    fold = np.array(pools.folds([*data.queries, *made.queries], folds))
    mine, theirs = fold[: len(data.queries)], fold[len(data.queries) :]
    if len(set(mine.tolist())) < folds:
        raise DataError(f"{folds} folds of {len(set(mine.tolist()))} different queries; expected fewer folds")
    answers: list[list[str]] = [[] for _ in data.queries]
    for each in range(folds):
        fitted = fit(made.of(theirs != each))
        # As they are stored.
        items = fitted.items(made.items).astype(np.float16)
        for i in np.flatnonzero(mine == each):
            vector = fitted.queries(made.encoder.encode(data.queries[i])[None])[0]
            answers[i] = nearest(data, items, vector)
    return answers


def nearest(data: Data, items: np.ndarray, vector: np.ndarray, depth: int = DEPTH) -> list[str]:
    """Ids by similarity, ties by id."""
    scores = items.astype(np.float32) @ vector
    rows = np.argsort(-scores)[: depth + 50]
    return pools.ranking(data, rows, scores[rows])[:depth]


def table(data: Data, plain: Sequence[Sequence[str]], answers: Sequence[Sequence[str]], seed: int) -> Iterator[str]:
    """By figure: the encoder alone, the towers, and the 95 % paired interval of what they add."""
    yield f"{'by vector':12}{'encoder':>9}{'towers':>9}  towers - encoder"
    for name, figure, k in [("ndcg@10", metrics.ndcg, 10), ("recall@100", metrics.recall, 100)]:
        before, after = (
            np.array([figure(k, ranking, gains) for ranking, gains in zip(rankings, data.gains, strict=True)])
            for rankings in (plain, answers)
        )
        low, high = metrics.paired_interval(after, before, seed)
        difference = f"{(after - before).mean():+.4f} ({low:+.4f} to {high:+.4f})"
        yield f"{name:12}{before.mean():9.4f}{after.mean():9.4f}  {difference}"


def write(made: Material, fitted: Fitted, taught: set[str], facts: dict[str, object], out: Path) -> None:
    """The data folder with the towers. `taught`: queries whose labels they know; `facts`: what trained them."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ["products.parquet", "events.parquet", "shoppers.parquet"]:
        if (made.data.folder / name).is_file():
            shutil.copyfile(made.data.folder / name, out / name)
    kept = {i for i, query in zip(made.data.query_ids, made.data.queries, strict=True) if query not in taught}
    for name in ["queries_open.parquet", "labels_open.parquet"]:
        rows = pq.read_table(made.data.folder / name)
        pq.write_table(rows.filter([str(i) in kept for i in rows["query_id"].to_pylist()]), out / name)
    shutil.copyfile(made.work / "tokenizer.json", out / "tokenizer.json")
    encoder = onnx.load(made.work / "encoder.onnx")
    for tower, name in zip(fitted.to_onnx(), ["encoder_fp32.onnx", "item_encoder_fp32.onnx"], strict=True):
        onnx.save(joined(encoder, str(made.encoder.spec["output"]), tower), out / name)
    np.save(out / "item_emb_f16.npy", fitted.items(made.items).astype(np.float16))
    write_json(out / "towers.json", facts | {"data": made.data.fingerprints, "taught": len(taught)})


def whole(made: Material, fit: Fit, source: str, facts: dict[str, object], out: Path) -> None:
    """Trains on every pair by clicks, or on the labels of every other query, and writes the folder."""
    teaching = np.ones(len(made.queries), bool)
    taught: set[str] = set()
    if source == "labels":
        fold = pools.folds(made.data.queries, 2)
        taught = {query for query, each in zip(made.data.queries, fold, strict=True) if each == 0}
        teaching = np.array([query in taught for query in made.queries])
    write(made, fit(made.of(teaching)), taught, facts | {"pairs": source}, out)
    say(f"{out}: {teaching.sum()} queries taught; {len(made.data.queries) - len(taught)} labelled ones left")


def _labels(data: Data) -> list[tuple[str, str]]:
    judged = zip(data.queries, data.labels, strict=True)
    return [(query, item) for query, labels in judged for item, label in labels.items() if label == "Exact"]


def _clicks(data: Data) -> list[tuple[str, str]]:
    path = data.folder / "events.parquet"
    if not path.is_file():
        return []
    table = pq.read_table(path, columns=["query", "product_id", "clicked"]).to_pydict()
    known = set(data.ids)
    shown = zip(table["query"], table["product_id"], table["clicked"], strict=True)
    return [(normalised(query), str(item)) for query, item, clicked in shown if clicked and str(item) in known]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--recipe", choices=TOWERS, required=True)
    parser.add_argument("--pairs", choices=["clicks", "labels"], default="clicks", help="what the towers learn from")
    parser.add_argument("--out", type=Path, help="the data folder to write")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()

    def fit(given: Pairs) -> Fitted:
        return two_tower(arguments.recipe).fit(given, {}, arguments.seed)

    with stopping_on_faults("two_tower"), tempfile.TemporaryDirectory() as work:
        made = material(arguments.data, arguments.pairs, Path(work), arguments.seed)
        say(f"{len(made.pairs)} pairs of {len(made.queries)} queries; {arguments.folds} folds")
        plain = [nearest(made.data, made.items, made.encoder.encode(query)) for query in made.data.queries]
        for line in table(made.data, plain, unseen(made, fit, arguments.folds), arguments.seed):
            print(line)
        if arguments.out:
            facts = {"recipe": arguments.recipe, "parameters": dict(DEFAULTS), "seed": arguments.seed}
            whole(made, fit, arguments.pairs, facts, arguments.out)


if __name__ == "__main__":
    main()
