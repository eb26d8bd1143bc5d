"""What the command line understands, and what it says about the rest."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from ingot.cli import options
from ingot.cli.compile import is_callable
from ingot.cli.main import main
from ingot.errors import InputError


@pytest.mark.parametrize(("text", "expected"), [
    ("x=1,3,224,224", ("x", [1, 3, 224, 224])),
    ("x=batch,3,H,W", ("x", ["batch", 3, "H", "W"])),
    ("a=b=1, 2", ("a=b", [1, 2])),
    ("scalar=", ("scalar", [])),
])
def test_a_shape_is_a_name_and_extents(text: str, expected: tuple[str, list[Any]]) -> None:
    assert options.shape(text) == expected


@pytest.mark.parametrize("text", ["x", "=1,2", "x=1,-2", "x=1,a b", "x=1.5"])
def test_another_form_of_shape_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="'" + text):
        options.shape(text)


def test_assignments_are_integers_by_name_and_the_last_wins() -> None:
    assert options.assignments("batch=8,sequence=128") == {"batch": 8, "sequence": 128}
    assert options.merged([{"batch": 1}, {"batch": 2, "n": 3}]) == {"batch": 2, "n": 3}
    with pytest.raises(argparse.ArgumentTypeError):
        options.assignments("batch")


def test_a_dimension_that_the_model_lacks_or_that_is_too_large_is_refused() -> None:
    dims = [{"name": "batch", "max": 4}, {"name": "sequence", "max": None}]
    assert options.known_dims({"batch": 4, "sequence": 999}, dims) == {"batch": 4, "sequence": 999}
    with pytest.raises(InputError, match=r"'rows'.*batch, sequence"):
        options.known_dims({"rows": 1}, dims)
    with pytest.raises(InputError, match="at most 4"):
        options.known_dims({"batch": 5}, dims)


@pytest.mark.parametrize(("model", "expected"), [("package.module:build", True), ("model.onnx", False), ("/a/b:c", False), ("C:model.onnx", True)])
def test_a_callable_is_told_from_a_file(model: str, expected: bool) -> None:
    assert is_callable(model) is expected


@pytest.mark.parametrize("command", [[], ["compile", "m.onnx"], ["nonsense"], ["bench", "a.ingot", "--runs", "0"], ["run", "a", "--threads", "-1"]])
def test_a_wrong_command_line_ends_with_2(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    assert "usage: ingot" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compile", "run", "inspect", "verify", "bench", "kernels", "kernels list", "kernels bench", "doctor"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    assert "usage: ingot " + command in capsys.readouterr().out
