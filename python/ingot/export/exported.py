"""What every exporter returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Exported:
    """A model that was written as ONNX.

    Attributes:
        path: The ``.onnx`` file; its weights lie beside it as external data.
        inputs: Example inputs by name, in the graph's order.
        reference: Runs the framework on inputs by name; returns outputs by name. Takes any extents of the symbolic dimensions.
        reference_name: What ran it, such as ``torch 2.13.0``.
        metadata: Where the model came from: framework, class, exporter, versions. JSON values only.
        messages: What a person should know: a fallback that was taken, an input that stayed fixed.
    """

    path: Path
    inputs: Arrays
    reference: Callable[[Mapping[str, npt.NDArray[Any]]], Arrays]
    reference_name: str
    metadata: dict[str, Any] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    @property
    def output_names(self) -> list[str]:
        """The graph's outputs, in order."""
        names: list[str] = self.metadata["outputs"]
        return names
