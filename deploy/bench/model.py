"""`python deploy/bench/model.py OUT`: the source of a bundle to measure with, the same bytes from the same options.

The ranker is the size of many a shop's: 64 dense features and 8 tables of ids, embedded in 16 numbers each (together
192), two cross layers of DCN-v2 (Wang et al., 2021), and an MLP 256-128-1. Its weights mean nothing. It only reranks:
there is no encoder, so that a request costs what its rows cost.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

MODEL = "bench-ranker"
DENSE, TABLES, WIDTH = 64, 8, 16
INPUT = DENSE + TABLES * WIDTH
HIDDEN = [256, 128, 1]
CROSSES = 2
# Of the dense features and ids, how many are the item's; the others come with the request.
ITEM_DENSE, USER_DENSE = 40, 16
ITEM_IDS, USER_IDS = 6, 2
POPULAR = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the bundle source folder to write")
    parser.add_argument("--items", type=int, default=20_000, help="items of the catalogue")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each table")
    parser.add_argument("--seed", type=int, default=7, help="two seeds make two versions")
    arguments = parser.parse_args()
    build(arguments.out, arguments.items, arguments.rows, arguments.seed)


def build(out: Path, items: int, rows: int, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    onnx.save(ranker(rows, random), out / "ranker.onnx")
    ids = [f"item-{i:06}" for i in range(items)]
    dense = random.standard_normal((items, ITEM_DENSE), np.float32)
    tables = random.integers(0, rows, (items, ITEM_IDS))
    columns: dict[str, pa.Array] = {"item_id": pa.array(ids)}
    columns |= {f"dense_{i:02}": pa.array(dense[:, i]) for i in range(ITEM_DENSE)}
    columns |= {f"id_{i}": pa.array(tables[:, i]) for i in range(ITEM_IDS)}
    pq.write_table(pa.table(columns), out / "items.parquet")
    write(out / "features.json", {"features": schema()})
    write(out / "model.json", model(seed))
    write(out / "popular.json", {"overall": ids[:POPULAR]})
    write(out / "evaluation.json", {"metrics": {}})
    golden = [request(out, ids, dense, tables, rows, random) for _ in range(3)]
    (out / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in golden))


def ranker(rows: int, random: np.random.Generator) -> onnx.ModelProto:
    weights, nodes = [], []

    def weight(name: str, *shape: int) -> str:
        scale = np.float32(1 / np.sqrt(shape[0] if len(shape) > 1 else INPUT))
        weights.append(numpy_helper.from_array(random.standard_normal(shape, np.float32) * scale, name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    parts = ["dense"]
    for i in range(TABLES):
        weights.append(numpy_helper.from_array(np.array(i), f"column_{i}"))
        weights.append(numpy_helper.from_array(random.standard_normal((rows, WIDTH), np.float32), f"table_{i}"))
        column = node("Gather", ["ids", f"column_{i}"], f"ids_{i}", axis=1)
        parts.append(node("Gather", [f"table_{i}", column], f"embedded_{i}", axis=0))
    first = x = node("Concat", parts, "x0", axis=1)
    for i in range(CROSSES):
        crossed = node("Gemm", [x, weight(f"cross_w{i}", INPUT, INPUT), weight(f"cross_b{i}", INPUT)], f"linear_{i}")
        x = node("Add", [node("Mul", [first, crossed], f"times_{i}"), x], f"cross_{i}")
    width = INPUT
    for i, hidden in enumerate(HIDDEN):
        last = i == len(HIDDEN) - 1
        x = node("Gemm", [x, weight(f"w{i}", width, hidden), weight(f"b{i}", hidden)], f"layer_{i}")
        x = node("Sigmoid" if last else "Relu", [x], "score" if last else f"hidden_{i}")
        width = hidden
    graph = helper.make_graph(
        nodes,
        MODEL,
        [
            helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["rows", DENSE]),
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows", TABLES]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])],
        weights,
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(built)
    return built


def names() -> tuple[list[str], list[str]]:
    """Features of the two inputs, in their order."""
    dense = [f"item.dense_{i:02}" for i in range(ITEM_DENSE)] + ["user.profile", "context.page"]
    return dense, [f"item.id_{i}" for i in range(ITEM_IDS)] + ["user.segments"]


def widths() -> dict[str, int]:
    return {"user.profile": USER_DENSE, "context.page": DENSE - ITEM_DENSE - USER_DENSE, "user.segments": USER_IDS}


def schema() -> list[dict[str, object]]:
    def feature(name: str, dtype: str, zero: float) -> dict[str, object]:
        width = widths().get(name, 1)
        return {"name": name, "dtype": dtype, "width": width, "default": [zero] * width}

    dense, ids = names()
    return [feature(name, "f32", 0.0) for name in dense] + [feature(name, "i64", 0) for name in ids]


def model(seed: int) -> dict[str, object]:
    dense, ids = names()
    inputs = [{"name": "dense", "features": dense}, {"name": "ids", "features": ids}]
    return {
        "model": MODEL,
        "ranker": {"file": "ranker.onnx", "inputs": inputs, "output": "score"},
        "lineage": {"trainer": "deploy/bench/model.py", "seed": str(seed)},
    }


def request(
    out: Path, ids: list[str], dense: np.ndarray, tables: np.ndarray, rows: int, random: np.random.Generator
) -> dict[str, object]:
    """A request and what ONNX Runtime says of it."""
    chosen = random.choice(len(ids), min(24, len(ids)), replace=False)
    profile, page = random.standard_normal(USER_DENSE, np.float32), random.standard_normal(8, np.float32)
    segments = random.integers(0, rows, USER_IDS)
    given = np.concatenate([profile, page])
    inputs = {
        "dense": np.hstack([dense[chosen], np.tile(given, (len(chosen), 1))]),
        "ids": np.hstack([tables[chosen], np.tile(segments, (len(chosen), 1))]),
    }
    session = ort.InferenceSession(out / "ranker.onnx", providers=["CPUExecutionProvider"])
    scores = session.run(["score"], inputs)[0][:, 0]
    return {
        "query": "",
        "features": {
            "user.profile": profile.tolist(),
            "context.page": page.tolist(),
            "user.segments": segments.tolist(),
        },
        "item_ids": [ids[i] for i in chosen],
        "inputs": {name: values.tolist() for name, values in inputs.items()},
        "scores": scores.tolist(),
    }


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
