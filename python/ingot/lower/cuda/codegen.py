"""Scheduled functions → one CUDA source → a fatbin, and how each function is launched (docs/format.md, "CUDA")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.lower.cpu.abi import signature
from ingot.lower.cpu.nest import index
from ingot.lower.cuda import nvcc
from ingot.lower.cuda.kernel import Generated
from ingot.lower.expressions import Expressions
from ingot.lower.targets import Target

_PRELUDE = Path(__file__).with_name("prelude.cuh")


@dataclass(frozen=True)
class CudaImage:
    """The code of a CUDA target: a fatbin, and the manifest's entry for each function."""

    fatbin: bytes
    functions: dict[str, Any]
    architectures: tuple[int, ...]

    def entry(self, segment: int) -> dict[str, Any]:
        """The manifest's description of the code."""
        return {"segment": segment, "size": len(self.fatbin), "architectures": list(self.architectures), "ptx": max(self.architectures),
                "functions": self.functions}

    def pieces(self) -> list[bytes]:
        """What the segment holds."""
        return [self.fatbin]


def source(functions: Mapping[str, Generated]) -> str:
    """The CUDA C++ of all functions."""
    return _PRELUDE.read_text() + "\n".join(g.source(name) for name, g in functions.items())


def generate(functions: Mapping[str, Generated], target: Target) -> CudaImage:
    """Compiles scheduled functions for a target's architectures."""
    if not functions:
        return CudaImage(b"", {}, target.architectures)
    built = nvcc.build(source(functions), target.architectures)
    return CudaImage(built.data, {name: entry(name, g, built.resources) for name, g in functions.items()}, target.architectures)


def entry(name: str, generated: Generated, resources: Mapping[str, nvcc.Resources]) -> dict[str, Any]:
    """The manifest's entry for a function."""
    expressions = Expressions()
    for symbol in signature(generated.function).symbols:
        expressions.declare(symbol)
    launches = []
    for number, kernel in enumerate(generated.kernels):
        known = generated.kernel_name(name, number)
        one = expressions.add(1)
        launch: dict[str, Any] = {"kernel": known, "grid": [expressions.add(index(kernel.blocks)), one, one], "block": [kernel.threads, 1, 1],
                                  "shared": 0}
        if known in resources:
            used = resources[known]
            launch |= {"registers": used.registers, "static_shared": used.shared, "spills": used.spills}
        launches.append(launch)
    return {"exprs": expressions.table, "launches": launches, **({"checks": True} if generated.checks else {})}
