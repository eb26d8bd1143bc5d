"""How codes are chosen: what moves between activations and weights before, and how a weight is rounded."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ingot.errors import CompileError


@dataclass(frozen=True)
class Method:
    """A way to quantize.

    Attributes:
        name: A key of :data:`METHODS`.
        migration: What decides the factors by which channels of X are divided and rows of W multiplied: ``awq``, ``smoothquant`` or nothing.
        gptq: Columns are rounded one after another, and the rest makes up for their error; else each number to the nearest.
        ordered: With ``gptq``, columns that the data uses most come first.
        strength: SmoothQuant's exponent of the activations.
    """

    name: str
    text: str
    migration: str = ""
    gptq: bool = False
    ordered: bool = False
    strength: float = 0.5

    @property
    def calibrated(self) -> bool:
        """Whether it needs data."""
        return bool(self.migration) or self.gptq


#: SmoothQuant's strength is the one of its paper (Xiao et al., 2023) for most models.
METHODS: dict[str, Method] = {m.name: m for m in (
    Method("nearest", "round to nearest, clipped for the least squared error"),
    Method("gptq", "GPTQ", gptq=True),
    Method("gptq-ordered", "GPTQ in the order of activations", gptq=True, ordered=True),
    Method("awq", "AWQ", migration="awq"),
    Method("awq+gptq", "AWQ, then GPTQ", migration="awq", gptq=True),
    Method("awq+gptq-ordered", "AWQ, then GPTQ in the order of activations", migration="awq", gptq=True, ordered=True),
    Method("smoothquant", "SmoothQuant", migration="smoothquant"),
    Method("smoothquant+gptq", "SmoothQuant, then GPTQ", migration="smoothquant", gptq=True),
)}


def parse_method(text: str | None, calibrated: bool) -> Method:
    """The method of a name, where ``smoothquant:0.7`` gives a strength; by default GPTQ if there is data, else the nearest.

    Raises:
        CompileError: There is no such method, or it needs data and there is none.
    """
    if text is None:
        return METHODS["gptq" if calibrated else "nearest"]
    name, _, strength = text.strip().partition(":")
    if name not in METHODS:
        raise CompileError(f"there is no quantization method '{text}'; they are {', '.join(METHODS)}")
    found = METHODS[name]
    if strength:
        if found.migration != "smoothquant" or not re.fullmatch(r"0?\.\d+|[01]|1\.0", strength):
            raise CompileError(f"quantization method '{text}': after a colon smoothquant takes a strength of 0 to 1, as in smoothquant:0.7")
        found = replace(found, strength=float(strength))
    if found.calibrated and not calibrated:
        raise CompileError(f"the quantization method '{text}' looks at real inputs: give some with --calibration")
    return found
