"""Loop nests written out: short names for the TIR statements that schedules are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tvm_ffi
from tvm import sym, tirx

_analyzer = sym.Analyzer()


def index(value: Any) -> Any:
    """An int64 index expression of an int or an expression."""
    return tirx.IntImm("int64", int(value)) if isinstance(value, int) else value


def simplify(value: Any) -> Any:
    """An index expression, simplified."""
    return index(value) if isinstance(value, int) else _analyzer.simplify(value)


def variable(name: str) -> Any:
    """A new int64 variable."""
    return tirx.Var(name, "int64")


def sequence(*statements: Any) -> Any:
    """Statements one after another; lists are flattened, None is left out."""
    flat: list[Any] = []
    for statement in statements:
        if isinstance(statement, (list, tuple)):
            flat += [s for s in statement if s is not None]
        elif statement is not None:
            flat.append(statement)
    if not flat:  # nothing to do: no elements
        return tirx.Evaluate(0)
    return flat[0] if len(flat) == 1 else tirx.SeqStmt(flat)


def loop(name: str, extent: Any, body: Callable[[Any], Any], kind: Any = tirx.ForKind.SERIAL) -> Any:
    """``for name in range(extent): body(name)``; a loop of one iteration is its body."""
    if isinstance(extent, int) and extent == 1 and kind != tirx.ForKind.VECTORIZED:
        return body(index(0))
    counter = variable(name)
    return tirx.For(counter, index(0), index(extent), kind, body(counter))


def parallel(name: str, extent: Any, body: Callable[[Any], Any]) -> Any:
    """A loop whose iterations are divided among the threads."""
    return loop(name, extent, body, tirx.ForKind.PARALLEL)


def vectorized(name: str, lanes: int, body: Callable[[Any], Any]) -> Any:
    """A loop that becomes vector instructions."""
    return loop(name, lanes, body, tirx.ForKind.VECTORIZED)


def branch(condition: Any, then: Any, otherwise: Any = None) -> Any:
    """``if condition: then, else: otherwise``, decided now where that is possible."""
    if isinstance(condition, bool):
        return then if condition else otherwise
    simplified = _analyzer.simplify(condition)
    if isinstance(simplified, tirx.IntImm):
        return then if int(simplified) else otherwise
    return tirx.IfThenElse(simplified, then, otherwise)


def ceildiv(a: Any, b: int) -> Any:
    """Ceiling division of an int or an index expression."""
    return -(-a // b) if isinstance(a, int) else simplify(tirx.floordiv(a + (b - 1), index(b)))


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two indices."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else simplify(tirx.min(index(a), index(b)))


def maximum(a: Any, b: Any) -> Any:
    """The larger of two indices."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else simplify(tirx.max(index(a), index(b)))


def constant(value: Any) -> Any:
    """An index as a Python int if it is known, else as it is."""
    value = value if isinstance(value, int) else simplify(value)
    return int(value) if isinstance(value, tirx.IntImm) else value


def product(values: Iterable[Any]) -> Any:
    """The product of extents, an int if all are known."""
    result: Any = 1
    for value in values:
        known = constant(value)
        result = known * result if isinstance(known, int) else result * known if not isinstance(result, int) or result != 1 else known
    return constant(result)


def ramp(base: Any, lanes: int) -> Any:
    """The indices base, base + 1, …, base + lanes - 1."""
    return tirx.Ramp(index(base), index(1), lanes)


class Flat:
    """A buffer seen as one row of elements, or of wider ones of another type that hold ``together`` elements each."""

    def __init__(self, buffer: Any, dtype: str | None = None, together: int = 1) -> None:
        count = product(buffer.ty.shape) if buffer.ty.shape else index(1)
        count = count if together == 1 else simplify(tirx.floordiv(index(count), index(together)))
        self.buffer = tirx.decl_buffer((count,), dtype or str(buffer.ty.dtype), name=f"{buffer.name}_flat")
        self._source = buffer

    def declare(self) -> Any:
        """The statement that must stand before any use."""
        return tirx.DeclBuffer(self.buffer, data=tirx.buffer_data(self._source))

    def load(self, at: Any, lanes: int = 1) -> Any:
        """The elements from an offset on."""
        return tirx.BufferLoad(self.buffer, [ramp(at, lanes) if lanes > 1 else index(at)])

    def store(self, at: Any, value: Any, lanes: int = 1) -> Any:
        """Stores elements from an offset on."""
        return tirx.BufferStore(self.buffer, value, [ramp(at, lanes) if lanes > 1 else index(at)])


class Local:
    """A small array that lives in registers or on the stack of a thread."""

    def __init__(self, name: str, count: int, dtype: str) -> None:
        self.buffer = tirx.decl_buffer((index(count),), dtype, name=name, scope="local")

    def allocate(self) -> Any:
        """The statement that must stand before any use."""
        return tirx.AllocBuffer(self.buffer)

    def load(self, at: Any, lanes: int = 1) -> Any:
        """The elements from an offset on."""
        return tirx.BufferLoad(self.buffer, [ramp(at, lanes) if lanes > 1 else index(at)])

    def store(self, at: Any, value: Any, lanes: int = 1) -> Any:
        """Stores elements from an offset on."""
        return tirx.BufferStore(self.buffer, value, [ramp(at, lanes) if lanes > 1 else index(at)])


def substitute(value: Any, replaced: Mapping[Any, Any]) -> Any:
    """An expression or statement with variables replaced."""
    return tvm_ffi.structural_map(value, (tirx.Var, lambda v: replaced.get(v, v)))


def is_choice(call: Any) -> bool:
    """Whether a call is an ``if_then_else``; the simplifier writes it as an operator of another dialect."""
    return str(getattr(call.op, "name", "")) in ("tirx.if_then_else", "prim.if_then_else")


def unravel(position: Any, shape: Sequence[Any]) -> list[Any]:
    """The indices of the element at a row-major position."""
    indices: list[Any] = []
    rest = position
    for extent in reversed(shape[1:]):
        known = constant(extent)
        size = index(max(1, known) if isinstance(known, int) else known)  # an axis without elements is never visited
        indices.insert(0, simplify(tirx.floormod(rest, size)))
        rest = tirx.floordiv(rest, size)
    return [simplify(rest), *indices] if shape else []
