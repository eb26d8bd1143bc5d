"""``ingot.onnx_op``: operators of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def onnx_op(name: str, *, domain: str = "", since: int = 1, sequences: bool = False,
            strings: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as the meaning of an ONNX operator: Relax operators, a tensor expression, a TIR function.

    It holds for every compile after it, and replaces what Ingot has for the same operator and opset. The arguments are those of
    :func:`ingot.importer.registry.onnx_op`; docs/operators.md shows what a function can do.

    Args:
        name: The operator, ``op_type`` in ONNX.
        domain: Its domain; the model has to import an opset of it.
        since: The first opset of the domain that the function is for.
        sequences: Whether the function also takes sequences and missing optionals.
        strings: Whether it is for tensors of strings.
    """
    from ingot.importer import ops, registry  # all of Ingot's own come first, so that this one stays

    del ops
    return registry.onnx_op(name, since=since, domain=domain, sequences=sequences, strings=strings)
