"""Recurrent layers: LSTM, GRU and RNN.

The inputs of all time steps are projected by one matrix product; the recurrence itself is one kernel
(``kernels/cpu/recurrent/recurrent.h``), which reads both in blocks of eight hidden units with their gates side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax, te, topi

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

_LANES = 8  # kLanes of kernels/cpu/recurrent/step.h
#: By the numbers of the kernel's enum Activation: how many of alpha and beta each takes, and what they are by default.
_ACTIVATIONS: dict[str, tuple[float, ...]] = {
    "sigmoid": (), "tanh": (), "relu": (), "affine": (1.0, 0.0), "leakyrelu": (0.01,), "thresholdedrelu": (1.0,), "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5), "elu": (1.0,), "softsign": (), "softplus": (),
}
_DIRECTIONS = {"forward": 0b00, "reverse": 0b01, "bidirectional": 0b10}  # bit d: direction d runs backwards


@dataclass(frozen=True)
class _Cell:
    """A kind of cell: its number in the kernel, its gates, and the activations of one direction by default."""

    code: int
    gates: int
    activations: tuple[str, ...]


_RNN = _Cell(0, 1, ("Tanh",))
_LSTM = _Cell(1, 4, ("Sigmoid", "Tanh", "Tanh"))
_GRU = _Cell(2, 3, ("Sigmoid", "Tanh"))
_GRU_LINEAR = _Cell(3, 3, ("Sigmoid", "Tanh"))


@onnx_op("RNN", since=7)
def rnn(cx: Context, x: Value, w: Value, r: Value, b: Value | None = None, sequence_lens: Value | None = None, initial_h: Value | None = None,
        *, activations: list[str] | None = None, activation_alpha: list[float] | None = None, activation_beta: list[float] | None = None,
        clip: float = 0.0, direction: str = "forward", hidden_size: int | None = None, layout: int = 0) -> tuple[Value, ...]:
    functions = _functions(cx, _RNN, direction, activations, activation_alpha, activation_beta)
    return _layer(cx, _RNN, x, w, r, b, sequence_lens, [initial_h], None, direction, hidden_size, layout, clip, functions, 0)


@onnx_op("GRU", since=7)
def gru(cx: Context, x: Value, w: Value, r: Value, b: Value | None = None, sequence_lens: Value | None = None, initial_h: Value | None = None,
        *, activations: list[str] | None = None, activation_alpha: list[float] | None = None, activation_beta: list[float] | None = None,
        clip: float = 0.0, direction: str = "forward", hidden_size: int | None = None, layout: int = 0,
        linear_before_reset: int = 0) -> tuple[Value, ...]:
    cell = _GRU_LINEAR if linear_before_reset else _GRU
    functions = _functions(cx, cell, direction, activations, activation_alpha, activation_beta)
    return _layer(cx, cell, x, w, r, b, sequence_lens, [initial_h], None, direction, hidden_size, layout, clip, functions, 0)


@onnx_op("LSTM", since=7)
def lstm(cx: Context, x: Value, w: Value, r: Value, b: Value | None = None, sequence_lens: Value | None = None, initial_h: Value | None = None,
         initial_c: Value | None = None, p: Value | None = None, *, activations: list[str] | None = None,
         activation_alpha: list[float] | None = None, activation_beta: list[float] | None = None, clip: float = 0.0, direction: str = "forward",
         hidden_size: int | None = None, input_forget: int = 0, layout: int = 0) -> tuple[Value, ...]:
    functions = _functions(cx, _LSTM, direction, activations, activation_alpha, activation_beta)
    return _layer(cx, _LSTM, x, w, r, b, sequence_lens, [initial_h, initial_c], p, direction, hidden_size, layout, clip, functions, input_forget)


def _functions(cx: Context, cell: _Cell, direction: str, names: list[str] | None, alphas: list[float] | None,
               betas: list[float] | None) -> list[tuple[int, float, float]]:
    """The activations as (number, alpha, beta), three for each direction. Values are consumed by the functions that take some, in order."""
    if direction not in _DIRECTIONS:
        raise cx.error(f"direction '{direction}' does not exist; it is {', '.join(_DIRECTIONS)}")
    directions = 2 if direction == "bidirectional" else 1
    names = list(names) if names else list(cell.activations) * directions
    wanted = len(cell.activations) * directions
    if len(names) != wanted:
        raise cx.error(f"activations has {len(names)} names; {wanted} are needed")
    left = list(alphas or []), list(betas or [])
    found = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise cx.error(f"activation '{name}' does not exist")
        defaults = _ACTIVATIONS[name.lower()]
        given = [values.pop(0) if values else default for values, default in zip(left, defaults, strict=False)]
        alpha, beta = [*given, 0.0, 0.0][:2]
        found.append((list(_ACTIVATIONS).index(name.lower()), float(alpha), float(beta)))
    each = len(cell.activations)
    rows = [found[d * each:(d + 1) * each] for d in range(directions)]
    return [f for row in rows for f in [*row, *[(0, 0.0, 0.0)] * (3 - each)]] + [(0, 0.0, 0.0)] * (3 * (2 - directions))


def _layer(cx: Context, cell: _Cell, x: Value, w: Value, r: Value, b: Value | None, lengths: Value | None, states: Sequence[Value | None],
           peepholes: Value | None, direction: str, hidden_size: int | None, layout: int, clip: float,
           functions: list[tuple[int, float, float]], input_forget: int) -> tuple[Value, ...]:
    dtype = x.dtype
    computed = "float64" if dtype == "float64" else "float32"
    directions, hidden = _sizes(cx, cell, x, w, r, b, peepholes, direction, hidden_size)

    def ready(value: Value | None) -> Value | None:
        return None if value is None else cx.cast(value, computed)

    x, w, r, b, peepholes = (ready(v) for v in (x, w, r, b, peepholes))  # type: ignore[assignment]
    states = [ready(s) for s in states]
    if layout:
        x = cx.transpose(x, [1, 0, 2])
        states = [None if s is None else cx.transpose(s, [1, 0, 2]) for s in states]
    times, batch, _ = x.shape
    packed = _Packer(cx, cell, directions, hidden)
    flat = cx.reshape(x, [dims.dim(times * batch), x.shape[2]])
    projected = cx.op(relax.op.matmul(flat.expr, packed.input_weights(w).expr))
    reset_bias = None
    if b is not None:
        bias, reset_bias = packed.biases(b)
        projected = cx.op(relax.op.add(projected.expr, bias.expr))
    projected = cx.reshape(projected, [times, batch, projected.shape[1]])
    initial = [*states, None][:2]
    inputs = [projected, packed.recurrent_weights(r), reset_bias, None if peepholes is None else packed.peepholes(peepholes), *initial,
              None if lengths is None else cx.cast(lengths, "int32")]
    while inputs[-1] is None:
        inputs.pop()
    state = [directions, batch, hidden]
    results: tuple[Value, ...] = cx.kernel(
        "recurrent", inputs, [([times, *state], computed), *[(state, computed)] * len(states)],
        ints=[cell.code, _DIRECTIONS[direction], int(bool(input_forget)), *[f[0] for f in functions]],
        floats=[clip, *[v for f in functions for v in f[1:]]])
    if layout:
        results = (cx.transpose(results[0], [2, 0, 1, 3]), *[cx.transpose(s, [1, 0, 2]) for s in results[1:]])
    return tuple(cx.cast(value, dtype) for value in results)


def _sizes(cx: Context, cell: _Cell, x: Value, w: Value, r: Value, b: Value | None, peepholes: Value | None, direction: str,
           hidden_size: int | None) -> tuple[int, int]:
    """The number of directions and of hidden units, which all weights must agree on."""
    directions = 2 if direction == "bidirectional" else 1
    if x.ndim != 3 or w.ndim != 3 or r.ndim != 3 or not dims.is_static((*w.shape, *r.shape)):
        raise cx.error(f"X, W and R have shapes {', '.join(dims.text(v.shape) for v in (x, w, r))}; they must have 3 axes, those of W and R known")
    hidden, inputs = int(r.shape[2]), int(w.shape[2])
    if hidden_size is not None and hidden_size != hidden:
        raise cx.error(f"hidden_size is {hidden_size}, but R has shape {dims.text(r.shape)}")
    wide = cell.gates * hidden
    for name, value, shape in (("W", w, (directions, wide, inputs)), ("R", r, (directions, wide, hidden)), ("B", b, (directions, 2 * wide)),
                               ("P", peepholes, (directions, 3 * hidden))):
        if value is not None and tuple(value.shape) != shape:
            raise cx.error(f"{name} has shape {dims.text(value.shape)}, expected {list(shape)}")
    if not dims.equal(x.shape[2], inputs):
        if isinstance(x.shape[2], int):
            raise cx.error(f"X has {x.shape[2]} features, but W takes {inputs}")
        cx.check(dims.expr(x.shape[2]).equal(inputs), f"X must have {inputs} features")
    return directions, hidden


class _Packer:
    """Brings weights into the kernel's order: of constants while compiling, of computed weights in the program."""

    def __init__(self, cx: Context, cell: _Cell, directions: int, hidden: int) -> None:
        self.cx = cx
        self.gates = cell.gates
        self.split = 2 if cell is _GRU else 3  # gates from this one on are multiplied in a second pass
        self.linear = cell is _GRU_LINEAR
        self.directions = directions
        self.hidden = hidden
        self.blocks = -(-hidden // _LANES)

    def input_weights(self, w: Value) -> Value:
        """[D, G H, I] → [I, D N G 8]."""
        packed = self.cx.transpose(self._blocks(w, w.shape[2]), [4, 0, 2, 1, 3])
        return self.cx.reshape(packed, [w.shape[2], self._width()])

    def recurrent_weights(self, r: Value) -> Value:
        """[D, G H, H] → [D, N H G 8]; for a GRU in two passes, those of z and r, then those of h."""
        packed = self._blocks(r, self.hidden)
        if self.split == 3:
            return self.cx.reshape(self.cx.transpose(packed, [0, 2, 4, 1, 3]), [self.directions, self._width() // self.directions * self.hidden])
        parts = [self.cx.transpose(self._part(packed, 1, a, z), [0, 2, 4, 1, 3]) for a, z in ((0, 2), (2, 3))]
        flat = [self.cx.reshape(p, [self.directions, dims.product(p.shape[1:])]) for p in parts]
        return self._joined(flat)

    def biases(self, b: Value) -> tuple[Value, Value | None]:
        """[D, 2 G H] → the projection's bias [D N G 8], and that of h within the reset [D, P]."""
        cx, shape = self.cx, [self.directions, self.gates, self.blocks * _LANES]
        halves = self._padded(cx.reshape(b, [self.directions, 2 * self.gates, self.hidden]), 2)
        projected, recurrent = self._part(halves, 1, 0, self.gates), self._part(halves, 1, self.gates, 2 * self.gates)
        reset = None
        if self.linear:
            reset = cx.reshape(self._part(recurrent, 1, 2, 3), [self.directions, shape[2]])
            recurrent = self._padded(self._part(recurrent, 1, 0, 2), 1, 1)
        known = projected.array, recurrent.array
        total = (cx.constant(known[0] + known[1]) if known[0] is not None and known[1] is not None
                 else cx.op(relax.op.add(projected.expr, recurrent.expr)))
        packed = cx.transpose(cx.reshape(total, [self.directions, self.gates, self.blocks, _LANES]), [0, 2, 1, 3])
        return cx.reshape(packed, [self._width()]), reset

    def peepholes(self, p: Value) -> Value:
        """[D, 3 H] → [D, 3, P]."""
        return self._padded(self.cx.reshape(p, [self.directions, 3, self.hidden]), 2)

    def _width(self) -> int:
        return self.directions * self.blocks * self.gates * _LANES

    def _blocks(self, weights: Value, columns: dims.Dim) -> Value:
        padded = self._padded(self.cx.reshape(weights, [self.directions, self.gates, self.hidden, columns]), 2)
        return self.cx.reshape(padded, [self.directions, self.gates, self.blocks, _LANES, columns])

    def _padded(self, value: Value, axis: int, amount: int | None = None) -> Value:
        """Zeros after the hidden units, so that blocks are whole; or ``amount`` of them."""
        amount = self.blocks * _LANES - self.hidden if amount is None else amount
        if amount == 0:
            return value
        after = [amount if i == axis else 0 for i in range(value.ndim)]
        if value.weight is not None:
            shape = tuple(int(d) + a for d, a in zip(value.shape, after, strict=True))
            padding = [(0, a) for a in after]
            return Value(self.cx, value.dtype, shape, weight=value.weight.map(lambda a: np.pad(a, padding), shape, ":padded"))
        return self.cx.te(topi.nn.pad, value, [0] * value.ndim, after, name="pad")

    def _part(self, value: Value, axis: int, first: int, end: int) -> Value:
        shape = tuple(end - first if i == axis else int(d) for i, d in enumerate(value.shape))
        if value.weight is not None:
            picks = tuple(slice(first, end) if i == axis else slice(None) for i in range(value.ndim))
            return Value(self.cx, value.dtype, shape, weight=value.weight.map(lambda a: a[picks], shape, f":{first}"))

        def compute(t: te.Tensor) -> te.Tensor:
            return te.compute([dims.expr(d) for d in shape], lambda *i: t(*(k + first if a == axis else k for a, k in enumerate(i))), name="part")

        return self.cx.te(compute, value, name="part")

    def _joined(self, parts: list[Value]) -> Value:
        """Two matrices side by side."""
        a, b = parts
        shape = (int(a.shape[0]), int(a.shape[1]) + int(b.shape[1]))
        if a.weight is not None and b.weight is not None:
            other = b.weight
            return Value(self.cx, a.dtype, shape, weight=a.weight.map(lambda m: np.concatenate([m, other.load()], 1), shape, ":joined"))
        return self.cx.te(topi.concatenate, [a, b], axis=1, name="join")
