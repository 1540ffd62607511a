"""A click model with a dense tail, made smaller by TensorFlow Model Optimization while it trains.

`Pruned` sets the smallest weights to zero while it trains on; what a bundle saves shows once the file is compressed.
`Quantized` trains on with every weight of the hidden layer rounded to eight bits. TF-MOT's `quantize_model` refuses the
Embedding and its ids, hence only that layer. What is kept are the rounded weights, in a plain model: TF-MOT's own nodes
for activations come out of the converter up to 1e-2 off. Eight bits in the file are `endcap_pipelines.optimize`'s work,
which such weights lose little by.

Both are stripped before they are converted, and keep the model they started from, so that `report` can tell size, time
and quality before and after: `python -m endcap_pipelines.recipes.keras_pruned --data FOLDER` does, on a fifth of the
queries that were not trained on.
"""

import argparse
import gzip
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import tensorflow_model_optimization as tfmot
import tf_keras

from endcap_pipelines import metrics, optimize, pools
from endcap_pipelines.data import DataError
from endcap_pipelines.recipes import Examples, Parameters, chosen, crossval, keras
from endcap_pipelines.recipes.keras_click import Bins, edges

# One sign and seven bits, symmetric, as TF-MOT's default for Dense rounds.
LEVELS = 127
# Of the learning rate, for the epochs in which weights are taken away or rounded.
GENTLE = 0.3


@dataclass(frozen=True)
class Smaller(keras.KerasRanker):
    """What came of it, and the same model before."""

    before: keras.KerasRanker


class Pruned:
    defaults: ClassVar[Parameters] = {
        "bins": 16,
        "width": 8,
        "hidden": 32,
        "epochs": 6,
        "more_epochs": 4,
        "learning_rate": 0.003,
        "batch": 256,
        "sparsity": 0.8,
    }
    space: ClassVar = {
        "bins": (4, 32),
        "width": (2, 16),
        "hidden": (8, 64),
        "epochs": (2, 20),
        "learning_rate": (0.0005, 0.03),
        "sparsity": (0.3, 0.9),
    }

    def fit(self, examples: Examples, parameters: Parameters, seed: int) -> Smaller:
        settings = chosen(self.defaults, parameters)
        keras.seeded(seed)
        model = _click_model(examples, settings)
        keras.train(model, examples, settings)
        before = tf_keras.models.clone_model(model)
        before.set_weights(model.get_weights())
        columns = len(examples.names)
        # Trained on gently: what was learnt is to be kept, not learnt anew.
        gentle = {"epochs": settings["more_epochs"], "learning_rate": GENTLE * float(settings["learning_rate"])}
        after = self.smaller(model, examples, {**settings, **gentle})
        return Smaller(after, columns, keras.KerasRanker(before, columns))

    def smaller(self, model: tf_keras.Model, examples: Examples, settings: Parameters) -> tf_keras.Model:
        rows = sum(len(group) for group in examples.rows)
        steps = int(settings["epochs"]) * -(-rows // int(settings["batch"]))
        # Half of the steps take weights away, the other half mends what that broke.
        until, sparsity = max(steps // 2, 1), float(settings["sparsity"])
        schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, sparsity, 0, until, frequency=5)

        def wrapped(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
            weighty = isinstance(layer, tf_keras.layers.Embedding | tf_keras.layers.Dense)
            return tfmot.sparsity.keras.prune_low_magnitude(layer, schedule) if weighty else layer

        pruning = tf_keras.models.clone_model(model, clone_function=wrapped)
        keras.train(pruning, examples, settings, [tfmot.sparsity.keras.UpdatePruningStep()])
        return tfmot.sparsity.keras.strip_pruning(pruning)


class Quantized(Pruned):
    defaults: ClassVar[Parameters] = {name: value for name, value in Pruned.defaults.items() if name != "sparsity"}
    space: ClassVar = {name: values for name, values in Pruned.space.items() if name != "sparsity"}

    def smaller(self, model: tf_keras.Model, examples: Examples, settings: Parameters) -> tf_keras.Model:
        def annotated(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
            return tfmot.quantization.keras.quantize_annotate_layer(layer) if _is_hidden(layer) else layer

        plain = tf_keras.models.clone_model(model)
        with tfmot.quantization.keras.quantize_scope({"Bins": Bins}):
            rounding = tfmot.quantization.keras.quantize_apply(
                tf_keras.models.clone_model(model, clone_function=annotated)
            )
        keras.train(rounding, examples, settings)
        trained = {layer.name.removeprefix("quant_"): layer for layer in rounding.layers}
        for layer in plain.layers:
            if _is_hidden(layer):
                kernel, bias = _weights(trained[layer.name])
                layer.set_weights([_rounded(kernel), bias])
            elif layer.weights:
                layer.set_weights(trained[layer.name].get_weights())
        return plain


def _click_model(examples: Examples, settings: Parameters) -> tf_keras.Model:
    bins, columns = int(settings["bins"]), len(examples.names)
    return tf_keras.Sequential(
        [
            tf_keras.layers.InputLayer(input_shape=(columns,)),
            Bins(edges(examples, bins)),
            tf_keras.layers.Embedding(columns * bins, int(settings["width"])),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(int(settings["hidden"]), activation="relu"),
            tf_keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


def _is_hidden(layer: tf_keras.layers.Layer) -> bool:
    """The last layer is left alone: 256 chances of a click are too few to order items by."""
    return isinstance(layer, tf_keras.layers.Dense) and layer.activation is tf_keras.activations.relu


def _weights(wrapper: tf_keras.layers.Layer) -> list[np.ndarray]:
    """A Dense layer's kernel and bias before rounding, which TF-MOT's wrapper holds among numbers of its own."""
    named = {weight.name.rsplit("/", 1)[-1]: weight.numpy() for weight in wrapper.trainable_weights}
    return [named["kernel:0"], named["bias:0"]]


def _rounded(kernel: np.ndarray) -> np.ndarray:
    """To the values that TF-MOT let the weights have: one scale per layer, symmetric."""
    step = max(float(np.abs(kernel).max()), 1e-9) / LEVELS
    return (np.round(kernel / step) * step).astype(np.float32)


def report(
    fitted: Smaller, rows: np.ndarray, quality: Callable[[np.ndarray], float], work: Path
) -> tuple[list[optimize.Verdict], list[int]]:
    """Before and after, and both as static int8: bytes, time, quality; and the bytes of each once compressed.

    `rows`: of one request or more, which calibrate and are scored. `quality`: of scores of these rows.
    """
    forms = []
    for name, ranker in [("before", fitted.before), ("after", fitted)]:
        path = work / f"{name}.onnx"
        onnx.save(ranker.to_onnx(), path)
        forms.append(optimize.Form(name, path))
        made = optimize.forms(path, work, [{"features": rows}])
        forms += [
            optimize.Form(f"{name}, int8", form.path, form.why_not) for form in made if form.name == "int8-static"
        ]
    judged = optimize.judge(
        forms, {"features": rows}, lambda opened: quality(opened.run(None, {"features": rows})[0][:, 0]), budget=1.0
    )
    compressed = [len(gzip.compress(form.path.read_bytes(), mtime=0)) if form.path else 0 for form in forms]
    return judged, compressed


def table(judged: Sequence[optimize.Verdict], compressed: Sequence[int]) -> Iterator[str]:
    yield f"{'model':14}{'KiB':>8}{'gzip':>8}{'time':>7}{'quality':>9}"
    for verdict, small in zip(judged, compressed, strict=True):
        if verdict.form.path is None:
            yield f"{verdict.form.name:14}  {verdict.refused}"
            continue
        sizes = f"{verdict.bytes / 1024:8.1f}{small / 1024:8.1f}"
        yield f"{verdict.form.name:14}{sizes}{verdict.time:6.2f}x{verdict.quality:9.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="What pruning and rounding gain and cost, on queries not trained on.")
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--candidates", choices=crossval.CANDIDATES, default="dense", help="what is ranked")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    try:
        task = crossval.task(arguments.data, arguments.candidates, arguments.seed)
    except DataError as error:
        sys.exit(f"keras_pruned: {error}")
    fold = pools.folds(task.data.queries, 5)
    known = [pool for pool, f in zip(task.pools, fold, strict=True) if f]
    unseen = [i for i, f in enumerate(fold) if not f]
    ends = np.cumsum([len(task.pools[i].rows) for i in unseen])[:-1]

    def quality(scores: np.ndarray) -> float:
        parts = zip(unseen, np.split(scores, ends), strict=True)
        rankings = [(i, pools.ranking(task.data, task.pools[i].retrieved, part)) for i, part in parts]
        return float(np.mean([metrics.ndcg(10, ranking, task.data.gains[i]) for i, ranking in rankings]))

    rows = np.concatenate([task.pools[i].rows for i in unseen])
    for trainer in (Pruned(), Quantized()):
        print(type(trainer).__name__)
        fitted = trainer.fit(crossval.examples(task.names, known), {}, arguments.seed)
        with tempfile.TemporaryDirectory() as work:
            for line in table(*report(fitted, rows, quality, Path(work))):
                print(line)


if __name__ == "__main__":
    main()
