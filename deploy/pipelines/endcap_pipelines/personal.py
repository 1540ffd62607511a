"""What a ranker cannot learn from labels, which belong to nobody: how dear a shopper likes things."""

import numpy as np
import onnx
import pyarrow.parquet as pq
from onnx import helper, numpy_helper

from endcap_pipelines.candidates import AFFINITY, LEVEL
from endcap_pipelines.data import Data, DataError
from endcap_pipelines.features import Features


def fit(data: Data, features: Features) -> float:
    """How much more a shopper of price affinity 1 likes the dear end, from clicks: a logistic slope."""
    events = pq.read_table(data.folder / "events.parquet").to_pydict()
    shoppers = pq.read_table(data.folder / "shoppers.parquet").to_pydict()
    affinity = dict(zip(shoppers["shopper_id"], shoppers["price_affinity"], strict=True))
    index = {item: row for row, item in enumerate(data.ids)}
    levels = features.items["price_level"]
    # Of shoppers and products that are no longer there, nothing is known.
    seen = [
        (affinity[shopper] * levels[index[item]], 1 / position, clicked)
        for shopper, item, position, clicked in zip(
            *(events[name] for name in ["shopper_id", "product_id", "position", "clicked"]), strict=True
        )
        if shopper in affinity and item in index
    ]
    if not seen:
        raise DataError(f"{data.folder / 'events.parquet'} has no event of a known shopper and product")
    liking, place, clicked = np.array(seen, dtype=float).T
    inputs = np.stack([np.ones_like(liking), liking, place], axis=1)
    weights = np.zeros(3)
    for _ in range(30):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs
        weights += np.linalg.solve(curvature + 1e-6 * np.eye(3), inputs.T @ (clicked - chance))
    return float(np.clip(weights[1], 0, 2))


def add(model: onnx.ModelProto, names: list[str], taste: float) -> onnx.ModelProto:
    """The model with taste x user.price_affinity x item.price_level added to its `score`."""
    if not any(opset.domain in {"", "ai.onnx"} for opset in model.opset_import):
        raise DataError("the recipe's model imports no standard operators; expected opset 17")
    added = onnx.ModelProto()
    added.CopyFrom(model)
    graph = added.graph
    for node in graph.node:
        node.output[:] = ["impersonal" if name == "score" else name for name in node.output]
        node.input[:] = ["impersonal" if name == "score" else name for name in node.input]
    for name, column in [("affinity", AFFINITY), ("level", LEVEL)]:
        graph.initializer.append(numpy_helper.from_array(np.array([names.index(column)], np.int64), f"{name}_column"))
        graph.node.append(helper.make_node("Gather", ["features", f"{name}_column"], [name], axis=1))
    graph.initializer.append(numpy_helper.from_array(np.array([taste], np.float32), "taste"))
    graph.node.append(helper.make_node("Mul", ["affinity", "level"], ["liking"]))
    graph.node.append(helper.make_node("Mul", ["liking", "taste"], ["personal"]))
    graph.node.append(helper.make_node("Add", ["impersonal", "personal"], ["score"]))
    return added
