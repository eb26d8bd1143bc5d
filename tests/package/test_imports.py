"""Running a model needs NumPy and nothing else, and Ingot gets along with TVM in one process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cache import Case

RUN = """
import numpy as np
model = ingot.load({artifact!r})
stored = np.load({inputs!r})
y = model.run(dict(stored))["y"]
np.testing.assert_allclose(y, np.load({expected!r})["y"], rtol=1e-5, atol=1e-6)
"""


def python(code: str) -> str:
    """Runs code in a fresh process; returns what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_code(case: Case) -> str:
    return RUN.format(artifact=str(case.artifact), inputs=str(case.folder / "inputs-3.npz"), expected=str(case.folder / "outputs-3.npz"))


def test_importing_and_running_imports_no_compiler_and_no_framework(small: Case) -> None:
    shown = python("import sys, ingot\n" + run_code(small) + "print(sorted({m.split('.')[0] for m in sys.modules} & "
                   "{'tvm', 'tvm_ffi', 'onnx', 'torch', 'transformers', 'onnxruntime', 'google', 'rich', 'PIL', 'ml_dtypes'}))")
    assert shown.strip() == "[]"


@pytest.mark.parametrize("order", ["import tvm, ingot", "import ingot, tvm"])
def test_tvm_may_be_imported_before_or_after(small: Case, order: str) -> None:
    pytest.importorskip("tvm")
    python(order + "\n" + run_code(small) + "assert tvm.tirx.IntImm('int64', 3).value == 3\n" + run_code(small))


def test_the_command_line_needs_no_compiler_to_look_into_a_file(small: Case) -> None:
    shown = python("import sys\nfrom ingot.cli.main import main\n"
                   f"for command in (['inspect', {str(small.artifact)!r}], ['verify', {str(small.artifact)!r}]):\n    assert main(command) == 0\n"
                   "print(sorted({m.split('.')[0] for m in sys.modules} & {'tvm', 'onnx', 'torch'}))")
    assert shown.strip().splitlines()[-1] == "[]"
