"""Keras' models as tf2onnx writes them agree with TensorFlow at two batch sizes and lengths from one artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ingot

tf2onnx = pytest.importorskip("tf2onnx", reason="tf2onnx is not installed: pip install tensorflow-cpu tf2onnx")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install tensorflow-cpu tf2onnx")


def images() -> Any:
    """What convolutional networks are made of, "same" padding at odd strides included."""
    layers = tf.keras.layers
    x = given = tf.keras.Input((32, 32, 3))
    for layer in (layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU(6.0),
                  layers.DepthwiseConv2D(3, padding="same"), layers.LeakyReLU(), layers.Conv2DTranspose(8, 3, strides=2, padding="same"),
                  layers.UpSampling2D(2, interpolation="bilinear"), layers.MaxPooling2D(3, 2, padding="same"), layers.GlobalAveragePooling2D(),
                  layers.Dense(10, activation="softmax")):
        x = layer(x)
    return tf.keras.Model(given, x)


def recurrent() -> Any:
    layers = tf.keras.layers
    x = given = tf.keras.Input((None,), dtype="int32")
    for layer in (layers.Embedding(100, 16), layers.Bidirectional(layers.LSTM(16, return_sequences=True)), layers.GRU(12),
                  layers.Dense(4, activation="softmax")):
        x = layer(x)
    return tf.keras.Model(given, x)


def attention() -> Any:
    layers = tf.keras.layers
    given = tf.keras.Input((None,), dtype="int32")
    x = layers.Embedding(100, 32)(given)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
    return tf.keras.Model(given, layers.Dense(4)(layers.GlobalMaxPooling1D()(layers.Dense(64, activation="gelu")(x))))


@pytest.mark.parametrize("build", [images, recurrent, attention])
def test_a_keras_model_agrees_with_tensorflow(build: Callable[[], Any], tmp_path: Path) -> None:
    tf.keras.utils.set_random_seed(0)
    keras = build()
    shape, dtype = keras.inputs[0].shape, keras.inputs[0].dtype
    spec = [tf.TensorSpec(shape, dtype, name="x")]
    tf2onnx.convert.from_function(tf.function(lambda x: keras(x, training=False), input_signature=spec), input_signature=spec, opset=18,
                                  output_path=str(tmp_path / "model.onnx"))
    ingot.compile(tmp_path / "model.onnx", tmp_path / "model.ingot", samples=0)
    model = ingot.load(tmp_path / "model.ingot")
    for batch, length in ((1, 9), (3, 14)):
        rng = np.random.default_rng(batch)
        extents = (batch, *(length if d is None else d for d in shape[1:]))
        x = rng.standard_normal(extents, np.float32) if dtype == "float32" else rng.integers(0, 100, extents, np.int32)
        found = next(iter(model.run(x=x).values()))
        wanted = keras(x, training=False).numpy()
        assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)
        assert found.argmax(-1).tolist() == wanted.argmax(-1).tolist()
