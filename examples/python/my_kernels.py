"""Kernels of one's own, beside Ingot's and other runtimes'; docs/kernels-bench.md says more.

ingot kernels bench quantized_matmul --module examples/python/my_kernels.py --shape 16x1024x1024 --dtype int4:g32,int8
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ingot.bench.kernels import Loaded, MatmulInputs, QuantizedMatmul, Setting, Unsupported, register

Array = npt.NDArray[Any]


@register("quantized_matmul", name="dense")
def dense(problem: QuantizedMatmul, inputs: MatmulInputs, setting: Setting) -> Callable[[int], Array]:
    """Weights are turned into float32 once: what a product costs that is not quantized. NumPy's library takes the threads that it is given."""
    weights = [np.ascontiguousarray(inputs.weights().T) for _ in range(setting.sets)]
    return lambda which: inputs.x @ weights[which]


@register("quantized_matmul", name="rows in half")
def rows_in_half(problem: QuantizedMatmul, inputs: MatmulInputs, setting: Setting) -> Loaded:
    """Stores weights of its own, in float16, and is compared with a product of these."""
    if problem.m > 64:
        raise Unsupported("it is for few rows")
    halves = [inputs.weights().astype(np.float16) for _ in range(setting.sets)]
    own = MatmulInputs(inputs.x, inputs.codes, inputs.scales, inputs.kind, inputs.group, own=halves[0])
    return Loaded(lambda which: inputs.x @ halves[which].astype(np.float32).T, "f32", operands=own, note="float16 weights")
