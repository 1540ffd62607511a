"""Definitions that the fleet shares, and the conversion that must not move a score."""

import lightgbm as lgb
import numpy as np
import onnxruntime as ort
import pytest

from endcap_pipelines import lists, metrics, ranker, text


def test_tokens_are_lower_cased_runs_of_letters_and_digits() -> None:
    assert text.tokens("Red-Kettle, 1.8 l (ÉMAIL)") == ["red", "kettle", "1", "8", "l", "mail"]
    assert text.distinct("red Red kettle") == ["red", "kettle"]


def test_negated_tokens_follow_a_negation() -> None:
    assert text.negated("kettle without red red lid") == ["red", "lid"]


def test_queries_are_normalised_as_the_gateway_does() -> None:
    assert text.normalised("  Red\t kettle \n") == "Red kettle"


def test_metrics_computed_by_hand() -> None:
    gains = {"a": 1.0, "b": 0.1, "c": 1.0, "d": 0.0}
    ideal = 1 + 1 / np.log2(3) + 0.1 / 2
    assert metrics.ndcg(10, ["b", "x", "a"], gains) == pytest.approx((0.1 + 0.5) / ideal)
    assert metrics.recall(10, ["b", "x", "a"], gains) == 0.5
    assert metrics.precision(10, ["b", "x", "a"], gains) == 0.1
    assert metrics.ndcg(10, ["a"], {}) == 0


def test_the_converted_trees_score_as_the_trained_ones() -> None:
    random = np.random.default_rng(3)
    names = ["a", "b", "c", "d"]
    # Whole numbers, so that rows fall exactly on thresholds, where rounding would show.
    rows = [random.integers(0, 6, (40, 4)).astype(np.float32) for _ in range(30)]
    grades = [np.minimum(group[:, 0].astype(int), 3) for group in rows]
    booster = ranker.train(rows, grades, names, seed=1)
    assert isinstance(booster, lgb.Booster)
    model = ranker.to_onnx(booster, names)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    features = np.concatenate(rows)
    scores = session.run(["score"], {"features": features})[0][:, 0]
    np.testing.assert_allclose(scores, booster.predict(features), rtol=1e-5, atol=1e-5)
    alone = [session.run(["score"], {"features": row[None]})[0][0, 0] for row in features[:50]]
    np.testing.assert_allclose(scores[:50], alone, rtol=1e-5, atol=1e-5)


def test_thresholds_are_rounded_down() -> None:
    for threshold in [0.1, 1.0, 2.5000000001, 1e-35, -0.3]:
        assert ranker._down(threshold) <= threshold
        assert ranker._down(threshold) == float(np.float32(ranker._down(threshold)))


def test_bm25_computed_by_hand() -> None:
    bm25 = lists.Bm25(["red kettle red", "lamp", "red", "blue mug"])
    idf = np.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    expected = idf * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 1.75))
    assert bm25.scores("Red")[0] == pytest.approx(expected, rel=1e-6)
    assert bm25.scores("red red")[0] == pytest.approx(2 * expected, rel=1e-6)
    assert bm25.scores("unheard of").tolist() == [0, 0, 0, 0]


def test_fused_lists_stand_as_computed_by_hand() -> None:
    cosine, bm25 = np.array([0.9, 0.5, 0.7, 0.1]), np.array([0.0, 2.0, 1.0, 3.0])
    by_id = np.arange(4)
    found = lists.Lists.of(cosine, bm25, by_id, 2)
    assert found.standing(by_id) == {
        "dense_top": 0.9,
        "lexical_top": 3.0,
        "dense_ranks": [1, 0, 2, 0],
        "lexical_ranks": [0, 2, 0, 1],
    }
    # 0 and 3 lead one list each, 1 and 2 are second in one: ties in order of ids.
    assert found.fused(by_id).tolist() == [0, 3, 1, 2]
