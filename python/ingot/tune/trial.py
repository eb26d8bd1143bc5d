"""A model of nothing but candidates: each computes a problem by itself, from an input and weights of its own."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from ingot.errors import InternalError
from ingot.importer import dims
from ingot.importer.module import Imported, TensorSpec
from ingot.importer.weights import Weight, numpy_dtype
from ingot.lower.cpu import arithmetic
from ingot.lower.cpu.choices import Choice, Problem
from ingot.lower.cpu.tiles import Tile
from ingot.lower.cpu.winograd import Tiling
from ingot.lower.targets import Target
from ingot.passes.layout import CONVOLUTIONS
from ingot.passes.settings import PRECISIONS

#: What symbolic extents are measured at: a sentence's 128 tokens, and the 56 x 56 positions of an image halfway through a network.
_ROWS = 128
_POSITIONS = 56 * 56
_NOISE = np.random.default_rng(0).standard_normal(1 << 16)


@dataclass(frozen=True)
class Trial:
    """A problem and its candidates."""

    problem: Problem
    candidates: tuple[Choice, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the candidates' weights, about."""
        one = 4 * math.prod(self.problem.window) * self.problem.groups * self.problem.depth * self.problem.columns
        return one * len(self.candidates)


@dataclass(frozen=True)
class Candidate:
    """One of a trial's candidates: ``number`` among them, None for one that only goes ahead of the others."""

    trial: Trial
    choice: Choice
    number: int | None


def in_turn(trials: Sequence[Trial]) -> list[Candidate]:
    """The order in which candidates run: one of each problem, then the next of each, so that all find the caches filled by other problems.

    One more goes ahead, for what the first of a round pays: threads that wake up, and caches that something else has filled.
    """
    turns = [Candidate(t, t.candidates[n], n) for n in range(max(len(t.candidates) for t in trials)) for t in trials if n < len(t.candidates)]
    return [Candidate(turns[0].trial, turns[0].choice, None), *turns]


class Forced:
    """Choices that give each of a model's candidates its own."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._waiting: dict[str, deque[Choice]] = {}
        for candidate in candidates:
            self._waiting.setdefault(candidate.trial.problem.key(), deque()).append(candidate.choice)

    def winograd(self, problem: Problem) -> Tiling | None:
        """See :class:`ingot.lower.cpu.choices.Choices`."""
        m = self._next(problem)[0].winograd
        return problem.tiling(m) if m else None

    def tile(self, problem: Problem) -> Tile:
        """See :class:`ingot.lower.cpu.choices.Choices`."""
        return self._next(problem).popleft().tile

    def _next(self, problem: Problem) -> deque[Choice]:
        waiting = self._waiting.get(problem.key())
        if not waiting:
            raise InternalError(f"tuning does not know the problem '{problem.key()}'")
        return waiting


@dataclass(frozen=True)
class TrialModel:
    """Trials as a model, whose nodes are the candidates in order, and arrays to run it with."""

    imported: Imported
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]


def trial_model(candidates: Sequence[Candidate], target: Target) -> TrialModel:
    """The model of some candidates. Those of one problem share arrays: their inputs are equal, and nobody reads their outputs."""
    bb = relax.BlockBuilder()
    made: dict[str, _Operands] = {}
    xs, ws, calls, nodes = [], [], [], []
    for number, candidate in enumerate(candidates):
        problem = candidate.trial.problem
        operands = made.get(problem.key()) or made.setdefault(problem.key(), _Operands.of(problem, target))
        nodes.append(str(number))
        xs.append((relax.Var(f"x{number}", relax.TensorType([dims.expr(e) for e in operands.shape], str(operands.x.dtype))), operands))
        weight = operands.weight(f"w{number}")
        ws.append((relax.Var(weight.name, relax.TensorType([dims.expr(e) for e in weight.shape], weight.dtype)), weight))
        calls.append(_call(problem, xs[-1][0], ws[-1][0], str(operands.y.dtype)))
    with bb.function("main"):
        with bb.dataflow():
            results = [bb.emit(call, f"n{i}_") for i, call in enumerate(calls)]
            output = bb.emit_output(relax.Tuple(results))
        bb.emit_func_output(output, params=[*(x for x, _ in xs), *(w for w, _ in ws)])
    inputs, outputs = [o.x for _, o in xs], [o.y for _, o in xs]
    x_specs, y_specs = ([TensorSpec(f"{kind}{i}", str(a.dtype), a.shape) for i, a in enumerate(arrays)]
                        for kind, arrays in (("x", inputs), ("y", outputs)))
    symbols = [e for o in made.values() for e in o.shape if not isinstance(e, int)]
    return TrialModel(Imported(bb.finalize(), x_specs, y_specs, symbols, [weight for _, weight in ws], nodes, {}), inputs, outputs)


@dataclass(frozen=True)
class _Operands:
    """What the candidates of a problem compute with: arrays for X and the result, X's symbolic shape, the weights' shape and data type."""

    x: np.ndarray
    y: np.ndarray
    shape: list[Any]
    weight_shape: tuple[int, ...]
    weight_dtype: str

    @staticmethod
    def of(problem: Problem, target: Target) -> _Operands:
        shape, sizes, result = _shapes(problem)
        how = arithmetic.find(problem.arithmetic, target)
        x_dtype, w_dtype = ("float32", "float32") if how.kind in PRECISIONS.values() else (how.x, how.w)  # before packing, which rounds float32
        y_dtype = how.sums if how.sums == "int32" else x_dtype
        weight = (*problem.window, problem.depth, problem.groups * problem.columns)
        return _Operands(_array(sizes, x_dtype), np.zeros(result, numpy_dtype(y_dtype)), shape, weight, w_dtype)

    def weight(self, name: str) -> Weight:
        return Weight(name, self.weight_shape, self.weight_dtype, lambda: _array(self.weight_shape, self.weight_dtype))


def _shapes(problem: Problem) -> tuple[list[Any], tuple[int, ...], tuple[int, ...]]:
    """X's shape with its symbols, its extents in a measurement, and the result's."""
    rank = len(problem.window)
    lead = len(problem.extents) - rank
    unknown = _unknown(problem)
    extents = [e if e is not None else u for e, u in zip(problem.extents, unknown, strict=True)]
    spatial = [max(1, (e - 1) * s + (k - 1) * d + 1 - before - after) for e, s, k, d, before, after in zip(
        extents[lead:], problem.strides, problem.window, problem.dilations, problem.pads[:rank], problem.pads[rank:], strict=True)]
    depth = problem.groups * problem.depth
    sizes = (*extents[:lead], *spatial, depth)
    shape = [dims.symbol(f"extent{i}") if e is None else size for i, (e, size) in enumerate(zip((*problem.extents, depth), sizes, strict=True))]
    return shape, sizes, (*extents, problem.groups * problem.columns)


def _unknown(problem: Problem) -> list[int]:
    """What each axis of the result is if it is symbolic."""
    rank = len(problem.window)
    lead = [1] * (len(problem.extents) - rank)
    if not rank and problem.rows is None:
        lead[max(i for i, e in enumerate(problem.extents) if e is None) if None in problem.extents else -1] = _ROWS
    return lead + [round(_POSITIONS ** (1 / max(1, rank)))] * rank


def _call(problem: Problem, x: Any, w: Any, dtype: str) -> Any:
    if not problem.window:
        return relax.op.matmul(x, w, dtype)
    layout, kernel, operator = CONVOLUTIONS[f"relax.nn.conv{len(problem.window)}d"]
    return operator(x, w, strides=list(problem.strides), padding=list(problem.pads), dilation=list(problem.dilations), groups=problem.groups,
                    data_layout=layout, kernel_layout=kernel, out_layout=layout, out_dtype=dtype)


def _array(shape: Sequence[int], dtype: str) -> np.ndarray:
    """Numbers of no meaning: noise, again and again."""
    kind = numpy_dtype(dtype)
    noise = np.clip(_NOISE * 32, 0, 127).astype(kind) if kind.kind in "iu" else _NOISE.astype(kind)
    return np.resize(noise, tuple(shape))


