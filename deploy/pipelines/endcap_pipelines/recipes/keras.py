"""What the recipes in Keras share: tf-keras, since tf2onnx's and TF-MOT's models are those of Keras 2."""

import logging
import os

# TensorFlow reads both when it is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
import tf_keras

from endcap_pipelines.recipes import Examples, Parameters

OPSET = 17
# The chance that a shopper who sees an item of this grade takes it: ESCI's gains.
CLICK_CHANCE = np.array([0.0, 0.01, 0.1, 1.0], np.float32)

logging.getLogger("tf2onnx").setLevel(logging.ERROR)


@dataclass(frozen=True)
class KerasRanker:
    """A model that takes f32 [rows, columns] and gives f32 [rows, 1]."""

    model: tf_keras.Model
    columns: int

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return self.model(tf.constant(rows, tf.float32), training=False).numpy()[:, 0]

    def to_onnx(self) -> onnx.ModelProto:
        @tf.function(input_signature=[tf.TensorSpec([None, self.columns], tf.float32, name="features")])
        def score(features: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"score": self.model(features, training=False)}

        return from_function(score)


def from_function(function: "tf.types.experimental.GenericFunction") -> onnx.ModelProto:
    """tf2onnx's `from_keras` fails beside Keras 3; a function whose inputs and outputs are named converts well."""
    converted, _ = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=OPSET)
    for value in [*converted.graph.input, *converted.graph.output]:
        # The converter's own name for the first dimension changes with every run.
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    return converted


def seeded(seed: int) -> None:
    """From here on, the same seed gives the same weights and the same order of examples."""
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def clicks(examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, clicks and weights: each item is shown once, clicked by as many shoppers as its grade makes take it.

    A row that some take and others leave would stand twice, weighted by each share; the chance itself as the label
    of one row gives the same cross-entropy. Each query weighs the same, however many items were judged.
    """
    rows = np.concatenate(examples.rows).astype(np.float32)
    labels = CLICK_CHANCE[np.concatenate(examples.grades)]
    sizes = np.array([len(group) for group in examples.grades])
    weights = np.repeat(sizes.mean() / sizes, sizes).astype(np.float32)
    return rows, labels[:, None], weights


def train(
    model: tf_keras.Model,
    examples: Examples,
    settings: Parameters,
    callbacks: Sequence[tf_keras.callbacks.Callback] = (),
) -> None:
    """On clicks, by Adam: `epochs`, `learning_rate`, `batch` are taken from `settings`."""
    rows, labels, weights = clicks(examples)
    examples_of_clicks = tf.data.Dataset.from_tensor_slices((rows, labels, weights))
    batches = examples_of_clicks.shuffle(len(rows)).batch(int(settings["batch"]))
    model.compile(tf_keras.optimizers.Adam(float(settings["learning_rate"])), loss="binary_crossentropy")
    model.fit(batches, epochs=int(settings["epochs"]), callbacks=list(callbacks), verbose=0)
