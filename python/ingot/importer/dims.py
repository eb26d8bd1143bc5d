"""Dimensions: integers that are known now, or expressions over symbolic extents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import tvm
import tvm_ffi
from tvm import sym, tirx

#: An extent: a Python int, or an int64 TIR expression over symbolic variables.
Dim: TypeAlias = Any

_analyzer = sym.Analyzer()
_symbols: set[Any] = set()
_LARGEST = 2**40  # no extent comes near it, and products of two still fit int64
_lowest: dict[Any, int] = {}  # of symbolic extents
_MOST_RAISED = 4096  # how far a symbol's lowest value is searched: the receptive field of a deep convolutional network


def dim(value: Any) -> Dim:
    """Returns ``value`` simplified: a Python int whenever it is a constant."""
    if isinstance(value, int):
        return value
    if hasattr(value, "__index__"):
        return int(value)
    simplified = _analyzer.simplify(value)
    return int(simplified) if isinstance(simplified, tirx.IntImm) else simplified


def dims(values: Iterable[Any]) -> tuple[Dim, ...]:
    """Simplifies each of ``values``."""
    return tuple(dim(value) for value in values)


def expr(value: Dim) -> Any:
    """The int64 TIR expression of a dimension, for use inside TIR."""
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def is_static(shape: Iterable[Dim]) -> bool:
    """Whether every extent is known."""
    return all(isinstance(extent, int) for extent in shape)


def equal(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are provably equal."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(_analyzer.can_prove_equal(expr(a), expr(b)))


def product(values: Iterable[Dim]) -> Dim:
    """The product of dimensions; 1 for none."""
    result: Dim = 1
    for value in values:
        result = value * result if isinstance(value, int) else result * value
    return dim(result)


def floordiv(a: Dim, b: Dim) -> Dim:
    """Floor division, on ints or expressions."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return dim(tirx.floordiv(expr(a), expr(b)))


def ceildiv(a: Dim, b: Dim) -> Dim:
    """Ceiling division, on ints or expressions."""
    return floordiv(a + b - 1, b)


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller dimension."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return dim(tirx.min(expr(a), expr(b)))


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger dimension."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return dim(tirx.max(expr(a), expr(b)))


def select(condition: Any, a: Dim, b: Dim) -> Dim:
    """``a`` where ``condition`` (a TIR boolean or a Python bool) holds, else ``b``."""
    if isinstance(condition, bool):
        return a if condition else b
    return dim(tirx.Select(condition, expr(a), expr(b)))


def integer(name: str) -> Any:
    """A fresh symbolic integer of any sign: one that is read at run time and may mean something else than an extent."""
    variable = tirx.Var(name, "int64")
    _symbols.add(variable)
    return variable


def is_symbol(variable: Any) -> bool:
    """Whether a TIR variable is a symbolic extent or integer, rather than a loop's."""
    return variable in _symbols


def symbol(name: str) -> Any:
    """A fresh symbolic extent, known not to be negative."""
    variable = integer(name)
    _lowest[variable] = 0
    _analyzer.bind(variable, tvm.ir.Range(0, _LARGEST))
    return variable


def assume_extent(value: Dim) -> tuple[Any, int] | None:
    """Has one be sure from here on that ``value``, an extent of some tensor, is not negative.

    That it is not holds for values of its one symbol from some number on, as after convolutions without padding. The symbol is then
    taken to be at least this number, and both are returned: the program must check it. None where nothing had to be or could be assumed.
    """
    if isinstance(value, (int, tirx.Var)) or is_extent(value):
        return None
    symbols = variables(value)
    if len(symbols) != 1 or symbols[0] not in _lowest:
        return None
    symbol_, before = symbols[0], _lowest[symbols[0]]
    for lowest in range(before, before + _MOST_RAISED):
        at = dim(_substituted(value, symbol_, lowest))
        if not isinstance(at, int):
            return None
        if at >= 0:
            break
    else:
        return None
    _analyzer.bind(symbol_, tvm.ir.Range(lowest, _LARGEST), allow_override=True)
    if not is_extent(value):
        _analyzer.bind(symbol_, tvm.ir.Range(before, _LARGEST), allow_override=True)
        return None
    _lowest[symbol_] = lowest
    return symbol_, lowest


def _substituted(value: Dim, symbol_: Any, number: int) -> Any:
    constant = tirx.IntImm("int64", number)
    return tvm_ffi.structural_map(value, (tirx.Var, lambda variable: constant if variable.same_as(symbol_) else variable))


def show(extent: Dim) -> str:
    """An extent for a person: ``min(sequence, 512)``, without TVM's types."""
    return re.sub(r"\bT\.", "", re.sub(r"T\.int64\((-?\d+)\)", r"\1", str(extent)))


def text(shape: Sequence[Dim]) -> str:
    """A shape for a person: ``[batch, 3, 224, 224]``."""
    return "[" + ", ".join(map(show, shape)) + "]"


def variables(value: Dim) -> list[Any]:
    """The symbolic variables that an extent depends on."""
    if isinstance(value, int):
        return []
    return list(tvm.tirx.analysis.undefined_vars(value))


def is_extent(value: Dim) -> bool:
    """Whether a dimension is provably not negative."""
    return value >= 0 if isinstance(value, int) else bool(_analyzer.can_prove(value >= 0))
