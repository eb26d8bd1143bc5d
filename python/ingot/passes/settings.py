"""What a compile was asked for, as passes need to know it."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.lower.cpu.choices import Choices, CostModel
from ingot.lower.targets import Target

#: What ``--precision`` names, and the kind of arithmetic (lower/cpu/arithmetic.py) that contractions with float32 weights then have.
#: tf32 is float32 but for products on a GPU, whose operands are rounded to 10 bits of fraction.
PRECISIONS: dict[str, str] = {"f32": "float32", "tf32": "float32", "bf16": "bfloat16", "f16": "float16 weights"}


@dataclass(frozen=True)
class Settings:
    """The target to compile for, the precision, one of :data:`PRECISIONS`, and what chooses tiles and algorithms if not the cost model."""

    target: Target
    precision: str = "f32"
    chosen: Choices | None = None

    @property
    def choices(self) -> Choices:
        """What chooses tiles and algorithms."""
        return self.chosen or CostModel(self.target)
