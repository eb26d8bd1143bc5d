"""Matrix products."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, topi

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.checks import check_equal
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


@onnx_op("MatMul")
def matmul(cx: Context, a: Value, b: Value) -> Value:
    inner = (a.shape[-1], b.shape[-2 if b.ndim > 1 else 0])
    if not dims.equal(*inner):
        if all(isinstance(d, int) for d in inner):
            raise cx.error(f"shapes {dims.text(a.shape)} and {dims.text(b.shape)} cannot be multiplied: {inner[0]} and {inner[1]} differ")
        cx.check(dims.expr(inner[0]).equal(dims.expr(inner[1])), f"extents {inner[0]} and {inner[1]} differ")
        return cx.te(topi.matmul, a, b, name="matmul")
    if min(a.ndim, b.ndim) > 2 and not cx.broadcasts_plainly(a.shape[:-2], b.shape[:-2]):
        a, b = _of_one_batch(cx, a, b)
    return cx.op(relax.op.matmul(a.expr, b.expr))


def _of_one_batch(cx: Context, a: Value, b: Value) -> tuple[Value, Value]:
    """Stacks of matrices whose extents are written differently, as after reshapes; that they are equal is checked while running."""
    batch: list[tuple[Dim, Dim]] = []
    rank = max(a.ndim, b.ndim)
    for p, q in zip([*[1] * (rank - a.ndim), *a.shape[:-2]], [*[1] * (rank - b.ndim), *b.shape[:-2]], strict=True):
        if dims.equal(p, q) or dims.equal(p, 1) or dims.equal(q, 1) or (isinstance(p, int) and isinstance(q, int)):
            batch.append((p, q))
            continue
        cx.check(dims.expr(p).equal(dims.expr(q)), f"extents {dims.show(p)} and {dims.show(q)} of matrices that are multiplied differ")
        batch.append((p, p) if isinstance(p, int) else (q, q))
    return cx.reshape(a, [*(p for p, _ in batch), *a.shape[-2:]]), cx.reshape(b, [*(q for _, q in batch), *b.shape[-2:]])


@onnx_op("Gemm", since=7)
def gemm(cx: Context, a: Value, b: Value, c: Value | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
         transB: int = 0) -> Value:
    a = cx.transpose(a, [1, 0]) if transA else a
    b = cx.transpose(b, [1, 0]) if transB else b
    y = matmul(cx, a, b)
    y = _scaled(cx, y, alpha)
    if c is None or beta == 0:
        return y
    c = _scaled(cx, c, beta)
    if cx.broadcasts_plainly(y.shape, c.shape):
        return cx.op(relax.op.add(y.expr, c.expr))
    return cx.elementwise(lambda p, q: p + q, y, c)


def _scaled(cx: Context, x: Value, factor: float) -> Value:
    return x if factor == 1 else cx.op(relax.op.multiply(x.expr, relax.const(factor, x.dtype)))


@onnx_op("Einsum")
def einsum(cx: Context, *operands: Value, equation: str) -> Value:
    return cx.op(relax.op.einsum(tuple(o.expr for o in operands), _explicit(equation.replace(" ", ""), [o.ndim for o in operands])))


def _explicit(equation: str, ranks: list[int]) -> str:
    """The equation with its ellipses as letters and its output written out."""
    inputs, _, output = equation.partition("->")
    terms = inputs.split(",")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    wide = max((rank - len(t.replace("...", "")) for t, rank in zip(terms, ranks, strict=True) if "..." in t), default=0)
    letters = "".join(free[:wide])

    def expand(term: str, count: int) -> str:
        return term.replace("...", letters[len(letters) - count:] if count else "")

    expanded = [expand(t, r - len(t.replace("...", ""))) for t, r in zip(terms, ranks, strict=True)]
    if "->" in equation:
        result = expand(output, wide)
    else:
        flat = "".join(t.replace("...", "") for t in terms)
        result = letters + "".join(sorted(c for c in set(flat) if flat.count(c) == 1))
    return ",".join(expanded) + "->" + result


@onnx_op("Det", since=11)
def det(cx: Context, x: Value) -> Value:
    if x.ndim < 2:
        raise cx.error(f"an input of shape {dims.text(x.shape)} is not supported; it is [..., n, n]")
    check_equal(cx, x.shape[-1], x.shape[-2], f"matrices of shape {dims.text(x.shape[-2:])} are not square")
    if not (isinstance(x.shape[-1], int) and 1 <= x.shape[-1] <= 3):
        result: Value = cx.kernel("det", [x], [(x.shape[:-2], x.dtype)])
        return result
    size = int(x.shape[-1])

    def expand(at: Any, rows: list[int], columns: list[int]) -> Any:
        if len(rows) == 1:
            return at(rows[0], columns[0])
        terms = [at(rows[0], c) * expand(at, rows[1:], columns[:i] + columns[i + 1:]) * (-1.0) ** i for i, c in enumerate(columns)]
        return sum(terms[1:], terms[0])

    def compute(t: te.Tensor) -> te.Tensor:
        shape = [dims.expr(d) for d in x.shape[:-2]]
        return te.compute(shape, lambda *i: expand(lambda r, c: t(*i, r, c), list(range(size)), list(range(size))), name="det")

    return cx.te(compute, x, name="det")
