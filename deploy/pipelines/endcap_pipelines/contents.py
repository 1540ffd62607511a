"""What a bundle source holds beside the models: items, features, evaluation, and what the final files answer."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from endcap_pipelines.candidates import AFFINITY
from endcap_pipelines.data import Data
from endcap_pipelines.encoder import Encoder
from endcap_pipelines.features import Features
from endcap_pipelines.source import floats, labels, popular, write_items, write_json, write_lines

GOLDEN_REQUESTS = 24
GOLDEN_ITEMS = 24
TEXTS = ["name", "product_class", "category_hierarchy", "brand", "color", "text"]


def write(
    out: Path, encoder: Encoder, features: Features, evaluation: dict[str, object], model: dict[str, object]
) -> None:
    """Into a folder in which the models lie already."""
    data = features.data
    write_json(out / "evaluation.json", evaluation | {"fingerprints": data.fingerprints})
    write_json(out / "features.json", features.schema())
    write_json(out / "popular.json", {"overall": popular(data)})
    write_json(out / "model.json", model)
    columns = {name: data.columns[name] for name in TEXTS}
    write_items(out / "items.parquet", data, encoder.items, columns, features.items)
    write_lines(out / "labels.jsonl", labels(data))
    session = ort.InferenceSession(out / "ranker.onnx", providers=["CPUExecutionProvider"])
    write_lines(out / "golden.jsonl", golden(data, encoder, features, session))


def golden(data: Data, encoder: Encoder, features: Features, session: ort.InferenceSession) -> list[dict[str, object]]:
    """Complete requests with what they must give, taken from ONNX Runtime on the final files."""
    requests: list[dict[str, object]] = []
    for i in range(0, len(data.queries), max(len(data.queries) // GOLDEN_REQUESTS, 1)):
        query = data.queries[i]
        lists = features.lists(query, encoder)
        retrieved = features.retrieved(lists)
        items = retrieved[:: max(len(retrieved) // GOLDEN_ITEMS, 1)][:GOLDEN_ITEMS]
        # And one that stands in no list.
        items = np.append(items, np.argmin(lists.cosine))
        rows = features.rows(query, lists, items)
        given: dict[str, list[float]] = {}
        if features.candidates.personal:
            given[AFFINITY] = [[-0.75, 0.0, 0.5][len(requests) % 3]]
            rows[:, features.names.index(AFFINITY)] = given[AFFINITY][0]
        request: dict[str, object] = {
            "query": query,
            "features": given,
            "query_vector": floats(encoder.encode(query)),
            "item_ids": [data.ids[item] for item in items],
            "inputs": {"features": [floats(row) for row in rows]},
            "scores": floats(session.run(["score"], {"features": rows})[0][:, 0]),
        }
        if features.candidates.listed:
            request["standing"] = lists.standing(items)
        requests.append(request)
    return requests
