"""Passes work in the bodies of If, Loop and Scan too: their products are packed, quantized and named like those of the main graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import ingot
from ingot.errors import CompileError
from ingot.runtime.artifact import Artifact

DEPTH = 131  # K that no group divides


def array(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)


U, W, V, B = array((DEPTH, DEPTH), 1), array((DEPTH, 72), 2), array((72, DEPTH), 3), array((72,), 4)  # V is read transposed
#: An outer weight, a subgraph's own, one that both branches and the main graph read, in an If inside of an If.
BRANCHES = f'''<ir_version: 10, opset_import: ["" : 21]> g (float[m,{DEPTH}] x, bool c, bool d) => (float[m,n] y, float[m,k] h) {{
    [outer] h = MatMul(x, u)
    y = If(c) <then_branch = yes () => (float[m,n] p) {{ [yes] p = MatMul(h, w) }},
              else_branch = no () => (float[m,n] q) {{
                  q = If(d) <then_branch = left () => (float[m,n] r) {{ [left] hu = MatMul(h, u) vt = Transpose(v) [own] r = MatMul(hu, vt) }},
                             else_branch = right () => (float[m,n] s) {{ k = Relu(h) [right] s = Gemm(k, w, b) }}> }}> }}'''
#: A loop whose carried value goes through products, with a weight that is a constant of the body.
LOOP = f'''<ir_version: 10, opset_import: ["" : 21]> g (float[m,{DEPTH}] x, int64 n) => (float[m,{DEPTH}] y, float[n,m,k] all) {{
    t = Constant<value = bool {{1}}>()
    y, all = Loop(n, t, x) <body = step (int64 i, bool c, float[m,{DEPTH}] a) => (bool again, float[m,{DEPTH}] z, float[m,k] row) {{
        again = Identity(c) [step] au = MatMul(a, u) z = Tanh(au) [row] row = MatMul(z, w) }}> }}'''
SCAN = f'''<ir_version: 10, opset_import: ["" : 21]> g (float[m,{DEPTH}] x, float[n,m,{DEPTH}] xs) => (float[m,{DEPTH}] y, float[n,m,k] all) {{
    y, all = Scan<num_scan_inputs = 1, body = step (float[m,{DEPTH}] a, float[m,{DEPTH}] e) => (float[m,{DEPTH}] z, float[m,k] row) {{
        [step] au = MatMul(a, u) s = Add(au, e) z = Tanh(s) [row] row = MatMul(z, w) }}>(x, xs) }}'''


def model(text: str, own: str = "v") -> onnx.ModelProto:
    """A model of a text, whose weights are the main graph's but for ``own``: subgraphs that read it have it as their initializer."""
    made = onnx.parser.parse_model(text)
    for name, values in {"u": U, "w": W, "v": V, "b": B}.items():
        readers = [g for g in (made.graph, *graphs(made.graph)) if any(name in node.input for node in g.node)]
        for graph in readers if name == own else [made.graph] if readers else []:
            graph.initializer.append(numpy_helper.from_array(values, name))
    return made


def graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph's subgraphs, and theirs."""
    inner = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [*inner, *(g for i in inner for g in graphs(i))]


def kernels(path: Path) -> list[list[str]]:
    """The kernels of each function of an artifact's program."""
    functions = dict(Artifact(path).manifest)["targets"][0]["program"]["functions"]
    return [[s["name"] for s in f["steps"] if s["op"] == "kernel"] for f in functions]


def near(found: Any, expected: np.ndarray, tolerance: float) -> None:
    assert np.linalg.norm(np.asarray(found) - expected) <= tolerance * np.linalg.norm(expected)


def branches_exact(x: np.ndarray, c: bool, d: bool) -> np.ndarray:
    h, w, v, u = x.astype(np.float64) @ U, W.astype(np.float64), V.astype(np.float64), U.astype(np.float64)
    return h @ w if c else h @ u @ v.T if d else np.maximum(h, 0) @ w + B


def loop_exact(x: np.ndarray, extra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    carried, rows = x.astype(np.float64), []
    for e in extra:
        carried = np.tanh(carried @ U + e)
        rows.append(carried @ W)
    return carried, np.array(rows).reshape(len(extra), len(x), 72)


CASES = [(True, False), (False, True), (False, False)]


@pytest.mark.parametrize("scheme", [None, "int8", "int4:g32:float"])
def test_products_in_branches_are_packed_or_quantized_with_weights_of_either_graph(scheme: str | None, tmp_path: Path) -> None:
    path = tmp_path / "m.ingot"
    report = ingot.compile(model(BRANCHES), path, quantize=scheme, samples=0)
    found = kernels(path)
    assert len(found) == 5
    if scheme is not None:
        assert report.quantization is not None and not report.quantization["kept"]
        layers = {layer["node"]: layer for layer in report.quantization["layers"]}
        assert {node: layer["weight"] for node, layer in layers.items()} == {"outer": "u", "yes": "w", "left": "u", "own": "v", "right": "w"}
        assert layers["outer"]["relative_error"] == layers["left"]["relative_error"] > 0
        # Each of the three weights once, although five layers read them.
        assert report.quantization["bytes_before"] == 4 * (DEPTH * DEPTH + 2 * DEPTH * 72)
        assert sum(name == "quantized_matmul" for names in found for name in names) == 5
        assert sorted(map(len, found)) == [0, 1, 1, 1, 2]
    tolerance = 1e-5 if scheme is None else 0.03 if scheme == "int8" else 0.2
    loaded = ingot.load(path)
    for rows in (1, 5):
        x = array((rows, DEPTH), 10)
        for c, d in CASES:
            outputs = loaded.run({"x": x, "c": np.array(c), "d": np.array(d)})
            near(outputs["y"], branches_exact(x, c, d), tolerance)


@pytest.mark.parametrize("scheme", [None, "int8", "nf4"])
@pytest.mark.parametrize("text", [LOOP, SCAN], ids=["Loop", "Scan"])
def test_products_in_the_bodies_of_loops_are_packed_or_quantized(text: str, scheme: str | None, tmp_path: Path) -> None:
    path = tmp_path / "m.ingot"
    report = ingot.compile(model(text, own="w"), path, quantize=scheme, samples=0)
    if scheme is not None:
        assert report.quantization is not None and [layer["node"] for layer in report.quantization["layers"]] == ["step", "row"]
        assert sum(name == "quantized_matmul" for names in kernels(path) for name in names) == 2
    tolerance = {None: 1e-5, "int8": 0.03, "nf4": 0.25}[scheme]
    for rows, count in ((3, 4), (1, 1), (2, 0)):
        x, extra = array((rows, DEPTH), 20), array((count, rows, DEPTH), 21) if count else np.zeros((0, rows, DEPTH), np.float32)
        y, every = loop_exact(x, np.zeros_like(extra) if text is LOOP else extra)
        given = {"n": np.array(count)} if text is LOOP else {"xs": extra}
        outputs = ingot.load(path).run({"x": x, **given})
        near(outputs["y"], y, tolerance)
        assert np.asarray(outputs["all"]).shape == every.shape
        near(outputs["all"], every, tolerance)


def test_patterns_name_products_in_subgraphs(tmp_path: Path) -> None:
    report = ingot.compile(model(BRANCHES), tmp_path / "m.ingot", quantize="int8", samples=0, quantize_include=["o*", "w"],
                           quantize_exclude=["right"])
    assert report.quantization is not None and {layer["node"] for layer in report.quantization["layers"]} == {"outer", "yes", "own"}
    assert {k["node"]: k["reason"] for k in report.quantization["kept"]} == {"left": "not included", "right": "excluded"}
    with pytest.raises(CompileError, match=r"include pattern 'lost' fits no matrix product .*'own' \(weight 'v'\)"):
        ingot.compile(model(BRANCHES), tmp_path / "m.ingot", quantize="int8", quantize_include=["lost"])


@pytest.mark.parametrize("method", ["gptq", "awq+gptq", "smoothquant"])
def test_calibrated_methods_round_products_in_subgraphs_without_data(method: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(30)
    cases = [{"x": rng.standard_normal((8, DEPTH)).astype(np.float32), "c": np.array(c), "d": np.array(d)} for c, d in CASES]
    path = tmp_path / "m.ingot"
    report = ingot.compile(model(BRANCHES), path, quantize="int8:row", samples=0, calibration=cases, quantize_method=method)
    assert report.quantization is not None
    assert {layer["node"]: "output_error" in layer for layer in report.quantization["layers"]} == {
        "outer": True, "yes": False, "left": False, "own": False, "right": False}
    lost = report.quantization["loss"]["calibration"]
    assert lost["cases"] == 3 and lost["problem"] is None and {o["output"] for o in lost["outputs"]} == {"y", "h"}
    assert all(0 < o["relative_error"] < 0.03 for o in lost["outputs"])
    for case in cases:
        near(ingot.load(path).run(case)["y"], branches_exact(case["x"], bool(case["c"]), bool(case["d"])), 0.03)


def test_what_a_model_has_quantized_stays_so_in_its_branches(tmp_path: Path) -> None:
    """As decoders are exported whose branches are the runs with and without a cache."""
    rng = np.random.default_rng(40)
    k, n = 96, 80
    codes, scales = rng.integers(0, 256, (n, k // 32, 16), np.uint8), rng.uniform(0.01, 0.02, (n, k // 32)).astype(np.float32)
    integers = rng.integers(-128, 128, (k, n)).astype(np.int8)
    steps = rng.uniform(0.01, 0.02, n).astype(np.float32)
    made = onnx.parser.parse_model(f'''<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g (float[m,{k}] x, bool c) => (float[m,n] y) {{
        y = If(c) <then_branch = yes () => (float[m,n] p) {{ p = com.microsoft.MatMulNBits<K = {k}, N = {n}, bits = 4, block_size = 32>(x, b, s) }},
                  else_branch = no () => (float[m,n] q) {{ w = DequantizeLinear<axis = 1>(i, t) r = MatMul(x, w) q = Relu(r) }}> }}''')
    weights = {"b": codes, "s": scales.ravel(), "i": integers, "t": steps}
    made.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
    path = tmp_path / "m.ingot"
    ingot.compile(made, path, samples=0)
    assert sorted(kernels(path)) == [[], ["quantized_matmul"], ["quantized_matmul"]]
    numbers = np.stack([codes & 15, codes >> 4], -1).reshape(n, k).astype(np.float64) - 8
    nibbles = numbers * np.repeat(scales.astype(np.float64), 32, 1)
    x = rng.standard_normal((7, k)).astype(np.float32)
    for c, exact in ((True, x @ nibbles.T), (False, np.maximum(x @ (integers * steps.astype(np.float64)), 0))):
        near(ingot.load(path).run({"x": x, "c": np.array(c)})["y"], exact, 1e-5)


def test_many_branches_compile_in_time_that_grows_with_their_number(tmp_path: Path) -> None:
    """Each is a function of its own, which all passes visit."""
    steps = " ".join(f'''h{i + 1} = If(c) <then_branch = t{i} () => (float[m,72] p{i}) {{ p{i} = MatMul(h{i}, w) }},
                                           else_branch = e{i} () => (float[m,72] q{i}) {{ q{i} = Relu(h{i}) }}>''' for i in range(40))
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g (float[m,72] h0, bool c) => (float[m,72] h40) {{ {steps} }}')
    square = np.linalg.qr(array((72, 72), 50).astype(np.float64))[0].astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(square, "w"))
    ingot.compile(made, tmp_path / "m.ingot", samples=0)
    weights = dict(Artifact(tmp_path / "m.ingot").manifest)["weights"]["tensors"]
    assert sum(w["nbytes"] >= square.nbytes for w in weights) == 1  # packed once for all that read it
    x = array((3, 72), 51)
    near(ingot.load(tmp_path / "m.ingot").run({"h0": x, "c": np.array(True)})["h40"],
         x.astype(np.float64) @ np.linalg.matrix_power(square.astype(np.float64), 40), 1e-4)
