"""The kernel benchmark: ``ingot kernels bench``, and the way to put one's own kernel beside Ingot's and others'.

A kernel is measured alone, on the same inputs for all that compute it: each in a process of its own, taking turns within one run. A result is
compared with a float64 reference before it is timed, and what is wrong is said and not timed. See ``docs/kernels-bench.md``.

    from ingot.bench.kernels import register

    @register("quantized_matmul", name="mine")
    def prepare(problem, inputs, setting):
        packed = [my_packing(inputs.codes) for _ in range(setting.sets)]
        return lambda which: my_product(inputs.x, packed[which])
"""

from ingot.bench.kernels.attention import Attention, AttentionInputs
from ingot.bench.kernels.harness import Options, measure
from ingot.bench.kernels.problem import Contestant, Kernel, Loaded, Problem, Setting, Unsupported
from ingot.bench.kernels.quantized_matmul import MatmulInputs, QuantizedMatmul
from ingot.bench.kernels.registry import define, problem, register

__all__ = ["Attention", "AttentionInputs", "Contestant", "Kernel", "Loaded", "MatmulInputs", "Options", "Problem", "QuantizedMatmul", "Setting",
           "Unsupported", "define", "measure", "problem", "register"]
