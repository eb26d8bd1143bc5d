"""Small models that reach every schedule and every kind of kernel, with inputs: what each instruction-set level has to compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

from tests.lower.build import model

#: Relative norm error of float32: unit roundoff 6e-8 times the square root of the longest sums (1,152 terms), through a few layers.
SINGLE = 5e-6
#: Winograd's F(4x4) loses a digit (Lavin and Gray 2016, section 5.1).
WINOGRAD = 5e-5
#: The unit roundoff of float16, a few times over.
HALF = 2e-3
#: The unit roundoff of bfloat16, a few times over.
BFLOAT = 2e-2
EXACT = 0.0

#: With every extension.
V4, ARM = "cpu:x86-64-v4+vnni+bf16", "cpu:aarch64+dotprod+i8mm+bf16"

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """A model, inputs for several runs, what is allowed as relative norm error, and what its steps must be, to be the test that it is meant to be.

    ``extended`` are targets whose extensions its code may use, on top of the levels that every model is compiled for; ``expected`` are the outputs
    of each run where ONNX's reference evaluator in float64 is not the reference. ``precision`` is what it is compiled with.
    """

    source: onnx.ModelProto | Callable[[], onnx.ModelProto]
    feeds: Sequence[Feeds]
    tolerance: float = SINGLE
    kernels: tuple[str, ...] = ()
    extended: tuple[str, ...] = ()
    expected: Sequence[Mapping[str, np.ndarray]] | None = None
    precision: str | None = None

    def build(self) -> onnx.ModelProto:
        """The model as ONNX; one that has to be exported first is, each time."""
        return self.source() if callable(self.source) else self.source


#: Every model by name.
MODELS: dict[str, Callable[[], Model]] = {}


def _small(build: Callable[[np.random.Generator], Model]) -> Callable[[np.random.Generator], Model]:
    name = build.__name__
    MODELS[name] = lambda: build(np.random.default_rng(sum(name.encode())))
    return build


def _normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def _node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node from names that are separated by spaces; ``_`` is an input or output that is left out."""
    names = [["" if name == "_" else name for name in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *names, **attributes)


@_small
def matmul(rng: np.random.Generator) -> Model:
    weights = {"w": _normal(rng, 37, 53), "b": _normal(rng, 53)}
    nodes = [_node("MatMul", "x w", "p"), _node("Add", "p b", "s"), _node("Relu", "s", "y")]
    feeds = [{"x": _normal(rng, b, m, 37)} for b, m in ((1, 1), (2, 6), (1, 19), (3, 40))]
    return Model(model(nodes, {"x": ("float32", ["batch", "rows", 37])}, ["y"], weights), feeds, kernels=("matmul",), extended=(V4, ARM))


@_small
def feed_forward(rng: np.random.Generator) -> Model:
    weights = {"w": _normal(rng, 64, 192, scale=0.1), "v": _normal(rng, 192, 64, scale=0.1), "g": _normal(rng, 64), "b": _normal(rng, 64)}
    nodes = [_node("MatMul", "x w", "h"), _node("Gelu", "h", "a"), _node("MatMul", "a v", "o"), _node("Add", "o x", "r"),
             _node("LayerNormalization", "r g b", "y", axis=-1)]
    return Model(model(nodes, {"x": ("float32", ["rows", 64])}, ["y"], weights), [{"x": _normal(rng, m, 64)} for m in (1, 5, 33)])


@_small
def matmul_of_inputs(rng: np.random.Generator) -> Model:
    built = model([_node("MatMul", "x w", "y")], {"x": ("float32", ["b", "m", "k"]), "w": ("float32", ["b", "k", "n"])}, ["y"])
    return Model(built, [{"x": _normal(rng, b, m, k), "w": _normal(rng, b, k, n)} for b, m, k, n in ((1, 1, 5, 3), (2, 17, 31, 23), (3, 8, 16, 32))])


@_small
def double_precision(rng: np.random.Generator) -> Model:
    weights = {"w": rng.standard_normal((29, 41))}
    nodes = [_node("MatMul", "x w", "p"), _node("Tanh", "p", "t"), _node("Softmax", "t", "y", axis=-1)]
    built = model(nodes, {"x": ("float64", ["rows", 29])}, ["y"], weights)
    return Model(built, [{"x": rng.standard_normal((m, 29))} for m in (1, 7)], tolerance=1e-13)


def _convolution(rng: np.random.Generator, depth: int, columns: int, window: int, size: Sequence[tuple[int, int]], *, group: int = 1,
                 extents: Sequence[str | int] = ("height", "width"), tolerance: float = SINGLE, kernels: tuple[str, ...] = ("convolution",),
                 extended: tuple[str, ...] = (), **attributes: Any) -> Model:
    scale = 1 / np.sqrt(depth // group * window * window)
    weights = {"w": _normal(rng, columns, depth // group, window, window, scale=scale), "b": _normal(rng, columns)}
    nodes = [_node("Conv", "x w b", "c", group=group, **attributes), _node("Relu", "c", "y")]
    built = model(nodes, {"x": ("float32", ["batch", depth, *extents])}, ["y"], weights)
    return Model(built, [{"x": _normal(rng, 1 + i, depth, *s)} for i, s in enumerate(size)], tolerance, kernels, extended)


@_small
def conv_1x1(rng: np.random.Generator) -> Model:
    return _convolution(rng, 16, 33, 1, [(7, 9), (4, 4)])


@_small
def conv_3x3(rng: np.random.Generator) -> Model:
    return _convolution(rng, 5, 21, 3, [(7, 9), (6, 5)], pads=[1, 1, 1, 1])


@_small
def conv_winograd(rng: np.random.Generator) -> Model:
    return _convolution(rng, 32, 50, 3, [(21, 22), (21, 22)], extents=(21, 22), tolerance=WINOGRAD, kernels=("winograd",), extended=(V4,),
                        pads=[1, 1, 1, 1])


@_small
def conv_grouped_dilated(rng: np.random.Generator) -> Model:
    return _convolution(rng, 12, 20, 3, [(11, 9)], group=4, pads=[2, 1, 0, 2], dilations=[2, 1])


@_small
def conv_depthwise(rng: np.random.Generator) -> Model:
    return _convolution(rng, 35, 35, 3, [(12, 11), (5, 5)], group=35, pads=[1, 1, 1, 1], strides=[2, 1], kernels=())


@_small
def conv_transposed(rng: np.random.Generator) -> Model:
    weights = {"w": _normal(rng, 6, 10, 3, 3, scale=0.2), "b": _normal(rng, 10)}
    node = _node("ConvTranspose", "x w b", "y", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 0])
    return Model(model([node], {"x": ("float32", ["batch", 6, "h", "w"])}, ["y"], weights), [{"x": _normal(rng, 2, 6, 5, 7)}])


@_small
def pooling(rng: np.random.Generator) -> Model:
    nodes = [_node("MaxPool", "x", "a", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
             _node("AveragePool", "x", "b", kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1), _node("GlobalAveragePool", "x", "c")]
    built = model(nodes, {"x": ("float32", ["batch", 19, "h", "w"])}, list("abc"))
    return Model(built, [{"x": _normal(rng, 2, 19, 9, 12)}, {"x": _normal(rng, 1, 19, 4, 5)}])


@_small
def normalization(rng: np.random.Generator) -> Model:
    weights = {"g": _normal(rng, 45), "b": _normal(rng, 45), "c": _normal(rng, 6), "d": _normal(rng, 6)}
    nodes = [_node("Softmax", "x", "s", axis=-1), _node("LogSoftmax", "x", "l", axis=1), _node("LayerNormalization", "x g b", "n", axis=-1),
             _node("InstanceNormalization", "x c d", "i")]
    built = model(nodes, {"x": ("float32", ["batch", 6, 45])}, list("slni"), weights)
    return Model(built, [{"x": _normal(rng, n, 6, 45, scale=4)} for n in (1, 3)])


UNARY = ("Exp", "Erf", "Tanh", "Sigmoid", "Gelu", "Softplus", "Sin", "Cos", "Atan", "Asinh", "Floor", "Round", "Abs", "Neg", "Mish",
         "HardSwish", "Elu")
POSITIVE = ("Log", "Sqrt", "Reciprocal", "Acosh")


@_small
def elementwise(rng: np.random.Generator) -> Model:
    nodes = [_node(op, "x", op) for op in UNARY] + [_node(op, "p", op) for op in POSITIVE] + [_node("Pow", "p x", "Pow"), _node("Atan", "p", "q")]
    built = model(nodes, {"x": ("float32", ["n"]), "p": ("float32", ["n"])}, [*UNARY, *POSITIVE, "Pow"])
    return Model(built, [{"x": np.linspace(-6, 6, n, dtype=np.float32), "p": np.linspace(1, 9, n, dtype=np.float32)} for n in (1, 67)])


@_small
def integers(rng: np.random.Generator) -> Model:
    weights = {"k": np.array([7, -3, 5], np.int64), "s": np.array(3, np.uint8)}
    nodes = [_node("Mod", "x k", "a"), _node("Div", "x k", "b"), _node("BitShift", "u s", "c", direction="RIGHT"), _node("Cast", "f", "d", to=3),
             _node("Cast", "f", "e", to=7), _node("Greater", "x k", "g"), _node("Where", "g x k", "h"), _node("Max", "x k", "m")]
    built = model(nodes, {"x": ("int64", ["n", 3]), "u": ("uint8", ["n", 3]), "f": ("float32", ["n", 3])}, list("abcdehm"), weights)
    return Model(built, [{"x": rng.integers(-99, 99, (n, 3)), "u": rng.integers(0, 255, (n, 3), np.uint8), "f": _normal(rng, n, 3, scale=40)}
                         for n in (1, 23)], EXACT)


@_small
def movement(rng: np.random.Generator) -> Model:
    weights = {"i": np.array([2, 0, -1, 4, 4]), "pads": np.array([0, 1, 2, 0, 3, 1]), "starts": np.array([1, -1]), "ends": np.array([4, -6]),
               "axes": np.array([1, 2]), "steps": np.array([1, -2]), "shape": np.array([0, -1])}
    nodes = [_node("Transpose", "x", "a", perm=[2, 0, 1]), _node("Transpose", "x", "b", perm=[0, 2, 1]), _node("Gather", "x i", "c", axis=1),
             _node("Pad", "x pads", "d", mode="reflect"), _node("Slice", "x starts ends axes steps", "e"), _node("Concat", "x c", "f", axis=1),
             _node("Reshape", "x shape", "g"), _node("DepthToSpace", "z", "h", blocksize=2)]
    built = model(nodes, {"x": ("float32", ["n", 5, 13]), "z": ("float32", ["n", 8, 3, 4])}, list("abcdefgh"), weights)
    return Model(built, [{"x": _normal(rng, n, 5, 13), "z": _normal(rng, n, 8, 3, 4)} for n in (1, 4)], EXACT)


@_small
def selection(rng: np.random.Generator) -> Model:
    weights = {"k": np.array([5]), "axis": np.array(1), "at": np.array([[1, 0, 4]]), "new": _normal(rng, 1, 3)}
    nodes = [_node("TopK", "x k", "values indices", axis=1), _node("ArgMax", "x", "most", axis=1), _node("ArgMin", "x", "least", axis=0),
             _node("CumSum", "x axis", "sums"), _node("ScatterElements", "x at new", "scattered", axis=1), _node("Greater", "x mean", "above"),
             _node("NonZero", "above", "where"), _node("Compress", "x few", "kept", axis=1), _node("Unique", "ints", "unique first inverse counts")]
    weights |= {"mean": np.array(0.5, np.float32), "few": np.array([True, False, True])}
    built = model(nodes, {"x": ("float32", ["n", 17]), "ints": ("int64", ["m"])},
                  ["values", "indices", "most", "least", "sums", "scattered", "where", "kept", "unique", "counts"], weights)
    return Model(built, [{"x": _normal(rng, n, 17), "ints": rng.integers(0, 9, 30)} for n in (1, 6)], kernels=("topk", "nonzero", "unique"))


@_small
def reductions(rng: np.random.Generator) -> Model:
    weights = {"last": np.array([2]), "first": np.array([0]), "two": np.array([0, 2]), "middle": np.array([1])}
    nodes = [_node("ReduceSum", "x last", "a"), _node("ReduceMean", "x two", "b", keepdims=0), _node("ReduceMax", "x first", "c"),
             _node("ReduceMin", "x", "d"), _node("ReduceL2", "x middle", "e"), _node("ReduceLogSumExp", "x last", "f"),
             _node("ReduceProd", "x last", "g")]
    built = model(nodes, {"x": ("float32", ["n", 7, 21])}, list("abcdefg"), weights)
    return Model(built, [{"x": _normal(rng, n, 7, 21)} for n in (1, 5)])


def _recurrent(rng: np.random.Generator, kind: str, gates: int, **attributes: Any) -> Model:
    inputs, hidden = 13, 21
    weights = {"w": _normal(rng, 2, gates * hidden, inputs, scale=0.3), "r": _normal(rng, 2, gates * hidden, hidden, scale=0.2),
               "b": _normal(rng, 2, 2 * gates * hidden)}
    outputs = "y h c" if kind == "LSTM" else "y h"
    node = _node(kind, "x w r b", outputs, hidden_size=hidden, direction="bidirectional", **attributes)
    built = model([node], {"x": ("float32", ["time", "batch", inputs])}, outputs.split(), weights)
    return Model(built, [{"x": _normal(rng, t, b, inputs)} for t, b in ((5, 1), (9, 3))], kernels=("recurrent",))


@_small
def lstm(rng: np.random.Generator) -> Model:
    return _recurrent(rng, "LSTM", 4)


@_small
def gru(rng: np.random.Generator) -> Model:
    return _recurrent(rng, "GRU", 3, linear_before_reset=1)


@_small
def attention(rng: np.random.Generator) -> Model:
    node = _node("Attention", "q k v", "y", is_causal=1, scale=0.3)
    shapes = {"q": ("float32", ["batch", 4, "queries", 20]), "k": ("float32", ["batch", 2, "keys", 20]), "v": ("float32", ["batch", 2, "keys", 12])}
    built = model([node], shapes, ["y"], opset=23)
    feeds = [{"q": _normal(rng, b, 4, s, 20), "k": _normal(rng, b, 2, s, 20), "v": _normal(rng, b, 2, s, 12)} for b, s in ((1, 3), (2, 37))]
    return Model(built, feeds, kernels=("attention",))


@_small
def half_precision(rng: np.random.Generator) -> Model:
    weights = {"w": _normal(rng, 24, 40, scale=0.2).astype(np.float16)}
    nodes = [_node("MatMul", "x w", "p"), _node("Tanh", "p", "t"), _node("Softmax", "t", "y", axis=-1), _node("Cast", "f", "h", to=10),
             _node("Cast", "x", "g", to=1), _node("Cast", "d", "i", to=10)]
    built = model(nodes, {"x": ("float16", ["rows", 24]), "f": ("float32", ["n"]), "d": ("float64", ["n"])}, ["y", "h", "g", "i"], weights)
    return Model(built, [{"x": _normal(rng, m, 24).astype(np.float16), "f": _normal(rng, 21), "d": rng.standard_normal(21)} for m in (1, 9)], HALF,
                 extended=(ARM,))


@_small
def bfloat16(rng: np.random.Generator) -> Model:
    weights = {"w": _normal(rng, 24, 40, scale=0.2).astype(ml_dtypes.bfloat16)}
    nodes = [_node("Cast", "x", "b", to=16), _node("MatMul", "b w", "p"), _node("Cast", "p", "y", to=1), _node("Mul", "b b", "s"),
             _node("Cast", "s", "z", to=1)]
    built = model(nodes, {"x": ("float32", ["rows", 24])}, ["y", "z"], weights)
    return Model(built, [{"x": _normal(rng, m, 24)} for m in (1, 9)], BFLOAT, extended=(V4, ARM))


@_small
def quantized(rng: np.random.Generator) -> Model:
    weights = {"w": rng.integers(-127, 128, (48, 36), np.int8), "zw": np.array(0, np.int8), "s": np.array(0.04, np.float32),
               "z": np.array(121, np.uint8), "sw": np.array(0.01, np.float32), "so": np.array(0.3, np.float32), "zo": np.array(110, np.uint8)}
    nodes = [_node("MatMulInteger", "x w z zw", "a"), _node("DequantizeLinear", "x s z", "b"), _node("QuantizeLinear", "f s z", "c"),
             _node("QLinearMatMul", "x s z w sw zw so zo", "d")]
    built = model(nodes, {"x": ("uint8", ["rows", 48]), "f": ("float32", ["rows", 48])}, list("abcd"), weights)
    # Quantized results may be off by one step of 256 where float64 and float32 round to different sides.
    return Model(built, [{"x": rng.integers(0, 256, (m, 48), np.uint8), "f": _normal(rng, m, 48)} for m in (1, 11)], tolerance=2e-4,
                 extended=(V4, ARM))


@_small
def integer_convolutions(rng: np.random.Generator) -> Model:
    weights = {"sx": np.array(0.03, np.float32), "zx": np.array(117, np.uint8), "zw": np.zeros(24, np.int8), "zv": np.zeros(20, np.int8),
               "w": rng.integers(-127, 128, (24, 6, 3, 3), np.int8), "v": rng.integers(-127, 128, (20, 24, 1, 1), np.int8),
               "sw": rng.uniform(0.002, 0.004, 24).astype(np.float32), "sv": rng.uniform(0.002, 0.004, 20).astype(np.float32),
               "b": _normal(rng, 24), "sy": np.array(0.02, np.float32), "zy": np.array(3, np.uint8)}
    nodes = [_node("QuantizeLinear", "x sx zx", "q"), _node("DequantizeLinear", "q sx zx", "d"), _node("DequantizeLinear", "w sw zw", "dw", axis=0),
             _node("Conv", "d dw b", "c", pads=[1] * 4, strides=[2, 1]), _node("Relu", "c", "r"), _node("QuantizeLinear", "r sy zy", "qr"),
             _node("DequantizeLinear", "qr sy zy", "dr"), _node("DequantizeLinear", "v sv zv", "dv", axis=0), _node("Conv", "dr dv", "y")]
    built = model(nodes, {"x": ("float32", ["n", 6, "h", 11])}, ["y"], weights)
    # A number of the middle may be off by one step of 256 where float64 and float32 round to different sides.
    return Model(built, [{"x": _normal(rng, n, 6, h, 11)} for n, h in ((1, 8), (2, 5))], tolerance=2e-3, kernels=("in int",), extended=(V4, ARM))


def _half(rng: np.random.Generator, precision: str, tolerance: float) -> Model:
    weights = {"w": _normal(rng, 30, 50, scale=0.2), "v": _normal(rng, 40, 50, 3, scale=0.1), "b": _normal(rng, 40)}
    nodes = [_node("MatMul", "x w", "p"), _node("Transpose", "p", "t", perm=[0, 2, 1]), _node("Conv", "t v b", "c", pads=[1, 1]),
             _node("Relu", "c", "y")]
    built = model(nodes, {"x": ("float32", [2, "rows", 30])}, ["y"], weights)
    return Model(built, [{"x": _normal(rng, 2, m, 30)} for m in (1, 13)], tolerance, extended=(V4, ARM), precision=precision)


@_small
def weights_in_bfloat16(rng: np.random.Generator) -> Model:
    return _half(rng, "bf16", BFLOAT)


@_small
def weights_in_float16(rng: np.random.Generator) -> Model:
    return _half(rng, "f16", HALF)


@_small
def image(rng: np.random.Generator) -> Model:
    weights = {"scales": np.array([1, 1, 1.5, 2], np.float32), "g": _normal(rng, 1, 4, 5, 2, scale=0.5)}
    nodes = [_node("Resize", "x _ scales", "a", mode="linear"), _node("Resize", "x _ scales", "b", mode="nearest"), _node("GridSample", "x g", "c")]
    built = model(nodes, {"x": ("float32", [1, 6, "h", "w"])}, list("abc"), weights)
    return Model(built, [{"x": _normal(rng, 1, 6, 8, 7)}])


@_small
def control_flow(rng: np.random.Generator) -> Model:
    i, keep, state = (helper.make_tensor_value_info(n, t, []) for n, t in (("i", 7), ("keep", 9), ("before", 1)))
    steps = [_node("Mul", "before before", "square"), _node("Add", "square half", "after"), _node("Less", "after most", "again")]
    body = helper.make_graph(steps, "body", [i, keep, state], [helper.make_tensor_value_info(n, t, []) for n, t in (("again", 9), ("after", 1))])
    node = helper.make_node("Loop", ["trips", "start", "x"], ["y"], body=body)
    weights = {"trips": np.array(9), "start": np.array(True), "half": np.array(0.5, np.float32), "most": np.array(3, np.float32)}
    built = model([node], {"x": ("float32", [])}, ["y"], weights)
    return Model(built, [{"x": np.array(value, np.float32)} for value in (0.25, 1.5)])


@_small
def strings(rng: np.random.Generator) -> Model:
    """Numbers that are text inside: elements of 16 bytes, which code moves and kernels read."""
    weights = {"one": np.array(["1"], object), "places": np.array([3, 0, 1, 1])}
    nodes = [_node("Cast", "x", "text", to=8), _node("Transpose", "text", "turned", perm=[1, 0]), _node("StringConcat", "turned one", "joined"),
             _node("Gather", "joined places", "picked"), _node("Where", "c picked one", "chosen"), _node("Cast", "chosen", "y", to=7)]
    built = model(nodes, {"x": ("int64", ["n", 5]), "c": ("bool", [4, "n"])}, ["y"], weights)
    feeds = [{"x": rng.integers(-99, 99, (n, 5)), "c": rng.integers(0, 2, (4, n)) > 0} for n in (1, 4, 19)]
    joined = [np.vectorize(lambda v: int(f"{v}1"))(f["x"].T) for f in feeds]
    expected = [{"y": np.where(f["c"], j[weights["places"]], 1)} for f, j in zip(feeds, joined, strict=True)]
    return Model(built, feeds, EXACT, kernels=("string_concat", "string_to_number"), expected=expected)
