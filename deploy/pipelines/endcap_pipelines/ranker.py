"""LambdaMART (LightGBM) on graded labels, and its conversion to ONNX."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightgbm as lgb
import numpy as np
import onnx
from onnx import TensorProto, helper

DEFAULTS: Mapping[str, int | float | str] = {
    "trees": 200,
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 30,
    "feature_fraction": 0.8,
    "lambda_l2": 1.0,
}


def train(
    rows: Sequence[np.ndarray],
    grades: Sequence[np.ndarray],
    names: list[str],
    seed: int,
    chosen: Mapping[str, int | float | str] = DEFAULTS,
) -> lgb.Booster:
    """One group of rows per query; grades 0 to 3. `chosen`: LightGBM's names, but `trees` for its rounds."""
    parameters = {
        "objective": "lambdarank",
        "label_gain": [0, 1, 10, 100],
        "lambdarank_truncation_level": 20,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbosity": -1,
        **{name: value for name, value in chosen.items() if name != "trees"},
    }
    data = lgb.Dataset(
        np.concatenate(rows), np.concatenate(grades), group=[len(group) for group in rows], feature_name=names
    )
    return lgb.train(parameters, data, num_boost_round=int(chosen["trees"]))


def to_onnx(booster: lgb.Booster, names: list[str]) -> onnx.ModelProto:
    """`features` [N, k] to `score` [N, 1]: the sum of the trees."""
    attributes: dict[str, Any] = {}
    trees = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    for tree_id, tree in enumerate(trees):
        for node in _nodes(tree, tree_id):
            for name, value in node.items():
                attributes.setdefault(name, []).append(value)
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["score"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        **{name: values for name, values in attributes.items() if name.startswith("nodes_")},
        **_targets(trees),
    )
    graph = helper.make_graph(
        [node],
        "ranker",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", len(names)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)])
    model.ir_version = 8
    return model


def _walk(node: dict[str, Any], counter: list[int]) -> Iterator[tuple[int, dict[str, Any], int, int]]:
    """Nodes with their number and those of their children, in depth-first order."""
    number = counter[0]
    counter[0] += 1
    if "leaf_value" in node:
        yield number, node, 0, 0
        return
    left = counter[0]
    below_left = list(_walk(node["left_child"], counter))
    right = counter[0]
    below_right = list(_walk(node["right_child"], counter))
    yield number, node, left, right
    yield from below_left
    yield from below_right


def _nodes(tree: dict[str, Any], tree_id: int) -> Iterator[dict[str, Any]]:
    for number, node, left, right in _walk(tree, [0]):
        leaf = "leaf_value" in node
        if not leaf and node["decision_type"] != "<=":
            raise ValueError(f"a split by {node['decision_type']!r} cannot be converted")
        yield {
            "nodes_treeids": tree_id,
            "nodes_nodeids": number,
            "nodes_featureids": 0 if leaf else node["split_feature"],
            "nodes_modes": "LEAF" if leaf else "BRANCH_LEQ",
            "nodes_values": 0.0 if leaf else _down(node["threshold"]),
            "nodes_truenodeids": left,
            "nodes_falsenodeids": right,
            "nodes_missing_value_tracks_true": 0 if leaf else int(node["default_left"]),
            "nodes_hitrates": 1.0,
        }


def _targets(trees: Sequence[dict[str, Any]]) -> dict[str, Any]:
    targets: dict[str, list[float]] = {key: [] for key in ["treeids", "nodeids", "ids", "weights"]}
    for tree_id, tree in enumerate(trees):
        for number, node, _, _ in _walk(tree, [0]):
            if "leaf_value" in node:
                targets["treeids"].append(tree_id)
                targets["nodeids"].append(number)
                targets["ids"].append(0)
                targets["weights"].append(float(node["leaf_value"]))
    return {f"target_{key}": values for key, values in targets.items()}


def _down(threshold: float) -> float:
    """The largest f32 that is not above: rounding up would move rows to the other side of a split."""
    narrow = np.float32(threshold)
    return float(narrow if float(narrow) <= threshold else np.nextafter(narrow, np.float32(-np.inf)))
