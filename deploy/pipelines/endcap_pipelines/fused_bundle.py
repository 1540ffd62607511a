"""The bundle source of what ranks the fused lists without being trained here: a given ranker, or the fusion itself."""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from endcap_pipelines import candidates, contents, metrics, optimize, pools
from endcap_pipelines.data import Data, DataError, read
from endcap_pipelines.encoder import Encoder, of_items, prepare
from endcap_pipelines.features import Features
from endcap_pipelines.source import lineage, model, say

RANKERS = {"lambdamart-22": candidates.lambdamart_22, "rrf": candidates.rrf}


def build(folder: Path, out: Path, ranker: str, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    data = read(folder)
    say(f"{len(data.ids)} products, {len(data.queries)} labelled queries")
    encoder = prepare(data, out, seed)
    if ranker == "rrf":
        write_fusion(out / "ranker.onnx")
    else:
        given = folder / "ranker.onnx"
        if not given.is_file():
            raise DataError(f"{given} is missing; --ranker {ranker} packs that file")
        shutil.copyfile(given, out / "ranker.onnx")
        say("encoding the items again, as f32")
        encoder.items = exact_vectors(data, encoder)
    features = Features(data, RANKERS[ranker]())
    session = optimize.session(out / "ranker.onnx")
    ranked = [pools.answer(features, encoder, query, session) for query in data.queries]
    summary = metrics.summary(ranked, data.gains, len(data.ids))
    spec = model("search-ranker", encoder, features, lineage(data, seed))
    contents.write(out, encoder, features, {"metrics": summary}, spec)
    for name, value in summary.items():
        say(f"  {name:24} {value:.4f}")


def write_fusion(path: Path) -> None:
    """The one feature, which is the score."""
    shape: list[str | int | None] = ["rows", 1]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["features"], ["score"])],
        "ranker",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, shape)],
    )
    fusion = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    fusion.ir_version = 8
    onnx.save(fusion, path)


def exact_vectors(data: Data, encoder: Encoder) -> np.ndarray:
    """The items' vectors as f32: a tree's threshold can lie between a cosine and the same one rounded to f16."""
    texts = [f"{n}. {c}" if c else n for n, c in zip(data.columns["name"], data.columns["product_class"], strict=True)]
    encoder = of_items(data, encoder)
    return np.stack([encoder.encode(text) for text in texts]).astype(np.float32)
