"""The stages on a small shop: what each leaves, that they agree, and that faults stop them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import polars as pl
import pytest

import shop
from endcap_pipelines import bundle, candidates, metrics, params, personal, pools, ranker, stages
from endcap_pipelines.checks import ChecksFailed
from endcap_pipelines.data import DataError, sha256
from endcap_pipelines.params import Params, Prepare, Train
from endcap_pipelines.stages import bundle as bundling
from endcap_pipelines.stages import prepare, train

BEFORE_BUNDLE = ["check", "prepare", "train", "evaluate", "optimize"]


@pytest.fixture(scope="module")
def parameters(data: Path) -> Params:
    return Params(data, prepare=Prepare(steps=60), train=Train(recipe="linear"))


@pytest.fixture(scope="module")
def work(parameters: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which all stages up to the bundle's source have run."""
    folder = tmp_path_factory.mktemp("work")
    for stage in BEFORE_BUNDLE:
        stages.run(stage, parameters, folder)
    bundling.write(parameters, folder, folder / "source")
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_the_stages_lead_from_data_to_a_bundle_source(work: Path) -> None:
    found = {path.name for path in (work / "source").iterdir()}
    assert found == {
        *("model.json", "features.json", "popular.json", "items.parquet", "labels.jsonl", "golden.jsonl"),
        *("evaluation.json", "ranker.onnx", "encoder.onnx", "tokenizer.json"),
    }
    figures = read(work / "source/evaluation.json")["metrics"]
    assert figures["dense_ndcg@10"] < figures["unseen_ndcg@10"] <= figures["trained_ndcg@10"] + 0.01
    assert figures["ndcg@10"] > figures["dense_ndcg@10"] and figures["unseen_minus_rrf_ndcg@10_low"] > 0


def test_the_bundle_is_of_both_lists_and_all_their_features(work: Path) -> None:
    spec = read(work / "source/model.json")
    assert spec["retrieval"]["mode"] == "fused" and len(spec["ranker"]["inputs"][0]["features"]) == 27 + 2
    request = json.loads((work / "source/golden.jsonl").read_text().splitlines()[0])
    # One item stands in no list.
    standing = request["standing"]
    assert (standing["dense_ranks"][-1], standing["lexical_ranks"][-1]) == (0, 0)
    specs = {spec["name"]: spec for spec in read(work / "source/features.json")["features"]}
    for name, columns in candidates.FIELDS.items():
        assert specs[f"match.{name}"]["compute"] == {"kind": "token_share", "columns": columns}


def test_candidates_can_be_those_by_vector_alone(parameters: Params, tmp_path: Path) -> None:
    alone = replace(parameters, prepare=Prepare(steps=60, candidates="dense"), optimize=params.Optimize(models=[]))
    bundle.build(alone, tmp_path / "source")
    spec = read(tmp_path / "source/model.json")
    assert spec["retrieval"] == {"depth": 200} and spec["lineage"]["candidates"] == "dense"
    figures = read(tmp_path / "source/evaluation.json")["metrics"]
    assert figures["recall@100"] == pytest.approx(figures["unseen_recall@100"], abs=0.05)
    assert "standing" not in json.loads((tmp_path / "source/golden.jsonl").read_text().splitlines()[0])


def test_nothing_is_trained_on_what_is_held_out(work: Path, parameters: Params, data: Path, tmp_path: Path) -> None:
    apart = set(prepare.held_out(work))
    queries = pl.read_parquet(data / "queries_open.parquet")
    assert 0 < len(apart) < len(queries) / 2
    # Only what the labels of those queries say is changed: to the contrary.
    other = tmp_path / "data"
    shutil.copytree(data, other)
    contrary = {"Exact": "Irrelevant", "Irrelevant": "Exact"}
    labels = pl.read_parquet(data / "labels_open.parquet")
    held = pl.col("query_id").cast(pl.String).is_in(apart)
    flipped = pl.when(held).then(pl.col("label").replace(contrary)).otherwise("label").alias("label")
    labels.with_columns(flipped).write_parquet(other / "labels_open.parquet")
    changed = replace(parameters, data=other, optimize=params.Optimize(models=["ranker"]))
    bundle.build(changed, tmp_path / "source")
    one, two = (read(folder / "source/model.json")["lineage"] for folder in (work, tmp_path))
    assert one["ranker.trained"] == two["ranker.trained"] and one["data.labels_open"] != two["data.labels_open"]
    one, two = (read(folder / "source/evaluation.json")["metrics"] for folder in (work, tmp_path))
    assert one["trained_ndcg@10"] == two["trained_ndcg@10"] and one["held_out_ndcg@10"] > two["held_out_ndcg@10"] + 0.2


def test_what_is_held_out_follows_from_a_querys_words_alone() -> None:
    queries = [f"{color} {noun}" for color in shop.COLORS for noun in shop.CLASSES]
    first = pools.held_out(queries, 0.3)
    turned = pools.held_out([" ".join(reversed(query.upper().split())) for query in queries], 0.3)
    np.testing.assert_array_equal(first, turned)
    np.testing.assert_array_equal(first[10:], pools.held_out(queries[10:], 0.3))
    assert (pools.held_out(queries, 0.5) >= first).all() and 0 < first.sum() < len(queries) / 2


def test_a_share_that_holds_nothing_out_stops_the_run(parameters: Params, tmp_path: Path) -> None:
    none = replace(parameters, prepare=Prepare(steps=60, held_out=1e-9))
    with pytest.raises(DataError, match="of 31 queries 0 are held out"):
        stages.run("prepare", none, tmp_path)


def test_golden_requests_are_what_the_final_files_give(work: Path) -> None:
    session = ort.InferenceSession(work / "source/ranker.onnx", providers=["CPUExecutionProvider"])
    lines = (work / "source/golden.jsonl").read_text().splitlines()
    assert len(lines) >= 24
    for request in map(json.loads, lines):
        scores = session.run(["score"], {"features": np.array(request["inputs"]["features"], np.float32)})[0][:, 0]
        np.testing.assert_allclose(scores, request["scores"], atol=1e-6)


def test_the_lineage_names_data_and_models_by_digest(work: Path, data: Path) -> None:
    lineage = read(work / "source/model.json")["lineage"]
    assert lineage["data.products"] == sha256(data / "products.parquet")
    assert lineage["data.events"] == sha256(data / "events.parquet")
    assert lineage["ranker"] == sha256(work / "source/ranker.onnx")
    assert lineage["encoder"] == sha256(work / "source/encoder.onnx")
    assert lineage["ranker.trained"] == sha256(work / train.MODEL)
    assert (lineage["recipe"], lineage["seed"]) == ("linear", "7")


def test_the_evaluation_says_what_each_form_cost_and_gained(work: Path) -> None:
    evaluation = read(work / "source/evaluation.json")
    for name in ["ranker", "encoder"]:
        forms = evaluation["forms"][name]
        served = next(form for form in forms if form["served"])
        assert forms[0]["form"] == "fp32" and not served["refused"]
        assert served["bytes"] == (work / f"source/{name}.onnx").stat().st_size
        assert evaluation["metrics"][f"{name}_bytes"] <= evaluation["metrics"][f"{name}_bytes_before"]
        assert evaluation["metrics"][f"{name}_loss"] <= 0.005
    # The encoder's forms are judged by rankers that were trained without the query.
    quality, found = evaluation["forms"]["encoder"][0]["quality"], evaluation["metrics"]
    held_out = found["held_out_queries"]
    others = found["unseen_ndcg@10"] * found["unseen_queries"] - found["held_out_ndcg@10"] * held_out
    assert quality == pytest.approx(others / (found["unseen_queries"] - held_out), abs=1e-9)


def test_training_again_gives_the_same_model(work: Path, parameters: Params) -> None:
    before = sha256(work / train.MODEL)
    stages.run("train", parameters, work)
    assert sha256(work / train.MODEL) == before


def test_one_process_makes_what_the_stages_make(work: Path, parameters: Params, tmp_path: Path) -> None:
    bundle.build(parameters, tmp_path / "source")
    one, other = (read(folder / "source/model.json")["lineage"] for folder in (work, tmp_path))
    assert one["ranker"] == other["ranker"] and one["data"] == other["data"]
    assert (work / "source/features.json").read_bytes() == (tmp_path / "source/features.json").read_bytes()


def test_data_that_is_not_fit_stops_the_run(data: Path, parameters: Params, tmp_path: Path) -> None:
    broken = tmp_path / "data"
    broken.mkdir()
    for path in data.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    products = pl.read_parquet(broken / "products.parquet")
    stages.run("check", replace(parameters, data=broken), tmp_path / "work")
    products.with_columns(price=-1.0, rating=9.0).write_parquet(broken / "products.parquet")
    with pytest.raises(ChecksFailed, match=r"products.parquet/price(.|\n)*products.parquet/rating|2 errors"):
        stages.run("check", replace(parameters, data=broken), tmp_path / "work")
    assert not (tmp_path / "work/checked/passed.json").exists()
    assert (tmp_path / "work/checked/profile.json").exists()


def test_a_catalogue_that_moved_stops_the_run_until_it_is_accepted(
    data: Path, parameters: Params, tmp_path: Path
) -> None:
    moved = tmp_path / "data"
    moved.mkdir()
    for path in data.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    stages.run("check", parameters, tmp_path / "work")
    pl.read_parquet(data / "products.parquet").with_columns(pl.col("price") * 100).write_parquet(
        moved / "products.parquet"
    )
    with pytest.raises(ChecksFailed, match=r"price: PSI .*check.accept_drift"):
        stages.run("check", replace(parameters, data=moved), tmp_path / "work")
    stages.run("check", replace(parameters, data=moved, check=params.Check(accept_drift=True)), tmp_path / "work")
    # From now on this is what is compared with.
    stages.run("check", replace(parameters, data=moved), tmp_path / "work")


def test_queries_of_the_same_words_are_in_one_fold() -> None:
    fold = pools.folds(["red rug", "lamp", "Rug  RED", "stool", "lamp", "blue rug"], 2)
    assert fold == [0, 1, 0, 0, 1, 1]


def test_pools_are_read_as_they_were_written(work: Path, parameters: Params, tmp_path: Path) -> None:
    made = prepare.load(parameters, work).pools
    pools.save(tmp_path / "pools.npz", made[:3])
    for one, other in zip(made[:3], pools.load(tmp_path / "pools.npz"), strict=True):
        for name in pools.Pool.__annotations__:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_shuffled_labels_teach_something_else(work: Path, parameters: Params) -> None:
    prepared = prepare.load(parameters, work)
    names, made = prepared.features.names, prepared.pools
    shuffled = replace(parameters, train=Train(recipe="linear", shuffle_labels=True))
    honest, other = (train.fit(told, names, made).scores(made[0].rows) for told in (parameters, shuffled))
    grades = np.array([dict(zip(made[0].training, made[0].grades, strict=True))[item] for item in made[0].retrieved])
    assert np.corrcoef(honest, grades)[0, 1] > 0.5 > abs(np.corrcoef(other, grades)[0, 1])


def test_the_best_recipe_is_the_one_that_cross_validation_prefers(work: Path, parameters: Params) -> None:
    prepared = prepare.load(parameters, work)
    figures = {}
    for name in train.CHOICES:
        answers, _ = train.cross_validated(replace(parameters, train=Train(recipe=name)), prepared)
        assert answers.keys() == set(prepared.trained_on)
        figures[name] = sum(metrics.ndcg(10, answers[i], prepared.data.gains[i]) for i in answers)
    assert figures["linear"] != figures["lightgbm"]
    best = replace(parameters, train=Train())
    assert train.chosen(best, prepared) == max(figures, key=figures.__getitem__)
    # Whichever it is, the stage says it, and those that follow take it from there.
    stages.run("train", best, work)
    assert train.as_trained(best, work).train.recipe == max(figures, key=figures.__getitem__)
    stages.run("train", parameters, work)


def test_parameters_of_a_recipe_need_its_name(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: shop\ntrain: {parameters: {ridge: 1}}\n")
    with pytest.raises(DataError, match=r"train\.parameters is .*; expected none"):
        params.read(tmp_path / "params.yaml")


def test_a_recipe_that_is_not_there_is_told_with_those_that_are(work: Path, parameters: Params) -> None:
    with pytest.raises(DataError, match=r"no recipe 'magic': expected one of .*lightgbm"):
        stages.run("train", replace(parameters, train=Train(recipe="magic")), work)


def test_taste_is_added_to_whatever_was_trained() -> None:
    random = np.random.default_rng(3)
    names = ["a", "b", personal.LEVEL, personal.AFFINITY]
    rows = [random.normal(0, 1, (40, 4)).astype(np.float32) for _ in range(30)]
    booster = ranker.train(rows, [(group[:, 0] > 0).astype(int) for group in rows], names, seed=1)
    model = personal.add(ranker.to_onnx(booster, names), names, 0.5)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    features = np.concatenate(rows)
    expected = booster.predict(features) + 0.5 * features[:, 2] * features[:, 3]
    np.testing.assert_allclose(session.run(["score"], {"features": features})[0][:, 0], expected, rtol=1e-5, atol=1e-5)


def test_every_fault_of_the_parameters_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("data: shop\nseeds: 3\ntrain: {recipe: 5, epochs: 2}\noptimize: {budget: much}\n")
    with pytest.raises(DataError) as told:
        params.read(path)
    for expected in ["seeds is unknown", "train.recipe is 5", "train.epochs is unknown", "optimize.budget is 'much'"]:
        assert expected in str(told.value)


def test_values_given_by_name_go_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("data: shop\ngate: {margin: 0.01}\n")
    found = params.read(
        path, ["gate.margin=0.5", "train.recipe=linear", "train.parameters.rounds=3", "train.shuffle_labels=true"]
    )
    assert (found.data, found.gate.margin) == (tmp_path / "shop", 0.5)
    assert (found.train.parameters, found.train.shuffle_labels) == ({"rounds": 3}, True)
    with pytest.raises(DataError, match="expected at least 2"):
        params.read(path, ["evaluate.folds=1"])


def test_the_shipped_parameters_are_the_defaults() -> None:
    shipped = params.read(Path(__file__).parents[1] / "params.yaml")
    assert replace(shipped, data=Path()) == Params(Path())
