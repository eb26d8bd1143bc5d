"""``module:callable``: a PyTorch model named on the command line."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from ingot.errors import CompileError


def load_callable(spec: str) -> tuple[Any, Any]:
    """Calls what ``package.module:callable`` names; it returns a ``torch.nn.Module`` and example inputs.

    The current directory is on the search path, as it is for ``python -m``.
    """
    name, _, attribute = spec.partition(":")
    if not name or not attribute:
        raise CompileError(f"'{spec}' is not of the form module:callable")
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(name)
    except ImportError as error:
        raise CompileError(f"'{spec}': the module '{name}' cannot be imported: {error}") from error
    finally:
        if added:
            sys.path.remove(here)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise CompileError(f"'{spec}': '{name}' has no '{attribute}'")
        found = getattr(found, part)
    result = found()
    if not isinstance(result, tuple) or len(result) != 2 or not callable(getattr(result[0], "forward", None)):
        raise CompileError(f"'{spec}' must return (torch module, example inputs), but returned {type(result).__name__}")
    return result[0], result[1]
