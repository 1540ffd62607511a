"""What the two-tower recipes promise, held against each with its real framework, up to the fleet that serves them."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest

from conftest import installed
from endcap_pipelines import contents, encoder, fused_bundle, metrics, optimize, source
from endcap_pipelines.candidates import Candidates
from endcap_pipelines.data import DataError, read
from endcap_pipelines.features import Features
from endcap_pipelines.fleet import Endcap
from endcap_pipelines.recipes import two_tower as command
from endcap_pipelines.recipes.towers import DEFAULTS, TOWERS, Fitted, Pairs, batches, joined, two_tower

SEED, DIM, QUERIES, ITEMS = 7, 16, 120, 400
TEXTS = ["red kettle", "a lamp of pine", "rug", "blue wool blanket for the stool of steel"]


every_recipe = pytest.mark.parametrize("name", [installed(name) for name in TOWERS])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def turned(seed: int) -> Pairs:
    """Queries lie where their items do, but for two axes that they have the wrong way round."""
    random = np.random.default_rng(seed)
    items = _unit(np.random.default_rng(0).normal(size=(ITEMS, DIM)))
    meant = _unit(random.normal(size=(QUERIES, DIM)))
    nearest = np.argsort(-(meant @ items.T), axis=1)[:, :5]
    queries = meant * np.array([-1, -1] + [1] * (DIM - 2), np.float32)
    return Pairs(queries, items, np.array([(q, item) for q, row in enumerate(nearest) for item in row]))


def recall(given: Pairs, queries: np.ndarray, items: np.ndarray) -> float:
    best = np.argsort(-(queries @ items.T), axis=1)[:, :10]
    return float(np.mean([item in best[query] for query, item in given.pairs]))


@cache
def trained(name: str) -> Fitted:
    return two_tower(name).fit(turned(1), {"ridge": 0.001, "epochs": 40}, SEED)


@pytest.fixture(scope="module")
def small(data: Path, tmp_path_factory: pytest.TempPathFactory) -> command.Material:
    """The small shop's encoder and clicks."""
    return command.material(data, "clicks", tmp_path_factory.mktemp("encoder"), SEED, steps=60)


@every_recipe
def test_the_same_seed_gives_the_same_towers(name: str) -> None:
    given = turned(2)
    again = two_tower(name).fit(turned(1), {"ridge": 0.001, "epochs": 40}, SEED)
    np.testing.assert_array_equal(again.queries(given.queries), trained(name).queries(given.queries))
    np.testing.assert_array_equal(again.items(given.items), trained(name).items(given.items))


@every_recipe
def test_towers_learn_what_holds_for_queries_that_they_have_not_seen(name: str) -> None:
    unseen = turned(2)
    plain = recall(unseen, unseen.queries, unseen.items)
    found = recall(unseen, trained(name).queries(unseen.queries), trained(name).items(unseen.items))
    assert found > plain + 0.2, (found, plain)


@every_recipe
def test_a_heavy_ridge_leaves_the_encoder_as_it_was(name: str) -> None:
    given = turned(1)
    held = two_tower(name).fit(given, {"ridge": 100.0, "learning_rate": 0.01}, SEED)
    np.testing.assert_allclose(held.queries(given.queries), given.queries, atol=0.02)


@every_recipe
def test_encoder_and_tower_are_one_graph_that_gives_what_both_give(
    name: str, small: command.Material, tmp_path: Path
) -> None:
    fitted = two_tower(name).fit(small.of(np.ones(len(small.queries), bool)), {}, SEED)
    original = onnx.load(small.work / "encoder.onnx")
    for tower, move in zip(fitted.to_onnx(), [fitted.queries, fitted.items], strict=True):
        onnx.save(joined(original, "vector", tower), tmp_path / "joined.onnx")
        session = ort.InferenceSession(tmp_path / "joined.onnx", providers=["CPUExecutionProvider"])
        assert [given.name for given in session.get_inputs()] == ["input_ids", "attention_mask"]
        for text in TEXTS:
            vector = encoder.encode(session, small.encoder.tokenizer, text, "sentence_embedding")
            np.testing.assert_allclose(vector, move(small.encoder.encode(text)[None])[0], rtol=0, atol=1e-4)
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert optimize.neighbours(session, _feeds(small, TEXTS)) <= optimize.BATCH_TOLERANCE
    made = optimize.forms(tmp_path / "joined.onnx", tmp_path / "forms", [_feeds(small, [text]) for text in TEXTS])
    assert [form.name for form in made if form.path] == ["fp32", "graph", "fp16", "int8-static", "int8-dynamic"], made


def _feeds(small: command.Material, texts: list[str]) -> dict[str, np.ndarray]:
    encodings = [small.encoder.tokenizer.encode(text).ids for text in texts]
    ids, mask = (np.zeros((len(texts), max(map(len, encodings))), np.int64) for _ in range(2))
    for row, found in enumerate(encodings):
        ids[row, : len(found)], mask[row, : len(found)] = found, 1
    return {"input_ids": ids, "attention_mask": mask}


@every_recipe
def test_a_parameter_that_it_does_not_have_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="sparsness"):
        two_tower(name).fit(turned(1), {"sparsness": 0.5}, SEED)


def test_logits_are_corrected_by_the_items_share_and_right_items_are_no_mistake() -> None:
    given = Pairs(np.eye(2, dtype=np.float32), np.eye(3, dtype=np.float32), np.array([[0, 0], [0, 1], [1, 0], [1, 2]]))
    (batch,) = batches(given, {**DEFAULTS, "epochs": 1}, np.random.default_rng(1))
    queries, items = batch.queries.argmax(axis=1), batch.items.argmax(axis=1)
    share, right = {0: 0.5, 1: 0.25, 2: 0.25}, {(0, 0), (0, 1), (1, 0), (1, 2)}
    for row, query in enumerate(queries):
        for column, item in enumerate(items):
            other = row != column and (query, item) in right
            expected = -1e9 if other else -np.log(share[item])
            assert batch.shift[row, column] == pytest.approx(expected), (row, column)


def test_towers_are_judged_without_pairs_of_the_querys_words(small: command.Material) -> None:
    words = [" ".join(sorted(query.split())) for query in small.queries]
    taught: list[set[str]] = []

    class Same:
        def queries(self, vectors: np.ndarray) -> np.ndarray:
            return vectors

        items = queries

    def fit(given: Pairs) -> Same:
        taught.append({words[query] for query in given.pairs[:, 0]})
        return Same()

    answers = command.unseen(small, fit, 3)
    assert len(taught) == 3 and all(len(answer) == command.DEPTH for answer in answers)
    # Every word is held out once, and what was changed nowhere answers as the encoder alone.
    assert set.intersection(*taught) == set() and set.union(*taught) == set(words)
    assert answers[3] == command.nearest(small.data, small.items, small.encoder.encode(small.data.queries[3]))


def test_a_folder_without_pairs_is_refused(data: Path, tmp_path: Path) -> None:
    for name in ["products", "queries_open", "labels_open"]:
        (tmp_path / f"{name}.parquet").write_bytes((data / f"{name}.parquet").read_bytes())
    with pytest.raises(DataError, match="no pairs of queries and items by clicks"):
        command.material(tmp_path, "clicks", tmp_path, SEED)


@pytest.fixture(scope="module", params=[installed(name) for name in TOWERS])
def folder(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with towers that the labels of every other query taught."""
    made = command.material(data, "labels", tmp_path_factory.mktemp("encoder"), SEED, steps=60)
    out = tmp_path_factory.mktemp("towers")
    command.whole(made, lambda given: two_tower(request.param).fit(given, {}, SEED), "labels", {"seed": SEED}, out)
    return out


def test_queries_that_taught_the_towers_are_not_labelled_any_more(folder: Path, data: Path) -> None:
    before, after = read(data), read(folder)
    facts = json.loads((folder / "towers.json").read_text())
    assert len(after.queries) + facts["taught"] <= len(before.queries) and 0 < len(after.queries)
    labels = pq.read_table(folder / "labels_open.parquet")
    assert {str(query) for query in labels["query_id"].to_pylist()} <= set(after.query_ids)
    # A version's lineage leads on to the data that the towers were trained on.
    assert facts["data"] == before.fingerprints and "towers" in after.fingerprints


def test_items_are_encoded_by_their_own_tower(folder: Path, tmp_path: Path) -> None:
    data = read(folder)
    made = encoder.prepare(data, tmp_path, SEED)
    exact = fused_bundle.exact_vectors(data, made)
    text = f"{data.columns['name'][3]}. {data.columns['product_class'][3]}"
    items = ort.InferenceSession(folder / "item_encoder_fp32.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(exact[3], encoder.encode(items, made.tokenizer, text, "sentence_embedding"))
    assert np.abs(exact[3] - made.encode(text)).max() > 1e-3
    # The small encoder read the items as name and text; what is stored is rounded, before the tower and after it.
    text = f"{data.columns['name'][3]}. {data.columns['text'][3]}"
    vector = encoder.encode(items, made.tokenizer, text, "sentence_embedding")
    np.testing.assert_allclose(made.items[3], vector, rtol=0, atol=1e-3)


def test_a_fleet_retrieves_by_the_towers_what_numpy_does(
    folder: Path, fleet: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in fleet.items():
        monkeypatch.setenv(name, value)
    endcap = Endcap.found()
    data = read(folder)
    made = _source(folder, tmp_path / "source")
    endcap.json("bundle", "pack", tmp_path / "source", "--file", tmp_path / "towers.endcap", "--shards", 3)
    endcap.json("bundle", "verify", tmp_path / "towers.endcap")
    version = endcap.register(tmp_path / "towers.endcap")["version"]
    endcap.validate("search-ranker", version)
    endcap.promote("search-ranker", version, endcap.rollout("search-ranker")["revision"], "the only one")
    for query in [*data.queries[:5], *TEXTS]:
        answer = endcap.json("recommend", query, "--limit", 50, "--fields", "name", "--deadline", "10s")
        assert answer["quality"]["rung"].upper().endswith("FULL"), answer["quality"]
        assert [item["item_id"] for item in answer["items"]] == command.nearest(
            data, made.items, made.encode(query), 50
        )


def _source(folder: Path, out: Path) -> encoder.Encoder:
    """A bundle source that ranks by similarity alone."""
    out.mkdir()
    data = read(folder)
    made = encoder.prepare(data, out, SEED)
    fused_bundle.write_fusion(out / "ranker.onnx")
    features = Features(data, Candidates({"match.cosine": {"kind": "vector_score"}}, 100))
    answers = [command.nearest(data, made.items, made.encode(query)) for query in data.queries]
    summary = metrics.summary(answers, data.gains, len(data.ids))
    spec = source.model("search-ranker", made, features, source.lineage(data, SEED))
    contents.write(out, made, features, {"metrics": summary}, spec)
    return made
