"""What TF-MOT's recipes promise besides: they are smaller, and say what that cost."""

from pathlib import Path

import numpy as np
import pytest

from conftest import examples, ndcg
from endcap_pipelines.recipes import keras_pruned

SEED = 7


@pytest.fixture(scope="module")
def pruned() -> keras_pruned.Smaller:
    return keras_pruned.Pruned().fit(examples(1), {"sparsity": 0.8}, SEED)


def _kernels(smaller: keras_pruned.Smaller) -> list[np.ndarray]:
    return [layer.get_weights()[0] for layer in smaller.model.layers if layer.weights]


def test_four_weights_of_five_are_zero_after_pruning(pruned: keras_pruned.Smaller) -> None:
    for kernel in _kernels(pruned):
        # The last layer has few weights: a share of them is rounded to a whole number.
        assert np.mean(kernel == 0) >= 0.75, kernel.shape


def test_the_hidden_layer_has_at_most_255_values_after_quantizing() -> None:
    quantized = keras_pruned.Quantized().fit(examples(1), {}, SEED)
    kernel = _kernels(quantized)[-2]
    steps = kernel / (np.abs(kernel).max() / keras_pruned.LEVELS)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def test_the_report_says_size_time_and_quality_before_and_after(pruned: keras_pruned.Smaller, tmp_path: Path) -> None:
    unseen = examples(2, queries=20)
    rows = np.concatenate(unseen.rows)

    def quality(scores: np.ndarray) -> float:
        of_rows = dict(zip(map(bytes, rows), scores, strict=True))
        return ndcg(unseen, lambda some: np.array([of_rows[bytes(row)] for row in some]))

    judged, compressed = keras_pruned.report(pruned, rows, quality, tmp_path)
    names = [verdict.form.name for verdict in judged]
    assert names == ["before", "before, int8", "after", "after, int8"]
    before, after = judged[0], judged[2]
    assert compressed[2] < 0.8 * compressed[0]
    assert after.quality == pytest.approx(ndcg(unseen, pruned.scores), abs=1e-6)
    assert before.quality == pytest.approx(ndcg(unseen, pruned.before.scores), abs=1e-6)
    lines = list(keras_pruned.table(judged, compressed))
    assert len(lines) == 5 and "gzip" in lines[0]
