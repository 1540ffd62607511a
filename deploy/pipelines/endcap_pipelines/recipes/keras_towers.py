"""Two-tower retrieval (towers.py) in Keras."""

from dataclasses import dataclass

import numpy as np
import onnx
import tensorflow as tf
import tf_keras

from endcap_pipelines.recipes import Parameters, chosen, keras, towers


@dataclass(frozen=True)
class KerasFitted:
    query: tf_keras.Model
    item: tf_keras.Model

    def queries(self, vectors: np.ndarray) -> np.ndarray:
        return self.query(tf.constant(vectors, tf.float32)).numpy()

    def items(self, vectors: np.ndarray) -> np.ndarray:
        return self.item(tf.constant(vectors, tf.float32)).numpy()

    def to_onnx(self) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        return _to_onnx(self.query), _to_onnx(self.item)


class KerasTowers:
    def fit(self, given: towers.Pairs, parameters: Parameters, seed: int) -> KerasFitted:
        settings = chosen(towers.DEFAULTS, parameters)
        keras.seeded(seed)
        random = np.random.default_rng(seed)
        query, item = (_tower(given.queries.shape[1]) for _ in range(2))
        variables = [*query.trainable_variables, *item.trainable_variables]
        rate, ridge = float(settings["learning_rate"]), float(settings["ridge"])
        temperature = float(settings["temperature"])

        @tf.function(reduce_retracing=True)
        def step(queries: tf.Tensor, items: tf.Tensor, shift: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                logits = tf.matmul(query(queries), item(items), transpose_b=True) / temperature + shift
                own = tf.range(tf.shape(logits)[0])
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(own, logits))
            for change, slope in zip(variables, tape.gradient(loss, variables), strict=True):
                change.assign_sub(rate * (slope + ridge * change))

        for batch in towers.batches(given, settings, random):
            step(tf.constant(batch.queries), tf.constant(batch.items), tf.constant(batch.shift))
        return KerasFitted(query, item)


def _tower(dim: int) -> tf_keras.Model:
    given = tf_keras.Input((dim,))
    change = tf_keras.layers.Dense(dim, use_bias=False, kernel_initializer="zeros")
    moved = tf_keras.layers.Add()([given, change(given)])
    return tf_keras.Model(given, tf_keras.layers.UnitNormalization()(moved))


def _to_onnx(tower: tf_keras.Model) -> onnx.ModelProto:
    shape = [None, tower.input_shape[1]]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name=towers.INPUT)])
    def moved(embedding: tf.Tensor) -> dict[str, tf.Tensor]:
        return {towers.OUTPUT: tower(embedding, training=False)}

    return keras.from_function(moved)
