"""``ingot compile --import``: operators of one's own from a module or a file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import ingot
from ingot.cli.main import main
from ingot.importer import registry

X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
HALVE = """import ingot
from tvm import relax
{imports}

@ingot.onnx_op("Halve", domain="mine")
def halve(cx, x):
    return cx.op(relax.op.multiply(x.expr, relax.const({factor}, x.dtype)))
"""


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """What a test imports and registers is gone after it."""
    modules = set(sys.modules)
    yield
    registry._operators.pop(("mine", "Halve"), None)
    for name in set(sys.modules) - modules:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    node = helper.make_node("Halve", ["x"], ["y"], domain="mine")
    graph = helper.make_graph([node], "custom", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]), path)
    return path


def compile_with(model: Path, *imports: str) -> int:
    arguments = [word for name in imports for word in ("--import", name)]
    return main(["compile", str(model), "-o", str(model.with_suffix(".ingot")), "--samples", "0", *arguments])


def factor_of(model: Path) -> float:
    y = ingot.load(model.with_suffix(".ingot")).run(x=X)["y"]
    factor = float(y[0, 0] / X[0, 0])
    np.testing.assert_array_equal(y, X * np.float32(factor))
    return factor


def test_a_file_says_what_an_operator_means_and_may_import_its_neighbours(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "my_factor.py").write_text("FACTOR = 0.5\n")
    (folder / "my_operators.py").write_text(HALVE.format(imports="from my_factor import FACTOR", factor="FACTOR"))
    assert compile_with(model, str(folder / "my_operators.py")) == 0
    assert factor_of(model) == 0.5
    assert str(folder) not in sys.path


def test_a_module_is_found_in_the_current_directory(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "operators.py").write_text(HALVE.format(imports="", factor=0.25))
    monkeypatch.chdir(tmp_path)
    assert compile_with(model, "my_package.operators") == 0
    assert factor_of(model) == 0.25


def test_of_several_imports_the_last_one_counts(model: Path, tmp_path: Path) -> None:
    for name, factor in (("my_first.py", 2.0), ("my_second.py", 4.0)):
        (tmp_path / name).write_text(HALVE.format(imports="", factor=factor))
    assert compile_with(model, str(tmp_path / "my_first.py"), str(tmp_path / "my_second.py")) == 0
    assert factor_of(model) == 4.0


def test_a_file_that_is_called_like_another_module_does_not_replace_it(model: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(HALVE.format(imports="", factor=0.5))
    before = sys.modules["json"]
    assert compile_with(model, str(tmp_path / "json.py")) == 0
    assert sys.modules["json"] is before and factor_of(model) == 0.5


@pytest.mark.parametrize(("name", "code", "message"), [
    ("my_missing", None, "no module 'my_missing' to import.*named with .py"),
    ("my_missing.py", None, "no Python file 'my_missing.py'"),
    ("my_wrong.py", "import ingot\n\n1 / 0\n", r"ZeroDivisionError.*my_wrong.py, line 3"),
    ("my_wrong", "import my_other\n", "'my_wrong' cannot be imported: ModuleNotFoundError.*my_other.*line 1"),
    ("my_wrong.py", "def f(:\n", "SyntaxError"),
])
def test_what_cannot_be_imported_is_refused_with_the_reason(name: str, code: str | None, message: str, model: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    if code is not None:
        (tmp_path / (name if name.endswith(".py") else f"{name}.py")).write_text(code)
    assert compile_with(model, name) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_model_with_an_unknown_operator_is_refused_with_the_option_that_would_help(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compile_with(model) == 1
    assert re.search(r"mine\.Halve(.*\n)*.*--import FILE\.py", capsys.readouterr().err)
