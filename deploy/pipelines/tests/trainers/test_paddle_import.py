"""A model built elsewhere arrives as an exported folder, as AI Studio gives it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import paddle
import pytest

from conftest import COLUMNS, examples
from endcap_pipelines.recipes import paddle_import, paddle_mlp


def _export(layer: paddle.nn.Layer, folder: Path, shape: list[int | None], numbers: str = "float32") -> Path:
    layer.eval()
    paddle.jit.save(layer, str(folder / "inference"), input_spec=[paddle.static.InputSpec(shape, numbers, name="x")])
    return folder


def test_an_exported_folder_becomes_a_ranker_by_one_command(tmp_path: Path) -> None:
    fitted = paddle_mlp.PaddleMlp().fit(examples(1, queries=10), {"epochs": 2}, 7)
    fitted.export(tmp_path)
    out = tmp_path / "ranker.onnx"
    command = [sys.executable, "-m", "endcap_pipelines.recipes.paddle_import", "--model", tmp_path, "--out", out]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    rows = examples(2).rows[0]
    scores = ort.InferenceSession(out).run(["score"], {"features": rows})[0][:, 0]
    np.testing.assert_allclose(scores, fitted.scores(rows), rtol=0, atol=1e-4)


def test_a_model_that_gives_one_number_a_row_without_a_column_is_taken_too(tmp_path: Path) -> None:
    class Flat(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.line = paddle.nn.Linear(COLUMNS, 1)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.line(x)[:, 0]

    layer = Flat()
    ranker = paddle_import.convert(_export(layer, tmp_path, [None, COLUMNS]))
    rows = examples(2).rows[0]
    scores = ort.InferenceSession(ranker.SerializeToString()).run(["score"], {"features": rows})[0]
    assert scores.shape == (len(rows), 1)
    np.testing.assert_allclose(scores[:, 0], layer(paddle.to_tensor(rows)).numpy(), rtol=0, atol=1e-4)


def test_a_model_that_is_no_ranker_is_refused_with_what_it_gives(tmp_path: Path) -> None:
    folder = _export(paddle.nn.Linear(COLUMNS, 2), tmp_path, [None, COLUMNS])
    with pytest.raises(paddle_import.ImportedModelError, match=r"\[0, 6\] to \[0, 2\]"):
        paddle_import.convert(folder)


def test_a_folder_without_a_model_is_refused_with_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(paddle_import.ImportedModelError, match=r"NAME.pdiparams.*notes.txt"):
        paddle_import.convert(tmp_path)
