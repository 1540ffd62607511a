"""Recipes: one way to train a ranker each, behind one interface.

A recipe turns examples into a model in ONNX that takes `features`, f32 [rows, columns], and gives `score`,
f32 [rows, 1]: what the fleet's workers run. Frameworks are imported when their recipe is asked for, so that the
environment needs only those it uses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import numpy as np
import onnx

Parameters = Mapping[str, int | float | str]


@dataclass(frozen=True)
class Examples:
    """What a ranker learns from: for each query a group of rows, f32 [items, columns], and as many grades, 0 to 3."""

    names: Sequence[str]
    rows: Sequence[np.ndarray]
    grades: Sequence[np.ndarray]


class Fitted(Protocol):
    """A trained ranker."""

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """f32 [rows, columns] to f32 [rows]; what `to_onnx` gives, to 1e-4."""
        ...

    def to_onnx(self) -> onnx.ModelProto: ...


class Recipe(Protocol):
    """A trainer: the same examples, parameters and seed give the same model."""

    defaults: Parameters
    # For the search of parameters: name to its lowest and highest value, or to the choices.
    space: Mapping[str, tuple[float, float] | tuple[int, int] | Sequence[str]]

    def fit(self, examples: Examples, parameters: Parameters, seed: int) -> Fitted: ...


# Name to module and class.
RECIPES = {
    "keras_click": "endcap_pipelines.recipes.keras_click:ClickModel",
    "keras_pruned": "endcap_pipelines.recipes.keras_pruned:Pruned",
    "keras_quantized": "endcap_pipelines.recipes.keras_pruned:Quantized",
    "lightgbm": "endcap_pipelines.recipes.lightgbm:LambdaMart",
    "linear": "endcap_pipelines.recipes.linear:Linear",
    "paddle_mlp": "endcap_pipelines.recipes.paddle_mlp:PaddleMlp",
    "torch_dcn": "endcap_pipelines.recipes.torch_dcn:DeepCross",
}


def chosen(defaults: Parameters, parameters: Parameters) -> dict[str, int | float | str]:
    """The defaults with `parameters` over them. Raises ValueError for a name that they do not have."""
    unknown = [name for name in parameters if name not in defaults]
    if unknown:
        raise ValueError(f"parameters has {', '.join(unknown)}; expected some of {', '.join(defaults)}")
    return {**defaults, **parameters}


def recipe(name: str) -> Recipe:
    """Raises KeyError with the names there are, ImportError where its framework is not installed."""
    if name not in RECIPES:
        raise KeyError(f"no recipe {name!r}: expected one of {', '.join(sorted(RECIPES))}")
    module, _, member = RECIPES[name].partition(":")
    return getattr(import_module(module), member)()
