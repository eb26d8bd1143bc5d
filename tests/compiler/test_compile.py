"""Compiling: shapes that are fixed, bounds, several targets in one file, and what a compile leaves behind when it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import ingot
from ingot.errors import CompileError, InputError, TargetError
from tests.lower.build import model, relative_error

W = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
CONVOLUTION = model([helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["y"])],
                    {"x": ("float32", ["batch", 3, "height", "width"])}, ["y"], {"w": W})


def expected(x: np.ndarray) -> np.ndarray:
    import torch

    result: np.ndarray = torch.relu(torch.nn.functional.conv2d(torch.from_numpy(x).double(), torch.from_numpy(W).double(), padding=1)).numpy()
    return result


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 3, 5, 17), (3, 3, 1, 1)])
def test_every_axis_may_stay_symbolic(tmp_path: Path, shape: tuple[int, ...]) -> None:
    ingot.compile(CONVOLUTION, tmp_path / "m.ingot", samples=0)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    assert relative_error(ingot.load(tmp_path / "m.ingot").run([x])["y"], expected(x)) < 1e-6


def test_shapes_fix_extents(tmp_path: Path) -> None:
    ingot.compile(CONVOLUTION, tmp_path / "m.ingot", samples=0, shapes={"x": ["batch", 3, 16, 16]})
    loaded = ingot.load(tmp_path / "m.ingot")
    assert loaded.inputs[0].shape == ("batch", 3, 16, 16)
    with pytest.raises(InputError, match=r"expected"):
        loaded.run([np.zeros((1, 3, 8, 16), np.float32)])


def test_bounds_are_kept(tmp_path: Path) -> None:
    ingot.compile(CONVOLUTION, tmp_path / "m.ingot", samples=0, bounds={"batch": 2, "height": 8, "width": 8})
    loaded = ingot.load(tmp_path / "m.ingot")
    x = np.ones((2, 3, 8, 8), np.float32)
    assert relative_error(loaded.run([x])["y"], expected(x)) < 1e-6
    with pytest.raises(InputError, match="batch"):
        loaded.run([np.ones((3, 3, 8, 8), np.float32)])
    with pytest.raises(CompileError, match="no symbolic dimension 'depth'"):
        ingot.compile(CONVOLUTION, tmp_path / "n.ingot", bounds={"depth": 2})


def test_several_targets_share_a_file_and_each_that_can_run_agrees(tmp_path: Path) -> None:
    targets = ["cpu:x86-64-v2", "cpu:x86-64-v3", "cpu:x86-64-v4", "cpu:aarch64"]
    report = ingot.compile(CONVOLUTION, tmp_path / "m.ingot", samples=0, target=targets)
    assert sorted(report.targets) == sorted(targets)
    x = np.random.default_rng(1).standard_normal((2, 3, 9, 13)).astype(np.float32)
    ran = []
    here = ingot.machine()["targets"]
    for target in targets:
        if target in here:
            loaded = ingot.load(tmp_path / "m.ingot", target=target)
            ran.append(loaded.target)
            assert relative_error(loaded.run([x])["y"], expected(x)) < 1e-6
        else:
            with pytest.raises(TargetError, match=f"{target}.*this machine"):
                ingot.load(tmp_path / "m.ingot", target=target)
    assert ran and ingot.load(tmp_path / "m.ingot").target in ran


def test_a_compile_that_is_killed_leaves_nothing_at_the_output(tmp_path: Path) -> None:
    old = tmp_path / "m.ingot"
    old.write_bytes(b"the old file")
    program = ("import sys, ingot, time\nfrom ingot.artifact import write\nreal = write.Writer.finish\n"
               "def stuck(*a):\n    print('writing', flush=True)\n    time.sleep(60)\nwrite.Writer.finish = stuck\n"
               "from tests.compiler.test_compile import CONVOLUTION\ningot.compile(CONVOLUTION, sys.argv[1], samples=0)\n")
    process = subprocess.Popen([sys.executable, "-c", program, str(old)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
                               env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    assert old.read_bytes() == b"the old file"


def test_peak_memory_stays_below_two_and_a_half_times_the_weights(tmp_path: Path) -> None:
    size = 4096
    program = ("import re, sys\nfrom pathlib import Path\nimport numpy as np\nimport onnx\nfrom onnx import helper\nimport ingot\n"
               "import ingot.importer.ops, ingot.passes.pipeline\n"
               "def peak():\n    return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024\n"
               "before = peak()\ningot.compile(sys.argv[1], sys.argv[2], samples=0)\nprint(peak() - before)\n")
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal((size, size), np.float32) for i in range(4)}
    nodes = [helper.make_node("MatMul", [f"h{i}" if i else "x", f"w{i}"], [f"h{i + 1}" if i < 3 else "y"]) for i in range(4)]
    import onnx

    onnx.save(model(nodes, {"x": ("float32", ["n", size])}, ["y"], weights), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin")
    used = int(subprocess.run([sys.executable, "-c", program, str(tmp_path / "m.onnx"), str(tmp_path / "m.ingot")], check=True, capture_output=True,
                              text=True).stdout.split()[-1])
    assert used < 2.5 * sum(w.nbytes for w in weights.values())


def _double() -> tuple[object, np.ndarray]:
    """A float64 model with weights, a constant, a cast and a branch, and the matrix of its product."""
    w = np.random.default_rng(2).standard_normal((6, 4))
    one = helper.make_graph([helper.make_node("Mul", ["p", "two"], ["t"])], "then", [], [helper.make_value_info("t", onnx.TypeProto())])
    other = helper.make_graph([helper.make_node("Identity", ["p"], ["e"])], "else", [], [helper.make_value_info("e", onnx.TypeProto())])
    nodes = [helper.make_node("Cast", ["n"], ["d"], to=onnx.TensorProto.DOUBLE), helper.make_node("Add", ["x", "d"], ["s"]),
             helper.make_node("MatMul", ["s", "w"], ["p"]), helper.make_node("If", ["flag"], ["y"], then_branch=one, else_branch=other)]
    inputs = {"x": ("float64", ["rows", 6]), "n": ("int64", ["rows", 1]), "flag": ("bool", [])}
    built = model(nodes, inputs, ["y"], {"w": w, "two": np.array(2.0)})
    built.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return built, w


@pytest.mark.parametrize("flag", [True, False])
def test_float64_models_run_as_they_are_with_a_warning_and_in_float32_where_asked(tmp_path: Path, flag: bool) -> None:
    built, w = _double()
    x = np.random.default_rng(3).standard_normal((5, 6))
    feeds = {"x": x, "n": np.arange(5, dtype=np.int64)[:, None], "flag": np.array(flag)}
    exact = (x + feeds["n"]) @ w * (2 if flag else 1)
    with pytest.warns(ingot.PrecisionWarning, match="--precision f32"):
        ingot.compile(built, tmp_path / "wide.ingot", samples=0)
    wide = ingot.load(tmp_path / "wide.ingot").run(feeds)["y"]
    assert wide.dtype == np.float64
    assert relative_error(wide, exact) < 1e-14
    ingot.compile(built, tmp_path / "narrow.ingot", samples=0, precision="f32")
    narrow = ingot.load(tmp_path / "narrow.ingot").run(feeds)["y"]
    assert narrow.dtype == np.float64  # inputs and outputs keep their types
    assert 1e-9 < relative_error(narrow, exact) < 1e-6


@pytest.mark.parametrize(("precision", "least", "most"), [("bf16", 1e-4, 4e-3), ("f16", 1e-5, 5e-4)])
def test_weights_in_half_the_bits_cost_their_rounding_and_no_more(tmp_path: Path, precision: str, least: float, most: float) -> None:
    rng = np.random.default_rng(4)
    w, v = rng.standard_normal((64, 96)).astype(np.float32) / 8, rng.standard_normal((40, 96, 3, 1)).astype(np.float32) / 10
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Transpose", ["p"], ["t"], perm=[0, 2, 1]),
             helper.make_node("Unsqueeze", ["t", "axes"], ["u"]), helper.make_node("Conv", ["u", "v"], ["y"], pads=[1, 0, 1, 0])]
    built = model(nodes, {"x": ("float32", [2, "rows", 64])}, ["y"], {"w": w, "v": v, "axes": np.array([3])})
    x = rng.standard_normal((2, 9, 64)).astype(np.float32)
    ingot.compile(built, tmp_path / "m.ingot", samples=0, precision=precision)
    product = np.pad((x.astype(np.float64) @ w).transpose(0, 2, 1), ((0, 0), (0, 0), (1, 1)))
    exact = sum(np.einsum("oc,bct->bot", v[:, :, k, 0].astype(np.float64), product[:, :, k : k + 9]) for k in range(3))[..., None]
    # A rounding to 8 (11) bits is off by 2^-9 (2^-12) at the most, a third of that on average; two of them, one after another.
    assert least < relative_error(ingot.load(tmp_path / "m.ingot").run([x])["y"], exact) < most
    ingot.compile(built, tmp_path / "wide.ingot", samples=0)
    assert os.path.getsize(tmp_path / "m.ingot") <= os.path.getsize(tmp_path / "wide.ingot")


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="they are f32, tf32, bf16, f16"):
        ingot.compile(CONVOLUTION, tmp_path / "m.ingot", precision="fp8")


def test_a_model_with_its_weights_in_a_file_beside_it_has_samples(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    copy = onnx.ModelProto.FromString(CONVOLUTION.SerializeToString())  # saving moves the weights out of the model itself
    onnx.save(copy, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    report = ingot.compile(folder / "m.onnx", tmp_path / "m.ingot")
    assert not [line for line in report.log if "no samples" in line]
    assert len(ingot.runtime.Artifact.open(tmp_path / "m.ingot").manifest["samples"]["cases"]) == 1
