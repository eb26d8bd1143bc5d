"""Attention in the forms that exporters write becomes one kernel call, without transposes, and computes what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx.reference import ReferenceEvaluator
from tvm import relax

import ingot
from ingot.importer.model import import_model
from ingot.passes.attention import fuse_attention
from ingot.passes.fold import fold_weights
from ingot.passes.graph import Graph
from ingot.passes.trace import bindings

BATCH, SEQUENCE, HEADS, SIZE = 2, 9, 4, 8
LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Form:
    """A model over q, k, v [batch, seq, 32]: ``body`` assigns y; ``after`` is what becomes of it, ``ints`` and ``floats`` the kernel's."""

    body: str
    after: str = "reshape reshape reshape attention reshape"
    layouts: tuple[int, int, int, int] = (0, 0, 0, 0)
    scale: float = SIZE**-0.5
    softcap: float = 0.0
    inputs: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)  # further ones: type and shape, for the parser and for NumPy


HEADS_OF = """
    q1 = Reshape(q, heads)
    k1 = Reshape(k, heads)
    v1 = Reshape(v, heads)
"""
Q = "qt = Transpose<perm=[0,2,1,3]>(q1)\n"
V = "vt = Transpose<perm=[0,2,1,3]>(v1)\n"
KT = "kt = Transpose<perm=[0,2,3,1]>(k1)\n"
END = """
    o = MatMul(p, vt)
    ot = Transpose<perm=[0,2,1,3]>(o)
    y = Reshape(ot, merged)
"""
MASK = {"mask": ("float[batch,1,1,seq]", (BATCH, 1, 1, SEQUENCE))}
SEEN = {"seen": ("bool[batch,1,seq,seq]", (BATCH, 1, SEQUENCE, SEQUENCE))}

FORMS = {
    "whisper: the scale is on q before its heads": Form("""
        scale = Constant<value_float=0.3535533905932738>()
        qs = Mul(q, scale)
        q1 = Reshape(qs, heads)
        k1 = Reshape(k, heads)
        v1 = Reshape(v, heads)
        kh = Transpose<perm=[0,2,1,3]>(k1)
        kt = Transpose<perm=[0,1,3,2]>(kh)
        """ + Q + V + "s = MatMul(qt, kt)\np = Softmax<axis=-1>(s)" + END),
    "bert: scores are divided, a mask is added": Form(HEADS_OF + Q + KT + V + """
        root = Constant<value_float=2.8284271247461903>()
        s = MatMul(qt, kt)
        s1 = Div(s, root)
        s2 = Add(s1, mask)
        p = Softmax<axis=3>(s2)
        """ + END, inputs=MASK),
    "sdpa by torch's exporter: square roots on both sides, k transposed as three axes": Form(HEADS_OF + Q + V + """
        root = Constant<value_float=0.5946035575013605>()
        kh = Transpose<perm=[0,2,1,3]>(k1)
        flat = Constant<value_ints=[-1,9,8]>()
        k3 = Reshape(kh, flat)
        k3t = Transpose<perm=[0,2,1]>(k3)
        four = Constant<value_ints=[-1,4,8,9]>()
        kt = Reshape(k3t, four)
        qs = Mul(qt, root)
        ks = Mul(kt, root)
        s = MatMul(qs, ks)
        s1 = Add(s, mask)
        p = Softmax<axis=-1>(s1)
        """ + END, inputs=MASK),
    "sdpa with a bool mask: rows without a key are zeros": Form(HEADS_OF + Q + KT + V + """
        zero = Constant<value_float=0.0>()
        low = Constant<value_float=-inf>()
        root = Constant<value_float=0.5946035575013605>()
        qs = Mul(qt, root)
        ks = Mul(kt, root)
        bias = Where(seen, zero, low)
        s = MatMul(qs, ks)
        s1 = Add(bias, s)
        w = Softmax<axis=-1>(s1)
        nan = IsNaN(w)
        p = Where(nan, zero, w)
        """ + END, after="reshape reshape reshape where attention reshape", inputs=SEEN),
    "gpt-2: scores are replaced, then a mask is added": Form(HEADS_OF + Q + KT + V + """
        low = Constant<value_float=-3.4028234663852886e38>()
        scale = Constant<value_float=0.3535533905932738>()
        s = MatMul(qt, kt)
        s1 = Mul(scale, s)
        s2 = Where(seen, s1, low)
        s3 = Add(s2, mask)
        p = Softmax<axis=-1>(s3)
        """ + END, after="reshape reshape reshape where add attention reshape", inputs={**SEEN, **MASK}),
    "masked_fill: hidden where the condition holds": Form(HEADS_OF + Q + KT + V + """
        low = Constant<value_float=-1e9>()
        scale = Constant<value_float=0.3535533905932738>()
        s = MatMul(qt, kt)
        s1 = Mul(s, scale)
        s2 = Where(seen, low, s1)
        p = Softmax<axis=-1>(s2)
        """ + END, after="reshape reshape reshape where attention reshape", inputs=SEEN),
    "t5: no scale, a bias for each head": Form(HEADS_OF + Q + KT + V + """
        s = MatMul(qt, kt)
        s1 = Add(s, bias)
        p = Softmax<axis=-1>(s1)
        """ + END, scale=1.0, inputs={"bias": ("float[1,4,seq,seq]", (1, HEADS, SEQUENCE, SEQUENCE))}),
    "llama: two key heads are repeated for four": Form("""
        q1 = Reshape(q, heads)
        two = Constant<value_ints=[0,0,2,8]>()
        first = Constant<value_ints=[0]>()
        sixteen = Constant<value_ints=[16]>()
        last = Constant<value_ints=[2]>()
        ks = Slice(k, first, sixteen, last)
        vs = Slice(v, first, sixteen, last)
        k1 = Reshape(ks, two)
        v1 = Reshape(vs, two)
        kh = Transpose<perm=[0,2,1,3]>(k1)
        vh = Transpose<perm=[0,2,1,3]>(v1)
        kg = Unsqueeze(kh, last)
        vg = Unsqueeze(vh, last)
        wide = Constant<value_ints=[1,1,2,1,1]>()
        ke = Expand(kg, wide)
        ve = Expand(vg, wide)
        repeated = Constant<value_ints=[0,4,-1,8]>()
        kr = Reshape(ke, repeated)
        vt = Reshape(ve, repeated)
        kt = Transpose<perm=[0,1,3,2]>(kr)
        scale = Constant<value_float=0.3535533905932738>()
        """ + Q + """
        s = MatMul(qt, kt)
        s1 = Mul(s, scale)
        s2 = Add(s1, mask)
        p = Softmax<axis=-1>(s2)
        """ + END, after="reshape slice slice reshape reshape attention reshape", inputs=MASK),
    "bmm: batch and heads are one axis, the mask needs them apart": Form(HEADS_OF + Q + V + """
        three = Constant<value_ints=[-1,9,8]>()
        apart = Constant<value_ints=[-1,4,9,9]>()
        together = Constant<value_ints=[-1,9,9]>()
        out = Constant<value_ints=[-1,4,9,8]>()
        kh = Transpose<perm=[0,2,1,3]>(k1)
        q3 = Reshape(qt, three)
        k3 = Reshape(kh, three)
        v3 = Reshape(vt, three)
        kt = Transpose<perm=[0,2,1]>(k3)
        scale = Constant<value_float=0.3535533905932738>()
        s = MatMul(q3, kt)
        s0 = Mul(s, scale)
        s1 = Reshape(s0, apart)
        s2 = Add(s1, mask)
        s3 = Reshape(s2, together)
        p = Softmax<axis=-1>(s3)
        o3 = MatMul(p, v3)
        o = Reshape(o3, out)
        ot = Transpose<perm=[0,2,1,3]>(o)
        y = Reshape(ot, merged)
        """, inputs=MASK),
    "torch.nn.MultiheadAttention: the batch is the second axis": Form("""
        qs = Transpose<perm=[1,0,2]>(q)
        three = Constant<value_ints=[9,-1,8]>()
        q3 = Reshape(qs, three)
        ks = Transpose<perm=[1,0,2]>(k)
        vs = Transpose<perm=[1,0,2]>(v)
        k3 = Reshape(ks, three)
        v3 = Reshape(vs, three)
        qt = Transpose<perm=[1,0,2]>(q3)
        kt = Transpose<perm=[1,2,0]>(k3)
        vt = Transpose<perm=[1,0,2]>(v3)
        scale = Constant<value_float=0.3535533905932738>()
        s = MatMul(qt, kt)
        s1 = Mul(s, scale)
        p = Softmax<axis=-1>(s1)
        o = MatMul(p, vt)
        y = Transpose<perm=[1,0,2]>(o)
        """, after="permute_dims permute_dims permute_dims reshape reshape reshape reshape reshape reshape attention reshape"),
    "gemma: a soft cap": Form(HEADS_OF + Q + KT + V + """
        cap = Constant<value_float=50.0>()
        scale = Constant<value_float=0.25>()
        s = MatMul(qt, kt)
        s1 = Mul(s, scale)
        s2 = Div(s1, cap)
        s3 = Tanh(s2)
        s4 = Mul(s3, cap)
        s5 = Add(s4, mask)
        p = Softmax<axis=-1>(s5)
        """ + END, scale=0.25, softcap=50.0, inputs=MASK),
    "a transposed k cache is read as it lies, a result by heads is given as such": Form("""
        q1 = Reshape(q, heads)
        v1 = Reshape(v, heads)
        """ + Q + V + """
        s = MatMul(qt, cache)
        p = Softmax<axis=-1>(s)
        y = MatMul(p, vt)
        """, after="reshape reshape attention", layouts=(0, 2, 0, 1), scale=1.0,
        inputs={"cache": ("float[batch,4,8,seq]", (BATCH, HEADS, SIZE, SEQUENCE))}),
}

NOT_ATTENTION = {
    "the weights are a result, too":
    HEADS_OF + Q + KT + V + "s = MatMul(qt, kt)\np = Softmax<axis=-1>(s)\nz = ReduceSum(p)" + END.replace("y =", "y0 =")
    + "y = Add(y0, z)",
    "softmax over the queries": HEADS_OF + Q + KT + V + "s = MatMul(qt, kt)\np = Softmax<axis=2>(s)" + END,
    "the mask is scaled with the scores": HEADS_OF + Q + KT + V + """
        scale = Constant<value_float=0.25>()
        s = MatMul(qt, kt)
        s1 = Add(s, s)
        s2 = Mul(s1, scale)
        p = Softmax<axis=-1>(s2)
        """ + END,
    "scores are replaced by a number that is not low": HEADS_OF + Q + KT + V + """
        low = Constant<value_float=-5.0>()
        s = MatMul(qt, kt)
        seen = Less(s, low)
        s2 = Where(seen, s, low)
        p = Softmax<axis=-1>(s2)
        """ + END,
}


def model(form: Form) -> onnx.ModelProto:
    declared = ", ".join(["float[batch,seq,32] q", "float[batch,seq,32] k", "float[batch,seq,32] v",
                          *(f"{kind} {name}" for name, (kind, _) in form.inputs.items())])
    lines = "\n".join(line.strip() for line in form.body.splitlines() if line.strip())
    text = f"""<ir_version: 9, opset_import: ["" : 20]> attention ({declared}) => (float y) {{
        heads = Constant<value_ints=[0,0,4,8]>()
        merged = Constant<value_ints=[0,0,32]>()
        {lines}
    }}"""
    parsed = onnx.parser.parse_model(text)
    del parsed.graph.output[0].type.tensor_type.shape.dim[:]
    inferred = onnx.shape_inference.infer_shapes(_static(parsed, form))
    types = {info.name: info for info in (*inferred.graph.output, *inferred.graph.value_info)}
    parsed.graph.output[0].CopyFrom(types["y"])
    for i in range(len(parsed.graph.output[0].type.tensor_type.shape.dim)):
        parsed.graph.output[0].type.tensor_type.shape.dim[i].ClearField("dim_value")
        parsed.graph.output[0].type.tensor_type.shape.dim[i].dim_param = f"y{i}"
    return parsed


def _static(parsed: onnx.ModelProto, form: Form) -> onnx.ModelProto:
    """The model with numbers for its extents: several forms have a sequence length built in, as traced models do."""
    extents = {"batch": BATCH, "seq": SEQUENCE}
    for value in parsed.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "seq" and ("9," in form.body):
                dim.dim_value = extents[dim.dim_param]
    return parsed


def arrays(form: Form) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {name: rng.standard_normal((BATCH, SEQUENCE, 32), np.float32) for name in "qkv"}
    for name, (kind, shape) in form.inputs.items():
        found[name] = rng.random(shape) < 0.6 if kind.startswith("bool") else rng.standard_normal(shape, np.float32)
    if "seen" in found:
        found["seen"][..., :1] = "low, s1" not in form.body  # the first key is seen by all
    return found


def graph_of(proto: onnx.ModelProto) -> Graph:
    imported = import_model(proto)
    passes = relax.transform.CanonicalizeBindings(), relax.transform.EliminateCommonSubexpr(), relax.transform.DeadCodeElimination()
    with tvm.target.Target("llvm"):
        return fold_weights(Graph(tvm.transform.Sequential(list(passes))(imported.mod), tuple(imported.weights)))


def operators(graph: Graph) -> list[str]:
    """The graph as the names of its operators in order."""
    names = []
    for binding in bindings(graph.function):
        value: Any = binding.value
        if not isinstance(value, relax.Call):
            continue
        name: str = value.op.name
        if name == "relax.call_pure_packed":
            name = value.args[0].global_symbol
        elif name == "relax.call_tir":
            name = value.args[0].name_hint.rstrip("0123456789")
        names.append(name.rpartition(".")[2])
    return names


@pytest.mark.parametrize("name", FORMS)
def test_a_form_becomes_the_kernel(name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    proto = model(form)
    before = graph_of(proto)
    assert operators(before).count("matmul") == 2 and operators(before).count("softmax") == 1
    after = fuse_attention(before)
    assert sorted(operators(after)) == sorted(form.after.split())
    call = next(b.value for b in bindings(after.function) if isinstance(b.value, relax.Call) and b.value.op.name == "relax.call_pure_packed")
    ints = [int(i.value) for i in call.args[3].fields]
    floats = [float(f.value.numpy()) for f in call.args[4].fields]
    assert ints[4:] == [-1, -1, 0, 0]
    assert tuple(ints[:4]) == form.layouts
    np.testing.assert_allclose(floats, [form.scale, form.softcap], rtol=1e-6)

    inputs = arrays(form)
    expected: Any = ReferenceEvaluator(proto).run(None, inputs)
    onnx.save(proto, tmp_path / "model.onnx")
    ingot.compile(tmp_path / "model.onnx", tmp_path / "model.ingot", samples=0)
    compiled = ingot.load(tmp_path / "model.ingot")
    # Sums of 8 products and of 9 weights, of numbers below 5 in magnitude: some tens of roundings of 2^-24.
    np.testing.assert_allclose(np.asarray(compiled.run(inputs)["y"]), expected[0], atol=100 * 2.0**-24)
    steps = compiled.manifest["targets"][0]["program"]["functions"][0]["steps"]
    assert [s["node"] != "" for s in steps if s.get("name") == "attention"] == [True]


@pytest.mark.parametrize("name", NOT_ATTENTION)
def test_what_is_something_else_stays_as_it_is(name: str) -> None:
    before = graph_of(model(Form(NOT_ATTENTION[name])))
    assert operators(fuse_attention(before)) == operators(before)
