"""Whatever ranks the fused lists is packed with golden requests that it answers."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from endcap_pipelines import encoder, fused_bundle


def test_the_fusion_is_packed_as_its_own_score(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An encoder that knows little is soon trained.
    monkeypatch.setattr(fused_bundle, "prepare", partial(encoder.prepare, steps=40))
    fused_bundle.build(data, tmp_path, "rrf", 7)
    session = ort.InferenceSession(tmp_path / "ranker.onnx")
    requests = [json.loads(line) for line in (tmp_path / "golden.jsonl").read_text().splitlines()]
    assert len(requests) >= 24
    for request in requests:
        rows = np.array(request["inputs"]["features"], np.float32)
        scores = session.run(["score"], {"features": rows})[0][:, 0]
        np.testing.assert_allclose(scores, request["scores"], rtol=0, atol=1e-6)
        ranks = [request["standing"][f"{name}_ranks"] for name in ("dense", "lexical")]
        expected = [60 * sum(1 / (60 + rank) for rank in pair if rank) for pair in zip(*ranks, strict=True)]
        np.testing.assert_allclose(scores, expected, rtol=1e-6)
