"""An MLP in PaddlePaddle, with a list's loss, converted by paddle2onnx as every exported Paddle model is."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx

from endcap_pipelines.recipes import Examples, Parameters, chosen
from endcap_pipelines.recipes.linear import CLIP, GAINS

# Which also sees to it that Paddle is loaded where it can be.
from endcap_pipelines.recipes.paddle_import import convert, paddle


class Mlp(paddle.nn.Layer):
    """f32 [rows, columns] to f32 [rows, 1]; columns are standardised inside."""

    def __init__(self, mean: np.ndarray, scale: np.ndarray, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", paddle.to_tensor(mean))
        self.register_buffer("scale", paddle.to_tensor(scale))
        self.layers = paddle.nn.Sequential(
            paddle.nn.Linear(len(mean), hidden),
            paddle.nn.ReLU(),
            paddle.nn.Linear(hidden, hidden // 2),
            paddle.nn.ReLU(),
            paddle.nn.Linear(hidden // 2, 1),
        )

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        return self.layers(paddle.clip((features - self.mean) / self.scale, -CLIP, CLIP))


@dataclass(frozen=True)
class PaddleRanker:
    model: Mlp

    def scores(self, rows: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            return self.model(paddle.to_tensor(rows.astype(np.float32))).numpy()[:, 0]

    def export(self, folder: Path) -> None:
        """As an inference model: the program and its parameters, as AI Studio's projects give them."""
        columns = self.model.mean.shape[0]
        spec = [paddle.static.InputSpec([None, columns], "float32", name="features")]
        paddle.jit.save(self.model, str(folder / "inference"), input_spec=spec)

    def to_onnx(self) -> onnx.ModelProto:
        with tempfile.TemporaryDirectory() as work:
            self.export(Path(work))
            return convert(Path(work))


class PaddleMlp:
    defaults: ClassVar[Parameters] = {"hidden": 32, "epochs": 20, "learning_rate": 0.003, "weight_decay": 0.01}
    space: ClassVar = {
        "hidden": (8, 128),
        "epochs": (5, 60),
        "learning_rate": (0.0003, 0.03),
        "weight_decay": (0.001, 1.0),
    }

    def fit(self, examples: Examples, parameters: Parameters, seed: int) -> PaddleRanker:
        settings = chosen(self.defaults, parameters)
        paddle.seed(seed)
        random = np.random.default_rng(seed)
        rows = np.concatenate(examples.rows).astype(np.float32)
        model = Mlp(rows.mean(axis=0), rows.std(axis=0) + np.float32(1e-6), int(settings["hidden"]))
        optimizer = paddle.optimizer.AdamW(
            float(settings["learning_rate"]),
            parameters=model.parameters(),
            weight_decay=float(settings["weight_decay"]),
        )
        gains = [GAINS[grades].astype(np.float32) for grades in examples.grades]
        # A query without any gain says nothing about an order.
        queries = [i for i, gain in enumerate(gains) if gain.sum() > 0]
        for _ in range(int(settings["epochs"])):
            for i in random.permutation(queries):
                scores = model(paddle.to_tensor(examples.rows[i].astype(np.float32)))[:, 0]
                wanted = paddle.to_tensor(gains[i] / gains[i].sum())
                loss = -(wanted * paddle.nn.functional.log_softmax(scores, axis=0)).sum()
                loss.backward()
                optimizer.step()
                optimizer.clear_grad()
        model.eval()
        return PaddleRanker(model)
