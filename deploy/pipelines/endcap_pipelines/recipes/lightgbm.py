"""LambdaMART: boosted trees on the order of each query's items, what search runs on in most shops.

`ranker.py` trains and converts it; this puts it behind the interface of recipes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import lightgbm as lgb
import numpy as np
import onnx

from endcap_pipelines import ranker
from endcap_pipelines.recipes import Examples, Parameters, chosen


@dataclass(frozen=True)
class Trees:
    booster: lgb.Booster
    names: Sequence[str]

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.booster.predict(rows), dtype=np.float32)

    def to_onnx(self) -> onnx.ModelProto:
        return ranker.to_onnx(self.booster, list(self.names))


class LambdaMart:
    defaults: ClassVar[Parameters] = ranker.DEFAULTS
    space: ClassVar = {
        "trees": (50, 400),
        "learning_rate": (0.01, 0.1),
        "num_leaves": (4, 31),
        "min_data_in_leaf": (10, 200),
        "feature_fraction": (0.3, 1.0),
        "lambda_l2": (0.1, 30.0),
    }

    def fit(self, examples: Examples, parameters: Parameters, seed: int) -> Trees:
        settings = chosen(self.defaults, parameters)
        booster = ranker.train(examples.rows, examples.grades, list(examples.names), seed, settings)
        return Trees(booster, examples.names)
