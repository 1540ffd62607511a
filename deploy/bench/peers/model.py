"""What every peer does alike: load the model for one core."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

TYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64"}


def session(path: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def tensors(values: list) -> list[tuple[str, str, list[int]]]:
    """Name, type and shape of inputs or outputs; -1 for what the caller chooses."""
    return [(v.name, TYPES[v.type], [d if isinstance(d, int) else -1 for d in v.shape]) for v in values]
