"""A ranker trained over the fused lists, as it is packed."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from endcap_pipelines import encoder, fused, fused_bundle


@pytest.fixture(scope="module")
def source(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(data, tmp_path_factory.mktemp("source"), fused.fielded())


def _build(data: Path, out: Path, recipe: fused.Recipe) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        # An encoder that knows little is soon trained.
        patch.setattr(fused_bundle, "prepare", partial(encoder.prepare, steps=40))
        fused_bundle.build(data, out, recipe, 7)
    return out


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_its_golden_requests_are_what_the_packed_ranker_answers(source: Path) -> None:
    session = ort.InferenceSession(source / "ranker.onnx")
    names = json.loads((source / "model.json").read_text())["ranker"]["inputs"][0]["features"]
    for request in _lines(source / "golden.jsonl"):
        rows = np.array(request["inputs"]["features"], np.float32)
        assert rows.shape[1] == len(names) == 26
        scores = session.run(["score"], {"features": rows})[0][:, 0]
        np.testing.assert_allclose(scores, request["scores"], rtol=0, atol=1e-6)


def test_what_it_was_not_trained_on_it_ranks_better_than_the_fused_lists_do(
    data: Path, source: Path, tmp_path: Path
) -> None:
    _build(data, tmp_path, fused.rrf())
    figures = [json.loads((each / "evaluation.json").read_text())["metrics"] for each in (source, tmp_path)]
    assert figures[0]["cv_ndcg@10"] > figures[1]["ndcg@10"] + 0.02


def test_the_share_of_a_fields_words_is_told_to_workers_by_the_columns_that_it_is_computed_of(source: Path) -> None:
    specs = {spec["name"]: spec for spec in json.loads((source / "features.json").read_text())["features"]}
    for name, columns in fused.FIELDS.items():
        assert specs[f"match.{name}"]["compute"] == {"kind": "token_share", "columns": columns}
