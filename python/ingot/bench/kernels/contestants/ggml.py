"""llama.cpp's products, through the ggml libraries that the package llama-cpp-python brings along."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from ingot.bench.kernels.problem import Array, Contestant, Loaded, Setting, Unsupported
from ingot.bench.kernels.quantized_matmul import MatmulInputs, QuantizedMatmul

#: ggml.h, enum ggml_type: numbers by our names of formats.
_F32, _TYPES = 0, {"int4": 2, "int8": 8}
_BLOCK = 32  # k of a block of Q4_0 and Q8_0


class _Parameters(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


#: The functions that are used, as ggml.h, ggml-alloc.h, ggml-backend.h and ggml-cpu.h declare them: what they give, and what they take.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_init": (c_void_p, (_Parameters,)),
    "ggml_tensor_overhead": (c_size_t, ()),
    "ggml_graph_overhead": (c_size_t, ()),
    "ggml_new_tensor_2d": (c_void_p, (c_void_p, c_int, c_int64, c_int64)),
    "ggml_mul_mat": (c_void_p, (c_void_p, c_void_p, c_void_p)),
    "ggml_new_graph": (c_void_p, (c_void_p,)),
    "ggml_build_forward_expand": (None, (c_void_p, c_void_p)),
    "ggml_get_data": (c_void_p, (c_void_p,)),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, (c_void_p, c_void_p)),
    "ggml_backend_tensor_set": (None, (c_void_p, c_void_p, c_size_t, c_size_t)),
    "ggml_backend_graph_compute": (c_int, (c_void_p, c_void_p)),
    "ggml_backend_get_device": (c_void_p, (c_void_p,)),
    "ggml_backend_dev_backend_reg": (c_void_p, (c_void_p,)),
    "ggml_backend_dev_supports_op": (c_bool, (c_void_p, c_void_p)),
    "ggml_backend_reg_get_proc_address": (c_void_p, (c_void_p, c_char_p)),
    "ggml_backend_cpu_init": (c_void_p, ()),
    "ggml_backend_cpu_set_n_threads": (None, (c_void_p, c_int)),
    "ggml_backend_cpu_buffer_type": (c_void_p, ()),
}


class _Ggml:
    """The libraries' functions."""

    def __init__(self) -> None:
        found = util.find_spec("llama_cpp")
        folder = Path(found.origin).parent / "lib" if found and found.origin else Path()
        files = [folder / f"lib{name}.so" for name in ("ggml-base", "ggml-cpu", "ggml")]
        if not all(f.is_file() for f in files):
            raise Unsupported(f"this build of llama-cpp-python has no {files[0].name}, {files[1].name} and {files[2].name} in {folder}")
        self._libraries = [ctypes.CDLL(str(f), mode=ctypes.RTLD_GLOBAL) for f in files]
        self._functions = {name: self._function(name, *types) for name, types in _FUNCTIONS.items()}

    def _function(self, name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
        for library in self._libraries:
            if hasattr(library, name):
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
                return function
        raise Unsupported(f"this build of llama-cpp-python has no {name}")

    def __getattr__(self, name: str) -> Any:
        return self._functions[f"ggml_{name}"]

    def context(self, tensors: int) -> Any:
        """A context of tensors without memory, and of a graph."""
        return self.init(_Parameters(self.tensor_overhead() * tensors + self.graph_overhead(), None, True))

    def weight_buffers(self, backend: Any) -> list[Any]:
        """Buffer types for weights, as llama.cpp tries them: first those that store weights in the order in which kernels read them."""
        registered = self.backend_dev_backend_reg(self.backend_get_device(backend))
        address = self.backend_reg_get_proc_address(registered, b"ggml_backend_dev_get_extra_bufts")
        extra = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(self.backend_get_device(backend)) if address else None
        found: list[Any] = []
        while extra and extra[len(found)]:
            found.append(extra[len(found)])
        return [*found, self.backend_cpu_buffer_type()]


def _mul_mat(problem: QuantizedMatmul, inputs: MatmulInputs, setting: Setting) -> Loaded:
    if problem.kind.name not in _TYPES or inputs.group_size != _BLOCK:
        raise Unsupported("Q4_0 and Q8_0 are int4 and int8 with a scale for 32 k: int4:g32, int8:g32")
    if problem.k % _BLOCK:
        raise Unsupported("its K is a multiple of 32")
    ggml = _Ggml()
    backend = ggml.backend_cpu_init()
    ggml.backend_cpu_set_n_threads(backend, setting.threads)
    data = _blocks(inputs.codes, inputs.scales, problem.kind.bits)
    operands = ggml.context(1)
    x = ggml.new_tensor_2d(operands, _F32, problem.k, problem.m)
    ggml.backend_alloc_ctx_tensors_from_buft(operands, ggml.backend_cpu_buffer_type())
    ggml.backend_tensor_set(x, inputs.x.ctypes.data, 0, inputs.x.nbytes)
    products = [_product(ggml, backend, problem, data, x) for _ in range(setting.sets)]
    graphs = []
    for product in products:
        graph = ggml.new_graph(ggml.context(1))
        ggml.build_forward_expand(graph, product)
        graphs.append(graph)
    pointers = [ctypes.cast(ggml.get_data(p), POINTER(ctypes.c_float)) for p in products]
    arrays = [np.ctypeslib.as_array(p, (problem.m, problem.n)) for p in pointers]

    def run(which: int) -> Any:
        status = ggml.backend_graph_compute(backend, graphs[which])
        if status:
            raise RuntimeError(f"ggml_backend_graph_compute failed with {status}")
        return arrays[which]

    return Loaded(run, "int8")


def _product(ggml: _Ggml, backend: Any, problem: QuantizedMatmul, data: Array, x: Any) -> Any:
    """A tensor that is x times weights of its own, which lie in the first kind of memory that has a kernel for them."""
    for buffer in ggml.weight_buffers(backend):
        weights, results = ggml.context(1), ggml.context(1)
        w = ggml.new_tensor_2d(weights, _TYPES[problem.kind.name], problem.k, problem.n)
        if not ggml.backend_alloc_ctx_tensors_from_buft(weights, buffer):
            continue
        product = ggml.mul_mat(results, w, x)
        if ggml.backend_dev_supports_op(ggml.backend_get_device(backend), product):
            ggml.backend_tensor_set(w, data.ctypes.data, 0, data.nbytes)
            ggml.backend_alloc_ctx_tensors_from_buft(results, ggml.backend_cpu_buffer_type())
            return product
    raise Unsupported("ggml has no memory for the weights in which it can multiply them")


def _blocks(codes: Array, scales: Array, bits: int) -> Array:
    """Blocks of Q4_0 or Q8_0: a float16 scale and 32 codes, of 4 bits the first 16 in the lower nibbles."""
    rows, depth = codes.shape
    split = codes.reshape(rows, depth // _BLOCK, _BLOCK)
    packed = (split[:, :, :16] | split[:, :, 16:] << 4) if bits == 4 else split.view(np.uint8)
    return np.ascontiguousarray(np.concatenate([scales.astype(np.float16).view(np.uint8).reshape(rows, -1, 2), packed], axis=2))


ROWS = (Contestant("llama.cpp", "quantized_matmul", _mul_mat, "llama_cpp"),)
