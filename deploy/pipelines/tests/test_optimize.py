"""Forms of a model: what is made, what is refused and why, what is chosen."""

from pathlib import Path

import lightgbm as lgb
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from endcap_pipelines import optimize, ranker

WIDTH, HIDDEN = 32, 256


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A small two-layer network: dense layers are what int8 is for."""
    random = np.random.default_rng(3)
    weights = {
        "first": random.normal(0, 0.3, (WIDTH, HIDDEN)).astype(np.float32),
        "middle": random.normal(0, 0.1, (HIDDEN, HIDDEN)).astype(np.float32),
        "last": random.normal(0, 0.3, (HIDDEN, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["features", "first"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "middle"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "last"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "ranker.onnx")
    return tmp_path / "ranker.onnx"


def rows(count: int, seed: int = 5) -> dict[str, np.ndarray]:
    """Rows of very different size, as prices beside shares are."""
    random = np.random.default_rng(seed)
    scale = 10 ** random.uniform(-2, 1, (count, 1))
    return {"features": (random.normal(0, 1, (count, WIDTH)) * scale).astype(np.float32)}


def agreement(model: Path) -> optimize.Quality:
    """How well a form orders rows as the original does: a correlation, 1 for the original."""
    feeds = rows(200, seed=9)
    truth = optimize.session(model).run(None, feeds)[0][:, 0]
    return lambda opened: float(np.corrcoef(truth, opened.run(None, feeds)[0][:, 0])[0, 1])


def verdicts(model: Path, out: Path, budget: float) -> dict[str, optimize.Verdict]:
    made = optimize.forms(model, out, [rows(64, seed=s) for s in range(4)])
    return {v.form.name: v for v in optimize.judge(made, rows(200), agreement(model), budget)}


def test_static_int8_is_a_quarter_of_the_size_and_is_served_within_the_budget(network: Path, tmp_path: Path) -> None:
    found = verdicts(network, tmp_path / "forms", budget=0.05)
    assert found["int8-static"].bytes < 0.4 * found["fp32"].bytes
    assert found["int8-static"].neighbours <= optimize.BATCH_TOLERANCE
    assert 0 < found["int8-static"].loss < 0.05
    assert not found["int8-static"].refused or "as long as" in found["int8-static"].refused
    smaller = [v for v in found.values() if not v.refused]
    assert optimize.choose(list(found.values())).bytes == min(v.bytes for v in smaller)


def test_a_budget_of_nothing_refuses_what_loses_anything(network: Path, tmp_path: Path) -> None:
    found = verdicts(network, tmp_path / "forms", budget=0.0)
    assert found["int8-static"].refused.startswith("loses 0.")
    assert optimize.choose(list(found.values())).form.name != "int8-static"


def test_dynamic_int8_is_refused_because_rows_move_with_their_neighbours(network: Path, tmp_path: Path) -> None:
    dynamic = verdicts(network, tmp_path / "forms", budget=1.0)["int8-dynamic"]
    assert dynamic.neighbours > optimize.BATCH_TOLERANCE
    assert "with its neighbours" in dynamic.refused


def test_dynamic_int8_is_served_where_rows_have_no_neighbours(network: Path, tmp_path: Path) -> None:
    made = optimize.forms(network, tmp_path / "forms", [rows(64)])
    judged = optimize.judge(made, rows(200), agreement(network), budget=1.0, alone=rows(1))
    dynamic = next(v for v in judged if v.form.name == "int8-dynamic")
    assert dynamic.neighbours > optimize.BATCH_TOLERANCE
    assert not dynamic.refused or "as long as" in dynamic.refused


def test_trees_have_nothing_to_gain_and_stay_as_they_are(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    data = random.normal(0, 1, (400, 3))
    booster = lgb.train(
        {"verbose": -1, "num_threads": 1, "num_leaves": 7}, lgb.Dataset(data, data[:, 0] + data[:, 1]), 20
    )
    path = tmp_path / "ranker.onnx"
    onnx.save(ranker.to_onnx(booster, ["match.a", "match.b", "match.c"]), path)
    feeds = {"features": data[:200].astype(np.float32)}
    made = optimize.forms(path, tmp_path / "forms", [feeds])
    judged = optimize.judge(made, feeds, lambda _: 1.0, 0.01)
    assert optimize.choose(judged).form.name in {"fp32", "graph"}
    assert {v.form.name: bool(v.refused) for v in judged}["int8-dynamic"]


def test_the_table_says_what_each_form_cost_and_why_it_is_not_served(network: Path, tmp_path: Path) -> None:
    found = list(verdicts(network, tmp_path / "forms", budget=0.05).values())
    lines = list(optimize.table(found, optimize.choose(found)))
    assert len(lines) == 6
    assert sum("served" in line and "larger" not in line for line in lines) == 1
    assert any("with its neighbours" in line for line in lines)
