"""What every recipe promises, held against each with its real framework."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import onnxruntime as ort
import pytest

from conftest import examples, installed, ndcg, shuffled
from endcap_pipelines import optimize
from endcap_pipelines.recipes import RECIPES, Fitted, recipe

SEED = 7


every_recipe = pytest.mark.parametrize("name", [installed(name) for name in RECIPES])


@dataclass(frozen=True)
class Trained:
    fitted: Fitted
    session: ort.InferenceSession

    def onnx(self, rows: np.ndarray) -> np.ndarray:
        return self.session.run(["score"], {"features": rows})[0]


@cache
def trained(name: str) -> Trained:
    fitted = recipe(name).fit(examples(1), {}, SEED)
    session = ort.InferenceSession(fitted.to_onnx().SerializeToString(), providers=["CPUExecutionProvider"])
    return Trained(fitted, session)


@every_recipe
def test_the_same_seed_gives_the_same_model(name: str) -> None:
    rows = np.concatenate(examples(2).rows)
    again = recipe(name).fit(examples(1), {}, SEED)
    np.testing.assert_array_equal(again.scores(rows), trained(name).fitted.scores(rows))


@every_recipe
def test_onnx_scores_as_the_framework_does(name: str) -> None:
    rows = np.concatenate(examples(2).rows)
    scores = trained(name).onnx(rows)
    assert scores.shape == (len(rows), 1) and scores.dtype == np.float32
    np.testing.assert_allclose(scores[:, 0], trained(name).fitted.scores(rows), rtol=0, atol=1e-4)


@every_recipe
def test_columns_far_outside_what_was_seen_give_finite_scores(name: str) -> None:
    rows = np.array([[1e9] * 6, [-1e9] * 6, [0.0] * 6], np.float32)
    assert np.isfinite(trained(name).onnx(rows)).all()


@every_recipe
def test_a_row_scores_the_same_whatever_stands_beside_it(name: str) -> None:
    rows = np.concatenate(examples(2).rows)
    assert optimize.neighbours(trained(name).session, {"features": rows}) <= optimize.BATCH_TOLERANCE


@every_recipe
def test_it_learns_what_shuffled_labels_do_not_teach(name: str) -> None:
    unseen = examples(2)
    learnt = ndcg(unseen, lambda rows: trained(name).onnx(rows)[:, 0])
    nothing = recipe(name).fit(shuffled(examples(1), 3), {}, SEED)
    assert learnt > ndcg(unseen, nothing.scores) + 0.15


@every_recipe
def test_a_parameter_that_it_does_not_have_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="sparsness"):
        recipe(name).fit(examples(1, queries=2), {"sparsness": 0.5}, SEED)


@every_recipe
def test_every_parameter_that_is_searched_has_a_default_within_its_bounds(name: str) -> None:
    trainer = recipe(name)
    for parameter, values in trainer.space.items():
        default = trainer.defaults[parameter]
        assert default in values if isinstance(default, str) else values[0] <= default <= values[1], parameter
