"""Each operator in which models say attention or a product with quantized weights becomes one step.

It is the attention kernel's, the quantized_matmul kernel's, or a contraction of integers. For attention that is written out see test_attention.py and
test_attention_exports.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import ingot
from ingot.runtime.artifact import Artifact

K, N, BLOCK = 96, 48, 32
RNG = np.random.default_rng(0)
CODES, SCALES = RNG.integers(0, 256, (N, K // BLOCK, BLOCK // 2), np.uint8), RNG.uniform(0.01, 0.02, N * K // BLOCK).astype(np.float32)
BYTES, STEPS = RNG.integers(-127, 128, (K, N)).astype(np.int8), RNG.uniform(0.01, 0.02, N).astype(np.float32)
SCALARS = {"xs": np.float32(0.02), "xz": np.uint8(120), "ys": np.float32(0.1), "yz": np.uint8(130), "wz": np.zeros(N, np.int8)}
HEADS = "float[b,s,64] q, float[b,s,64] k, float[b,s,64] v"


@dataclass(frozen=True)
class Form:
    """A model's inputs and nodes, its constants, and how many steps it has of each kernel; "matmul" is generated code for a product."""

    inputs: str
    body: str
    expected: dict[str, int]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    output: str = "float[b,s,m] y"


FORMS = {
    "Attention": Form(HEADS, "y = Attention<q_num_heads = 4, kv_num_heads = 4, is_causal = 1>(q, k, v)", {"attention": 1}),
    "Attention of four axes, a mask, a soft cap, two heads for one of keys": Form(
        "float[b,4,s,16] q, float[b,2,t,16] k, float[b,2,t,16] v, bool[s,t] m", "y = Attention<softcap = 20.0>(q, k, v, m)", {"attention": 1},
        output="float[b,4,s,16] y"),
    "MultiHeadAttention": Form(HEADS, "y = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v)", {"attention": 1}),
    "com.microsoft Attention": Form("float[b,s,64] x", "y = com.microsoft.Attention<num_heads = 4, unidirectional = 1>(x, w, c)", {"attention": 1},
                                    {"w": RNG.standard_normal((64, 192)).astype(np.float32), "c": np.zeros(192, np.float32)}),
    "GroupQueryAttention": Form(
        "float[b,s,64] q, float[b,s,32] k, float[b,s,32] v, float[b,2,p,16] pk, float[b,2,p,16] pv, int32[b] n, int32 t",
        "y, nk, nv = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2>(q, k, v, pk, pv, n, t)", {"attention": 1}),
    "MatMulNBits": Form(
        f"float[b,s,{K}] x", f"y = com.microsoft.MatMulNBits<K = {K}, N = {N}, bits = 4, block_size = {BLOCK}, accuracy_level = 4>(x, w, c)",
        {"quantized_matmul": 1}, {"w": CODES, "c": SCALES}),
    "DequantizeLinear, MatMul": Form(f"float[b,s,{K}] x", "d = DequantizeLinear<axis = 1>(w, c) y = MatMul(x, d)", {"quantized_matmul": 1},
                                     {"w": BYTES, "c": STEPS}),
    "DynamicQuantizeLinear, MatMulInteger": Form(f"float[b,s,{K}] x", """
        e, es, ez = DynamicQuantizeLinear(x) i = MatMulInteger(e, w, ez) f = Cast<to = 1>(i) s = Mul(es, c) y = Mul(f, s)""",
                                                 {"quantized_matmul": 1}, {"w": BYTES, "c": STEPS}),
    "QLinearMatMul": Form(f"uint8[b,s,{K}] x", "y = QLinearMatMul(x, xs, xz, w, c, wz, ys, yz)", {"matmul": 1}, {"w": BYTES, "c": STEPS, **SCALARS},
                          output="uint8[b,s,m] y"),
    "QuantizeLinear, DequantizeLinear, MatMul": Form(f"float[b,s,{K}] x", """
        e = QuantizeLinear(x, xs, xz) f = DequantizeLinear(e, xs, xz) d = DequantizeLinear<axis = 1>(w, c) p = MatMul(f, d)
        g = QuantizeLinear(p, ys, yz) y = DequantizeLinear(g, ys, yz)""", {"matmul": 1}, {"w": BYTES, "c": STEPS, **SCALARS}),
}


@pytest.mark.parametrize("name", FORMS)
def test_an_operator_becomes_the_canonical_step(name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    opsets = '["" : 23, "com.microsoft" : 1]'
    made = onnx.parser.parse_model(f"<ir_version: 10, opset_import: {opsets}> g ({form.inputs}) => ({form.output}) {{ {form.body} }}")
    read = {i for node in made.graph.node for i in node.input}
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), constant) for constant, a in form.constants.items() if constant in read)
    ingot.compile(made, tmp_path / "m.ingot", samples=0)
    functions = dict(Artifact(tmp_path / "m.ingot").manifest)["targets"][0]["program"]["functions"]
    steps = [s for f in functions for s in f["steps"]]
    found = Counter(s["name"] for s in steps if s["op"] == "kernel" and s["name"] in ("attention", "quantized_matmul"))
    # A product of integers keeps them in their weights, which are packed for it: it is a contraction, and nothing is dequantized before.
    found.update("matmul" for s in steps if s["op"] == "call" and "int8" in s.get("kernel", "") and "matmul" in s["function"])
    assert found == form.expected, [s.get("name", s.get("function", s["op"])) + " " + s.get("kernel", "") for s in steps]
