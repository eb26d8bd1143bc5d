"""Steps of optimizers: ONNX's preview operators for training."""

from __future__ import annotations

from typing import Any

from tvm import relax

from ingot.importer.context import Context
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

_DOMAIN = "ai.onnx.preview.training"


def _plus(a: Any, b: Any) -> Any:
    return relax.op.add(a, b)


def _times(a: Any, b: Any) -> Any:
    return relax.op.multiply(a, b)


def _groups(cx: Context, values: tuple[Value, ...], size: int) -> list[tuple[Value, ...]]:
    """The values of each optimized tensor: inputs come as all tensors, then all their gradients, then the states."""
    if not values or len(values) % size:
        raise cx.error(f"it has {len(values)} tensors after the first two inputs, which is not a multiple of {size}")
    count = len(values) // size
    return [tuple(values[k * count + i] for k in range(size)) for i in range(count)]


def _decayed(x: Value, gradient: Value, norm: float) -> Any:
    """The gradient with that of the squared norm of the tensor itself."""
    return _plus(gradient.expr, _times(relax.const(norm, x.dtype), x.expr))


def _number(cx: Context, value: Value, like: Value) -> Any:
    return cx.cast(cx.reshape(value, []), like.dtype).expr


@onnx_op("Adagrad", domain=_DOMAIN)
def adagrad(cx: Context, rate: Value, count: Value, *tensors: Value, decay_factor: float = 0.0, epsilon: float = 1e-6,
            norm_coefficient: float = 0.0) -> tuple[Value, ...]:
    new, squares = [], []
    for x, gradient, accumulated in _groups(cx, tensors, 3):
        one = relax.const(1, x.dtype)
        step = relax.op.divide(_number(cx, rate, x), _plus(one, _times(_number(cx, count, x), relax.const(decay_factor, x.dtype))))
        slope = cx.op(_decayed(x, gradient, norm_coefficient)).expr
        square = cx.op(_plus(accumulated.expr, _times(slope, slope)))
        scale = _plus(relax.op.sqrt(square.expr), relax.const(epsilon, x.dtype))
        new.append(cx.op(relax.op.subtract(x.expr, relax.op.divide(_times(step, slope), scale))))
        squares.append(square)
    return (*new, *squares)


@onnx_op("Momentum", domain=_DOMAIN)
def momentum(cx: Context, rate: Value, count: Value, *tensors: Value, alpha: float, beta: float, mode: str,
             norm_coefficient: float) -> tuple[Value, ...]:
    if mode not in ("standard", "nesterov"):
        raise cx.error(f"mode is '{mode}'; it is standard or nesterov")
    new, velocities = [], []
    for x, gradient, velocity in _groups(cx, tensors, 3):
        slope = cx.op(_decayed(x, gradient, norm_coefficient)).expr
        first = relax.op.equal(cx.cast(cx.reshape(count, []), "int64").expr, relax.const(0, "int64"))
        weight = relax.op.where(first, relax.const(1, x.dtype), relax.const(beta, x.dtype))
        moved = cx.op(_plus(_times(relax.const(alpha, x.dtype), velocity.expr), _times(weight, slope)))
        step = moved.expr if mode == "standard" else _plus(slope, _times(relax.const(alpha, x.dtype), moved.expr))
        new.append(cx.op(relax.op.subtract(x.expr, _times(_number(cx, rate, x), step))))
        velocities.append(moved)
    return (*new, *velocities)


@onnx_op("Adam", domain=_DOMAIN)
def adam(cx: Context, rate: Value, count: Value, *tensors: Value, alpha: float = 0.9, beta: float = 0.999, epsilon: float = 1e-6,
         norm_coefficient: float = 0.0, norm_coefficient_post: float = 0.0) -> tuple[Value, ...]:
    new, means, squares = [], [], []
    for x, gradient, mean, square in _groups(cx, tensors, 4):
        one = relax.const(1, x.dtype)
        steps = _number(cx, count, x)
        slope = cx.op(_decayed(x, gradient, norm_coefficient)).expr
        mean_new = cx.op(_plus(_times(relax.const(alpha, x.dtype), mean.expr), _times(relax.const(1 - alpha, x.dtype), slope)))
        squares_of = _times(relax.const(1 - beta, x.dtype), _times(slope, slope))
        square_new = cx.op(_plus(_times(relax.const(beta, x.dtype), square.expr), squares_of))
        correction = relax.op.divide(relax.op.sqrt(relax.op.subtract(one, relax.op.power(relax.const(beta, x.dtype), steps))),
                                     relax.op.subtract(one, relax.op.power(relax.const(alpha, x.dtype), steps)))
        first = relax.op.greater(steps, relax.const(0, x.dtype))
        adjusted = relax.op.where(first, _times(_number(cx, rate, x), correction), _number(cx, rate, x))
        scale = _plus(relax.op.sqrt(square_new.expr), relax.const(epsilon, x.dtype))
        moved = relax.op.subtract(x.expr, relax.op.divide(_times(adjusted, mean_new.expr), scale))
        new.append(cx.op(_times(relax.const(1 - norm_coefficient_post, x.dtype), moved)))
        means.append(mean_new)
        squares.append(square_new)
    return (*new, *means, *squares)
