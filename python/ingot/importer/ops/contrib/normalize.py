"""Normalizations, with what models add before them."""

from __future__ import annotations

from tvm import relax

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.checks import check_shape
from ingot.importer.ops.contrib.common import microsoft_op, plus, refuse, times, wanted
from ingot.importer.ops.contrib.qlinear import floats
from ingot.importer.ops.elementwise import in_float32
from ingot.importer.ops.move import window_of
from ingot.importer.ops.normalize import inverse_deviation, layer_normalization, mean, multiply, rms_normalization, standardized
from ingot.importer.ops.shape import gather
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

# onnxruntime's optimizer writes LayerNormalization into models of opsets that do not have it yet.
onnx_op("LayerNormalization", since=1)(layer_normalization)


def _simplified(cx: Context, x: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> tuple[Value, ...]:
    if not wanted(cx, 1):
        return (rms_normalization(cx, x, scale, axis=axis, epsilon=epsilon),)
    wide = cx.cast(x, "float32") if x.dtype in ("float16", "bfloat16") else x
    inverse = inverse_deviation(cx, mean(cx, multiply(cx, wide, wide), list(range(axis % x.ndim, x.ndim))), epsilon)
    return times(cx, cx.cast(multiply(cx, wide, inverse), x.dtype), scale), inverse


onnx_op("SimplifiedLayerNormalization")(_simplified)  # onnxruntime has it in ONNX's own domain
microsoft_op("SimplifiedLayerNormalization")(_simplified)


def _sum_of(cx: Context, x: Value, skip: Value, bias: Value | None) -> Value:
    """The input of a normalization: x + skip + bias, where skip may lack the axis of batches."""
    if skip.ndim not in (x.ndim, x.ndim - 1):
        raise cx.error(f"'skip' of shape {dims.text(skip.shape)} does not fit an input of shape {dims.text(x.shape)}")
    return plus(cx, plus(cx, x, skip), bias)


def _no_statistics(cx: Context) -> None:
    refuse(cx, wanted(cx, 1) or wanted(cx, 2), "the mean and the inverse deviation are for training, and not given; remove the outputs")


@microsoft_op("SkipLayerNormalization")
def skip_layer_normalization(cx: Context, x: Value, skip: Value, gamma: Value, beta: Value | None = None, bias: Value | None = None, *,
                             epsilon: float = 1e-12) -> tuple[Value, ...]:
    _no_statistics(cx)
    total = _sum_of(cx, x, skip, bias)
    return (_layer_normal(cx, total, gamma, beta, epsilon), total, total, total)[:_outputs(cx)]


@microsoft_op("SkipSimplifiedLayerNormalization")
def skip_simplified_layer_normalization(cx: Context, x: Value, skip: Value, gamma: Value, bias: Value | None = None, *,
                                        epsilon: float = 1e-12) -> tuple[Value, ...]:
    _no_statistics(cx)
    total = _sum_of(cx, x, skip, bias)
    return (rms_normalization(cx, total, gamma, epsilon=epsilon), total, total, total)[:_outputs(cx)]


def _outputs(cx: Context) -> int:
    return 4 if wanted(cx, 3) else 1


def _layer_normal(cx: Context, x: Value, gamma: Value, beta: Value | None, epsilon: float) -> Value:
    """A layer normalization over the last axis."""
    check_shape(cx, gamma, [x.shape[-1]], "'gamma'")
    wide = cx.cast(x, "float32") if x.dtype in ("float16", "bfloat16") else x
    offset = cx.cast(beta, wide.dtype).expr if beta is not None else relax.op.zeros([dims.expr(x.shape[-1])], wide.dtype)
    return cx.cast(cx.op(relax.op.nn.layer_norm(wide.expr, cx.cast(gamma, wide.dtype).expr, offset, [x.ndim - 1], epsilon)), x.dtype)


@microsoft_op("EmbedLayerNormalization")
def embed_layer_normalization(cx: Context, input_ids: Value, segment_ids: Value | None, word_embedding: Value, position_embedding: Value,
                              segment_embedding: Value | None, gamma: Value, beta: Value, mask: Value | None = None,
                              position_ids: Value | None = None, *, epsilon: float = 1e-12, mask_index_type: int = 1) -> tuple[Value, ...]:
    refuse(cx, (segment_ids is None) != (segment_embedding is None), "segment_ids and segment_embedding go together, but only one is given")
    total = gather(cx, word_embedding, input_ids, axis=0)
    if position_ids is None:
        positions = _first_rows(cx, position_embedding, input_ids.shape[1])
    else:
        positions = gather(cx, position_embedding, position_ids, axis=0)
    total = plus(cx, total, positions)
    if segment_ids is not None and segment_embedding is not None:
        total = plus(cx, total, gather(cx, segment_embedding, segment_ids, axis=0))
    return (_layer_normal(cx, total, gamma, beta, epsilon), _counts(cx, input_ids, mask), total)[:3 if wanted(cx, 2) else 2 if wanted(cx, 1) else 1]


@microsoft_op("QEmbedLayerNormalization")
def quantized_embed_layer_normalization(
        cx: Context, input_ids: Value, segment_ids: Value | None, word: Value, position: Value, segment: Value | None, gamma: Value, beta: Value,
        mask: Value | None, word_scale: Value, position_scale: Value, segment_scale: Value | None, gamma_scale: Value, beta_scale: Value,
        word_zero: Value, position_zero: Value, segment_zero: Value | None, gamma_zero: Value, beta_zero: Value, *,
        epsilon: float = 1e-12) -> tuple[Value, ...]:
    rows = gather(cx, word, input_ids, axis=0)
    total = plus(cx, floats(cx, rows, word_scale, word_zero),
                 floats(cx, _first_rows(cx, position, input_ids.shape[1]), position_scale, position_zero))
    if segment_ids is not None and segment is not None and segment_scale is not None:
        total = plus(cx, total, floats(cx, gather(cx, segment, segment_ids, axis=0), segment_scale, segment_zero))
    y = _layer_normal(cx, total, floats(cx, gamma, gamma_scale, gamma_zero), floats(cx, beta, beta_scale, beta_zero), epsilon)
    return (y, _counts(cx, input_ids, mask)) if wanted(cx, 1) else (y,)


def _counts(cx: Context, input_ids: Value, mask: Value | None) -> Value:
    """How many tokens of each batch are not padding; 0 if that is not said."""
    return cx.op(relax.op.sum(mask.expr, [1]) if mask is not None else relax.op.zeros([dims.expr(input_ids.shape[0])], "int32"))


def _first_rows(cx: Context, table: Value, count: dims.Dim) -> Value:
    """The first rows of a table of embeddings."""
    message = f"there are embeddings for {dims.show(table.shape[0])} positions, which are fewer than there are tokens"
    cx.check(dims.expr(count) <= dims.expr(table.shape[0]) if not isinstance(count, int) else count <= table.shape[0], message)
    return window_of(cx, table, {0: (0, count, 1)})


@microsoft_op("GroupNorm")
def group_norm(cx: Context, x: Value, gamma: Value, beta: Value, *, groups: int, activation: int, epsilon: float = 1e-5,
               channels_last: int = 1) -> Value:
    refuse(cx, activation not in (0, 1), f"activation {activation} does not exist; it is 0 for none or 1 for SiLU")
    first = cx.transpose(x, [0, x.ndim - 1, *range(1, x.ndim - 1)]) if channels_last else x
    batch, channels = first.shape[:2]
    wide = cx.cast(first, "float32") if x.dtype in ("float16", "bfloat16") else first
    grouped = cx.reshape(wide, [batch, groups, dims.floordiv(channels, groups), *first.shape[2:]])
    normal, _, _ = standardized(cx, grouped, list(range(2, grouped.ndim)), epsilon)
    spread = [1, channels, *[1] * (first.ndim - 2)]
    y = plus(cx, times(cx, cx.reshape(normal, first.shape), cx.cast(cx.reshape(gamma, spread), wide.dtype)),
             cx.cast(cx.reshape(beta, spread), wide.dtype))
    y = cx.cast(in_float32(cx, relax.op.nn.silu, y) if activation else y, x.dtype)
    return cx.transpose(y, [0, *range(2, x.ndim), 1]) if channels_last else y


@microsoft_op("SkipGroupNorm")
def skip_group_norm(cx: Context, x: Value, gamma: Value, beta: Value, skip: Value, bias: Value | None = None, *, groups: int, activation: int,
                    epsilon: float = 1e-5, channels_last: int = 1) -> tuple[Value, ...]:
    channels = x.ndim - 1 if channels_last else 1

    def spread(value: Value | None) -> Value | None:
        """A tensor [batch, channels] or a vector of channels, shaped to broadcast over the input."""
        if value is None or value.ndim == x.ndim:
            return value
        batch = value.shape[0] if value.ndim == 2 else 1
        return cx.reshape(value, [batch if i == 0 else x.shape[channels] if i == channels else 1 for i in range(x.ndim)])

    total = plus(cx, plus(cx, x, spread(skip)), spread(bias))
    y = group_norm(cx, total, gamma, beta, groups=groups, activation=activation, epsilon=epsilon, channels_last=channels_last)
    return (y, total) if wanted(cx, 1) else (y,)
