"""LambdaMART, the default of search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import lightgbm as lgb
import numpy as np
import onnx

from endcap_pipelines import ranker
from endcap_pipelines.recipes import Examples, Parameters


@dataclass(frozen=True)
class Trees:
    booster: lgb.Booster
    names: list[str]

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return self.booster.predict(rows).astype(np.float32)

    def to_onnx(self) -> onnx.ModelProto:
        return ranker.to_onnx(self.booster, self.names)


class LambdaMart:
    defaults: Parameters = {}
    space: Mapping[str, tuple[float, float] | tuple[int, int] | Sequence[str]] = {}

    def fit(self, examples: Examples, parameters: Parameters, seed: int) -> Trees:
        if parameters:
            raise ValueError(f"lightgbm takes no parameters; found {', '.join(parameters)}")
        names = list(examples.names)
        return Trees(ranker.train(examples.rows, examples.grades, names, seed), names)
