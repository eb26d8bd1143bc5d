"""Which kernels can be measured, and who computes them; one's own are added by :func:`register` and :func:`define`."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ingot.bench.kernels import attention, quantized_matmul
from ingot.bench.kernels.contestants import CONTESTANTS, load_library
from ingot.bench.kernels.problem import Contestant, Kernel, Prepare, Problem
from ingot.errors import FileError, InputError

KERNELS: dict[str, Kernel] = {row.name: row for row in (quantized_matmul.KERNEL, attention.KERNEL)}
_OWN: list[Contestant] = []
_Function = TypeVar("_Function", bound=Prepare)


def define(kernel: Kernel) -> Kernel:
    """Adds a kernel of one's own: how a shape and a data type become a :class:`Problem`."""
    KERNELS[kernel.name] = kernel
    return kernel


def register(kernel: str, *, name: str | None = None, module: str = "numpy", environment: Mapping[str, str] | None = None
             ) -> Callable[[_Function], _Function]:
    """Adds a contestant: decorates the function that makes it ready to run.

        @register("quantized_matmul", name="mine")
        def prepare(problem, inputs, setting):
            packed = [my_packing(inputs.codes) for _ in range(setting.sets)]
            return lambda which: my_product(inputs.x, packed[which])

    Args:
        kernel: The kernel that it computes.
        name: What it is called in the results; the function's name by default.
        module: A Python module that must be installed; where it is not, the contestant is left out, and that is said.
        environment: Variables for its process.

    Raises:
        InputError: There is no such kernel, or the name is taken.
    """
    find_kernel(kernel)

    def add(prepare: _Function) -> _Function:
        added = Contestant(name or str(getattr(prepare, "__name__", "own")), kernel, prepare, module, dict(environment or {}))
        _add(added)
        return prepare

    return add


def _add(contestant: Contestant) -> None:
    if any(c.name == contestant.name for c in contestants(contestant.kernel)):
        raise InputError(f"there is a contestant '{contestant.name}' for {contestant.kernel} already; give yours another name")
    _OWN.append(contestant)


def find_kernel(name: str) -> Kernel:
    """A kernel by its name.

    Raises:
        InputError: There is none.
    """
    if name not in KERNELS:
        raise InputError(f"there is no kernel '{name}' to measure; there are: {', '.join(KERNELS)}")
    return KERNELS[name]


def problem(kernel: str, shape: str, dtype: str, flags: Sequence[str] = ()) -> Problem:
    """A problem of a kernel.

    Raises:
        InputError: What does not fit, and what would.
    """
    found = find_kernel(kernel)
    unknown = [flag for flag in flags if flag not in found.flags]
    if unknown:
        raise InputError(f"{kernel} has no flag --{unknown[0]}")
    return found.parse(shape, dtype, tuple(flags))


def contestants(kernel: str, *, paths: bool = False) -> list[Contestant]:
    """Who computes a kernel, installed or not; with ``paths`` also Ingot's with each instruction set that this machine has."""
    rows = [c for c in (*CONTESTANTS, *_OWN) if c.kernel == kernel]
    if not paths:
        return rows
    return [row for c in rows for row in ([c, *(_forced(c, isa) for isa in instruction_sets(kernel))] if c.module == "ingot" else [c])]


def instruction_sets(kernel: str) -> list[str]:
    """The instruction sets that Ingot has a kernel for and this machine can run, worst first; none where the kernel is not Ingot's."""
    from ingot.runtime import kernels

    return next((list(row["instruction_sets"]) for row in kernels() if row["name"] == kernel), [])


def _forced(contestant: Contestant, isa: str) -> Contestant:
    return dataclasses.replace(contestant, name=f"{contestant.name} {isa}", environment={**contestant.environment, "INGOT_ISA": isa})


def load_module(path: str) -> None:
    """Runs a Python file, which registers contestants, or takes those that a shared library exports (``docs/kernels-bench.md``).

    Raises:
        FileError: There is no such file, or it cannot be loaded.
    """
    file = Path(path)
    if not file.is_file():
        raise FileError(f"there is no file '{path}' with kernels; name a Python file or a shared library")
    before = len(_OWN)
    if file.suffix == ".py":
        _run(file)
    else:
        for contestant in load_library(file):
            _add(contestant)
    if len(_OWN) == before:
        raise InputError(f"'{path}' has registered no contestant: decorate a function with ingot.bench.kernels.register(KERNEL)")


def _run(file: Path) -> None:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # dataclasses look their module up
    known = dict(KERNELS)
    try:
        spec.loader.exec_module(module)
    except (InputError, FileError):
        raise
    except Exception as error:
        KERNELS.clear()
        KERNELS.update(known)
        raise FileError(f"'{file}' cannot be run: {type(error).__name__}: {error}") from error


def request(problem: Problem) -> str:
    """A problem as one line of JSON, for another process."""
    return json.dumps({"kernel": problem.kernel, "shape": problem.shape, "dtype": problem.dtype, "flags": list(problem.flags)})
