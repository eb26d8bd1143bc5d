"""``--import``: Python code with operators of one's own, by the name of its module or its file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ingot.errors import CompileError, FileError, IngotError


def import_module(name: str) -> None:
    """Imports a module by its name, or runs a file that ends in ``.py``: what it registers (``ingot.onnx_op``, ...) holds from then on.

    The current directory is on the search path for a module, the file's folder for a file.

    Raises:
        FileError: There is no such file.
        CompileError: There is no such module, or its code fails.
    """
    file = Path(name)
    by_name = file.suffix != ".py" and os.sep not in name
    if not by_name and not file.is_file():
        raise FileError(f"there is no Python file '{name}' to import")
    with _search_path(os.getcwd() if by_name else str(file.resolve().parent)):
        try:
            if by_name:
                importlib.import_module(name)
            else:
                _run(file)
        except IngotError:
            raise
        except Exception as error:
            if by_name and isinstance(error, ModuleNotFoundError) and error.name is not None and f"{name}.".startswith(f"{error.name}."):
                raise CompileError(f"there is no module '{name}' to import, neither installed nor in the current directory; "
                                   "a file is named with .py") from error
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise CompileError(f"'{name}' cannot be imported: {type(error).__name__}: {error} ({last.filename}, line {last.lineno})") from error


def _run(file: Path) -> None:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise CompileError(f"'{file}' is not a Python file; its name would end in .py")
    module = importlib.util.module_from_spec(spec)
    shadowed = sys.modules.get(file.stem)
    sys.modules[file.stem] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        if shadowed is not None:  # a file may be called like a module that others use
            sys.modules[file.stem] = shadowed


@contextmanager
def _search_path(folder: str) -> Iterator[None]:
    """A folder on Python's search path for a while."""
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)
