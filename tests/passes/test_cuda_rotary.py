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
ATTENDED = "y = ingot.CachedAttention<num_heads=4, kv_num_heads=2, scale=0.25>(qr, kc, vc, lengths)\n"
SPLIT = """
    sizes = Constant<value_ints=[64, 32, 32]>()
    q, k, v = Split<axis=2>(qkv, sizes)
"""


@dataclass(frozen=True)
class Form:
    """A model: its text, the kernel's integers (None: it is left as it is), and whether Q, K and V are one operand."""

    body: str
    ints: tuple[int, int, int] | None
    together: bool = False
    half: int = 8
    inputs: str = "float[b,s,64] q, float[b,s,32] k, float[b,s,32] v"


FORMS = {
    "llama": Form(ROTATED + WRITTEN + ATTENDED, (0, 0, 0)),
    "heads of one product": Form(SPLIT + ROTATED + WRITTEN + ATTENDED, (0, 0, 0), together=True, inputs="float[b,s,128] qkv"),
    "a ring": Form(ROTATED + WRITTEN.replace("axis=1", 'axis=1, mode="circular"') + ATTENDED, (1, 0, 0)),
    "phi: a part of each head is rotated": Form(
        ROTATED.replace(">", ", rotary_embedding_dim=8>") + WRITTEN + ATTENDED, (0, 0, 8), half=4),
    "gpt2: nothing is rotated": Form(WRITTEN.replace("kr", "k") + ATTENDED.replace("qr", "q"), (0, 0, 0)),
    "heads of one product that are not rotated": Form(
        SPLIT + WRITTEN.replace("kr", "k") + ATTENDED.replace("qr", "q"), (0, 0, 0), together=True, inputs="float[b,s,128] qkv"),
    "pairs of neighbours are rotated before": Form(ROTATED.replace(">", ", interleaved=1>") + WRITTEN + ATTENDED, (0, 0, 0)),
    "Q alone is rotated": Form(ROTATED.replace("kr = RotaryEmbedding<num_heads=2>(k, cos, sin)", "kr = Neg(k)") + WRITTEN + ATTENDED, None),
    "other angles for K": Form(ROTATED.replace("(k, cos, sin)", "(k, sin, cos)") + WRITTEN + ATTENDED, None),
    "a cache that something else reads": Form(ROTATED + WRITTEN + ATTENDED + "z = Neg(kc)\n", None),
    "caches of other lengths": Form(ROTATED + WRITTEN.replace("v, length", "v, lengths") + ATTENDED, None),
}


def graph_of(form: Form) -> Graph:
    angles = f"float[b,s,{form.half}] cos, float[b,s,{form.half}] sin, " if "cos" in form.body else ""
    outputs = "float[b,s,64] y, float[b,c,32] kc, float[b,c,32] vc" + (", float[b,c,32] z" if "z =" in form.body else "")
    proto = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 24, "ingot" : 1]>
        g ({form.inputs}, {angles}float[b,c,32] keys, float[b,c,32] values, int64[b] length, int64[b] lengths) => ({outputs}) {{ {form.body} }}""")
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
    assert len(before["tensor_scatter"]) == 2 and len(before["attention"]) == 1 and "rotary_cache" not in before
    after = kernel_calls(cuda_rotary(graph_of(form)))
    assert len(after["attention"]) == 1
    if form.ints is None:
        assert len(after["tensor_scatter"]) == 2 and "rotary_cache" not in after
        return
    call, = after["rotary_cache"]
    assert "tensor_scatter" not in after
    assert tuple(int(i.value) for i in call.args[3].fields) == form.ints
    key_cache, value_cache, q, k, v, cosines, sines, first = (None if isinstance(i, relax.Tuple) else i for i in call.args[1].fields)
    assert [t.name for t in (key_cache, value_cache, first)] == ["keys", "values", "length"]
    assert ((k is None), (v is None)) == (form.together, form.together)
    assert [int(e) for e in list(q.ty.shape.values)[2:]] == ([8, 16] if form.together else [4, 16])
    assert [t is not None for t in (cosines, sines)] == ["cos" in form.body and "interleaved" not in form.body] * 2
    if cosines is not None:
        assert [t.name for t in (cosines, sines)] == ["cos", "sin"]
