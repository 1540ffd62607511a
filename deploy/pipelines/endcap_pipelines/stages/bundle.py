"""The bundle source of the final files, what they answer, and the packed bundle."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from endcap_pipelines import contents, metrics, optimize, pools
from endcap_pipelines.data import sha256
from endcap_pipelines.fleet import Endcap
from endcap_pipelines.params import Params
from endcap_pipelines.source import lineage, model, say
from endcap_pipelines.stages import evaluate, prepare, train
from endcap_pipelines.stages import optimize as optimized
from endcap_pipelines.stages.prepare import Prepared

SOURCE = "source"
PACKED = "bundle.endcap"
QUANTILES = [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]


def run(params: Params, work: Path) -> None:
    out = work / SOURCE
    write(params, work, out)
    packed = Endcap.found().json("bundle", "pack", out, "--file", work / PACKED, "--shards", params.bundle.shards)
    say(f"  {work / PACKED}: {packed['size_bytes'] / 1024:.0f} KiB, digest {packed['digest'][:12]}")


def write(params: Params, work: Path, out: Path) -> None:
    """The source folder that `endcap bundle pack` packs."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in ["ranker.onnx", "encoder.onnx"]:
        shutil.copyfile(work / optimized.FOLDER / name, out / name)
    shutil.copyfile(work / prepare.FOLDER / "tokenizer.json", out / "tokenizer.json")
    prepared = prepare.load(params, work, out / "encoder.onnx")
    evaluation = evaluate_files(prepared, work, optimize.session(out / "ranker.onnx"))
    came_from = lineage(prepared.data, params.seed) | training(params, work, out)
    spec = model(params.model, prepared.encoder, prepared.features, came_from)
    contents.write(out, prepared.encoder, prepared.features, evaluation, spec)
    say(f"  ndcg@10 {evaluation['metrics']['ndcg@10']:.4f} by the files that are served")


def training(params: Params, work: Path, out: Path) -> dict[str, str]:
    """What made the models, and the digests of what came out."""
    facts = json.loads((work / train.FACTS).read_text())
    served = {name: next(f for f in forms if f["served"]) for name, forms in optimized.forms(work).items()}
    found = {"recipe": facts["recipe"], "parameters": json.dumps(facts["parameters"], sort_keys=True)}
    found |= {"candidates": params.prepare.candidates, "held_out": str(params.prepare.held_out)}
    found |= {"shuffled_labels": "true"} if facts["shuffled_labels"] else {}
    found["ranker.trained"] = sha256(work / train.MODEL)
    for name in ["ranker", "encoder"]:
        found[name] = sha256(out / f"{name}.onnx")
        found[f"{name}.form"] = served[name]["form"] if name in served else "as it was"
    return found


def evaluate_files(prepared: Prepared, work: Path, session: ort.InferenceSession) -> dict[str, Any]:
    """What the fleet will answer with the final files, computed without it; and what came before them."""
    data, features = prepared.data, prepared.features
    answers = [pools.answer(features, prepared.encoder, query, session) for query in data.queries]
    found = metrics.summary(answers, data.gains, len(data.ids))
    found |= json.loads((work / evaluate.EVALUATION).read_text())["metrics"]
    forms = optimized.forms(work)
    for name, tried in forms.items():
        before, served = tried[0], next(form for form in tried if form["served"])
        found |= {f"{name}_bytes_before": before["bytes"], f"{name}_bytes": served["bytes"]}
        found |= {f"{name}_time": served["time"], f"{name}_loss": served["loss"]}
    rows = np.concatenate([pool.rows for pool in prepared.pools])
    scores = session.run(["score"], {"features": rows})[0][:, 0]
    return {
        "metrics": found,
        "forms": forms,
        "distributions": {
            "quantiles": QUANTILES,
            "score": np.quantile(scores, QUANTILES).tolist(),
            "features": {name: np.quantile(rows[:, i], QUANTILES).tolist() for i, name in enumerate(features.names)},
        },
    }
