"""CausalConvWithState: a convolution of each channel over past and present tokens, whose last inputs are its state."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.checks import check_shape
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


@onnx_op("CausalConvWithState", since=27)
def causal_conv_with_state(cx: Context, x: Value, weight: Value, bias: Value | None = None, past_state: Value | None = None, *,
                           activation: str = "none") -> tuple[Value, Value]:
    if activation not in ("none", "silu", "swish"):
        raise cx.error(f"activation '{activation}' does not exist; it can be none, silu or swish")
    if x.ndim != 3 or weight.ndim != 3:
        raise cx.error(f"an input of shape {dims.text(x.shape)} and a weight of shape {dims.text(weight.shape)}: both have 3 axes")
    batch, channels, length = x.shape
    taps = weight.shape[2]
    check_shape(cx, weight, [channels, 1, taps], "the weight")
    before = dims.dim(taps - 1)
    if bias is not None:
        check_shape(cx, bias, [channels], "the bias")
    if past_state is not None:
        check_shape(cx, past_state, [batch, channels, before], "past_state")
    wide = "float64" if x.dtype == "float64" else "float32"
    optional = [t for t in (past_state, bias) if t is not None]

    def at(t: te.Tensor, rest: tuple[te.Tensor, ...], n: Any, c: Any, i: Any) -> Any:
        """Element i of the past state followed by the input."""
        now = i - dims.expr(before)
        past = rest[0](n, c, tirx.min(i, dims.expr(before) - 1)).astype(x.dtype) if past_state is not None else tirx.const(0, x.dtype)
        return tirx.if_then_else(now >= 0, t(n, c, tirx.max(now, 0)), past)

    def convolution(t: te.Tensor, w: te.Tensor, *rest: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, dims.expr(taps)), name="k")
        total = te.compute(t.shape, lambda n, c, i: te.sum(at(t, rest, n, c, i + k).astype(wide) * w(c, 0, k).astype(wide), axis=k), name="conv")

        def finish(n: Any, c: Any, i: Any) -> Any:
            value = total(n, c, i) + (rest[-1](c).astype(wide) if bias is not None else tirx.const(0, wide))
            if activation != "none":
                value = value / (tirx.const(1, wide) + tirx.exp(-value))
            return value.astype(x.dtype)

        return te.compute(t.shape, finish, name="causal_conv")

    def state(t: te.Tensor, *rest: te.Tensor) -> te.Tensor:
        return te.compute([t.shape[0], t.shape[1], dims.expr(before)], lambda n, c, i: at(t, rest, n, c, i + dims.expr(length)), name="state")

    y = cx.te(convolution, x, weight, *optional, name="causal_conv")
    return y, cx.te(state, x, *optional[:1 if past_state is not None else 0], name="causal_conv_state")
