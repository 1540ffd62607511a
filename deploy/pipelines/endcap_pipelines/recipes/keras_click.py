"""The article's click model, Embedding -> Flatten -> Dense(sigmoid), as a ranker over columns of features.

How it differs from the article's. There the inputs are ids of a user and an item, so that a new item has no embedding
and a query none at all; the labels are clicks of a log. Here the ids are bins of features: each column is cut at
quantiles of its training values, inside the graph, so that the fleet feeds the same f32 `features` as to any ranker; an
item nobody has seen yet is ranked by what its features say. And grades stand in for a log of clicks: a row counts as
clicked with the chance that ESCI's gains give its grade. The rest is the article's: one embedding per id, side by side,
and one dense sigmoid over them all. It is additive: no column changes what another means.
"""

from typing import ClassVar

import numpy as np
import tensorflow as tf
import tf_keras

from endcap_pipelines.recipes import Examples, Parameters, chosen, keras


class Bins(tf_keras.layers.Layer):
    """f32 [rows, columns] to ids [rows, columns]: which bin of its column a value is in, no two columns sharing ids."""

    def __init__(self, edges: np.ndarray, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.edges = np.asarray(edges, np.float32)

    def call(self, values: tf.Tensor) -> tf.Tensor:
        columns, cuts = self.edges.shape
        above = tf.cast(values[:, :, None] >= tf.constant(self.edges), tf.int32)
        return tf.reduce_sum(above, axis=2) + tf.range(columns) * (cuts + 1)

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "edges": self.edges.tolist()}


def edges(examples: Examples, bins: int) -> np.ndarray:
    """[columns, bins - 1] f32: where each column is cut. A column of few values has some cuts twice, and empty bins."""
    rows = np.concatenate(examples.rows)
    return np.quantile(rows, np.linspace(0, 1, bins + 1)[1:-1], axis=0).T.astype(np.float32)


class ClickModel:
    defaults: ClassVar[Parameters] = {"bins": 16, "width": 8, "epochs": 8, "learning_rate": 0.003, "batch": 256}
    space: ClassVar = {"bins": (4, 32), "width": (2, 16), "epochs": (2, 20), "learning_rate": (0.0005, 0.03)}

    def fit(self, examples: Examples, parameters: Parameters, seed: int) -> keras.KerasRanker:
        settings = chosen(self.defaults, parameters)
        keras.seeded(seed)
        bins, columns = int(settings["bins"]), len(examples.names)
        model = tf_keras.Sequential(
            [
                tf_keras.layers.InputLayer(input_shape=(columns,)),
                Bins(edges(examples, bins)),
                tf_keras.layers.Embedding(columns * bins, int(settings["width"])),
                tf_keras.layers.Flatten(),
                tf_keras.layers.Dense(1, activation="sigmoid"),
            ]
        )
        keras.train(model, examples, settings)
        return keras.KerasRanker(model, columns)
