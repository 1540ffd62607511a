"""Two-tower retrieval (towers.py) in PyTorch; torch_dcn.py says how to come by it."""

import io
from dataclasses import dataclass

import numpy as np
import onnx
import torch

from endcap_pipelines.recipes import Parameters, chosen, towers
from endcap_pipelines.recipes.torch_dcn import OPSET


class Tower(torch.nn.Module):
    """f32 [rows, dim] to f32 [rows, dim] of unit length."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.change = torch.nn.Parameter(torch.zeros(dim, dim))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        moved = embedding + embedding @ self.change
        return moved / torch.sqrt((moved * moved).sum(dim=1, keepdim=True).clamp(min=1e-12))


@dataclass(frozen=True)
class TorchFitted:
    query: Tower
    item: Tower

    def queries(self, vectors: np.ndarray) -> np.ndarray:
        return _moved(self.query, vectors)

    def items(self, vectors: np.ndarray) -> np.ndarray:
        return _moved(self.item, vectors)

    def to_onnx(self) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        return _to_onnx(self.query), _to_onnx(self.item)


class TorchTowers:
    def fit(self, given: towers.Pairs, parameters: Parameters, seed: int) -> TorchFitted:
        settings = chosen(towers.DEFAULTS, parameters)
        torch.use_deterministic_algorithms(True)
        # So small a net loses more by handing work to other threads than it gains.
        torch.set_num_threads(1)
        random = np.random.default_rng(seed)
        query, item = (Tower(given.queries.shape[1]) for _ in range(2))
        # The ridge's half square has this decay as its gradient.
        optimizer = torch.optim.SGD(
            [*query.parameters(), *item.parameters()],
            float(settings["learning_rate"]),
            weight_decay=float(settings["ridge"]),
        )
        for batch in towers.batches(given, settings, random):
            queries, items, shift = map(torch.from_numpy, (batch.queries, batch.items, batch.shift))
            logits = query(queries) @ item(items).T / float(settings["temperature"]) + shift
            loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return TorchFitted(query.eval(), item.eval())


def _moved(tower: Tower, vectors: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return tower(torch.from_numpy(vectors.astype(np.float32))).numpy()


def _to_onnx(tower: Tower) -> onnx.ModelProto:
    written = io.BytesIO()
    exported = torch.onnx.export(
        tower,
        # Two rows: an exporter that sees one takes the first dimension for a constant.
        (torch.ones(2, len(tower.change)),),
        input_names=[towers.INPUT],
        output_names=[towers.OUTPUT],
        dynamic_shapes={"embedding": {0: torch.export.Dim("rows")}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    exported.save(written)
    return onnx.load_from_string(written.getvalue())
