"""DCN-v2 in PyTorch: crosses of columns to a bounded degree beside a deep net (Wang and others, 2021).

An example of a recipe in PyTorch: its wheel takes 5 GB with CUDA's libraries, so that it is not among the trainers'
packages. `pip install torch onnxscript` into an environment of your own is all that it needs besides.
"""

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import torch

from endcap_pipelines.recipes import Examples, Parameters, chosen
from endcap_pipelines.recipes.linear import CLIP, GAINS

OPSET = 18


class Dcn(torch.nn.Module):
    """f32 [rows, columns] to f32 [rows, 1]; columns are standardised inside."""

    def __init__(self, mean: np.ndarray, scale: np.ndarray, crosses: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.from_numpy(scale))
        columns = len(mean)
        self.crosses = torch.nn.ModuleList(torch.nn.Linear(columns, columns) for _ in range(crosses))
        self.deep = torch.nn.Sequential(
            torch.nn.Linear(columns, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, hidden // 2), torch.nn.ReLU()
        )
        self.top = torch.nn.Linear(columns + hidden // 2, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        first = torch.clamp((features - self.mean) / self.scale, -CLIP, CLIP)
        crossed = first
        for cross in self.crosses:
            crossed = first * cross(crossed) + crossed
        return self.top(torch.cat([crossed, self.deep(first)], dim=1))


@dataclass(frozen=True)
class TorchRanker:
    model: Dcn

    def scores(self, rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.model(torch.from_numpy(rows.astype(np.float32))).numpy()[:, 0]

    def to_onnx(self) -> onnx.ModelProto:
        written = io.BytesIO()
        # Two rows: an exporter that sees one takes the first dimension for a constant.
        example = torch.zeros(2, len(self.model.mean))
        exported = torch.onnx.export(
            self.model,
            (example,),
            input_names=["features"],
            output_names=["score"],
            dynamic_shapes={"features": {0: torch.export.Dim("rows")}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        exported.save(written)
        return onnx.load_from_string(written.getvalue())


class DeepCross:
    defaults: ClassVar[Parameters] = {
        "crosses": 2,
        "hidden": 32,
        "epochs": 20,
        "learning_rate": 0.003,
        "weight_decay": 0.01,
    }
    space: ClassVar = {
        "crosses": (1, 4),
        "hidden": (8, 128),
        "epochs": (5, 60),
        "learning_rate": (0.0003, 0.03),
        "weight_decay": (0.001, 1.0),
    }

    def fit(self, examples: Examples, parameters: Parameters, seed: int) -> TorchRanker:
        settings = chosen(self.defaults, parameters)
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        # So small a net loses more by handing work to other threads than it gains.
        torch.set_num_threads(1)
        random = np.random.default_rng(seed)
        rows = np.concatenate(examples.rows).astype(np.float32)
        model = Dcn(
            rows.mean(axis=0),
            rows.std(axis=0) + np.float32(1e-6),
            int(settings["crosses"]),
            int(settings["hidden"]),
        )
        optimizer = torch.optim.AdamW(
            model.parameters(), float(settings["learning_rate"]), weight_decay=float(settings["weight_decay"])
        )
        gains = [GAINS[grades].astype(np.float32) for grades in examples.grades]
        # A query without any gain says nothing about an order.
        queries = [i for i, gain in enumerate(gains) if gain.sum() > 0]
        for _ in range(int(settings["epochs"])):
            for i in random.permutation(queries):
                scores = model(torch.from_numpy(examples.rows[i].astype(np.float32)))[:, 0]
                loss = -(torch.from_numpy(gains[i] / gains[i].sum()) * torch.log_softmax(scores, dim=0)).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        model.eval()
        return TorchRanker(model)
