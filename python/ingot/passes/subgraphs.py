"""Products in the bodies of If, Loop and Scan whose weights are constants: a report names them, since they are not quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from ingot.importer.weights import Weight
from ingot.passes.attention_operands import calls
from ingot.passes.products import Layers, Product
from ingot.passes.trace import bindings

_CONTROL = ("ingot.if", "ingot.loop")


def products_in_subgraphs(mod: tvm.IRModule, weights: Mapping[Any, Weight], nodes: Sequence[str]) -> list[Product]:
    """All products in functions that ``main`` calls, and those call, whose weights are constants of floats.

    ``weights`` are those behind parameters of ``main``; subgraphs are given them as arguments.
    """
    return list(_called(mod, mod["main"], weights, nodes))


def _called(mod: tvm.IRModule, function: relax.Function, weights: Mapping[Any, Weight], nodes: Sequence[str]) -> Iterator[Product]:
    for binding in bindings(function):
        for name, captured in _calls(binding.value):
            body = mod[name]
            # What a body captures follows its other parameters, in order (importer/subgraph.py).
            parameters = list(body.params)[len(body.params) - len(captured):]
            known = {parameter: weights[given] for parameter, given in zip(parameters, captured, strict=True) if given in weights}
            yield from _products(body, known, nodes)
            yield from _called(mod, body, known, nodes)


def _calls(value: Any) -> Iterator[tuple[str, list[Any]]]:
    """The functions that an If or a loop runs, with what they capture: as many tuples as names, both at the end of its arguments."""
    if not calls(value, "relax.call_pure_packed") or getattr(value.args[0], "global_symbol", "") not in _CONTROL:
        return
    names = [a.value for a in value.args if isinstance(a, tvm.ir.StringImm)]
    tuples = [a for a in value.args if isinstance(a, relax.Tuple)]
    for name, captured in zip(names, tuples[len(tuples) - len(names):], strict=True):
        yield str(name), list(captured.fields)


def _products(body: relax.Function, weights: Mapping[Any, Weight], nodes: Sequence[str]) -> Iterator[Product]:
    values = {b.var: b.value for b in bindings(body) if not isinstance(b, relax.MatchCast)}
    layers = Layers(weights.get, values, nodes)
    for variable, value in values.items():
        product = layers.product(variable, value)
        if product is not None:
            yield product
