"""`python -m endcap_pipelines.bundle --data FOLDER --out SOURCE`: a data folder becomes a bundle source."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow.parquet as pq

from endcap_pipelines import fused_bundle, metrics, ranker
from endcap_pipelines.data import GRADES, Data, DataError, read
from endcap_pipelines.encoder import Encoder, prepare
from endcap_pipelines.features import Features
from endcap_pipelines.source import floats, labels, model, popular, say, write_items, write_json, write_lines

DEPTH = 200
FOLDS = 5
GOLDEN_REQUESTS = 24
GOLDEN_ITEMS = 24


@dataclass
class Pool:
    """What a query is ranked over: the retrieved items, and for training the judged ones too."""

    retrieved: np.ndarray
    rows: np.ndarray
    training: np.ndarray
    training_rows: np.ndarray
    grades: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--out", type=Path, required=True, help="the bundle source folder to write")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--ranker",
        choices=["trained", *fused_bundle.RECIPES],
        default="trained",
        help="train one on the labels, pack the folder's own of 22 features, or none but the fusion of both lists",
    )
    arguments = parser.parse_args()
    try:
        if arguments.ranker == "trained":
            build(arguments.data, arguments.out, arguments.seed)
        else:
            recipe = fused_bundle.RECIPES[arguments.ranker]()
            fused_bundle.build(arguments.data, arguments.out, recipe, arguments.seed)
    except DataError as error:
        sys.exit(f"endcap_pipelines.bundle: {error}")


def build(folder: Path, out: Path, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    data = read(folder)
    say(f"{len(data.ids)} products, {len(data.queries)} labelled queries")
    encoder = prepare(data, out, seed)
    say(f"encoder: {encoder.items.shape[1]} numbers a vector")
    features = Features(data, personal=(folder / "events.parquet").is_file())
    pools = [pool(data, encoder, features, i) for i in range(len(data.queries))]
    booster = train(pools, range(len(pools)), features, seed)
    taste = fit_taste(data, features) if features.personal else None
    onnx.save(ranker.to_onnx(booster, features.names, taste), out / "ranker.onnx")
    session = ort.InferenceSession(out / "ranker.onnx", providers=["CPUExecutionProvider"])
    say("ranker: trained and converted; cross-validating")

    evaluation = evaluate(data, features, pools, session, seed)
    write_json(out / "evaluation.json", evaluation)
    write_json(out / "features.json", features.schema())
    write_json(out / "popular.json", {"overall": popular(data)})
    write_json(out / "model.json", model(data, encoder, features.names, {"depth": DEPTH}, seed))
    texts = ["name", "product_class", "category_hierarchy", "brand", "color", "all"]
    columns = {name: features.texts[name] for name in texts}
    write_items(out / "items.parquet", data, encoder.items, columns, features.items)
    write_lines(out / "labels.jsonl", labels(data))
    write_lines(out / "golden.jsonl", golden(data, encoder, features, pools, session))
    for name, value in evaluation["metrics"].items():
        say(f"  {name:24} {value:.4f}")


def best(scores: np.ndarray, ids: list[str], items: np.ndarray, limit: int) -> np.ndarray:
    """Items by score descending, then id ascending."""
    return np.array(sorted(items, key=lambda item: (-scores[item], ids[item]))[:limit], dtype=np.int64)


def pool(data: Data, encoder: Encoder, features: Features, i: int) -> Pool:
    query = data.queries[i]
    vectors = encoder.items.astype(np.float32)
    similarities = vectors @ encoder.encode(query)
    retrieved = best(similarities, data.ids, np.argsort(-similarities)[: DEPTH + 50], DEPTH)
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


def train(pools: list[Pool], chosen: range | list[int], features: Features, seed: int):  # noqa: ANN201
    picked = [pools[i] for i in chosen]
    rows, grades = [p.training_rows for p in picked], [p.grades for p in picked]
    return ranker.train(rows, grades, features.names, seed)


def fit_taste(data: Data, features: Features) -> float:
    """How much more a shopper of price affinity 1 likes the dear end, from clicks: a logistic slope."""
    events = pq.read_table(data.folder / "events.parquet").to_pydict()
    shoppers = pq.read_table(data.folder / "shoppers.parquet").to_pydict()
    affinity = dict(zip(shoppers["shopper_id"], shoppers["price_affinity"], strict=True))
    index = {item: row for row, item in enumerate(data.ids)}
    levels = features.items["price_level"]
    liking = np.array(
        [affinity[s] * levels[index[p]] for s, p in zip(events["shopper_id"], events["product_id"], strict=True)]
    )
    clicked = np.array(events["clicked"], dtype=float)
    inputs = np.stack([np.ones_like(liking), liking, 1 / np.array(events["position"])], axis=1)
    weights = np.zeros(3)
    for _ in range(30):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs
        weights += np.linalg.solve(curvature + 1e-6 * np.eye(3), inputs.T @ (clicked - chance))
    return float(np.clip(weights[1], 0, 2))


def ranking(data: Data, p: Pool, scores: np.ndarray) -> list[str]:
    order = sorted(range(len(p.retrieved)), key=lambda i: (-scores[i], data.ids[p.retrieved[i]]))
    return [data.ids[p.retrieved[i]] for i in order]


def evaluate(
    data: Data, features: Features, pools: list[Pool], session: ort.InferenceSession, seed: int
) -> dict[str, object]:
    """What the fleet will answer, computed without it; and what can be expected of queries not trained on."""
    gains = data.gains
    scores = [session.run(["score"], {"features": p.rows})[0][:, 0] for p in pools]
    rankings = [ranking(data, p, s) for p, s in zip(pools, scores, strict=True)]
    dense = [[data.ids[item] for item in p.retrieved] for p in pools]
    held_out: list[list[str]] = [[] for _ in pools]
    for fold in range(FOLDS):
        booster = train(pools, [i for i in range(len(pools)) if i % FOLDS != fold], features, seed)
        for i in range(fold, len(pools), FOLDS):
            held_out[i] = ranking(data, pools[i], booster.predict(pools[i].rows))
    cv, plain = ([metrics.ndcg(10, r, g) for r, g in zip(rs, gains, strict=True)] for rs in (held_out, dense))
    low, high = metrics.paired_interval(cv, plain, seed)
    summary = metrics.summary(rankings, gains, len(data.ids))
    summary |= {f"cv_{k}": v for k, v in metrics.summary(held_out, gains, len(data.ids)).items() if k != "queries"}
    summary |= {f"dense_{k}": v for k, v in metrics.summary(dense, gains, len(data.ids)).items() if k != "queries"}
    summary |= {"cv_minus_dense_ndcg@10_low": low, "cv_minus_dense_ndcg@10_high": high}
    all_scores, all_rows = np.concatenate(scores), np.concatenate([p.rows for p in pools])
    quantiles = [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]
    return {
        "metrics": summary,
        "fingerprints": data.fingerprints,
        "distributions": {
            "quantiles": quantiles,
            "score": np.quantile(all_scores, quantiles).tolist(),
            "features": {
                name: np.quantile(all_rows[:, i], quantiles).tolist() for i, name in enumerate(features.names)
            },
        },
    }


def golden(
    data: Data, encoder: Encoder, features: Features, pools: list[Pool], session: ort.InferenceSession
) -> list[dict[str, object]]:
    """Complete requests with what they must give, taken from ONNX Runtime on the final files."""
    requests = []
    step = max(len(pools) // GOLDEN_REQUESTS, 1)
    for number, i in enumerate(range(0, len(pools), step)):
        query, p = data.queries[i], pools[i]
        vector = encoder.encode(query)
        spread = max(len(p.training) // GOLDEN_ITEMS, 1)
        items = p.training[::spread][:GOLDEN_ITEMS]
        similarities = encoder.items.astype(np.float32) @ vector
        rows = features.rows(query, similarities[items], items)
        given: dict[str, list[float]] = {}
        if features.personal:
            given["user.price_affinity"] = [[-0.75, 0.0, 0.5][number % 3]]
            rows[:, features.names.index("user.price_affinity")] = given["user.price_affinity"][0]
        scores = session.run(["score"], {"features": rows})[0][:, 0]
        requests.append(
            {
                "query": query,
                "features": given,
                "query_vector": floats(vector),
                "item_ids": [data.ids[item] for item in items],
                "inputs": {"features": [floats(row) for row in rows]},
                "scores": floats(scores),
            }
        )
    return requests


if __name__ == "__main__":
    main()
