"""Element-wise functions and moves of elements: vectors along the last axis, rows or chunks on all threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.ir.expr import TensorLoad

from ingot.lower.cpu import nest
from ingot.lower.cpu.fused import Fused, Stage, loads, same_place
from ingot.lower.cpu.nest import Flat, ceildiv, constant, index, is_choice, loop, parallel, product, sequence, simplify
from ingot.lower.targets import Target

#: Elements that a task works on at the least: handing one to another thread costs about as much (a few microseconds).
CHUNK = 16384
_CHANNELS = 8  # the most that are written out one by one


def rule(fused: Fused, target: Target) -> tuple[tirx.PrimFunc, str] | None:
    """Schedules a function in which every stage is computed element by element."""
    if not all(s.is_map for s in fused.stages):
        return None
    outputs = fused.inlined()
    bodies: list[Any] = []
    flats: dict[Any, Flat] = {}
    names = set()
    for output in outputs:
        lanes = lanes_of(output, target)
        if not output.axes:
            bodies.append(tirx.BufferStore(output.buffer, output.value, []))
            names.add("scalar")
        elif all(same_place(node, output) for node in loads(output.value)):
            bodies.append(_flat(output, lanes, flats))
            names.add("flat")
        elif (channels := _channels(output)) is not None:
            bodies.append(_interleaved(output, channels, lanes))
            names.add("interleaved")
        else:
            bodies.append(_rows(output, lanes))
            names.add("rows")
    declared = [flat.declare() for flat in flats.values()]
    function = fused.function
    return (tirx.PrimFunc(list(function.params), sequence(declared, bodies), function.ret_type, function.attrs),
            f"map ({', '.join(sorted(names))})")


def lanes_of(stage: Stage, target: Target) -> int:
    """How many elements to compute at once: a vector of the stage's type, or of what it reads if that is wider."""
    dtypes = [str(stage.buffer.ty.dtype), *(str(n.source.ty.dtype) for n in loads(stage.value))]
    sizes = [_bytes(d) for d in dtypes]
    return max(1, target.lanes(max(sizes)))


def _bytes(dtype: str) -> int:
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    return max(1, int(digits) // 8) if digits else 1


def stretch(count: Any, lanes: int, body: Any, step: Any = None) -> Any:
    """``body(position)`` for count positions: whole vectors, then one by one."""
    known = constant(count)
    whole = known // lanes if isinstance(known, int) else simplify(tirx.floordiv(known, index(lanes)))
    left = known % lanes if isinstance(known, int) else simplify(known - whole * lanes)
    vectors = None
    if not (isinstance(whole, int) and whole == 0) and lanes > 1:
        vectors = loop("v", whole, lambda v: nest.vectorized("lane", lanes, lambda lane: body(simplify(v * lanes + lane))))
    elif lanes == 1:
        return loop("i", known, body)
    rest = None if isinstance(left, int) and left == 0 else loop("i", left, lambda i: body(simplify(whole * lanes + i)))
    return sequence(vectors, rest)


def forked(cost: Any, most: int, alone: Callable[[], Any], together: Callable[[], Any]) -> Any:
    """What a thread does ``alone`` if the cost is at most ``most``, else what threads do ``together``: a fork takes as long as thousands of elements.

    Where extents are symbols it is seen while running, unless even extents of 1 cost more.
    """
    least = cost if isinstance(cost, int) else constant(nest.substitute(cost, dict.fromkeys(tirx.analysis.undefined_vars(cost), index(1))))
    if isinstance(cost, int) or least > most:
        return alone() if least <= most else together()
    return nest.branch(cost <= most, alone(), together())


def _flat(output: Stage, lanes: int, flats: dict[Any, Flat]) -> Any:
    """All loads are at the output's own position: one run over all elements."""
    total = product(output.extents)

    def at(buffer: Any) -> Flat:
        return flats.setdefault(buffer, Flat(buffer))

    def body(position: Any) -> Any:
        value = tvm_ffi.structural_map(output.value, (TensorLoad, lambda n: at(n.source).load(position)))
        if any(v in set(tirx.analysis.undefined_vars(value)) for v in output.axes):
            value = nest.substitute(value, dict(zip(output.axes, nest.unravel(position, [constant(e) for e in output.extents]), strict=True)))
        return at(output.buffer).store(position, value)

    chunk = CHUNK // 2
    return forked(total, CHUNK, lambda: stretch(total, lanes, body), lambda: parallel("chunk", ceildiv(total, chunk), lambda c: stretch(
        nest.minimum(chunk, total - c * chunk), lanes, lambda p: body(simplify(c * chunk + p)))))


def _rows(output: Stage, lanes: int) -> Any:
    """The last axis in vectors; the others are one loop that the threads share."""
    extents = [constant(e) for e in output.extents]
    width = extents[-1]
    rows = product(extents[:-1])
    straight = all(contiguous(n, output.axes[-1]) for n in loads(output.value))
    parts = segments(output.value, output.axes[-1], 0, width)
    if any(varies(value, output.axes[-1]) for _, _, value in parts):
        straight = False

    def row(r: Any) -> Any:
        at = dict(zip(output.axes[:-1], nest.unravel(r, extents[:-1]), strict=True))

        def part(start: Any, stop: Any, value: Any) -> Any:
            start, stop = _placed(start, at), _placed(stop, at)

            def body(column: Any) -> Any:
                where = {**at, output.axes[-1]: simplify(column + start)}
                indices = [simplify(nest.substitute(i, where)) for i in output.indices]
                return tirx.BufferStore(output.buffer, nest.substitute(value, where), indices)

            return stretch(constant(simplify(index(stop) - index(start))), lanes if straight else 1, body)

        return sequence([part(*p) for p in parts])

    return shared(rows, width, row)


def shared(rows: Any, width: Any, row: Callable[[Any], Any], alone: int = CHUNK) -> Any:
    """``row(r)`` for rows of ``width`` elements, which the threads share if all are more than ``alone``."""
    together = max(1, CHUNK // 4 // max(1, width)) if isinstance(width, int) else 1
    if isinstance(rows, int):
        together = min(together, max(1, rows // 4))
    return forked(product([width, rows]), alone, lambda: loop("row", rows, row), lambda: parallel(
        "rows", ceildiv(rows, together), lambda t: loop("row", nest.minimum(together, rows - t * together) if together > 1 else 1,
                                                        lambda r: row(simplify(t * together + r)))))


@dataclass(frozen=True)
class _Channels:
    """A few channels that lie innermost, while what they are made of lies along the axis before them, as in an image that is laid out anew.

    Attributes:
        parts: For each channel the stretches of that axis, and the value on each. Four bytes are one channel, an int32.
        word: Whether they are.
    """

    parts: list[list[tuple[Any, Any, Any]]]
    word: bool


def _channels(output: Stage) -> _Channels | None:
    extents = [constant(e) for e in output.extents]
    if len(extents) < 2 or not isinstance(extents[-1], int) or extents[-1] > _CHANNELS:
        return None
    along, channel = output.axes[-2:]
    values = [_nested(simplify(nest.substitute(output.value, {channel: index(c)}))) for c in range(extents[-1])]
    word = len(values) == 4 and str(output.buffer.ty.dtype) in ("int8", "uint8")
    if word:
        values = [_word(values)]
    parts = [segments(v, along, 0, extents[-2]) for v in values]
    final = [part for found in parts for _, _, part in found]
    if any(varies(v, along) or not all(contiguous(n, along) for n in loads(v)) for v in final) or not any(loads(v) for v in final):
        return None
    return _Channels(parts, word)


def _word(values: list[Any]) -> Any:
    """Bytes as one int32, the first lowest."""
    whole = tirx.const(0, "int32")
    for i, value in enumerate(values):
        byte = tirx.bitwise_and(value.astype("int32"), tirx.const(0xFF, "int32"))
        whole = tirx.bitwise_or(whole, tirx.shift_left(byte, tirx.const(8 * i, "int32")))
    return whole


def _interleaved(output: Stage, channels: _Channels, lanes: int) -> Any:
    """Vectors along the last axis but one, whose elements are stored apart, or whole if they hold all channels."""
    extents = [constant(e) for e in output.extents]
    rows = product(extents[:-2])
    words = Flat(output.buffer, "int32", 4) if channels.word else None

    def row(r: Any) -> Any:
        at = dict(zip(output.axes[:-2], nest.unravel(r, extents[:-2]), strict=True))

        def part(c: int, start: Any, stop: Any, value: Any) -> Any:
            start, stop = _placed(start, at), _placed(stop, at)

            def body(place: Any) -> Any:
                where = {**at, output.axes[-2]: simplify(place + start), output.axes[-1]: index(c)}
                now = nest.substitute(value, where)
                if words is not None:
                    return words.store(simplify(r * extents[-2] + place + start), now)
                return tirx.BufferStore(output.buffer, now, [simplify(nest.substitute(i, where)) for i in output.indices])

            return stretch(constant(simplify(index(stop) - index(start))), lanes, body)

        return sequence([part(c, *p) for c, parts in enumerate(channels.parts) for p in parts])

    return sequence(words.declare() if words is not None else None, shared(rows, product(extents[-2:]), row))


def _nested(value: Any) -> Any:
    """A value whose choices depend on one comparison each."""

    def visit(node: Any) -> Any:
        if is_choice(node) and isinstance(node.args[0], tirx.And):
            condition, yes, no = node.args
            return _nested(tirx.if_then_else(condition.a, tirx.if_then_else(condition.b, yes, no), no))
        return node

    return tvm_ffi.structural_map(value, (Call, visit))


def contiguous(node: Any, axis: Any) -> bool:
    """Whether a load moves with ``axis`` by one element, or not at all."""
    moving = [i for i, at in enumerate(node.indices) if axis in set(tirx.analysis.undefined_vars(at))]
    if not moving:
        return True
    last = node.indices[-1]
    return moving == [len(node.indices) - 1] and constant(simplify(nest.substitute(last, {axis: axis + 1}) - last)) == 1


def segments(value: Any, axis: Any, start: Any, stop: Any) -> list[tuple[Any, Any, Any]]:
    """Stretches of an axis, and the value on each, that an ``if_then_else`` on the axis no longer divides (a concatenation, a pad)."""
    choice = _choice(value, axis)
    if choice is None:
        return [(start, stop, value)]
    condition, boundary, below = choice
    middle = nest.minimum(nest.maximum(boundary, start), stop)
    lower, upper = _chosen(value, condition, below), _chosen(value, condition, not below)
    return [*segments(lower, axis, start, middle), *segments(upper, axis, middle, stop)]


def _choice(value: Any, axis: Any) -> tuple[Any, Any, bool] | None:
    """A condition on ``axis`` that the value branches on, where it changes, and whether it holds below."""
    found: list[tuple[Any, Any, bool]] = []

    def visit(node: Any) -> Any:
        if is_choice(node) and not found:
            condition = node.args[0]
            for kind, shift, below in ((tirx.LT, 0, True), (tirx.LE, 1, True), (tirx.GE, 0, False), (tirx.GT, 1, False)):
                if not isinstance(condition, kind):
                    continue
                if condition.a.same_as(axis) and not _depends(condition.b, axis):
                    found.append((condition, constant(simplify(condition.b + shift)), below))
                elif condition.b.same_as(axis) and not _depends(condition.a, axis):  # c < axis: from c + 1 on
                    found.append((condition, constant(simplify(condition.a + (1 - shift))), not below))
        return node

    tvm_ffi.structural_map(value, (Call, visit))
    return found[0] if found else None


def _chosen(value: Any, condition: Any, holds: bool) -> Any:
    """A value where a condition is known."""

    def visit(node: Any) -> Any:
        if is_choice(node) and tvm_ffi.structural_equal(node.args[0], condition):
            return node.args[1 if holds else 2]
        return node

    return tvm_ffi.structural_map(value, (Call, visit))


def _placed(boundary: Any, at: dict[Any, Any]) -> Any:
    """Where a stretch begins or ends in one row: that may depend on the row, as in a triangle."""
    return boundary if isinstance(boundary, int) else constant(simplify(nest.substitute(boundary, at)))


def _depends(value: Any, axis: Any) -> bool:
    return axis in set(tirx.analysis.undefined_vars(value)) if not isinstance(value, int) else False


def varies(value: Any, axis: Any) -> bool:
    """Whether the value branches on ``axis``: then lanes part, and vectors gain nothing."""
    found = False

    def visit(node: Any) -> Any:
        nonlocal found
        if is_choice(node) and _depends(node.args[0], axis):
            found = True
        return node

    tvm_ffi.structural_map(value, (Call, visit))
    return found
