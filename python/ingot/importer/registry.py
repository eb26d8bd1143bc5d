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
    min_inputs: int
    max_inputs: int | None
    sequences: bool


_operators: dict[tuple[str, str], list[Operator]] = {}


def onnx_op(name: str, *, since: int = 1, domain: str = "", sequences: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as the importer of an ONNX operator from opset ``since`` on.

    The function takes the :class:`~ingot.importer.context.Context`, then the node's inputs by position (``None`` for an
    omitted one), then its attributes by keyword with ONNX's defaults, and returns one value or a tuple of them::

        @onnx_op("LeakyRelu")
        def leaky_relu(cx, x, *, alpha=0.01):
            return cx.te(topi.nn.leaky_relu, x, alpha=alpha)

    A function that also takes sequences and missing optionals (:mod:`ingot.importer.values`) says ``sequences=True``.
    An attribute that the function does not name makes a model that uses it unsupported, with an error that says so.
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
            min_inputs=sum(p.default is p.empty for p in positional),
            max_inputs=None if variadic else len(positional),
            sequences=sequences,
        )
        versions = _operators.setdefault((entry.domain, name), [])
        versions[:] = sorted([v for v in versions if v.since != since] + [entry], key=lambda v: v.since)
        return function

    return register


def find(domain: str, name: str, opset: int) -> Operator | None:
    """The newest implementation of an operator that is not newer than ``opset``."""
    versions = _operators.get((DOMAIN_ALIASES.get(domain, domain), name), [])
    valid = [version for version in versions if version.since <= opset]
    return valid[-1] if valid else None


def names(domain: str = "") -> list[str]:
    """The operators of a domain that are registered, sorted."""
    return sorted(name for (d, name) in _operators if d == domain)
