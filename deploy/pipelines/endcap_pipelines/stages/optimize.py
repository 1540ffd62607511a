"""Ranker and encoder in the smallest form that loses no more than the budget; the originals stay in the work folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from endcap_pipelines import metrics, optimize, pools
from endcap_pipelines.optimize import Feeds, Verdict
from endcap_pipelines.params import Params
from endcap_pipelines.source import say, write_json
from endcap_pipelines.stages import evaluate, prepare, train
from endcap_pipelines.stages.prepare import Prepared

FOLDER = "optimized"
FORMS = "optimized/forms.json"
# Requests whose inputs tell the quantizer the ranges, items' names that do so, too, for the encoder, and queries that
# are shuffled together.
CALIBRATION, NAMES, QUERIES = 32, 200, 32


def run(params: Params, work: Path) -> None:
    prepared = prepare.load(params, work)
    out = work / FOLDER
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    originals = {"ranker": work / train.MODEL, "encoder": work / prepare.FOLDER / "encoder.onnx"}
    found: dict[str, list[dict[str, object]]] = {}
    for name, choose in [("ranker", _ranker), ("encoder", _encoder)]:
        served = out / f"{name}.onnx"
        if name not in params.optimize.models:
            shutil.copyfile(originals[name], served)
            continue
        say(f"  {name}: making its forms, and judging each")
        verdicts = choose(params, prepared, work, originals[name])
        best = optimize.choose(verdicts)
        shutil.copyfile(best.path, served)
        for line in optimize.table(verdicts, best):
            say(f"    {line}")
        found[name] = optimize.record(verdicts, best)
    write_json(work / FORMS, found)


def forms(work: Path) -> dict[str, list[dict[str, Any]]]:
    """By model, what each of its forms cost and gained."""
    return json.loads((work / FORMS).read_text())


def _ranker(params: Params, prepared: Prepared, work: Path, original: Path) -> list[Verdict]:
    learnt = [prepared.pools[i] for i in prepared.trained_on]
    calibration = [{"features": pool.rows} for pool in learnt[:CALIBRATION]]
    made = optimize.forms(original, work / FOLDER / "ranker", calibration)

    def quality(opened: ort.InferenceSession) -> float:
        return _ndcg(prepared, pools.rankings(prepared.data, learnt, opened))

    return optimize.judge(made, calibration[0], quality, params.optimize.budget)


def _encoder(params: Params, prepared: Prepared, work: Path, original: Path) -> list[Verdict]:
    """Judged by what is retrieved and ranked with its vectors of the queries; the items' vectors stay.

    Each query is ranked by the ranker that was trained without it: one that knows the query by heart knows its exact
    similarities, too, and punishes whatever moves them.
    """
    names, folds = prepared.data.columns["name"], train.folds(params, prepared)
    queries = [prepared.data.queries[i] for i in folds]
    rankers = [optimize.session(work / evaluate.FOLD.format(fold)) for fold in range(params.evaluate.folds)]
    texts = [*queries[:CALIBRATION], *names[:: max(len(names) // NAMES, 1)]]
    calibration = [_batch(prepared, [text]) for text in texts]
    made = optimize.forms(original, work / FOLDER / "encoder", calibration)

    def quality(opened: ort.InferenceSession) -> float:
        other, features = replace(prepared.encoder, session=opened), prepared.features
        ranked = [pools.answer(features, other, prepared.data.queries[i], rankers[fold]) for i, fold in folds.items()]
        return _ndcg(prepared, ranked)

    # Workers run one query at a time.
    longest = _batch(prepared, [max(queries, key=len)])
    return optimize.judge(made, _batch(prepared, queries[:QUERIES]), quality, params.optimize.budget, longest)


def _ndcg(prepared: Prepared, rankings: list[list[str]]) -> float:
    """Over the queries that are trained on: those held out choose nothing."""
    gains = [prepared.data.gains[i] for i in prepared.trained_on]
    return float(np.mean([metrics.ndcg(10, r, g) for r, g in zip(rankings, gains, strict=True)]))


def _batch(prepared: Prepared, queries: list[str]) -> Feeds:
    """Queries as one input, the shorter ones filled up."""
    encodings = [prepared.encoder.tokenizer.encode(query) for query in queries]
    longest = max(1, max(len(encoding.ids) for encoding in encodings))
    ids, mask = np.zeros((len(queries), longest), np.int64), np.zeros((len(queries), longest), np.int64)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding.ids)] = encoding.ids
        mask[row, : len(encoding.ids)] = encoding.attention_mask
    return {"input_ids": ids, "attention_mask": mask}
