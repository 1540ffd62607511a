"""The bundle source of what ranks fused lists: given, or trained here on the labels."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from endcap_pipelines import fused, metrics, recipes
from endcap_pipelines.data import Data, read
from endcap_pipelines.encoder import prepare
from endcap_pipelines.recipes import crossval
from endcap_pipelines.source import floats, labels, lineage, model, popular, say, write_items, write_json, write_lines

GOLDEN_REQUESTS = 24
GOLDEN_ITEMS = 24
RECIPES = {"fielded": fused.fielded, "lambdamart-22": fused.lambdamart_22, "rrf": fused.rrf}
FOLDS = 5
TEXTS = ["name", "product_class", "category_hierarchy", "brand", "color", "text"]


def build(folder: Path, out: Path, recipe: fused.Recipe, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    data = read(folder)
    say(f"{len(data.ids)} products, {len(data.queries)} labelled queries")
    encoder = prepare(data, out, seed)
    if "match.cosine" in recipe.names:
        say("encoding the items again, as f32")
        encoder.items = fused.exact_vectors(data, encoder)
    features = fused.FusedFeatures(data, encoder, recipe)
    unseen: dict[str, float] = {}
    if recipe.trainer:
        unseen = train(data, features, out, seed)
    else:
        fused.write_ranker(recipe, folder, out)
    session = ort.InferenceSession(out / "ranker.onnx", providers=["CPUExecutionProvider"])
    ranked = [rank(data, features, session, query) for query in data.queries]
    summary = metrics.summary([ranking for _, ranking in ranked], data.gains, len(data.ids)) | unseen
    write_json(out / "evaluation.json", {"metrics": summary, "fingerprints": data.fingerprints})
    write_json(out / "features.json", features.schema())
    write_json(out / "popular.json", {"overall": popular(data)})
    write_json(out / "model.json", model(encoder, recipe.names, recipe.retrieval(), lineage(data, seed)))
    numbers = {name: values for name, values in features.items.items() if f"item.{name}" in recipe.names}
    columns = {name: data.columns[name] for name in TEXTS}
    write_items(out / "items.parquet", data, encoder.items, columns, numbers)
    write_lines(out / "labels.jsonl", labels(data))
    write_lines(out / "golden.jsonl", golden(data, features, [pool for pool, _ in ranked], session))
    for name, value in summary.items():
        say(f"  {name:24} {value:.4f}")


def train(data: Data, features: fused.FusedFeatures, out: Path, seed: int) -> dict[str, float]:
    """Writes the ranker, and says how it ranks queries that it was not trained on."""
    trainer = recipes.recipe(features.recipe.trainer)
    pools = [features.training_pool(data, i) for i in range(len(data.queries))]
    task = crossval.Task(data, features.recipe.names, pools, {})

    def fit(examples: recipes.Examples) -> recipes.Fitted:
        return trainer.fit(examples, {}, seed)

    onnx.save(fit(crossval.examples(task.names, pools)).to_onnx(), out / "ranker.onnx")
    unseen = metrics.summary(crossval.held_out(task, fit, FOLDS), data.gains, len(data.ids))
    return {f"cv_{name}": value for name, value in unseen.items() if name != "queries"}


def rank(
    data: Data, features: fused.FusedFeatures, session: ort.InferenceSession, query: str
) -> tuple[np.ndarray, list[str]]:
    """The pool of a query, and its ids by score, ties by id."""
    lists = features.lists(query)
    pool = features.pool(lists)
    scores = session.run(["score"], {"features": features.rows(query, lists, pool)})[0][:, 0]
    order = np.lexsort((features.by_id[pool], -scores))
    return pool, [data.ids[row] for row in pool[order]]


def golden(
    data: Data, features: fused.FusedFeatures, pools: list[np.ndarray], session: ort.InferenceSession
) -> list[dict[str, object]]:
    """Complete requests with what they must give, taken from ONNX Runtime on the final files."""
    requests = []
    for i in range(0, len(pools), max(len(pools) // GOLDEN_REQUESTS, 1)):
        query, pool = data.queries[i], pools[i]
        lists = features.lists(query)
        items = pool[:: max(len(pool) // GOLDEN_ITEMS, 1)][:GOLDEN_ITEMS]
        # And one that stands in neither list.
        items = np.append(items, np.argmin(lists.cosine))
        rows = features.rows(query, lists, items)
        requests.append(
            {
                "query": query,
                "query_vector": floats(features.encoder.encode(query)),
                "item_ids": [data.ids[item] for item in items],
                "standing": lists.standing(items),
                "inputs": {"features": [floats(row) for row in rows]},
                "scores": floats(session.run(["score"], {"features": rows})[0][:, 0]),
            }
        )
    return requests
