"""What stands between a decoder's projections and attention becomes one call of the kernel ``rotary_cache`` of GPUs.

Q and K are rotated, K and V go into the caches. From a call of attention over caches the keys and values are followed back to the TensorScatters
that wrote them, queries and new keys through rotary embeddings as they are written out: halves of each head, times cosines and sines, put together.
Heads that lie behind one another in one product, as passes/cuda_merge.py leaves them, are read there. Caches of int8 are followed through the
rounding of each head of a step by a scale of its own, which has a cache too; queries that attention multiplies sinks by through their own rotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import Call
from tvm.ir.expr import TensorLoad

from ingot.importer import dims
from ingot.lower.cpu.fused import read, same_place
from ingot.lower.cpu.nest import constant, simplify
from ingot.passes.attention_operands import calls, extents_of, same_shape, scalar, scaled
from ingot.passes.graph import Graph, Rewriter
from ingot.passes.trace import bindings

_FLOATS = ("float32", "float16", "bfloat16")
_MOST_SIZE = 512  # of a head (kernels/cuda/rotary/rotary_cache.h)
_SEQUENCE_FIRST = 0  # kernels/cpu/attention/attention.h
_SCALES, _SINK_QUERIES = slice(7, 9), 11  # operands there
_MOST_CODE, _LEAST_MAGNITUDE = 127, 1e-30  # of int8 and of what it is scaled by (kernels/cuda/rotary/rotary_cache.h)


def cuda_rotary(graph: Graph) -> Graph:
    """Rewrites what comes before attention over caches to calls of the kernel."""
    return _Caches(graph).run(_visit)


@dataclass(frozen=True)
class _Write:
    """A TensorScatter of the old function: what it is bound to, first without a shape, its operands, and the slots' ring."""

    packed: Any
    result: Any
    cache: Any
    update: Any
    first: Any
    circular: int
    sinks: int

    @property
    def dtype(self) -> str:
        """The cache's type."""
        return str(self.cache.ty.dtype)


@dataclass(frozen=True)
class _Rotated:
    """Heads [B, S, H, D] of the old function, with the angles that they are rotated by, [B or 1, S, 1, R / 2]; None: by none."""

    heads: Any
    cosines: Any = None
    sines: Any = None

    def has_angles_of(self, other: _Rotated) -> bool:
        """Whether both are rotated by the same angles, or by none."""
        return _same(self.cosines, other.cosines) and _same(self.sines, other.sines)

    def is_second_of(self, other: _Rotated) -> bool:
        """Whether the same elements of the same heads are rotated in both, by whatever angles."""
        both = self.cosines is not None and other.cosines is not None
        return both and bool(self.heads.same_as(other.heads)) and extents_of(self.cosines)[-1] == extents_of(other.cosines)[-1]


@dataclass(frozen=True)
class _Call:
    """A call of attention of the old function, and what becomes one call of the kernel before it.

    ``writes`` are those of keys and values, and of their scales where there are any; ``values`` are V's new steps.
    """

    attention: Any
    writes: tuple[_Write, ...]
    queries: _Rotated
    keys: _Rotated
    values: Any
    sink_queries: tuple[_Rotated, ...]  # one or none


@dataclass(frozen=True)
class _Columns:
    """Columns of a tensor of the old function: those of all its heads, one after another."""

    whole: Any
    begin: int
    end: int


class _Caches(Rewriter):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.before: dict[Any, Any] = {b.var: b.value for b in bindings(graph.function)}  # what variables of the old function are bound to
        self.calls: dict[Any, _Call] = {}
        self.written: dict[Any, Any] = {}  # TensorScatters that a call takes in → their caches
        for variable in self.before:
            attention = self.value(variable, "ingot.kernel.attention")
            call = self.find(attention) if attention is not None else None
            if call is not None:
                self.calls[variable] = call
                self.written.update({w.packed: w.cache for w in call.writes})

    def match(self, value: Any, ty: Any) -> Any:
        # A TensorScatter that is taken in stands for its cache until then; nothing is left to state of it.
        return value if value in self.inputs else super().match(value, ty)

    def value(self, variable: Any, *names: str) -> Any:
        """The call that a variable of the old function is bound to, if it is one of these operators or kernels, or None."""
        found = self.before.get(variable)
        if any(name.startswith("ingot.") for name in names):
            return found if found is not None and calls(found, "relax.call_pure_packed") and str(found.args[0].global_symbol) in names else None
        return found if calls(found, *names) else None

    def through_views(self, variable: Any) -> Any:
        """The tensor that a variable is a reshape or a cast of, of floats."""
        while (value := self.value(variable, "relax.reshape", "relax.astype")) is not None and str(value.args[0].ty.dtype) in _FLOATS:
            if not self.used_once(variable):
                break
            variable = value.args[0]
        return variable

    def write(self, stated: Any) -> _Write | None:
        """The TensorScatter of a cache [B, C, columns] that only one reader, beside the function's result, reads."""
        packed = self.before.get(stated)  # by a match_cast
        call = self.value(packed, "ingot.kernel.tensor_scatter") if isinstance(packed, relax.Var) else None
        if call is None or not self.used_once(packed) or self.uses[stated] > 2:
            return None
        cache, update, first = list(call.args[1].fields)
        axis, circular, sinks = (int(i.value) for i in call.args[3].fields)
        if axis != 1 or cache not in self.inputs or len(extents_of(stated)) != 3:
            return None
        return _Write(packed, stated, cache, update, None if isinstance(first, relax.Tuple) else first, circular, sinks)

    def heads_written(self, keys: Any) -> _Write | None:
        """The TensorScatter behind keys or values [B, C, H, D] that only the attention at hand reads."""
        view = self.value(keys, "relax.reshape")
        write = self.write(view.args[0]) if view is not None and self.used_once(keys) else None
        return write if write is not None and same_shape(extents_of(write.result)[:2], extents_of(keys)[:2]) else None

    def stored(self, write: _Write, scales: _Write | None) -> Any:
        """The floats [B, S, H, D] or [B, S, H D] that the kernel rounds to what goes into a cache, or None."""
        if write.dtype in _FLOATS:
            return self.through_views(write.update) if scales is None else None
        codes = self.value(self.through_reshapes(write.update), "relax.astype", "relax.quantize")
        if codes is None or (write.dtype == "int8") != (scales is not None):
            return None
        if scales is None:
            heads = self.encoded(codes)
            return self.through_views(heads) if heads is not None else None
        quotient = self.value(self.rounded(codes.args[0]), "relax.divide")
        if quotient is None:
            return None
        heads, scale = quotient.args
        if not same_shape(extents_of(scale), [*extents_of(heads)[:-1], 1]) or not self.through_reshapes(scales.update).same_as(scale):
            return None
        return self.through_views(self.through_reshapes(heads)) if self.is_scale(scale, heads) else None

    def encoded(self, call: Any) -> Any:
        """The floats that float8_e4m3fn numbers are made of without a scale, or None."""
        if not calls(call, "relax.quantize") or str(call.attrs.out_dtype) != "float8_e4m3fn" or scalar(self, call.args[1]) != 1:
            return None
        multiplied = scaled(self, self.before.get(call.args[0]))  # by 1 (passes/integers.py)
        return call.args[0] if multiplied is None or multiplied[1] != 1 else multiplied[0]

    def through_reshapes(self, variable: Any) -> Any:
        """The tensor that a variable is a reshape of."""
        while (value := self.value(variable, "relax.reshape", "relax.squeeze")) is not None:
            variable = value.args[0]
        return variable

    def rounded(self, variable: Any) -> Any:
        """What is rounded to whole numbers, ties to even, or None."""
        call = self.value(variable, "relax.call_tir")
        fused = read(self.graph.mod[call.args[0]]) if call is not None and isinstance(call.args[1].fields[0], relax.Var) else None
        if fused is None or len(fused.stages) != 1 or not fused.stages[0].is_map:
            return None
        value = fused.stages[0].value
        is_round = isinstance(value, Call) and getattr(value.op, "name", "") == "tirx.nearbyint"
        return call.args[1].fields[0] if is_round and isinstance(value.args[0], TensorLoad) and same_place(value.args[0], fused.stages[0]) else None

    def is_scale(self, scale: Any, heads: Any) -> bool:
        """Whether a tensor is max(max |x|, 1e-30) / 127 of each head."""
        divided = scaled(self, self.before.get(scale))
        bounded = self.value(divided[0], "relax.maximum") if divided is not None else None
        if divided is None or bounded is None or not np.isclose(divided[1] * _MOST_CODE, 1):
            return False
        for most, least in (bounded.args, bounded.args[::-1]):
            largest = self.value(most, "relax.max")
            magnitudes = self.value(largest.args[0], "relax.abs") if largest is not None else None
            number = scalar(self, least)
            if magnitudes is not None and number is not None and np.isclose(number / _LEAST_MAGNITUDE, 1):
                return [int(a) for a in largest.attrs.axis] in ([-1], [3]) and bool(magnitudes.args[0].same_as(heads))
        return False

    def rotated(self, variable: Any) -> _Rotated | None:
        """Heads before their rotation, from the tensor of heads after it; itself if it is not rotated."""
        joined = self.joined(variable)
        if len(extents_of(variable)) != 4 or len(joined) == 1:
            return _Rotated(variable)
        low, high, *rest = joined
        difference, total = self.value(low, "relax.subtract"), self.value(high, "relax.add")
        if difference is None or total is None or len(rest) > 1:
            return None
        for (cosines, first), (sines, second) in _pairings(*(self.value(a, "relax.multiply") for a in difference.args)):
            if not self.is_sum(total, (cosines, second), (sines, first)):
                continue
            half = dims.dims(extents_of(first))[-1]
            parts = [self.last_columns(p) for p in (first, second, *rest)]
            heads = parts[0].whole
            size = dims.dims(extents_of(heads))[-1]
            if not isinstance(half, int) or not isinstance(size, int) or any(not p.whole.same_as(heads) for p in parts):
                return None
            ends = [(0, half), (half, 2 * half)] + ([(2 * half, size)] if 2 * half < size else [])
            angled = all(extents_of(a)[2:] == (1, half) for a in (cosines, sines))
            return _Rotated(heads, cosines, sines) if angled and [(p.begin, p.end) for p in parts] == ends else None
        return None

    def joined(self, variable: Any) -> list[Any]:
        """What a tensor is put together of, along its last axis."""
        value = self.value(variable, "relax.concat")
        if value is None or value.attrs.axis is None or int(value.attrs.axis) != len(extents_of(variable)) - 1:
            return [variable]
        return [part for field in value.args[0].fields for part in self.joined(field)] if isinstance(value.args[0], relax.Tuple) else [variable]

    def is_sum(self, total: Any, *products: tuple[Any, Any]) -> bool:
        """Whether a sum is that of two products of these factors."""
        found = [self.value(a, "relax.multiply") for a in total.args]
        return any(all(v is not None and _has_factors(v, p) for v, p in zip(found, order, strict=True)) for order in (products, products[::-1]))

    def last_columns(self, variable: Any) -> _Columns:
        """A tensor as columns, by slices of the last axis, of another."""
        extent = dims.dims(extents_of(variable))[-1]
        begin, end = 0, extent if isinstance(extent, int) else 0
        while (found := self.sliced(variable)) is not None and found[1] == len(extents_of(variable)) - 1:
            variable = found[0]
            begin, end = begin + found[2], end + found[2]
        return _Columns(variable, begin, end)

    def sliced(self, variable: Any) -> tuple[Any, int, int] | None:
        """What a tensor is a slice of, of which axis, and where it begins."""
        value = self.value(variable, "relax.strided_slice", "relax.call_tir")
        if value is None:
            return None
        if calls(value, "relax.call_tir"):
            return self.sliced_by_function(value)
        axes, begins = ([int(i.value) for i in a.fields] for a in value.args[1:3])
        steps = [int(i.value) for i in value.args[4].fields] if len(value.args) > 4 else [1]
        return (value.args[0], axes[0], begins[0]) if len(axes) == 1 and steps == [1] and begins[0] >= 0 else None

    def sliced_by_function(self, call: Any) -> tuple[Any, int, int] | None:
        operands = list(call.args[1].fields)
        fused = read(self.graph.mod[call.args[0]]) if len(operands) == 1 and isinstance(operands[0], relax.Var) else None
        if fused is None or len(fused.stages) != 1 or not fused.stages[0].is_map or not isinstance(fused.stages[0].value, TensorLoad):
            return None
        load, axes = fused.stages[0].value, fused.stages[0].axes
        offsets = [constant(simplify(i - a)) for i, a in zip(load.indices, axes, strict=True)] if len(load.indices) == len(axes) else []
        if not offsets or any(offset != 0 for offset in offsets[:-1]) or not isinstance(offsets[-1], int) or offsets[-1] < 0:
            return None
        return operands[0], len(offsets) - 1, offsets[-1]

    def columns(self, variable: Any) -> _Columns | None:
        """Heads, [B, S, H, D] or [B, S, H D], as columns of the tensor [B, S, columns] or of heads that they are part of."""
        width = dims.dim(dims.product(extents_of(variable)[2:]))
        if not isinstance(width, int):
            return None
        begin = 0
        while True:
            value, found = self.value(variable, "relax.reshape"), self.sliced(variable)
            if value is not None and len(extents_of(value.args[0])) in (3, 4) and same_shape(
                    extents_of(value.args[0])[:2], extents_of(variable)[:2]):
                variable = value.args[0]
            elif found is not None and found[1] == 2:
                size = dims.dim(dims.product(extents_of(variable)[3:]))
                if not isinstance(size, int):
                    return None
                variable, begin = found[0], begin + found[2] * size
            else:
                return _Columns(variable, begin, begin + width)

    def find(self, call: Any) -> _Call | None:
        """What of a call of attention's operands the kernel can make, or None."""
        operands = list(call.args[1].fields)
        layouts = [int(i.value) for i in call.args[3].fields][:3]
        if layouts != [_SEQUENCE_FIRST] * 3 or any(isinstance(a, relax.Tuple) or len(extents_of(a)) != 4 for a in operands[:3]):
            return None
        caches, scales = [self.heads_written(a) for a in operands[1:3]], [self.write(a) for a in operands[_SCALES] if not isinstance(a, relax.Tuple)]
        writes = [w for w in (*caches, *scales) if w is not None]
        if len(writes) != len(caches) + len(scales) or len(scales) == 1 or any(
                (w.circular, w.sinks) != (writes[0].circular, writes[0].sinks) or not _same(w.first, writes[0].first) for w in writes):
            return None
        shape, sizes = extents_of(operands[0]), [dims.dims(extents_of(a))[-1] for a in operands[:3]]
        heads = extents_of(operands[1])[2]
        if any(not isinstance(s, int) or s > _MOST_SIZE for s in sizes) or not isinstance(heads, int) or not isinstance(shape[2], int):
            return None
        keys, values = (self.stored(w, s) for w, s in zip(writes[:2], writes[2:] or (None, None), strict=True))
        queries, update = (self.rotated(a) if a is not None else None for a in (self.through_views(operands[0]), keys))
        if values is None or queries is None or update is None or not queries.has_angles_of(update) or writes[0].dtype != writes[1].dtype:
            return None
        if any(str(a.ty.dtype) not in _FLOATS for a in (queries.heads, update.heads, values)):
            return None
        given = [a for a in operands[_SINK_QUERIES:] if not isinstance(a, relax.Tuple)]
        turned = [self.rotated(self.through_views(a)) for a in given]
        sink_queries = [t for t in turned if t is not None and t.is_second_of(queries)]
        return _Call(call, tuple(writes), queries, update, values, tuple(sink_queries)) if len(sink_queries) == len(given) else None

    def emitted(self, call: _Call) -> Any:
        """The two calls: the kernel's, and attention's over what it gives."""
        operands, writes, queries = list(call.attention.args[1].fields), call.writes, call.queries
        heads = (queries.heads, call.keys.heads, call.values)
        q_shape, k_shape, v_shape = (list(a.ty.shape.values) for a in operands[:3])
        outer = q_shape[:2]
        whole = self.together([self.columns(a) for a in heads], q_shape[3], v_shape[3])
        if whole is not None:
            count = dims.expr(int(q_shape[2]) + 2 * int(k_shape[2]))
            given = [self.as_shape(whole, [*outer, count, q_shape[3]]), None, None]
        else:
            given = [self.as_shape(a, [*outer, *s[2:]]) for a, s in zip(heads, (q_shape, k_shape, v_shape), strict=True)]
        first = writes[0].first
        caches, scales = ([self.replaced(w.cache) for w in part] for part in (writes[:2], writes[2:]))
        inputs = [*caches, *given, *self.angles(queries), None if first is None else self.replaced(first), *(scales or [None, None]),
                  *(a for q in call.sink_queries for a in self.angles(q))]
        rotated = 0 if queries.cosines is None else 2 * int(extents_of(queries.cosines)[-1])
        q_type = relax.TensorType(q_shape, str(given[0].ty.dtype))
        types = [*(w.result.ty for w in writes[:2]), q_type, *(w.result.ty for w in writes[2:]), *(q_type for _ in call.sink_queries)]
        packed = self.emit(relax.call_pure_packed(
            "ingot.kernel.rotary_cache",
            relax.Tuple([relax.Tuple([]) if i is None else i for i in inputs]),
            relax.ShapeExpr([]),
            relax.Tuple([relax.prim_value(i) for i in (writes[0].circular, 0, rotated if rotated < int(q_shape[3]) else 0, writes[0].sinks)]),
            relax.Tuple([]),
            ty_args=relax.TupleType([relax.TensorType(dtype=str(t.dtype), ndim=t.ndim) for t in types]),
        ))
        items = [self.bb.match_cast(self.emit(relax.TupleGetItem(packed, i)), t, self._hint) for i, t in enumerate(types)]
        q = items.pop(2)
        self._replaced.update({w.result: item for w, item in zip(writes, items, strict=False)})  # results of the function
        rest = [*(self.replaced(a) for a in operands[3:_SINK_QUERIES]), *items[len(writes):]]
        over = [q, *(self.emit(relax.op.reshape(c, s)) for c, s in zip(items[:2], (k_shape, v_shape), strict=True))]
        old = call.attention
        return self.emit(relax.Call(old.op, [old.args[0], relax.Tuple([*over, *rest]), *old.args[2:]], old.attrs, old.ty_args))

    def together(self, columns: list[_Columns | None], size: Any, value_size: Any) -> Any:
        """The tensor in which heads of Q, K and V lie behind one another, and nothing else, or None."""
        if any(c is None or not c.whole.same_as(columns[0].whole) for c in columns) or int(size) != int(value_size):  # type: ignore[union-attr]
            return None
        parts = [c for c in columns if c is not None]
        whole = parts[0].whole
        ends = [0, *(p.end for p in parts)]
        width = dims.dim(dims.product(extents_of(whole)[2:]))
        return whole if [p.begin for p in parts] == ends[:-1] and width == ends[-1] else None

    def as_shape(self, variable: Any, shape: list[Any]) -> Any:
        """A tensor of the old function in another shape."""
        value = self.replaced(variable)
        return value if same_shape(extents_of(value), dims.dims(shape)) else self.emit(relax.op.reshape(value, shape))

    def angles(self, rotated: _Rotated) -> list[Any]:
        """Cosines and sines [B or 1, S, R / 2] from those with an axis for the heads; None for none."""
        found = []
        for spread in (rotated.cosines, rotated.sines):
            view = self.value(spread, "relax.reshape")
            shape = list(spread.ty.shape.values) if spread is not None else []
            found.append(None if spread is None else self.as_shape(view.args[0] if view is not None else spread, [*shape[:2], shape[3]]))
        return found


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Caches)
    if variable in rewriter.written:
        return rewriter.written[variable]
    call = rewriter.calls.get(variable)
    return rewriter.emitted(call) if call is not None else None


def _same(a: Any, b: Any) -> bool:
    """Whether two operands, which may be left out, are one."""
    return (a is None and b is None) or (a is not None and b is not None and a.same_as(b))


def _has_factors(product: Any, factors: tuple[Any, Any]) -> bool:
    a, b = product.args
    return any(x.same_as(factors[0]) and y.same_as(factors[1]) for x, y in ((a, b), (b, a)))


def _pairings(minuend: Any, subtrahend: Any) -> list[tuple[tuple[Any, Any], tuple[Any, Any]]]:
    """How a cos - b sin may be read: (cosines, a) and (sines, b), either factor first."""
    if minuend is None or subtrahend is None:
        return []
    (a, b), (c, d) = minuend.args, subtrahend.args
    return [(p, q) for p in ((a, b), (b, a)) for q in ((c, d), (d, c))]
