"""A linear ranker with a list's loss: the softmax cross-entropy of each query's gains (ListNet's top one), ridge-held.

With fewer than some hundred labelled queries it is hard to beat: it cannot learn a query by heart, and the ridge
shrinks the weights of columns that say the same. Columns are standardised, and what lies far outside is held at `CLIP`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import minimize

from endcap_pipelines.recipes import Examples, Parameters, chosen

# ESCI's gains.
GAINS = np.array([0.0, 0.01, 0.1, 1.0])
# In standard deviations.
CLIP = 5.0


@dataclass(frozen=True)
class Weights:
    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return np.clip((rows - self.mean) / self.scale, -CLIP, CLIP) @ self.weights

    def to_onnx(self) -> onnx.ModelProto:
        columns = len(self.weights)
        constants = {
            "mean": self.mean,
            "scale": self.scale,
            "low": np.float32(-CLIP),
            "high": np.float32(CLIP),
            "weights": self.weights[:, None],
        }
        graph = helper.make_graph(
            [
                helper.make_node("Sub", ["features", "mean"], ["centred"]),
                helper.make_node("Div", ["centred", "scale"], ["standard"]),
                helper.make_node("Clip", ["standard", "low", "high"], ["held"]),
                helper.make_node("MatMul", ["held", "weights"], ["score"]),
            ],
            "ranker",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", columns])],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return model


class Linear:
    """Has no randomness: `seed` changes nothing."""

    defaults: ClassVar[Parameters] = {"ridge": 0.3}
    space: ClassVar = {"ridge": (0.01, 10.0)}

    def fit(self, examples: Examples, parameters: Parameters, seed: int) -> Weights:
        ridge = float(chosen(self.defaults, parameters)["ridge"])
        rows = np.concatenate(examples.rows).astype(np.float64)
        mean, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-6
        standard = np.clip((rows - mean) / scale, -CLIP, CLIP)
        loss = _ListLoss(standard, examples.grades, ridge)
        found = minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B")
        return Weights(*(values.astype(np.float32) for values in (mean, scale, found.x)))


class _ListLoss:
    """Loss and slope at some weights, averaged over the queries that have any gain."""

    def __init__(self, rows: np.ndarray, grades: Sequence[np.ndarray], ridge: float) -> None:
        gains = GAINS[np.concatenate(grades)]
        sizes = np.array([len(group) for group in grades])
        self.rows, self.ridge = rows, ridge
        self.starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.owner = np.repeat(np.arange(len(sizes)), sizes)
        totals = np.add.reduceat(gains, self.starts)
        self.queries = max(int((totals > 0).sum()), 1)
        self.counts = (totals > 0)[self.owner]
        self.wanted = gains / np.where(totals > 0, totals, 1)[self.owner]

    def __call__(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = self.rows @ weights
        shifted = scores - np.maximum.reduceat(scores, self.starts)[self.owner]
        sums = np.add.reduceat(np.exp(shifted), self.starts)[self.owner]
        loss = -(self.wanted * (shifted - np.log(sums))).sum() / self.queries
        slope = self.rows.T @ ((np.exp(shifted) / sums - self.wanted) * self.counts) / self.queries
        return loss + self.ridge * (weights**2).sum() / 2, slope + self.ridge * weights
