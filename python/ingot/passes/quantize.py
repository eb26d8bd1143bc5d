"""Weights of matrix products become quantized weights (importer/quantized.py), which later passes hand to the kernel ``quantized_matmul``.

It runs once for all targets, right after import. One weight at a time is in memory; its codes go to scratch files, from which they are written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
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
from ingot.passes.attention_operands import calls, order_of
from ingot.passes.graph import Graph, Rewriter
from ingot.quantize.calibration import Moments
from ingot.quantize.gptq import factor, gptq_rows
from ingot.quantize.loss import Sums
from ingot.quantize.rounding import decode, round_rows
from ingot.quantize.scheme import Scheme

_FLOATS = ("float32", "float16", "bfloat16")
#: Both extents of a weight are at least this: below, a product is so small that scales and rounding of activations cost what is saved.
LEAST_EXTENT = 64
#: Elements that are rounded at a time: 16 MB of float32, a few times over.
_CHUNK = 1 << 22
METHOD = "round to nearest, clipped for the least squared error"
_NODE = re.compile(r"n(\d+)_")


@dataclass(frozen=True)
class Selection:
    """The layers to quantize: patterns (``*``, ``?``, ``[…]``) of names of ONNX nodes or weights. Without ``include`` all are; ``exclude`` wins."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass
class Quantization:
    """What a pass did: an entry for each layer that it quantized, and for each that it did not with the reason (docs/format.md)."""

    scheme: Scheme
    method: str = METHOD
    layers: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    weights: list[dict[str, Any]] = field(default_factory=list)  # the numbers of each weight once, however many layers read it

    def entry(self) -> dict[str, Any]:
        """The manifest's entry, without the loss of the whole model."""
        before, after = (sum(weight[key] for weight in self.weights) for key in ("bytes_before", "bytes_after"))
        return {"scheme": self.scheme.text, "format": self.scheme.name, "group": self.scheme.group, "compute": self.scheme.compute,
                "method": self.method, "bytes_before": before, "bytes_after": after,
                "layers": self.layers, "kept": self.kept}


def quantize_weights(imported: Imported, scheme: Scheme, selection: Selection, scratch: Path,
                     advance: Callable[[str], None] = lambda name: None, moments: Moments | None = None) -> tuple[Imported, Quantization]:
    """Quantizes the constant weights of a model's matrix products.

    Args:
        imported: The model.
        scheme: How.
        selection: Which layers.
        scratch: An existing folder for codes, which must last until the artifact is written.
        advance: Called with the name of each layer before it is quantized.
        moments: What is known of the data (quantize/calibration.py): layers in it are quantized by GPTQ, others as without data.

    Returns:
        The model with quantized weights, and what was done.

    Raises:
        CompileError: A pattern fits no layer, or there is nothing to quantize.
    """
    canonical = tvm.transform.Sequential([relax.transform.CanonicalizeBindings()])(imported.mod)
    rewriter = _Quantizer(Graph(canonical, tuple(imported.weights)), imported.nodes, scheme, selection, scratch, advance, moments)
    graph = rewriter.run(_visit)
    _check_patterns(selection, rewriter)
    return replace(imported, mod=graph.mod, weights=list(graph.weights)), rewriter.done


class _Quantizer(Rewriter):
    def __init__(self, graph: Graph, nodes: Sequence[str], scheme: Scheme, selection: Selection, scratch: Path,
                 advance: Callable[[str], None], moments: Moments | None) -> None:
        super().__init__(graph)
        self.nodes = nodes
        self.scheme = scheme
        self.selection = selection
        self.scratch = scratch
        self.advance = advance
        self.moments = moments
        self.done = Quantization(scheme, METHOD if moments is None else f"GPTQ, {moments.cases} case{'s' if moments.cases != 1 else ''}")
        self.names: list[tuple[str, str]] = []  # of all products with constant weights
        self.made: dict[Any, tuple[Any, dict[str, Any]]] = {}  # weights that several products share

    def source(self, expression: Any) -> tuple[Any, Weight] | None:
        """The weight that a product reads, and a key that products with the same one share."""
        weight = self.weight(expression)
        if weight is not None:
            return (expression if isinstance(expression, relax.Var) else object(),), weight
        value: Any = self.values.get(expression)
        if isinstance(value, relax.Var):
            return self.source(value)
        if not calls(value, "relax.permute_dims", "relax.astype"):
            return None
        inner = self.source(value.args[0])
        if inner is None or isinstance(inner[1], QuantizedWeight) or len(inner[1].shape) != 2:
            return None
        key, weight = inner
        if value.op.name == "relax.astype":
            dtype = str(value.ty.dtype)
            return (*key, dtype), weight.map(lambda a: a.astype(numpy_dtype(dtype)), weight.shape, "", dtype)
        order = order_of(value, 2)
        return (*key, *order), weight.transposed(order)

    def label(self, variable: Any) -> str:
        """The name of the ONNX node that a variable came from."""
        match = _NODE.match(variable.name)
        return re.sub(r" \(\w+\)$", "", self.nodes[int(match[1])]) if match else str(variable.name)


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Quantizer)
    if not calls(value, "relax.matmul"):
        return None
    x, w = value.args
    found = rewriter.source(w)
    if found is None:
        return None
    key, weight = found
    if isinstance(weight, QuantizedWeight) or len(weight.shape) != 2 or weight.dtype not in _FLOATS or str(x.ty.dtype) != weight.dtype:
        return None
    if calls(rewriter.values.get(x), "relax.dequantize"):
        return None  # the model has quantized the other operand itself
    name = re.sub(r"(:t\d+)+$", "", weight.name)
    node = rewriter.label(variable)
    rewriter.names.append((node, name))
    layer: dict[str, Any] = {"node": node, "weight": name, "shape": list(weight.shape)}
    reason = _reason(rewriter.selection, node, name, weight)
    if not reason and key not in rewriter.made:
        rewriter.advance(node)
        moments = rewriter.moments.of(node, weight.shape[0]) if rewriter.moments is not None else None
        made = _quantize(weight, rewriter.scheme, moments, rewriter.scratch / f"weight{len(rewriter.made)}")
        if made is None:
            reason = "it holds numbers that are not finite"
        else:
            rewriter.made[key] = rewriter.constant(made[0]), made[1]
            rewriter.done.weights.append(made[1])
    if reason:
        rewriter.done.kept.append({**layer, "reason": reason})
        return None
    constant, numbers = rewriter.made[key]
    rewriter.done.layers.append({**layer, **numbers})
    return rewriter.emit(relax.op.matmul(x, constant))


def _reason(selection: Selection, node: str, name: str, weight: Weight) -> str:
    """Why a layer is not quantized; empty if it is."""
    if _matches(selection.exclude, node, name):
        return "excluded"
    if selection.include and not _matches(selection.include, node, name):
        return "not included"
    if min(weight.shape) < LEAST_EXTENT:
        return f"smaller than {LEAST_EXTENT} in one extent"
    return ""


def _matches(patterns: Sequence[str], node: str, name: str) -> bool:
    return any(fnmatchcase(node, p) or fnmatchcase(name, p) for p in patterns)


def _check_patterns(selection: Selection, rewriter: _Quantizer) -> None:
    names = [f"'{node}' (weight '{name}')" for node, name in rewriter.names]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    for kind, patterns in (("include", selection.include), ("exclude", selection.exclude)):
        for pattern in patterns:
            if not any(_matches([pattern], *pair) for pair in rewriter.names):
                raise CompileError(f"quantization: {kind} pattern '{pattern}' fits no matrix product with a constant weight; "
                                   f"they are {shown or 'none'}")
    if not rewriter.done.layers:
        reasons = ", ".join(dict.fromkeys(k["reason"] for k in rewriter.done.kept))
        why = f"none of {len(names)} matrix products qualifies ({reasons})" if names else "no matrix product has a constant weight of floats"
        raise CompileError(f"quantization: there is nothing to quantize: {why}")


def _quantize(weight: Weight, scheme: Scheme, moments: np.ndarray | None, stem: Path) -> tuple[QuantizedWeight, dict[str, Any]] | None:
    """A weight [K, N] quantized along K, and the numbers of its report; None if it has a NaN or an infinity."""
    depth, columns = weight.shape
    numbers = weight.load()
    groups = groups_of(depth, scheme.group)
    stored = {"codes": _Stored(stem.with_suffix(".codes"), "int8", (columns, depth)),
              "scales": _Stored(stem.with_suffix(".scales"), scheme.scale_dtype, (columns, groups))}
    if scheme.asymmetric:
        stored["zeros"] = _Stored(stem.with_suffix(".zeros"), "int8", (columns, groups))
    upper = factor(moments) if moments is not None else None
    sums = Sums()
    lost = output = 0.0  # squared norms of what the products with the data lost, and of the products
    rows = max(1, _CHUNK // depth)
    for start in range(0, columns, rows):
        chunk = np.ascontiguousarray(numbers[:, start : start + rows].T, np.float32)
        if not np.isfinite(chunk).all():
            return None
        rounded = round_rows(scheme, chunk) if upper is None else gptq_rows(scheme, chunk, upper)
        for name, part in (("codes", rounded.codes), ("scales", rounded.scales), ("zeros", rounded.zeros)):
            if part is not None:
                stored[name].append(part)
        found = _floats(scheme, rounded.codes, rounded.scales, rounded.zeros)
        sums.add(chunk, found)
        if moments is not None:
            lost += _energy(chunk - found, moments)
            output += _energy(chunk, moments)
    parts = {name: Weight(f"{weight.name}:{name}", s.shape, s.dtype, s.load) for name, s in stored.items()}
    made = quantized_weight(weight.name, weight.dtype, parts["codes"], parts["scales"], parts.get("zeros"), scheme.kind.bits, 1, scheme.group,
                            scheme.integers, scheme.kind.values).transposed([1, 0])
    assert isinstance(made, QuantizedWeight)
    panels = -(-columns // PANEL) * PANEL * groups
    after = math.prod(packed_shape(scheme.kind, columns, depth)) + panels * (numpy_dtype(scheme.scale_dtype).itemsize + scheme.asymmetric)
    data = {} if moments is None else {"output_error": float(f"{math.sqrt(lost / output if output else lost):.6g}")}
    return made, {**sums.entry(), **data, "bytes_before": weight.nbytes, "bytes_after": after}


def _energy(w: np.ndarray, moments: np.ndarray) -> float:
    """The squared norm of X w^T, for w [N, K] and moments X^T X."""
    return max(0.0, float(((w @ moments) * w).sum(dtype=np.float64)))


def _floats(scheme: Scheme, codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None) -> np.ndarray:
    """The numbers [N, K] that codes of the same shape stand for."""
    depth = codes.shape[1]
    group, groups = scheme.group if 0 < scheme.group < depth else depth, scales.shape[1]
    padded = np.zeros((len(codes), groups * group), np.int8)
    padded[:, :depth] = codes
    return decode(scheme, padded.reshape(len(codes), groups, group), scales, zeros).reshape(len(codes), -1)[:, :depth]


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
