"""LSTM, GRU and RNN against torch's layers, and every option of theirs against the equations of the ONNX specification in float64."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import ingot
from ingot.backend import prepare

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
ORDER = {"RNN": [0], "LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2]}  # where ONNX has torch's gates: i f g o of i o f c, r z n of z r h
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)), "Tanh": np.tanh, "Relu": lambda x: np.maximum(x, 0), "Affine": lambda x: 0.75 * x + 0.125,
    "LeakyRelu": lambda x: np.where(x < 0, 0.75 * x, x), "ThresholdedRelu": lambda x: np.where(x < 0.75, 0, x),
    "ScaledTanh": lambda x: 0.75 * np.tanh(0.125 * x), "HardSigmoid": lambda x: np.clip(0.75 * x + 0.125, 0, 1),
    "Elu": lambda x: np.where(x < 0, 0.75 * np.expm1(x), x), "Softsign": lambda x: x / (1 + np.abs(x)), "Softplus": lambda x: np.log1p(np.exp(x)),
}


@dataclass(frozen=True)
class Layer:
    """A layer's sizes and options."""

    kind: str
    times: int
    batch: int
    inputs: int
    hidden: int
    direction: str = "forward"
    bias: bool = True
    states: bool = False
    lengths: bool = False
    peepholes: bool = False
    clip: float = 0.0
    linear_before_reset: int = 0
    input_forget: int = 0
    layout: int = 0
    activations: tuple[str, ...] = ()
    constant: bool = True
    dtype: str = "float32"

    @property
    def directions(self) -> int:
        """1 or 2."""
        return 2 if self.direction == "bidirectional" else 1

    @property
    def functions(self) -> tuple[str, ...]:
        """The activations, given or by default."""
        default = {"RNN": ("Tanh",), "LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh")}[self.kind]
        return self.activations or default * self.directions


def tensors(layer: Layer, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs by ONNX's names, weights as small as a trained layer's."""
    random = np.random.default_rng(seed)
    d, wide, h = layer.directions, GATES[layer.kind] * layer.hidden, layer.hidden

    def draw(*shape: int) -> np.ndarray:
        return (random.uniform(-1, 1, shape) / np.sqrt(max(h, 1))).astype(layer.dtype)

    made = {"X": random.standard_normal((layer.times, layer.batch, layer.inputs)).astype(layer.dtype), "W": draw(d, wide, layer.inputs),
            "R": draw(d, wide, h)}
    if layer.bias:
        made["B"] = draw(d, 2 * wide)
    if layer.lengths:
        made["sequence_lens"] = random.integers(0, layer.times + 1, layer.batch).astype(np.int32)
    if layer.states:
        made["initial_h"] = draw(d, layer.batch, h)
        if layer.kind == "LSTM":
            made["initial_c"] = draw(d, layer.batch, h)
    if layer.peepholes:
        made["P"] = draw(d, 3 * h)
    if layer.layout:
        made.update({name: np.ascontiguousarray(made[name].swapaxes(0, 1)) for name in ("X", "initial_h", "initial_c") if name in made})
    return made


def model_of(layer: Layer, given_: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The layer as a model, with weights inside or as inputs."""
    slots = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"][:8 if layer.kind == "LSTM" else 6]
    outputs = ["Y", "Y_h", "Y_c"][:3 if layer.kind == "LSTM" else 2]
    options: dict[str, Any] = {"hidden_size": layer.hidden, "direction": layer.direction, "layout": layer.layout}
    if layer.clip:
        options["clip"] = layer.clip
    if layer.activations:
        taking = [a for a in layer.activations if a in ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu")]
        options["activations"] = list(layer.activations)
        both = [a for a in taking if a in ("Affine", "ScaledTanh", "HardSigmoid")]
        options.update({name: [value] * len(users) for name, value, users in (("activation_alpha", 0.75, taking), ("activation_beta", 0.125, both))
                        if users})
    if layer.kind == "GRU":
        options["linear_before_reset"] = layer.linear_before_reset
    if layer.kind == "LSTM":
        options["input_forget"] = layer.input_forget
    node = helper.make_node(layer.kind, [s if s in given_ else "" for s in slots], outputs, **options)
    inside = [n for n in ("W", "R", "B", "P") if n in given_] if layer.constant else []
    graph = helper.make_graph(
        [node], "layer",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in given_.items() if n not in inside],
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(layer.dtype)), None) for n in outputs],
        [numpy_helper.from_array(given_[n], n) for n in inside])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])


def run(layer: Layer, given_: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What Ingot computes."""
    model = prepare(model_of(layer, given_))
    return list(model.run({n: given_[n] for n in model.input_names}))


def specified(layer: Layer, given_: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the equations of the specification give, in float64."""
    t = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in given_.items()}
    if layer.layout:
        t.update({n: t[n].swapaxes(0, 1) for n in ("X", "initial_h", "initial_c") if n in t})
    h, g = layer.hidden, GATES[layer.kind]
    y = np.zeros((layer.times, layer.directions, layer.batch, h))
    final_h, final_c = np.zeros((2, layer.directions, layer.batch, h))
    each = len(layer.functions) // layer.directions
    for d in range(layer.directions):
        functions = [ACTIVATIONS[a] for a in layer.functions[d * each:(d + 1) * each]]
        bias = t["B"][d].reshape(2, g, h) if "B" in t else np.zeros((2, g, h))
        peepholes = t["P"][d].reshape(3, h) if "P" in t else np.zeros((3, h))
        for b in range(layer.batch):
            length = int(t["sequence_lens"][b]) if "sequence_lens" in t else layer.times
            state = t["initial_h"][d, b] if "initial_h" in t else np.zeros(h)
            cell = t["initial_c"][d, b] if "initial_c" in t else np.zeros(h)
            for step in range(length):
                time = length - 1 - step if layer.direction == "reverse" or d == 1 else step
                x = (t["W"][d] @ t["X"][time, b]).reshape(g, h) + bias[0]
                state, cell = _step(layer, functions, x, t["R"][d].reshape(g, h, h), bias[1], peepholes, state, cell)
                y[time, d, b] = state
            final_h[d, b], final_c[d, b] = state, cell
    found = [y, final_h, final_c][:3 if layer.kind == "LSTM" else 2]
    return [found[0].transpose(2, 0, 1, 3), *[s.swapaxes(0, 1) for s in found[1:]]] if layer.layout else found


def _step(layer: Layer, functions: list[Any], x: np.ndarray, r: np.ndarray, bias: np.ndarray, p: np.ndarray, h: np.ndarray,
          c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    def gate(function: Any, a: np.ndarray) -> np.ndarray:
        return np.asarray(function(np.clip(a, -layer.clip, layer.clip) if layer.clip else a))

    f = functions[0]
    if layer.kind == "RNN":
        return gate(f, x[0] + r[0] @ h + bias[0]), c
    g = functions[1]
    if layer.kind == "LSTM":
        a = x + r @ h + bias
        i = gate(f, a[0] + p[0] * c)
        forget = 1 - i if layer.input_forget else gate(f, a[2] + p[2] * c)
        cell = forget * c + i * gate(g, a[3])
        return gate(f, a[1] + p[1] * cell) * functions[2](cell), cell
    z, reset = (gate(f, x[k] + r[k] @ h + bias[k]) for k in (0, 1))
    inner = reset * (r[2] @ h + bias[2]) if layer.linear_before_reset else r[2] @ (reset * h) + bias[2]
    return (1 - z) * gate(g, x[2] + inner) + z * h, c


def close(layer: Layer, got: list[np.ndarray], want: list[np.ndarray]) -> None:
    """Each time step rounds sums of inputs + hidden products of numbers below 4, and no activation used here has a slope above 1."""
    tolerance = 4 * np.finfo(layer.dtype).eps * (layer.inputs + layer.hidden + 8) * (layer.times + 1)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == layer.dtype
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


sizes = {"times": st.integers(1, 5), "batch": st.integers(1, 11), "inputs": st.integers(1, 9), "hidden": st.integers(1, 19)}
flag = st.booleans()
options = {"direction": st.sampled_from(["forward", "reverse", "bidirectional"]), "bias": flag, "states": flag, "lengths": flag,
           "layout": st.integers(0, 1), "clip": st.sampled_from([0.0, 0.5]), "constant": flag, "dtype": st.sampled_from(["float32", "float64"])}
layers = st.one_of(
    st.builds(Layer, kind=st.just("RNN"), **sizes, **options),
    st.builds(Layer, kind=st.just("GRU"), linear_before_reset=st.integers(0, 1), **sizes, **options),
    st.builds(Layer, kind=st.just("LSTM"), peepholes=flag, input_forget=st.integers(0, 1), **sizes, **options))
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@few
@given(layer=layers, seed=st.integers(0, 1000))
def test_a_layer_of_any_size_and_options_does_what_the_specification_says(layer: Layer, seed: int) -> None:
    given_ = tensors(layer, seed)
    close(layer, run(layer, given_), specified(layer, given_))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_every_activation_takes_its_alpha_and_beta(kind: str, name: str) -> None:
    plain = {"RNN": (name,), "LSTM": (name, "Softsign", name), "GRU": ("HardSigmoid", name)}[kind]
    layer = Layer(kind, 3, 3, 4, 9, "bidirectional", activations=plain * 2)
    given_ = tensors(layer)
    close(layer, run(layer, given_), specified(layer, given_))


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize(("kind", "cell"), [("LSTM", torch.nn.LSTM), ("GRU", torch.nn.GRU), ("RNN", torch.nn.RNN)])
def test_a_layer_gives_what_torch_gives(kind: str, cell: Any, layout: int) -> None:
    layer = Layer(kind, 7, 5, 13, 37, "bidirectional", states=True, linear_before_reset=1, layout=layout)
    given_ = tensors(layer)
    module = cell(layer.inputs, layer.hidden, bidirectional=True, batch_first=bool(layout)).double()
    order = ORDER[kind]
    for d, suffix in enumerate(["", "_reverse"]):
        for name, gates in (("weight_ih", given_["W"][d]), ("weight_hh", given_["R"][d]), ("bias_ih", np.split(given_["B"][d], 2)[0]),
                            ("bias_hh", np.split(given_["B"][d], 2)[1])):
            grouped = gates.reshape(GATES[kind], layer.hidden, *gates.shape[1:])
            getattr(module, f"{name}_l0{suffix}").data = torch.from_numpy(grouped[order].reshape(gates.shape)).double()
    states = [torch.from_numpy(given_[n].swapaxes(0, 1) if layout else given_[n]).double().contiguous() for n in ("initial_h", "initial_c")
              if n in given_]
    with torch.no_grad():
        y, last = module(torch.from_numpy(given_["X"]).double(), tuple(states) if kind == "LSTM" else states[0])
    finals = list(last) if kind == "LSTM" else [last]
    got = run(layer, given_)
    joined = got[0].reshape(*got[0].shape[:2], -1) if layout else got[0].transpose(0, 2, 1, 3).reshape(*y.shape)
    close(layer, [joined, *[g.swapaxes(0, 1) if layout else g for g in got[1:]]], [y.numpy(), *[f.numpy() for f in finals]])


@pytest.mark.parametrize(("kind", "batch", "hidden", "direction"), [
    ("LSTM", 1, 203, "forward"), ("LSTM", 8, 203, "forward"), ("LSTM", 2, 371, "bidirectional"), ("GRU", 1, 421, "bidirectional")])
def test_units_are_shared_by_threads_where_directions_are_large(kind: str, batch: int, hidden: int, direction: str) -> None:
    layer = Layer(kind, 3, batch, 8, hidden, direction)
    given_ = tensors(layer)
    close(layer, run(layer, given_), specified(layer, given_))


def test_a_half_precision_layer_is_computed_in_single_precision() -> None:
    layer = Layer("GRU", 3, 2, 5, 7, dtype="float16")
    given_ = tensors(layer)
    for got, want in zip(run(layer, given_), specified(layer, given_), strict=True):
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, want, atol=4 * np.finfo(np.float16).eps)


@pytest.mark.parametrize("instructions", ["scalar", "avx2", "avx512", "amx"] if platform.machine() == "x86_64" else ["scalar", "neon"])
@pytest.mark.parametrize("precision", ["bf16", "f16"])
@pytest.mark.parametrize(("kind", "linear", "batch", "hidden"), [  # more than 2,048 units are not matrices'
    ("RNN", 0, 3, 2056), *((*cell, *size) for cell in (("RNN", 0), ("LSTM", 0), ("GRU", 0), ("GRU", 1)) for size in ((1, 64), (9, 35)))])
def test_weights_of_16_bits_are_multiplied_in_single_precision(
        kind: str, linear: int, batch: int, hidden: int, precision: str, instructions: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INGOT_ISA", instructions)
    layer = Layer(kind, 4, batch, 6, hidden, "bidirectional", linear_before_reset=linear)
    dtype = ml_dtypes.bfloat16 if precision == "bf16" else np.float16
    given_ = {n: a.astype(dtype).astype(a.dtype) if a.dtype.kind == "f" else a for n, a in tensors(layer).items()}  # storing them rounds nothing
    ingot.compile(model_of(layer, given_), tmp_path / "layer.ingot", precision=precision, samples=0)
    model = ingot.load(tmp_path / "layer.ingot")
    stored = [w["dtype"] for w in model.manifest["weights"]["tensors"]]
    assert stored.count("bfloat16" if precision == "bf16" else "float16") >= 1
    names = [i.name for i in model.inputs]
    close(layer, list(model.run({n: given_[n] for n in names}).values()), specified(layer, given_))


def test_a_sequence_length_that_the_input_does_not_have_is_an_error() -> None:
    layer = Layer("RNN", 3, 2, 2, 2, lengths=True)
    given_ = {**tensors(layer), "sequence_lens": np.array([1, 4], np.int32)}
    with pytest.raises(ingot.IngotError, match="sequence length 4 is not of 0 to 3"):
        run(layer, given_)


def test_weights_that_contradict_one_another_are_refused() -> None:
    layer = Layer("LSTM", 3, 2, 2, 2)
    with pytest.raises(ingot.CompileError, match="W has shape"):
        run(layer, {**tensors(layer), "W": np.zeros((1, 7, 2), np.float32)})


def test_an_activation_that_does_not_exist_is_refused() -> None:
    layer = Layer("RNN", 3, 2, 2, 2, activations=("Cosine",))
    with pytest.raises(ingot.CompileError, match="'Cosine' does not exist"):
        run(layer, tensors(layer))
