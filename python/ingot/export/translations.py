"""How a PyTorch operator of one's own is exported: a table, filled by a decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ingot.errors import CompileError

_F = TypeVar("_F", bound=Callable[..., Any])
_translations: dict[str, Callable[..., Any]] = {}


def torch_op(name: str) -> Callable[[_F], _F]:
    """Registers a function as the export of the PyTorch operator ``namespace::name`` (or ``namespace::name.overload``).

    The function takes the operator's arguments (tensors as values of the graph, everything else as it is), and returns what
    onnxscript's operators give::

        from onnxscript import opset20 as op

        @ingot.torch_op("mine::clip")
        def clip(x, low: float, high: float):
            return op.Clip(x, low, high)

    It holds for every export after it, and takes precedence over PyTorch's own. ONNX operators of another domain come from
    ``onnxscript.values.Opset(domain, version)`` once ``onnx.defs.register_schema`` knows them; :func:`ingot.onnx_op` says what they mean.

    Raises:
        CompileError: The name is not of that form.
    """
    namespace, separator, rest = name.partition("::")
    if not separator or not namespace.isidentifier() or not rest:
        raise CompileError(f"'{name}' is not the name of a PyTorch operator; it is 'namespace::name'")

    def register(function: _F) -> _F:
        _translations[name] = function
        return function

    return register


def translations() -> dict[Any, Callable[..., Any]]:
    """The table for ``torch.onnx.export(custom_translation_table=...)``.

    Raises:
        CompileError: An operator does not exist in PyTorch.
    """
    import torch

    table = {}
    for name, function in _translations.items():
        namespace, _, rest = name.partition("::")
        operator, _, overload = rest.partition(".")
        try:
            table[getattr(getattr(getattr(torch.ops, namespace), operator), overload or "default")] = function
        except AttributeError as error:
            raise CompileError(f"torch_op('{name}'): PyTorch has no such operator: {error}") from error
    return table
