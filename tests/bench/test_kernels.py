"""The kernel benchmark: results are checked before they are timed, and nobody disappears from a table without a reason."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from importlib import util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.bench.kernels import Options, harness, measure, problem, registry
from ingot.bench.kernels.check import difference
from ingot.cli.main import main
from ingot.errors import InputError
from ingot.runtime import kernels, measure_bf16, measure_fma, measure_int8

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = ("--rounds", "2", "--seconds", "0.002", "--sets", "2", "--threads", "1")
OWN = """
import os
import numpy as np
from ingot.bench.kernels import Loaded, Unsupported, register

@register("quantized_matmul", name="exact")
def exact(problem, inputs, setting):
    return lambda which: inputs.x @ inputs.weights().T

@register("quantized_matmul", name="last set is wrong")
def wrong(problem, inputs, setting):
    return lambda which: inputs.x @ inputs.weights().T + (which == setting.sets - 1)

@register("quantized_matmul", name="dies")
def dies(problem, inputs, setting):
    os._exit(7)

@register("quantized_matmul", name="refuses")
def refuses(problem, inputs, setting):
    raise Unsupported("it does not like this shape")

@register("quantized_matmul", name="absent", module="no_such_package")
def absent(problem, inputs, setting):
    raise AssertionError
"""


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits are not measured, which takes seconds; contestants that a test registers are gone after it."""
    monkeypatch.setattr(harness, "_limits", lambda threads: {"threads": threads, "bandwidth_gb_s": 10.0, "fma_gflop_s": 100.0,
                                                            "bf16_gflop_s": 200.0, "int8_gop_s": 300.0})
    monkeypatch.setattr(registry, "_OWN", [])


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.py"
    path.write_text(OWN, encoding="utf-8")
    return str(path)


def bench(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """The results of a command line."""
    path = tmp_path / "results.json"
    assert main(["kernels", "bench", *arguments, *QUICK, "--json", str(path)]) == 0
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def rows(case: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in case["contestants"]}


def test_the_list_names_every_kernel_with_its_instruction_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    listed = {row["name"]: row for row in found["kernels"]}
    assert {"attention", "quantized_matmul", "topk"} <= set(listed)
    assert all(row["instruction_sets"][0] == "scalar" and row["contract"] for row in listed.values())
    assert {row["name"] for row in found["benchmarks"]} == {"attention", "quantized_matmul"}
    assert main(["kernels", "list"]) == 0
    assert "1x4096x4096 int4:g128" in capsys.readouterr().out


def test_an_instruction_set_that_is_not_allowed_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_ISA", "scalar")
    assert all(row["instruction_sets"] == ["scalar"] for row in kernels())


def test_what_the_machine_reaches_is_measured_for_as_long_as_is_asked() -> None:
    best, median = measure_int8(1)
    assert best >= median > 0 and measure_int8(1, 0).best > 0  # once, at least
    with pytest.raises(InputError, match="seconds is -1; it can be 0 to 60"):
        measure_int8(1, -1)


def test_peaks_are_of_the_instructions_that_kernels_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    best = measure_int8(1).median
    monkeypatch.setenv("INGOT_ISA", "scalar")
    assert measure_int8(1).median < best / 1.5  # SSE2 and NEON multiply an eighth to a half of it
    assert measure_bf16(1).median < 1.5 * measure_fma(1).median  # as floats


def test_shares_are_of_what_the_machine_reached_in_turn() -> None:
    case, = measure([problem("quantized_matmul", "3x96x32", "int8")], Options(rounds=3, seconds=0.002, sets=2, only=("ingot",)))["cases"]
    row = rows(case)["ingot"]
    assert set(case["reached"]) == {"fma_gflop_s", "int8_gop_s"}  # of the kernel, and of the one that multiplies float32
    assert case["reached"]["int8_gop_s"] != 300  # which `limits` says, to tell what binds
    # The median of three turns' shares is of the order of the medians' share: turns of one run do not differ by ten times.
    assert 0.1 < row["roofline"] / (row["gflop_s"] / case["reached"]["int8_gop_s"]) < 10


def test_every_preset_is_a_problem() -> None:
    for kernel in registry.KERNELS.values():
        for shape, dtype, flags in kernel.presets:
            found = problem(kernel.name, shape, dtype, flags)
            assert (found.shape, found.dtype, found.flags) == (shape, dtype, flags)


@pytest.mark.parametrize("arguments", [("quantized_matmul", "--shape", "3x96x40", "--dtype", "int4:g32,int8,mxfp4,nf4"),
                                       ("attention", "--shape", "2,5,9,4,2,16", "--dtype", "f32,bf16,f16", "--causal")], ids=lambda a: a[0])
def test_ingot_s_kernels_are_right_with_every_instruction_set(arguments: tuple[str, ...], tmp_path: Path) -> None:
    found = bench(tmp_path, *arguments, "--paths", "--only", "ingot")
    for case in found["cases"]:
        for name, row in rows(case).items():
            assert row["status"] == "ok" or (case["dtype"].startswith("nf4") and "float" not in name), (case["dtype"], name, row)
            if row["status"] == "ok":
                assert row["row"] <= row["tolerance"] and row["seconds"]["runs"] >= 2
                assert row["roofline"] > 0
        expected = next(k for k in kernels() if k["name"] == case["kernel"])["instruction_sets"]
        assert {f"ingot {isa}" for isa in expected} <= set(rows(case))


@pytest.mark.parametrize(("kernel", "shape", "dtypes"), [("quantized_matmul", "3x96x32", ("int4:g32", "int8", "int8:g32")),
                                                         ("attention", "2,7,7,4,4,16", ("f32",))])
def test_no_peer_is_wrong(kernel: str, shape: str, dtypes: tuple[str, ...]) -> None:
    found = measure([problem(kernel, shape, dtype) for dtype in dtypes], Options(rounds=1, seconds=0.002, sets=2))
    said = [(row["name"], row["reason"]) for case in found["cases"] for row in case["contestants"] if row["status"] != "ok"]
    assert not [s for s in said if "failed with" in s[1] or "rounding explains" in s[1]]
    timed = {row["name"] for case in found["cases"] for row in case["contestants"] if row["status"] == "ok"}
    assert timed | {name for name, _ in said} == {c.name for c in registry.contestants(kernel)}


def test_one_s_own_kernels_stand_beside_ingot_s_and_what_is_not_timed_says_why(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [word for name in ("ingot", "exact", "last set is wrong", "dies", "refuses", "absent") for word in ("--only", name)]
    found = rows(bench(tmp_path, "quantized_matmul", "--shape", "4x64x24", "--dtype", "int4:g32", "--module", own, *names)["cases"][0])
    assert found["ingot"]["status"] == found["exact"]["status"] == "ok"
    assert found["exact"]["error"] < 1e-6 < found["ingot"]["error"]  # the one multiplies floats, the other bytes
    wrong = found["last set is wrong"]
    assert wrong["status"] == "wrong" and "rounding explains" in wrong["reason"] and "seconds" not in wrong
    reasons = {name: row["reason"] for name, row in found.items() if row["status"] == "left out"}
    assert reasons == {"dies": "dies stopped with exit code 7:", "refuses": "it does not like this shape",
                       "absent": "no_such_package is not installed"}
    out = capsys.readouterr().out
    assert "last set is wrong is WRONG and was not timed" in out and "absent is left out: no_such_package is not installed" in out


KIND = """
import numpy as np
from ingot.bench.kernels import Kernel, Loaded, Problem, define, register

class Softmax(Problem):
    kernel = "softmax"

    def __init__(self, rows, columns, dtype):
        self.shape, self.dtype, self.flags = f"{rows}x{columns}", dtype, ()
        self.rows, self.columns, self.depth = rows, columns, columns
        self.flops, self.bytes, self.rotating = 4 * rows * columns, 8 * rows * columns, 0

    def inputs(self):
        return np.random.default_rng(0).standard_normal((self.rows, self.columns), np.float32)

    def reference(self, inputs):
        weights = np.exp(inputs.astype(np.float64))
        return weights / weights.sum(axis=1, keepdims=True)

def parse(shape, dtype, flags):
    return Softmax(*map(int, shape.split("x")), dtype)

define(Kernel("softmax", "rows to probabilities", "ROWSxCOLUMNS", "f32", parse))

@register("softmax", name="numpy")
def weights(problem, inputs, setting):
    return lambda which: np.exp(inputs) / np.exp(inputs).sum(axis=1, keepdims=True)

@register("softmax", name="not divided")
def wrong(problem, inputs, setting):
    return lambda which: np.exp(inputs)
"""


def test_a_kernel_of_one_s_own_kind_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "KERNELS", dict(registry.KERNELS))
    (tmp_path / "softmax.py").write_text(KIND, encoding="utf-8")
    found = rows(bench(tmp_path, "softmax", "--shape", "37x130", "--module", str(tmp_path / "softmax.py"))["cases"][0])
    assert found["numpy"]["status"] == "ok" and found["not divided"]["status"] == "wrong"


def test_the_example_of_a_python_kernel_runs(tmp_path: Path) -> None:
    found = bench(tmp_path, "quantized_matmul", "--shape", "3x64x16", "--shape", "65x64x16", "--dtype", "nf4", "--only", "dense",
                  "--only", "rows in half", "--module", str(EXAMPLES / "python/my_kernels.py"))
    few, many = (rows(case) for case in found["cases"])
    assert few["dense"]["status"] == few["rows in half"]["status"] == many["dense"]["status"] == "ok"
    assert few["rows in half"]["note"] == "float16 weights" and many["rows in half"]["reason"] == "it is for few rows"


def test_the_example_of_a_shared_library_runs(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path / "libmine.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", str(EXAMPLES / "c/my_kernels.c"), "-o", str(library)], check=True)
    found = bench(tmp_path, "quantized_matmul", "--shape", "3x96x20", "--dtype", "int4:g32,int8", "--only", "libmine", "--module", str(library))
    assert [rows(case)["libmine"]["status"] for case in found["cases"]] == ["ok", "ok"]


@pytest.mark.parametrize(("arguments", "said"), [
    (("quantized_matmul", "--shape", "1x4096"), "MxKxN, such as 1x4096x4096"),
    (("quantized_matmul", "--shape", "0x16x16"), "MxKxN"),
    (("quantized_matmul", "--shape", "1x16x16", "--dtype", "int5"), "int8, int4, mxfp4, nf4"),
    (("quantized_matmul", "--shape", "1x64x16", "--dtype", "int4:g24"), "power of two"),
    (("quantized_matmul", "--shape", "1x16x16", "--causal"), "no flag --causal"),
    (("attention", "--shape", "1,2,3"), "B,S,T,Hq,Hkv,D"),
    (("attention", "--shape", "1,2,3,4,3,8"), "4 must be a multiple of 3"),
    (("attention", "--shape", "1,9,3,4,4,8", "--causal"), "9 queries but 3 keys"),
    (("attention", "--shape", "1,2,3,4,4,8", "--dtype", "f64"), "f32, bf16, f16"),
    (("conv", "--shape", "1"), "attention"),
    (("--shape", "1x2x3"), "name one before them"),
    (("attention", "--shape", "1,2,3,4,4,8", "--only", "nobody"), "torch sdpa"),
    (("attention", "--module", "nowhere.py"), "no file 'nowhere.py'"),
    (("attention", "--html", "nowhere/page.html"), "there is no directory nowhere"),
])
def test_what_cannot_be_measured_is_a_clear_error(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "bench", *arguments]) == 1
    assert said in capsys.readouterr().err


def test_a_module_that_does_not_run_or_registers_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text, said in (("a.py", "1 / 0", "ZeroDivisionError"), ("b.py", "", "registered no contestant"),
                             ("c.so", "text", "a shared library that can be loaded")):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        assert main(["kernels", "bench", "attention", "--module", str(path)]) == 1
        assert said in capsys.readouterr().err


def test_results_become_a_table_a_page_and_a_picture(own: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = {name: tmp_path / f"results.{name}" for name in ("csv", "html", "png")}
    written = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    found = bench(tmp_path, "quantized_matmul", "--shape", "4x64x24", "--dtype", "int8", "--module", own, "--only", "exact", "--only", "refuses",
                  *written)
    with files["csv"].open(encoding="utf-8", newline="") as file:
        table = {row["contestant"]: row for row in csv.DictReader(file)}
    assert float(table["exact"]["median"]) == rows(found["cases"][0])["exact"]["seconds"]["median"]
    assert table["refuses"]["status"] == "left out" and table["refuses"]["median"] == ""
    page = files["html"].read_text(encoding="utf-8")
    assert "http" not in page and "<script" not in page and "refuses is left out" in page
    svg = ET.fromstring(page[page.index("<svg"):page.index("</svg>") + 6])
    titles = [title.text or "" for title in svg.iter("title")]
    assert len(titles) == 1 and titles[0].startswith("exact: quantized_matmul 4x64x24 int8")
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_picture_is_refused_before_anything_is_measured(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name, *rest))
    assert main(["kernels", "bench", "attention", "--png", str(tmp_path / "a.png")]) == 1
    assert "pip install 'ingot[bench]'" in capsys.readouterr().err


def test_the_reference_of_attention_is_that_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    for shape, flags in (("2,5,9,4,2,8", ()), ("1,6,6,3,3,8", ("causal",)), ("2,3,7,4,1,8", ("causal",))):
        case: Any = problem("attention", shape, "f32", flags)
        q, k, v = (torch.from_numpy(a).transpose(1, 2) for a in case.inputs().floats())
        seen = torch.ones(case.queries, case.keys, dtype=torch.bool).tril(case.keys - case.queries) if flags else None
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True).transpose(1, 2)
        np.testing.assert_allclose(case.reference(case.inputs()).reshape(expected.shape), expected.numpy(), rtol=1e-12, atol=1e-13)


def test_operations_are_those_of_visible_keys() -> None:
    assert problem("attention", "1,3,5,2,2,4", "f32").flops == 4 * 2 * 15 * 4
    assert problem("attention", "1,3,5,2,2,4", "f32", ("causal",)).flops == 4 * 2 * (3 + 4 + 5) * 4
    assert problem("quantized_matmul", "2x32x16", "int4:g16").bytes == 16 * 32 // 2 + 16 * 2 * 4 + 4 * 2 * (32 + 16)


@given(st.integers(1, 5), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_rounding_passes_and_one_wrong_element_does_not(rows_: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal((rows_, columns)) + 3
    assert not difference(reference * (1 + 1e-6 * rng.uniform(-1, 1, reference.shape)), reference, 1e-5).problem
    broken = reference.copy()
    broken[rng.integers(rows_), rng.integers(columns)] *= 0.5
    assert difference(broken, reference, 1e-5).problem
    broken[0, 0] = np.nan
    assert "not finite" in difference(broken, reference, 1e-5).problem
    assert f"{rows_ * columns} elements, not {rows_ * columns + 1}" in difference(reference, np.zeros((1, rows_ * columns + 1)), 1.0).problem
