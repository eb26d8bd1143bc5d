"""Weights of matrix products become quantized weights (importer/quantized.py), which later passes hand to the kernel ``quantized_matmul``.

It runs once for all targets, right after import. One weight at a time is in memory; its codes go to scratch files, from which they are written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ingot.errors import CompileError
from ingot.importer.module import Imported
from ingot.importer.quantized import QuantizedWeight, quantized_weight
from ingot.importer.weights import Weight, numpy_dtype
from ingot.lower.cpu.quantized_weights import PANEL, groups_of, packed_shape
from ingot.passes.graph import Graph, Rewriter, each_function
from ingot.passes.migrate import migrate
from ingot.passes.products import Layers, Migrated, Selection, matches
from ingot.quantize.calibration import Moments, Statistics
from ingot.quantize.convolutions import Done
from ingot.quantize.gptq import Columns, gptq_rows
from ingot.quantize.loss import Sums
from ingot.quantize.method import Method, parse_method
from ingot.quantize.migration import energy, numbers_of
from ingot.quantize.rounding import Rounded, round_rows
from ingot.quantize.scheme import Scheme

#: Elements that are rounded at a time: 16 MB of float32, a few times over.
_CHUNK = 1 << 22


@dataclass
class Quantization:
    """What a pass did: an entry for each layer that it quantized, and for each that it did not with the reason (docs/format.md)."""

    scheme: Scheme
    method: str
    layers: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    examples: Sequence[Path] = ()  # what the model in floats makes of calibration data (quantize/calibration.py)
    weights: list[dict[str, Any]] = field(default_factory=list)  # the numbers of each weight once, however many layers read it

    def entry(self) -> dict[str, Any]:
        """The manifest's entry, without the loss of the whole model."""
        before, after = (sum(weight[key] for weight in self.weights) for key in ("bytes_before", "bytes_after"))
        return {"scheme": self.scheme.text, "format": self.scheme.name, "group": self.scheme.group, "compute": self.scheme.compute,
                "method": self.method, "bytes_before": before, "bytes_after": after,
                "layers": self.layers, "kept": self.kept}


def quantize_weights(imported: Imported, scheme: Scheme, selection: Selection, scratch: Path,
                     advance: Callable[[str], None] = lambda name: None, moments: Moments | None = None,
                     method: Method | None = None, convolutions: Done | None = None) -> tuple[Imported, Quantization]:
    """Quantizes the constant weights of a model's matrix products.

    Args:
        imported: The model.
        scheme: How.
        selection: Which layers.
        scratch: An existing folder for codes, which must last until the artifact is written.
        advance: Called with the name of each layer before it is quantized.
        moments: What is known of the data (quantize/calibration.py): layers in it are quantized by the method, others as without data.
        method: By default GPTQ if there are moments.
        convolutions: What was done to the model's convolutions before it was imported (quantize/convolutions.py).

    Returns:
        The model with quantized weights, and what was done to it.

    Raises:
        CompileError: A pattern fits no layer, or there is nothing to quantize.
    """
    before = convolutions or Done()
    canonical = tvm.transform.Sequential([relax.transform.CanonicalizeBindings()])(imported.mod)
    method = method or parse_method(None, moments is not None)
    cases = f", {moments.cases} case{'s' if moments.cases != 1 else ''}" if moments is not None and method.calibrated else ""
    work = _Work(imported.nodes, scheme, method, selection, scratch, advance,
                 Quantization(scheme, method.text + cases, [*before.layers], [*before.kept], () if moments is None else moments.examples,
                              [*before.weights]))

    def change(graph: Graph) -> Graph:
        # Only the main graph's values were looked at (quantize/calibration.py), and a node of a subgraph may have the name of one there.
        data = moments if graph.name == "main" else None
        migrated: dict[str, dict[str, Any]] = {}
        if method.migration and data is not None:
            graph, migrated = migrate(graph, imported.nodes, scheme, method, selection, data, advance)
        return _Quantizer(graph, work, data, migrated).run(_visit)

    mod, weights = each_function(canonical, imported.weights_of(), change)
    _check_patterns(selection, work)
    main, *inside = ((name, list(own)) for name, own in weights.items())
    return replace(imported, mod=mod, weights=main[1], subgraph_weights=dict(inside)), work.done


@dataclass
class _Work:
    """What all functions of a model share."""

    nodes: Sequence[str]
    scheme: Scheme
    method: Method
    selection: Selection
    scratch: Path
    advance: Callable[[str], None]
    done: Quantization
    made: dict[Any, tuple[QuantizedWeight, dict[str, Any]]] = field(default_factory=dict)  # weights that several products share, by their keys


class _Quantizer(Rewriter):
    """Quantizes the products of one function; ``migrated`` are numbers for the report by nodes."""

    def __init__(self, graph: Graph, work: _Work, moments: Moments | None, migrated: dict[str, dict[str, Any]]) -> None:
        super().__init__(graph)
        self.layers = Layers(self.weight, self.values, work.nodes)
        self.work = work
        self.moments = moments
        self.migrated = migrated
        self.constants: dict[Any, Any] = {}  # the variables of quantized weights, by their keys


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Quantizer)
    product = rewriter.layers.product(variable, value)
    if product is None:
        return None
    work = rewriter.work
    weight, node = product.weight, product.node
    layer: dict[str, Any] = {"node": node, "weight": product.name, "shape": list(weight.shape)}
    reason = work.selection.reason(product)
    if not reason and product.key not in work.made:
        work.advance(node)
        data = rewriter.moments.of(node, weight.shape[0]) if rewriter.moments is not None else None
        made = _quantize(weight, work.scheme, work.method, data, work.scratch / f"weight{len(work.made)}")
        if made is None:
            reason = "it holds numbers that are not finite"
        else:
            work.made[product.key] = made
            work.done.weights.append(made[1])
    if reason:
        work.done.kept.append({**layer, "reason": reason})
        return None
    found, numbers = work.made[product.key]
    if product.key not in rewriter.constants:
        rewriter.constants[product.key] = rewriter.constant(found)
    if rewriter.moments is None:
        numbers = {key: number for key, number in numbers.items() if key != "output_error"}  # that of another product with this weight
    work.done.layers.append({**layer, **numbers, **rewriter.migrated.get(node, {})})
    return rewriter.emit(relax.op.matmul(product.x, rewriter.constants[product.key]))


def _check_patterns(selection: Selection, work: _Work) -> None:
    found = [(layer["node"], layer["weight"]) for layer in (*work.done.layers, *work.done.kept)]
    names = [f"'{node}' (weight '{weight}')" for node, weight in found]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    for kind, patterns in (("include", selection.include), ("exclude", selection.exclude)):
        for pattern in patterns:
            if not any(matches([pattern], *names_of) for names_of in found):
                raise CompileError(f"quantization: {kind} pattern '{pattern}' fits no matrix product or convolution with a constant weight; "
                                   f"they are {shown or 'none'}")
    if not work.done.layers:
        reasons = ", ".join(dict.fromkeys(k["reason"] for k in work.done.kept))
        why = f"none of {len(names)} layers qualifies ({reasons})" if names else "no matrix product or convolution has a constant weight of floats"
        raise CompileError(f"quantization: there is nothing to quantize: {why}")


def _quantize(weight: Weight, scheme: Scheme, method: Method, data: Statistics | None,
              stem: Path) -> tuple[QuantizedWeight, dict[str, Any]] | None:
    """A weight [K, N] quantized along K, and the numbers of its report; None if it has a NaN or an infinity.

    Of a weight that is multiplied by factors before, the numbers are those of it without them.
    """
    depth, columns = weight.shape
    factors = weight.factors if isinstance(weight, Migrated) else np.ones(depth, np.float32)
    numbers = (weight.original if isinstance(weight, Migrated) else weight).load()
    groups = groups_of(depth, scheme.group)
    stored = {"codes": _Stored(stem.with_suffix(".codes"), "int8", (columns, depth)),
              "scales": _Stored(stem.with_suffix(".scales"), scheme.scale_dtype, (columns, groups))}
    if scheme.asymmetric:
        stored["zeros"] = _Stored(stem.with_suffix(".zeros"), "int8", (columns, groups))
    round_ = _rounding(scheme, method, data.moments / np.outer(factors, factors) if data is not None else None)
    sums = Sums()
    lost = output = 0.0  # squared norms of what the products with the data lost, and of the products
    rows = max(1, _CHUNK // depth)
    for start in range(0, columns, rows):
        chunk = np.ascontiguousarray(numbers[:, start : start + rows].T, np.float32)
        if not np.isfinite(chunk).all():
            return None
        rounded = round_(chunk * factors)
        for name, part in (("codes", rounded.codes), ("scales", rounded.scales), ("zeros", rounded.zeros)):
            if part is not None:
                stored[name].append(part)
        found = numbers_of(scheme, rounded) / factors
        sums.add(chunk, found)
        if data is not None:
            lost += energy(chunk - found, data.moments)
            output += energy(chunk, data.moments)
    parts = {name: Weight(f"{weight.name}:{name}", s.shape, s.dtype, s.load) for name, s in stored.items()}
    made = quantized_weight(weight.name, weight.dtype, parts["codes"], parts["scales"], parts.get("zeros"), scheme.kind.bits, 1, scheme.group,
                            scheme.integers, scheme.kind.values).transposed([1, 0])
    assert isinstance(made, QuantizedWeight)
    panels = -(-columns // PANEL) * PANEL * groups
    after = math.prod(packed_shape(scheme.kind, columns, depth)) + panels * (numpy_dtype(scheme.scale_dtype).itemsize + scheme.asymmetric)
    calibrated = {} if data is None else {"output_error": float(f"{math.sqrt(lost / output if output else lost):.6g}")}
    return made, {**sums.entry(), **calibrated, "bytes_before": weight.nbytes, "bytes_after": after}


def _rounding(scheme: Scheme, method: Method, moments: np.ndarray | None) -> Callable[[np.ndarray], Rounded]:
    """What rounds rows [n, K] of a weight, by a method and moments of its data, if there are any."""
    if method.gptq and moments is not None:
        columns = Columns.of(moments, method.ordered)
        return lambda w: gptq_rows(scheme, w, columns)
    # AWQ searches for the clipping with the least error of products; SmoothQuant's paper does not, but nothing is gained by not doing it.
    return lambda w: round_rows(scheme, w, moments if method.calibrated else None)


@dataclass(frozen=True)
class _Stored:
    """An array in a scratch file, written in pieces along its first axis."""

    path: Path
    dtype: str
    shape: tuple[int, ...]

    def append(self, part: np.ndarray) -> None:
        with self.path.open("ab") as file:
            file.write(np.ascontiguousarray(part).view(np.uint8).data)

    def load(self) -> np.ndarray:
        return np.memmap(self.path, np.uint8, "r").view(numpy_dtype(self.dtype)).reshape(self.shape)
