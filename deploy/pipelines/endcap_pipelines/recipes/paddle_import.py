"""`python -m endcap_pipelines.recipes.paddle_import --model FOLDER --out ranker.onnx`: from an exported Paddle model.

The folder is an inference model as Paddle 3 exports it and AI Studio gives it: one program (`.json`, or `.pdmodel` of
Paddle 2) and its `.pdiparams`. It must take one f32 [rows, columns] and give one f32 [rows, 1], or [rows].
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

if "tensorflow" in sys.modules and "paddle2onnx" not in sys.modules:
    raise ImportError("paddle crashes where tensorflow was imported before it: import it first, or in another process")

# By default the converter installs a package with pip while it runs. None is in the environment, none may be asked.
os.environ["PIP_NO_INDEX"] = "1"

import paddle as paddle  # for paddle_mlp, after the check above
import paddle2onnx
from onnx import TensorProto, compose, helper, numpy_helper

from endcap_pipelines import optimize

OPSET = 17


class ImportedModelError(Exception):
    """The folder is no model that can rank."""


def convert(folder: Path) -> onnx.ModelProto:
    """Raises ImportedModelError with what was found."""
    program, parameters = _files(folder)
    with tempfile.TemporaryDirectory() as work:
        target = Path(work) / "model.onnx"
        try:
            paddle2onnx.export(
                str(program),
                str(parameters),
                str(target),
                opset_version=OPSET,
                enable_onnx_checker=True,
                optimize_tool="None",
                verbose=False,
            )
        except Exception as error:  # the converter raises whatever it likes
            raise ImportedModelError(f"{program}: paddle2onnx cannot convert it: {error}") from error
        if not target.is_file():
            raise ImportedModelError(f"{program}: paddle2onnx wrote nothing; its messages above say why")
        return as_ranker(onnx.load(target), str(folder))


def as_ranker(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """The same model with the names and shapes that workers expect: `features` [rows, columns] to `score` [rows, 1]."""
    # With a prefix none of the model's own names can be one of ours.
    graph = compose.add_prefix(model, "imported/").graph
    constants = {value.name for value in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        found = f"{len(inputs)} inputs and {len(graph.output)} outputs"
        raise ImportedModelError(f"{source}: {found}; expected one of each: f32 [rows, columns] to [rows, 1]")
    (given,), (made,) = inputs, graph.output
    width, shape = _shape(given), _shape(made)
    numbers = {value.type.tensor_type.elem_type for value in (given, made)} == {TensorProto.FLOAT}
    if not numbers or len(width) != 2 or width[1] < 1 or not shape or shape[1:] not in ([], [1]):
        raise ImportedModelError(
            f"{source}: {width} to {shape} (0: any); expected f32 [rows, columns] to f32 [rows, 1] or [rows]"
        )
    nodes = [helper.make_node("Identity", ["features"], [given.name]), *graph.node]
    if len(shape) == 1:
        graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "score_axis"))
        nodes.append(helper.make_node("Unsqueeze", [made.name, "score_axis"], ["score"]))
    else:
        nodes.append(helper.make_node("Identity", [made.name], ["score"]))
    ranker = helper.make_model(
        helper.make_graph(
            nodes,
            "ranker",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", width[1]])],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])],
            graph.initializer,
        ),
        opset_imports=model.opset_import,
    )
    ranker.ir_version = 8
    onnx.checker.check_model(ranker)
    return ranker


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """0 where any size will do."""
    return [max(dimension.dim_value, 0) for dimension in value.type.tensor_type.shape.dim]


def _files(folder: Path) -> tuple[Path, Path]:
    parameters = sorted(folder.glob("*.pdiparams"))
    programs = [path for kind in ("json", "pdmodel") for path in sorted(folder.glob(f"*.{kind}"))]
    pairs = [(program, found) for found in parameters for program in programs if program.stem == found.stem]
    if len(pairs) != 1:
        found = ", ".join(path.name for path in sorted(folder.iterdir())) if folder.is_dir() else "no folder"
        raise ImportedModelError(
            f"{folder}: expected one NAME.pdiparams and its NAME.json or NAME.pdmodel; found {found or 'nothing'}"
        )
    return pairs[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="An exported Paddle inference model becomes ranker.onnx.")
    parser.add_argument("--model", type=Path, required=True, help="the exported folder")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    arguments = parser.parse_args()
    try:
        ranker = convert(arguments.model)
    except ImportedModelError as error:
        sys.exit(f"paddle_import: {error}")
    onnx.save(ranker, arguments.out)
    columns = ranker.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    rows = np.random.default_rng(7).normal(size=(64, columns)).astype(np.float32)
    moved = optimize.neighbours(optimize.session(arguments.out), {"features": rows})
    print(f"{arguments.out}: {columns} columns; a row moves by {moved:.1e} with its neighbours")
    if moved > optimize.BATCH_TOLERANCE:
        sys.exit(f"paddle_import: workers take a model only to {optimize.BATCH_TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
