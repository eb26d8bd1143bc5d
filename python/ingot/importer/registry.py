"""The table of ONNX operators: each is one function, found by a decorator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DOMAIN_ALIASES = {"ai.onnx": ""}


@dataclass(frozen=True)
class Operator:
    """One implementation of an operator, valid from opset ``since`` until a later one replaces it."""

    domain: str
    name: str
    since: int
    function: Callable[..., Any]
    attributes: frozenset[str]
    required: frozenset[int]
    max_inputs: int | None
    sequences: bool


#: Operators that only move elements: what imports them takes strings as it takes numbers.
MOVES = frozenset({
    "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "Slice", "Gather", "GatherElements", "GatherND",
    "Where", "Tile", "Expand", "Compress", "ReverseSequence", "DepthToSpace", "SpaceToDepth", "Shape", "Size", "If", "Loop", "Scan",
    "ArrayFeatureExtractor",
})

_operators: dict[tuple[str, str], list[Operator]] = {}
_for_strings: dict[tuple[str, str], list[Operator]] = {}


def onnx_op(name: str, *, since: int = 1, domain: str = "", sequences: bool = False,
            strings: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as the importer of an ONNX operator from opset ``since`` on.

    The function takes the :class:`~ingot.importer.context.Context`, then the node's inputs by position (``None`` for an
    omitted one), then its attributes by keyword with ONNX's defaults, and returns one value or a tuple of them::

        @onnx_op("LeakyRelu")
        def leaky_relu(cx, x, *, alpha=0.01):
            return cx.te(topi.nn.leaky_relu, x, alpha=alpha)

    An input with a default, or of a type that allows None (``Value | None``, before inputs that are required), may be left out.
    A function that also takes sequences and missing optionals (:mod:`ingot.importer.values`) says ``sequences=True``.
    A function that takes tensors of strings says ``strings=True``; it is chosen where an input is one, and may stand beside
    another for numbers. An attribute that the function does not name makes a model that uses it unsupported, with an error that says so.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        entry = Operator(
            domain=DOMAIN_ALIASES.get(domain, domain),
            name=name,
            since=since,
            function=function,
            attributes=frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY),
            required=frozenset(i for i, p in enumerate(positional) if p.default is p.empty and "None" not in str(p.annotation)),
            max_inputs=None if variadic else len(positional),
            sequences=sequences,
        )
        versions = (_for_strings if strings else _operators).setdefault((entry.domain, name), [])
        versions[:] = sorted([v for v in versions if v.since != since] + [entry], key=lambda v: v.since)
        return function

    return register


def find(domain: str, name: str, opset: int, *, strings: bool = False) -> Operator | None:
    """The newest implementation of an operator that is not newer than ``opset``: for tensors of strings, or for others."""
    key = (DOMAIN_ALIASES.get(domain, domain), name)
    other = _newest(_operators, key, opset)
    if not strings:
        return other or _newest(_for_strings, key, opset)  # one for strings alone
    return _newest(_for_strings, key, opset) or (other if other is not None and (name in MOVES or other.sequences) else None)


def _newest(table: dict[tuple[str, str], list[Operator]], key: tuple[str, str], opset: int) -> Operator | None:
    valid = [version for version in table.get(key, []) if version.since <= opset]
    return valid[-1] if valid else None


def names(domain: str = "") -> list[str]:
    """The operators of a domain that are registered, sorted."""
    return sorted({name for table in (_operators, _for_strings) for (d, name) in table if d == domain})
