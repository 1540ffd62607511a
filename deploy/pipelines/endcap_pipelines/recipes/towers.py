"""Two-tower retrieval: what the recipes in TensorFlow and in PyTorch share.

Both towers stand on the text encoder, which stays as it is: one projection moves a query's vector, another one an
item's, before they are made unit length again. Each begins as the identity and a ridge holds it there, so that a few
pairs move little, and words that no pair has keep the encoder's meaning. They learn from pairs of a query and an item
that it led to, by a softmax over the items of the batch, each logit less the logarithm of the item's share of the
pairs, which is its chance to be there (Yi and others, RecSys 2019).

Plain gradient descent, on purpose: Adam moves every weight as far as any other, however little the pairs say of it, and
towers trained so on some dozen queries forget what the encoder knew. Nor are further items of the catalogue drawn into
a batch: an item that is right only for queries nobody has asked yet would be told away from all that were.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import numpy as np
import onnx
from onnx import compose, version_converter

from endcap_pipelines.recipes import Parameters

# Name to module and class.
TOWERS = {
    "keras_towers": "endcap_pipelines.recipes.keras_towers:KerasTowers",
    "torch_towers": "endcap_pipelines.recipes.torch_towers:TorchTowers",
}
DEFAULTS: Parameters = {
    "epochs": 5,
    "batch": 512,
    "learning_rate": 0.5,
    "ridge": 0.3,
    "temperature": 0.05,
}
# What both towers' graphs are called.
INPUT, OUTPUT = "embedding", "vector"
# What a data folder's encoder gives (README.md, The data).
ENCODED = "sentence_embedding"
_NEVER = np.float32(-1e9)


@dataclass(frozen=True)
class Pairs:
    """Vectors of queries and items as the encoder gives them, f32 of unit length, and which led to which.

    `pairs` is i64 [pairs, 2]: a query's row and an item's. A pair may be there several times, as in a log of clicks.
    """

    queries: np.ndarray
    items: np.ndarray
    pairs: np.ndarray


@dataclass(frozen=True)
class Batch:
    """f32: `queries` and `items` [rows, dim], a pair in each row; `shift` [rows, rows], what is added to the logits."""

    queries: np.ndarray
    items: np.ndarray
    shift: np.ndarray


class Fitted(Protocol):
    """Trained towers. Both take f32 [rows, dim] and give f32 [rows, dim] of unit length."""

    def queries(self, vectors: np.ndarray) -> np.ndarray: ...

    def items(self, vectors: np.ndarray) -> np.ndarray: ...

    def to_onnx(self) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        """The towers of queries and of items: `embedding` [rows, dim] to `vector` [rows, dim]."""
        ...


class TwoTower(Protocol):
    """A trainer: the same pairs, parameters and seed give the same towers."""

    def fit(self, given: Pairs, parameters: Parameters, seed: int) -> Fitted: ...


def two_tower(name: str) -> TwoTower:
    """Raises KeyError with the names there are, ImportError where its framework is not installed."""
    if name not in TOWERS:
        raise KeyError(f"no recipe {name!r}: expected one of {', '.join(sorted(TOWERS))}")
    module, _, member = TOWERS[name].partition(":")
    return getattr(import_module(module), member)()


def batches(given: Pairs, settings: Mapping[str, int | float | str], random: np.random.Generator) -> Iterator[Batch]:
    """Every pair once an epoch, in a new order each."""
    count, size = len(given.items), int(settings["batch"])
    right = np.unique(given.pairs @ [count, 1])
    share = np.bincount(given.pairs[:, 1], minlength=count) / len(given.pairs)
    for _ in range(int(settings["epochs"])):
        order = random.permutation(len(given.pairs))
        for start in range(0, len(order), size):
            queries, items = given.pairs[order[start : start + size]].T
            shift = np.tile(-np.log(share[items]), (len(queries), 1)).astype(np.float32)
            # Another item that is right for the query, too, is no mistake.
            known = np.isin(queries[:, None] * count + items, right)
            np.fill_diagonal(known, False)
            shift[known] = _NEVER
            yield Batch(given.queries[queries], given.items[items], shift)


def joined(encoder: onnx.ModelProto, output: str, tower: onnx.ModelProto) -> onnx.ModelProto:
    """One graph from the encoder's inputs to the tower's vector, which is called `sentence_embedding`."""
    opset = next(each.version for each in encoder.opset_import if each.domain in {"", "ai.onnx"})
    tower = version_converter.convert_version(tower, opset)
    tower.ir_version = encoder.ir_version
    tower = compose.add_prefix(tower, "tower.")
    merged = compose.merge_models(encoder, tower, io_map=[(output, f"tower.{INPUT}")])
    for node in merged.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                # The encoder's own output is now in the middle and makes room for the name.
                names[i] = {output: "encoded", f"tower.{OUTPUT}": ENCODED}.get(name, name)
    merged.graph.output[0].name = ENCODED
    merged.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    # Both graphs' opsets, the same one twice, are more than ONNX Runtime's quantizer takes.
    del merged.graph.value_info[:], merged.opset_import[:]
    merged.opset_import.extend(encoder.opset_import)
    onnx.checker.check_model(merged)
    return merged
