"""Schedules for GPUs: rules that write a fused function as kernels, tried in order; the first that fits decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from tvm import tirx

from ingot.errors import UnsupportedError
from ingot.importer.module import Imported
from ingot.importer.weights import STRING
from ingot.lower.cpu.abi import is_buffer
from ingot.lower.cpu.fused import Fused, read
from ingot.lower.cpu.schedule import operations
from ingot.lower.cuda.kernel import Generated
from ingot.lower.cuda.rules import maps, nests, rows, serial

RULES: tuple[Callable[[Fused], Generated | None], ...] = (maps.rule, rows.rule, serial.rule)


def refuse_strings(imported: Imported, functions: Iterable[tirx.PrimFunc]) -> None:
    """Refuses models that GPUs cannot run.

    Raises:
        UnsupportedError: The model has tensors of strings.
    """
    dtypes = [s.dtype for s in (*imported.inputs, *imported.outputs)] + [w.dtype for weights in imported.weights_of().values() for w in weights]
    dtypes += [str(p.ty.dtype) for f in functions for p in f.params if is_buffer(p)]
    if STRING in dtypes:
        raise UnsupportedError("the model has tensors of strings, which GPUs do not have; compile it for a CPU target")


def schedule(function: tirx.PrimFunc) -> Generated:
    """One TIR function as kernels."""
    fused = read(function)
    for rule in RULES if fused is not None else ():
        assert fused is not None
        found = rule(fused)
        if found is not None:
            return replace(found, operations=operations(fused))
    return nests.rule(function)
