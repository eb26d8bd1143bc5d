"""``module:callable`` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.errors import CompileError
from ingot.export import load_callable


def test_a_callable_in_the_current_directory_gives_a_module_and_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given_model.py").write_text("import torch\ndef build():\n    return torch.nn.Linear(2, 3), torch.ones(1, 2)\n")
    monkeypatch.chdir(tmp_path)
    module, inputs = load_callable("given_model:build")
    assert module(inputs).shape == (1, 3)


@pytest.mark.parametrize(("spec", "message"), [
    ("no_such_module:build", "cannot be imported"),
    ("json:no_such", "has no 'no_such'"),
    ("os:getcwd", "must return"),
    ("json", "form module:callable"),
])
def test_a_wrong_spec_is_refused_with_the_reason(spec: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        load_callable(spec)
