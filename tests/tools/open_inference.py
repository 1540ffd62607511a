"""Calls a worker with Triton's own client and compares with ONNX Runtime on the same files.

usage: open_inference.py HOST:PORT MODEL BUNDLE_FOLDER
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

TYPES = {"FP32": np.float32, "INT64": np.int64}
TOLERANCE = 1e-5


def rows_for(metadata, rows, random, ids_below):
    """Random rows for every input of a model."""
    made = {}
    for tensor in metadata["inputs"]:
        width = int(tensor["shape"][1])
        shape = (rows, 6 if width < 0 else width)
        if tensor["name"] == "attention_mask":
            made[tensor["name"]] = np.ones(shape, np.int64)
        elif tensor["datatype"] == "INT64":
            made[tensor["name"]] = random.integers(0, ids_below, shape, dtype=np.int64)
        else:
            made[tensor["name"]] = random.random(shape, dtype=np.float32)
    return made


def inputs_of(arrays):
    inputs = []
    for name, array in arrays.items():
        datatype = next(name for name, dtype in TYPES.items() if array.dtype == dtype)
        inputs.append(triton.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def check_model(client, name, file, random, ids_below):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert client.is_model_ready(name) and client.is_model_ready(name, "7")
    metadata = client.get_model_metadata(name, as_json=True)
    assert metadata["name"] == name and metadata["versions"] == ["7"], metadata
    assert {tensor["name"] for tensor in metadata["inputs"]} == {tensor.name for tensor in session.get_inputs()}
    output = metadata["outputs"][0]["name"]
    sent = 0
    for rows in (1, 8):
        arrays = rows_for(metadata, rows, random, ids_below)
        result = client.infer(name, inputs_of(arrays), request_id="seven", client_timeout=30)
        (expected,) = session.run([output], arrays)
        found = result.as_numpy(output)
        assert found.shape == expected.shape, (found.shape, expected.shape)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
        assert result.get_response().id == "seven" and result.get_response().model_version == "7"
        sent += rows
    stats = client.get_inference_statistics(name, as_json=True)["model_stats"][0]
    assert int(stats["inference_count"]) == sent and int(stats["execution_count"]) == 2, stats
    assert int(stats["inference_stats"]["success"]["count"]) == 2, stats
    assert int(stats["inference_stats"]["compute_infer"]["ns"]) > 0, stats
    return metadata


def refused(status, word, call, *arguments, **options):
    """The call fails with the status, and its message says the word."""
    try:
        call(*arguments, **options)
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{status}", error
        assert word in error.message(), error
        return
    raise AssertionError(f"{call.__name__} was not refused with {status}")


def check_errors(client, name, metadata, random, ids_below):
    arrays = rows_for(metadata, 3, random, ids_below)
    first = metadata["inputs"][0]
    array = arrays[first["name"]]
    refused("NOT_FOUND", "it holds", client.infer, "no-such-model", inputs_of(arrays))
    refused("NOT_FOUND", "version 8", client.infer, name, inputs_of(arrays), model_version="8")
    refused("NOT_FOUND", "it holds", client.get_model_metadata, "no-such-model")
    refused("INVALID_ARGUMENT", "is missing", client.infer, name, [])
    wider = {**arrays, first["name"]: np.hstack([array, array])}
    refused("INVALID_ARGUMENT", "expected [rows,", client.infer, name, inputs_of(wider))
    renamed = {("x" if key == first["name"] else key): value for key, value in arrays.items()}
    refused("INVALID_ARGUMENT", "is no input of this model", client.infer, name, inputs_of(renamed))
    other = np.int64 if array.dtype == np.float32 else np.float32
    typed = {**arrays, first["name"]: array.astype(other)}
    refused("INVALID_ARGUMENT", "datatype", client.infer, name, inputs_of(typed))
    refused("INVALID_ARGUMENT", "sequence_end", client.infer, name, inputs_of(arrays), sequence_id=5)
    wanted = [triton.InferRequestedOutput("logits")]
    refused("INVALID_ARGUMENT", "logits", client.infer, name, inputs_of(arrays), outputs=wanted)


def main():
    address, model, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    random = np.random.default_rng(7)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    client = triton.InferenceServerClient(address)
    assert client.is_server_live() and client.is_server_ready()
    about = client.get_server_metadata()
    assert about.name == "endcap" and "statistics" in about.extensions, about
    assert not client.is_model_ready("no-such-model") and not client.is_model_ready(model, "8")

    ids_below = len(vocabulary)
    ranker = check_model(client, model, folder / "ranker.onnx", random, 2)
    encoder = f"{model}.encoder"
    metadata = check_model(client, encoder, folder / "encoder.onnx", random, ids_below)
    check_errors(client, model, ranker, random, 2)
    beyond = rows_for(metadata, 1, random, ids_below)
    name = next(tensor["name"] for tensor in metadata["inputs"] if tensor["name"] != "attention_mask")
    beyond[name][0, 0] = 10**9
    refused("INVALID_ARGUMENT", "holds 1000000000", client.infer, encoder, inputs_of(beyond))

    index = client.get_model_repository_index(as_json=True)["models"]
    listed = [(entry["name"], entry["version"], entry["state"]) for entry in index]
    assert listed == [(model, "7", "READY"), (encoder, "7", "READY")], listed
    print("tritonclient and ONNX Runtime agree")


if __name__ == "__main__":
    main()
