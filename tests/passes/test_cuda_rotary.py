"""What comes before attention over caches becomes one call of the kernel rotary_cache, where it is what that kernel does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
import pytest
import tvm
from tvm import relax

from ingot.importer.model import import_model
from ingot.passes.cuda_rotary import cuda_rotary
from ingot.passes.graph import Graph
from ingot.passes.trace import bindings

ROTATED = """
    qr = RotaryEmbedding<num_heads=4>(q, cos, sin)
    kr = RotaryEmbedding<num_heads=2>(k, cos, sin)
"""
WRITTEN = """
    kc = TensorScatter<axis=1>(keys, kr, length)
    vc = TensorScatter<axis=1>(values, v, length)
"""
SINKS = "q_sinks = RotaryEmbedding<num_heads=4>(q, sink_cos, sink_sin)\n"


def rounded(name: str, x: str, scale: str = "127.0") -> str:
    """Heads as int8 ``{name}_codes`` [b, s, 32], with the scales ``{name}_new`` [b, s, 2]."""
    return f"""
        {name}_apart_shape = Constant<value_ints=[0, 0, 2, 16]>()
        {name}_flat_shape = Constant<value_ints=[0, 0, 32]>()
        {name}_last = Constant<value_ints=[3]>()
        {name}_least = Constant<value_float=1e-30>()
        {name}_most = Constant<value_float={scale}>()
        {name}_apart = Reshape({x}, {name}_apart_shape)
        {name}_magnitudes = Abs({name}_apart)
        {name}_largest = ReduceMax<keepdims=1>({name}_magnitudes, {name}_last)
        {name}_bounded = Max({name}_least, {name}_largest)
        {name}_scales = Div({name}_bounded, {name}_most)
        {name}_quotients = Div({name}_apart, {name}_scales)
        {name}_whole = Round({name}_quotients)
        {name}_heads = Cast<to=3>({name}_whole)
        {name}_codes = Reshape({name}_heads, {name}_flat_shape)
        {name}_new = Squeeze({name}_scales, {name}_last)
    """


WRITTEN_CODES = """
    kc = TensorScatter<axis=1>(keys, k_codes, length)
    ks = TensorScatter<axis=1>(key_scales, k_new, length)
    vc = TensorScatter<axis=1>(values, v_codes, length)
    vs = TensorScatter<axis=1>(value_scales, v_new, length)
"""
ATTENDED_CODES = "y = ingot.CachedAttention<num_heads=4, kv_num_heads=2, scale=0.25>(qr, kc, vc, lengths, , ks, vs)\n"
ATTENDED = "y = ingot.CachedAttention<num_heads=4, kv_num_heads=2, scale=0.25>(qr, kc, vc, lengths)\n"
SPLIT = """
    sizes = Constant<value_ints=[64, 32, 32]>()
    q, k, v = Split<axis=2>(qkv, sizes)
"""


@dataclass(frozen=True)
class Form:
    """A model: its text, the kernel's integers (None: it is left as it is), and whether Q, K and V are one operand."""

    body: str
    ints: tuple[int, int, int, int] | None
    together: bool = False
    half: int = 8
    inputs: str = "float[b,s,64] q, float[b,s,32] k, float[b,s,32] v"


FORMS = {
    "llama": Form(ROTATED + WRITTEN + ATTENDED, (0, 0, 0, 0)),
    "heads of one product": Form(SPLIT + ROTATED + WRITTEN + ATTENDED, (0, 0, 0, 0), together=True, inputs="float[b,s,128] qkv"),
    "a ring": Form(ROTATED + WRITTEN.replace("axis=1", 'axis=1, mode="circular"') + ATTENDED, (1, 0, 0, 0)),
    "a ring behind sinks": Form(
        ROTATED + SINKS + WRITTEN.replace("TensorScatter<axis=1", 'ingot.TensorScatter<axis=1, mode="circular", sinks=3')
        + ATTENDED.replace("scale", "sinks=3, scale").replace("lengths)", "lengths, , , , , q_sinks)"), (1, 0, 0, 3)),
    "sinks that other queries are for": Form(
        ROTATED + SINKS.replace("(q,", "(qr,") + WRITTEN + ATTENDED.replace("lengths)", "lengths, , , , , q_sinks)"), None),
    "int8": Form(ROTATED + rounded("k", "kr") + rounded("v", "v") + WRITTEN_CODES + ATTENDED_CODES, (0, 0, 0, 0)),
    "int8 of heads of one product": Form(
        SPLIT + ROTATED + rounded("k", "kr") + rounded("v", "v") + WRITTEN_CODES + ATTENDED_CODES, (0, 0, 0, 0), together=True,
        inputs="float[b,s,128] qkv"),
    "int8 in a ring behind sinks": Form(
        ROTATED + SINKS + rounded("k", "kr") + rounded("v", "v")
        + WRITTEN_CODES.replace("TensorScatter<axis=1", 'ingot.TensorScatter<axis=1, mode="circular", sinks=3')
        + ATTENDED_CODES.replace("scale=", "sinks=3, scale=").replace("vs)", "vs, , q_sinks)"), (1, 0, 0, 3)),
    "int8 by another scale": Form(ROTATED + rounded("k", "kr") + rounded("v", "v", "100.0") + WRITTEN_CODES + ATTENDED_CODES, None),
    "int8 by the scales of others": Form(
        ROTATED + rounded("k", "kr") + rounded("v", "v").replace("Div(v_apart, v_scales)", "Div(v_apart, k_scales)") + WRITTEN_CODES + ATTENDED_CODES,
        None),
    "int8 cut off rather than rounded": Form(
        ROTATED + rounded("k", "kr") + rounded("v", "v").replace("Round(", "Floor(") + WRITTEN_CODES + ATTENDED_CODES, None),
    "phi: a part of each head is rotated": Form(
        ROTATED.replace(">", ", rotary_embedding_dim=8>") + WRITTEN + ATTENDED, (0, 0, 8, 0), half=4),
    "gpt2: nothing is rotated": Form(WRITTEN.replace("kr", "k") + ATTENDED.replace("qr", "q"), (0, 0, 0, 0)),
    "heads of one product that are not rotated": Form(
        SPLIT + WRITTEN.replace("kr", "k") + ATTENDED.replace("qr", "q"), (0, 0, 0, 0), together=True, inputs="float[b,s,128] qkv"),
    "pairs of neighbours are rotated before": Form(ROTATED.replace(">", ", interleaved=1>") + WRITTEN + ATTENDED, (0, 0, 0, 0)),
    "Q alone is rotated": Form(ROTATED.replace("kr = RotaryEmbedding<num_heads=2>(k, cos, sin)", "kr = Neg(k)") + WRITTEN + ATTENDED, None),
    "other angles for K": Form(ROTATED.replace("(k, cos, sin)", "(k, sin, cos)") + WRITTEN + ATTENDED, None),
    "a cache that something else reads": Form(ROTATED + WRITTEN + ATTENDED + "z = Neg(kc)\n", None),
    "caches of other lengths": Form(ROTATED + WRITTEN.replace("v, length", "v, lengths") + ATTENDED, None),
}


def graph_of(form: Form) -> Graph:
    angles = f"float[b,s,{form.half}] cos, float[b,s,{form.half}] sin, " if "cos" in form.body else ""
    angles += f"float[b,s,{form.half}] sink_cos, float[b,s,{form.half}] sink_sin, " if "sink_cos" in form.body else ""
    codes, kind = "_codes" in form.body, "int8" if "_codes" in form.body else "float"
    caches = f"{kind}[b,c,32] keys, {kind}[b,c,32] values, " + ("float[b,c,2] key_scales, float[b,c,2] value_scales, " if codes else "")
    outputs = f"float[b,s,64] y, {kind}[b,c,32] kc, {kind}[b,c,32] vc" + (", float[b,c,2] ks, float[b,c,2] vs" if codes else "")
    outputs += ", float[b,c,32] z" if "z =" in form.body else ""
    proto = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 24, "ingot" : 1]>
        g ({form.inputs}, {angles}{caches}int64[b] length, int64[b] lengths) => ({outputs}) {{ {form.body} }}""")
    imported = import_model(proto)
    passes = [relax.transform.CanonicalizeBindings(), relax.transform.EliminateCommonSubexpr(), relax.transform.DeadCodeElimination()]
    with tvm.target.Target("llvm"):
        return Graph(tvm.transform.Sequential(passes)(imported.mod), tuple(imported.weights))


def kernel_calls(graph: Graph) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for binding in bindings(graph.function):
        value: Any = binding.value
        if isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.call_pure_packed":
            found.setdefault(str(value.args[0].global_symbol).rpartition(".")[2], []).append(value)
    return found


@pytest.mark.parametrize("name", FORMS)
def test_a_form_becomes_one_call_or_stays(name: str) -> None:
    form = FORMS[name]
    before = kernel_calls(graph_of(form))
    count = 4 if "_codes" in form.body else 2
    assert len(before["tensor_scatter"]) == count and len(before["attention"]) == 1 and "rotary_cache" not in before
    after = kernel_calls(cuda_rotary(graph_of(form)))
    assert len(after["attention"]) == 1
    if form.ints is None:
        assert len(after["tensor_scatter"]) == count and "rotary_cache" not in after
        return
    call, = after["rotary_cache"]
    assert "tensor_scatter" not in after
    assert tuple(int(i.value) for i in call.args[3].fields) == form.ints
    operands: list[Any] = [None if isinstance(i, relax.Tuple) else i for i in call.args[1].fields]
    key_cache, value_cache, q, k, v, cosines, sines, first, *more = operands
    assert [t.name for t in (key_cache, value_cache, first)] == ["keys", "values", "length"]
    assert ((k is None), (v is None)) == (form.together, form.together)
    assert [int(e) for e in list(q.ty.shape.values)[2:]] == ([8, 16] if form.together else [4, 16])
    assert [t is not None for t in (cosines, sines)] == ["cos" in form.body and "interleaved" not in form.body] * 2
    if cosines is not None:
        assert [t.name for t in (cosines, sines)] == ["cos", "sin"]
    names = (["key_scales", "value_scales"] if count == 4 else [None] * 2) + (["sink_cos", "sink_sin"] if "sink_cos" in form.body else [])
    assert [t.name if t is not None else None for t in more] == names
    assert len(call.ty_args[0].fields) == 3 + len([n for n in names[:2] if n]) + (len(names) > 2)
    attention, = after["attention"]
    assert len(attention.args[1].fields) == len(before["attention"][0].args[1].fields)
