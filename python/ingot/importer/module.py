"""The module being built: one Relax function for the graph and one for each subgraph, and the weights they use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax
from tvm.error import InternalError as TvmError

from ingot.importer.dims import Dim
from ingot.importer.states import State
from ingot.importer.weights import Weight

if TYPE_CHECKING:
    import tvm

    from ingot.importer.context import Context


@dataclass(frozen=True)
class TensorSpec:
    """A model input or output: its name, dtype and shape (ints and symbolic expressions)."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]


@dataclass
class Imported:
    """A model in Relax.

    ``mod`` has a function ``main`` whose parameters are the model's inputs, then its states, then its weights (``weights``, in order), and
    a function for each subgraph, whose last parameters are its own weights (``subgraph_weights``). ``checks`` holds, for each function,
    conditions over its symbols that must hold at run time, with the message if one does not. Variables are named ``n<i>_`` after
    ``nodes[i]``, the ONNX node they came from.
    """

    mod: tvm.IRModule
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    symbols: list[Any]
    weights: list[Weight]
    nodes: list[str]
    checks: dict[str, list[tuple[Any, str]]]
    bounds: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    state_inputs: list[TensorSpec] = field(default_factory=list)
    vocabularies: dict[str, np.ndarray] = field(default_factory=dict)  # for inputs that are the keys of a map: keys that the model knows
    subgraph_weights: dict[str, list[Weight]] = field(default_factory=dict)

    def weights_of(self) -> dict[str, tuple[Weight, ...]]:
        """The weights behind the last parameters of each function; one that several use is the same object."""
        return {"main": tuple(self.weights), **{name: tuple(weights) for name, weights in self.subgraph_weights.items()}}

    def state_entries(self, spec: Callable[[TensorSpec], dict[str, Any]]) -> dict[str, Any]:
        """The manifest's entry of states, if there are any (docs/format.md)."""
        if not self.states:
            return {}
        names = [s.input for s in self.states]
        return {"states": [{**spec(tensor), "kind": s.kind,
                            **({"axis": s.axis, "length": names.index(s.length), "ring": s.ring} if s.kind == "cache" else {})}
                           for s, tensor in zip(self.states, self.state_inputs, strict=True)]}


class ModuleBuilder:
    """What the contexts of one model share."""

    def __init__(self, source: str, opsets: dict[str, int], base_dir: str) -> None:
        self.source = source
        self.opsets = opsets
        self.base_dir = base_dir
        self.function_checks: dict[str, list[tuple[Any, str]]] = {}
        self.bb = relax.BlockBuilder()
        self.nodes: list[str] = []
        self.subgraph_weights: dict[str, list[Weight]] = {}
        self.maps: dict[str, list[int] | list[str]] = {}  # for what the model makes a map of, the keys of its columns
        self.map_inputs: dict[str, list[str]] = {}  # for an input that is a map, the inputs that are its keys and its values
        self.vocabularies: dict[str, np.ndarray] = {}  # as in Imported
        self._counts: dict[str, int] = {}

    def abandon(self) -> None:
        """Ends the blocks that an error left open: TVM would complain of them on the standard error stream."""
        with contextlib.suppress(TvmError):
            while True:
                self.bb._end_block()

    def unique(self, prefix: str) -> str:
        """A name that was not given before."""
        count = self._counts.get(prefix, 0)
        self._counts[prefix] = count + 1
        return f"{prefix}_{count}"

    def node_hint(self, context: Context) -> str:
        """The variable name for what the current node emits."""
        return f"n{len(self.nodes) - 1}_" if context.node is not None else ""
