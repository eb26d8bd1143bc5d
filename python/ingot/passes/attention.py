"""Attention that is written out, softmax(Q Kᵀ · scale + mask) V, becomes one call of the kernel ``attention``.

From the product with V the pattern is followed backwards: through the softmax to the scores, through scales, masks and a soft cap to the
product of Q and Kᵀ, and from each operand through transposes, reshapes, scales and repetitions of heads to a tensor that the kernel reads
in place. What is not understood stays as it is: at worst the kernel reads the operands of the products themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax

from ingot.importer import dims
from ingot.importer.dims import Dim
from ingot.passes.attention_operands import BATCH, HEAD, SIZE, TOKEN, Operand, calls, extents_of, order_of, same_shape, scaled, trace_operand
from ingot.passes.attention_scores import FLOATS, find_scores, find_softmax
from ingot.passes.graph import Graph, Rewriter, variables
from ingot.passes.trace import bindings

# kernels/cpu/attention/attention.h: kMostAttentionSize, AttentionLayout.
MOST_SIZE = 256
_HEAD_FIRST = (BATCH, HEAD, TOKEN, SIZE)
_LAYOUTS: dict[tuple[str, ...], int] = {(BATCH, TOKEN, HEAD, SIZE): 0, _HEAD_FIRST: 1, (TOKEN, BATCH, HEAD, SIZE): 3}
_KEY_LAYOUTS: dict[tuple[str, ...], int] = {**_LAYOUTS, (BATCH, HEAD, SIZE, TOKEN): 2}


def fuse_attention(graph: Graph) -> Graph:
    """Replaces attention that is written out by calls of the kernel, in whichever layout needs no transposes."""
    return _Attention(graph).run(_visit)


@dataclass(frozen=True)
class _Call:
    """A call of the kernel, but for the layout of its result."""

    inputs: tuple[Any, ...]
    layouts: tuple[int, ...]
    extents: tuple[Dim, Dim, Dim, Dim]  # batch, heads, queries, size of a value
    scale: float
    softcap: float
    dtype: str


class _Attention(Rewriter):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.readers: dict[Any, list[Any]] = {}  # of a variable of the old function, its bindings that read it
        for binding in bindings(graph.function):
            for variable in variables(binding.value):
                self.readers.setdefault(variable, []).append(binding)
        self.transposed: set[Any] = set()  # results that only a transpose reads, already transposed

    def transpose_of(self, variable: Any, extents: tuple[Dim, ...]) -> tuple[str, ...]:
        """The order that [batch, heads, queries, size] is brought into, if that is all that happens to it."""
        while self.used_once(variable) and variable in self.readers:
            reader = self.readers[variable][0]
            if calls(reader.value, "relax.permute_dims"):
                axes = [(name,) for name in _HEAD_FIRST] if len(extents_of(variable)) == 4 else [(BATCH, HEAD), (TOKEN,), (SIZE,)]
                moved = tuple(axes[i] for i in order_of(reader.value, len(axes)))
                return Operand(reader.var, moved, dict(zip(_HEAD_FIRST, extents, strict=True))).layout(_LAYOUTS) or _HEAD_FIRST
            if not calls(reader.value, "relax.reshape") or not same_shape(extents_of(reader.var), extents):
                break
            variable = reader.var  # back from three axes to four
        return _HEAD_FIRST

    def kernel(self, call: _Call, layout: tuple[str, ...]) -> Any:
        """Emits a call whose result has one of the layouts."""
        extents = dict(zip(_HEAD_FIRST, call.extents, strict=True))
        shape = [dims.expr(extents[name]) for name in layout]
        emitted = self.emit(relax.call_pure_packed(
            "ingot.kernel.attention",
            relax.Tuple(list(call.inputs)),
            relax.ShapeExpr([]),
            relax.Tuple([relax.prim_value(i) for i in (*call.layouts, _LAYOUTS[layout], -1, -1, 0, 0)]),
            relax.Tuple([relax.const(f, "float64") for f in (call.scale, call.softcap)]),
            ty_args=relax.TensorType(dtype=call.dtype, ndim=4),
        ))
        return self.bb.match_cast(emitted, relax.TensorType(shape, call.dtype), self._hint)

    def reshaped(self, result: Any, shape: Sequence[Dim]) -> Any:
        """A tensor in another shape."""
        return result if same_shape(extents_of(result), shape) else self.emit(relax.op.reshape(result, [dims.expr(d) for d in shape]))


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Attention)
    if calls(value, "relax.reshape") and value.args[0] in rewriter.transposed:
        return value.args[0]
    if calls(value, "relax.permute_dims") and value.args[0] in rewriter.transposed:
        rewriter.transposed.remove(value.args[0])
        return rewriter.reshaped(value.args[0], extents_of(variable))
    found = _match(rewriter, value) if calls(value, "relax.matmul") else None
    if found is None:
        return None
    layout = rewriter.transpose_of(variable, found.extents)
    if layout != _HEAD_FIRST:
        result = rewriter.kernel(found, layout)
        rewriter.transposed.add(result)
        return result
    return rewriter.reshaped(rewriter.kernel(found, _HEAD_FIRST), extents_of(variable))


def _match(rewriter: Rewriter, product: Any) -> _Call | None:
    """The kernel's call for a product with V that attention ends in, or None."""
    softmax = find_softmax(rewriter, product.args[0])
    scores = find_scores(rewriter, softmax.args[0]) if softmax is not None else None
    if scores is None:
        return None
    query, keys = scores.product.args
    values = product.args[1]
    if len({(len(extents_of(x)), str(x.ty.dtype)) for x in (query, keys, values)}) != 1:
        return None
    if len(extents_of(query)) not in (3, 4) or str(query.ty.dtype) not in FLOATS:
        return None
    split = scores.split or _heads_of(rewriter, query)
    q = trace_operand(rewriter, _operand(query, (TOKEN, SIZE), split), _LAYOUTS)
    k = trace_operand(rewriter, _operand(keys, (SIZE, TOKEN), split), _KEY_LAYOUTS)
    v = trace_operand(rewriter, _operand(values, (TOKEN, SIZE), split), _LAYOUTS)
    if not _fits(q, k, v):
        return None
    extents = (q.extents[BATCH], q.extents[HEAD], q.extents[TOKEN], v.extents[SIZE])
    masks = [_aligned(rewriter, mask, (*extents[:3], k.extents[TOKEN])) for mask in scores.masks]
    if any(mask is None for mask in masks):
        return None
    while len(masks) > 1:
        masks[-2:] = [rewriter.emit(relax.op.add(masks[-2], masks[-1]))]
    layouts = [operand.layout(_KEY_LAYOUTS) for operand in (q, k, v)]
    inputs = [operand.emitted(rewriter, layout) for operand, layout in zip((q, k, v), layouts, strict=True) if layout is not None]
    absent = relax.Tuple([])
    return _Call((*inputs, masks[0] if masks else absent, absent), tuple(_KEY_LAYOUTS[layout] for layout in layouts if layout is not None),
                 extents, scores.scale * q.scale * k.scale, scores.softcap, str(query.ty.dtype))


def _operand(variable: Any, last: tuple[str, str], split: tuple[Dim, Dim] | None) -> Operand:
    """An operand of a batched product, whose last two axes are ``last``. Heads of three axes are batch · heads, or all heads of one batch."""
    shape = extents_of(variable)
    if len(shape) == 4:
        return Operand(variable, ((BATCH,), (HEAD,), (last[0],), (last[1],)), dict(zip((BATCH, HEAD, *last), shape, strict=True)))
    batch, heads = split if split is not None and dims.equal(dims.product(split), shape[0]) else (1, shape[0])
    return Operand(variable, ((BATCH, HEAD), (last[0],), (last[1],)), {BATCH: batch, HEAD: heads, last[0]: shape[1], last[1]: shape[2]})


def _heads_of(rewriter: Rewriter, variable: Any) -> tuple[Dim, Dim] | None:
    """Batch and heads of a tensor [batch · heads, tokens, size] that is a reshape of one of four axes."""
    value: Any = rewriter.values.get(variable)
    while (peeled := scaled(rewriter, value)) is not None:
        variable = peeled[0]
        value = rewriter.values.get(variable)
    shape = extents_of(value.args[0]) if calls(value, "relax.reshape") else ()
    return (shape[0], shape[1]) if len(shape) == 4 and dims.equal(dims.product(shape[:2]), extents_of(variable)[0]) else None


def _fits(q: Operand, k: Operand, v: Operand) -> bool:
    """Whether the kernel takes these operands."""
    sizes = (q.extents[SIZE], v.extents[SIZE])
    return (
        all(isinstance(size, int) and size <= MOST_SIZE for size in sizes)
        and v.scale == 1
        and all(dims.equal(q.extents[BATCH], operand.extents[BATCH]) for operand in (k, v))
        and all(dims.equal(k.extents[axis], v.extents[axis]) for axis in (HEAD, TOKEN))
        and (dims.equal(q.extents[HEAD], k.extents[HEAD])
             or (isinstance(k.extents[HEAD], int) and k.extents[HEAD] > 0 and dims.equal(dims.dim(q.extents[HEAD] % k.extents[HEAD]), 0)))
    )


def _aligned(rewriter: Rewriter, mask: Any, scores: tuple[Dim, ...]) -> Any:
    """A mask that can be broadcast to [batch, heads, queries, keys], or None."""
    shape = extents_of(mask)
    if str(mask.ty.dtype) not in FLOATS or len(shape) > 4:
        return None
    if len(shape) == 3 and dims.equal(shape[0], dims.product(scores[:2])):  # of a product of three axes
        shape = (*scores[:2], *shape[1:])
        mask = rewriter.emit(relax.op.reshape(mask, [dims.expr(d) for d in shape]))
    matches = all(dims.equal(a, 1) or dims.equal(a, b) for a, b in zip(reversed(shape), reversed(scores), strict=False))
    return mask if matches else None
