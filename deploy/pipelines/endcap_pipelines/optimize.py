"""Smaller and faster forms of an ONNX model, and which of them may be served.

The forms are made by ONNX Runtime's own tools. Each is judged on its final file: bytes, time beside the original's in
the same minutes, quality as the fleet would answer, and whether a row's score depends on its neighbours, which would
make answers depend on what other shoppers ask: only a model that runs one row at a time, as encoders do, may be so. The
smallest that loses no more than the budget and is not slower wins.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

Feeds = Mapping[str, np.ndarray]
Quality = Callable[[ort.InferenceSession], float]

# What the worker demands at load, too (ARCHITECTURE.md: a row's score does not depend on which rows shared its batch).
BATCH_TOLERANCE = 1e-5
# A form must not be slower than the original by more than what timing on a busy machine can tell.
SLOWEST = 1.1
ROUNDS = 15
# What ONNX Runtime logs; warnings are its default.
RUNTIME_WARNINGS, RUNTIME_ERRORS = 2, 3


@dataclass(frozen=True)
class Form:
    """One way to write the model; `path` is nothing if it cannot be written so."""

    name: str
    path: Path | None
    why_not: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a form costs and gains. `time` is a share of the original's, `loss` what the quality fell by."""

    form: Form
    bytes: int = 0
    time: float = 0.0
    quality: float = 0.0
    loss: float = 0.0
    neighbours: float = 0.0
    refused: str = ""

    @property
    def path(self) -> Path:
        """Of a form that could be made."""
        if self.form.path is None:
            raise ValueError(f"there is no {self.form.name}: {self.form.why_not}")
        return self.form.path


class _Calibration(CalibrationDataReader):
    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._feeds, None)


def session(path: Path) -> ort.InferenceSession:
    """As workers run it: one thread, in order."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def forms(model: Path, out: Path, calibration: Sequence[Feeds]) -> list[Form]:
    """The original and all that can be made of it, as files in `out`. `calibration`: inputs such as requests bring."""
    out.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[Path, Path], None]] = {
        "graph": _graph,
        "fp16": _fp16,
        "int8-static": lambda source, target: _static(source, target, calibration),
        "int8-dynamic": _dynamic,
    }
    made = [Form("fp32", model)]
    for name, make in makers.items():
        path = out / f"{model.stem}.{name}.onnx"
        try:
            with _quietly():
                make(model, path)
        except Exception as error:  # the tools raise whatever they like; a form that cannot be made is not served
            made.append(Form(name, None, f"cannot be made: {str(error).splitlines()[0] if str(error) else error!r}"))
            continue
        same = _operators(path) == _operators(model) and path.stat().st_size >= 0.99 * model.stat().st_size
        made.append(Form(name, None, "changes nothing in this model") if same else Form(name, path))
    return made


def judge(
    made: Sequence[Form], feeds: Feeds, quality: Quality, budget: float, alone: Feeds | None = None
) -> list[Verdict]:
    """Verdicts in the order of `made`, whose first is the original. `feeds`: rows of one request, for timing and for
    the comparison of rows alone, in company and shuffled. `alone`: the one row to time with instead, of a model that
    the fleet runs a row at a time; what rows do to each other does not speak against it then."""
    sessions = {form.name: session(form.path) for form in made if form.path}
    times = _times(sessions, alone or feeds)
    original = quality(sessions[made[0].name])
    verdicts = []
    for form in made:
        if form.path is None:
            verdicts.append(Verdict(form, refused=form.why_not))
            continue
        opened = sessions[form.name]
        found = quality(opened)
        verdict = Verdict(
            form,
            bytes=form.path.stat().st_size,
            time=times[form.name],
            quality=found,
            loss=original - found,
            neighbours=neighbours(opened, feeds),
        )
        refused = _refusal(verdict, form is made[0], budget, alone is None)
        verdicts.append(replace(verdict, refused=refused))
    return verdicts


def choose(verdicts: Sequence[Verdict]) -> Verdict:
    """The smallest that nothing speaks against; the fastest of equals. The original never fails to be one."""
    return min((v for v in verdicts if not v.refused), key=lambda v: (v.bytes, v.time))


def neighbours(opened: ort.InferenceSession, feeds: Feeds) -> float:
    """How far any row's output moves between alone, in company, and in shuffled company; at most 64 rows are tried."""
    rows = min(len(next(iter(feeds.values()))), 64)
    some = {name: values[:rows] for name, values in feeds.items()}
    together = _run(opened, some)
    order = np.random.default_rng(7).permutation(rows)
    shuffled = np.empty_like(together)
    shuffled[order] = _run(opened, {name: values[order] for name, values in some.items()})
    alone = np.concatenate([_run(opened, {n: v[i : i + 1] for n, v in some.items()}) for i in range(rows)])
    return float(max(np.abs(alone - together).max(), np.abs(shuffled - together).max()))


def record(verdicts: Sequence[Verdict], chosen: Verdict) -> list[dict[str, object]]:
    """What each form cost and gained, as JSON."""
    return [
        {"form": v.form.name, "served": v is chosen}
        | {name: getattr(v, name) for name in ["bytes", "time", "quality", "loss", "neighbours", "refused"]}
        for v in verdicts
    ]


def table(verdicts: Sequence[Verdict], chosen: Verdict) -> Iterator[str]:
    """Lines for a terminal: what each form cost and gained."""
    yield f"{'form':14}{'KiB':>9}{'takes':>7}{'quality':>9}{'loss':>8}{'neighbours':>12}  verdict"
    for v in verdicts:
        if v.form.path is None:
            yield f"{v.form.name:14}{'':45}  {v.refused}"
            continue
        verdict = "served" if v is chosen else v.refused or "larger than the one served"
        numbers = f"{v.bytes / 1024:9.1f}{v.time:6.2f}x{v.quality:9.4f}{v.loss:8.4f}{v.neighbours:12.1e}"
        yield f"{v.form.name:14}{numbers}  {verdict}"


def _refusal(verdict: Verdict, original: bool, budget: float, shared: bool) -> str:
    if original:
        return ""
    if shared and verdict.neighbours > BATCH_TOLERANCE:
        return f"a row moves by {verdict.neighbours:.1e} with its neighbours; at most {BATCH_TOLERANCE:.0e} may be"
    if verdict.loss > budget:
        return f"loses {verdict.loss:.4f}; the budget is {budget:.4f}"
    if verdict.time > SLOWEST:
        return f"takes {verdict.time:.2f} times as long as the original"
    return ""


@contextmanager
def _quietly() -> Iterator[None]:
    """The quantizers log advice for what `_static` does and trees do not need, and the runtime what they left over."""
    logging.disable(logging.WARNING)
    ort.set_default_logger_severity(RUNTIME_ERRORS)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        ort.set_default_logger_severity(RUNTIME_WARNINGS)


def _graph(source: Path, target: Path) -> None:
    options = ort.SessionOptions()
    # Basic: constants folded and the superfluous removed, nothing that only one kind of machine can run.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _fp16(source: Path, target: Path) -> None:
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def _static(source: Path, target: Path, calibration: Sequence[Feeds]) -> None:
    with tempfile.TemporaryDirectory() as work:
        prepared = Path(work) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            # Per tensor loses far more: one wide channel takes the resolution of all others.
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Where weights are: a transformer whose softmax and norms are rounded, too, loses several times as much.
            op_types_to_quantize=["MatMul", "Gemm", "Gather", "Conv"],
            extra_options={"MatMulConstBOnly": True},
        )


def _dynamic(source: Path, target: Path) -> None:
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)


def _operators(path: Path) -> list[str]:
    return sorted(f"{node.domain}.{node.op_type}" for node in onnx.load(path).graph.node)


def _run(opened: ort.InferenceSession, feeds: Feeds) -> np.ndarray:
    return opened.run(None, dict(feeds))[0]


def _times(sessions: Mapping[str, ort.InferenceSession], feeds: Feeds) -> dict[str, float]:
    """Each one's time as a share of the first one's: the median over rounds in which each runs once."""
    first = next(iter(sessions))
    shares: dict[str, list[float]] = {name: [] for name in sessions}
    for opened in sessions.values():
        _run(opened, feeds)
    for _ in range(ROUNDS):
        took = {}
        for name, opened in sessions.items():
            started = perf_counter()
            _run(opened, feeds)
            took[name] = perf_counter() - started
        for name, seconds in took.items():
            shares[name].append(seconds / took[first])
    return {name: median(values) for name, values in shares.items()}
