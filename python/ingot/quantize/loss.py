"""What quantization lost: of each weight, and of the whole model on its reference samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ingot.errors import IngotError

if TYPE_CHECKING:
    from ingot.artifact.samples import Sample
    from ingot.runtime import Model

#: `ingot verify` accepts so many times the loss that was measured: other targets add up in another order, and a number that is rounded to int8
#: may fall to the other side.
MARGIN = 1.5
#: What float32 models are held to (cli/verify.py); a tolerance is never below.
LEAST_TOLERANCE = 1e-3
#: The relative error of rounding a row of activations to int8: a step of 1/127 of its largest element, which is 3 to 4 standard deviations.
_ROUNDED_ROW = 4 / 127 / math.sqrt(12)
_PROBLEM = 250  # characters of a problem that are kept, which may be four bytes each


@dataclass
class Sums:
    """Sums over pairs of a number and what stands for it, in float64."""

    reference: float = 0.0
    found: float = 0.0
    product: float = 0.0
    difference: float = 0.0

    def add(self, reference: npt.NDArray[Any], found: npt.NDArray[Any]) -> None:
        """Adds pairs, of arrays of one shape."""
        a, b = (np.asarray(x).astype(np.float64).ravel() for x in (reference, found))
        self.reference += float(a @ a)
        self.found += float(b @ b)
        self.product += float(a @ b)
        self.difference += float((a - b) @ (a - b))

    @property
    def relative_error(self) -> float:
        """The norm of the difference over that of the reference; the norm of the difference if the reference is 0."""
        return math.sqrt(self.difference / self.reference) if self.reference else math.sqrt(self.difference)

    @property
    def cosine(self) -> float:
        """The cosine between the two; 1 if both are 0."""
        lengths = math.sqrt(self.reference) * math.sqrt(self.found)
        return self.product / lengths if lengths else 1.0 if self.reference == self.found else 0.0

    @property
    def snr_db(self) -> float:
        """Signal to noise in decibels; infinite if nothing was lost."""
        if self.difference and self.reference:
            return 10 * math.log10(self.reference / self.difference)
        return -math.inf if self.difference else math.inf

    def entry(self) -> dict[str, float | None]:
        """The numbers for a manifest, where null stands for what is not finite."""
        return {"relative_error": _number(self.relative_error), "cosine": _number(self.cosine, 9), "snr_db": _number(self.snr_db, 4)}


def placeholder(cases: Sequence[Sample], examples: Sequence[Path] = ()) -> dict[str, Any]:
    """An entry at least as long as what :func:`measure` gives: room for it is kept in the manifest before the model can run."""
    longest: dict[str, Any] = dict.fromkeys(("relative_error", "cosine", "snr_db"), -1.2345678901234567e-300)
    made: dict[str, Any] = {"target": "t" * 100, "problem": "p" * 4 * _PROBLEM, "outputs": [
        {"sample": index, "output": name, **longest} for index, case in enumerate(cases) for name in case.outputs]}
    if examples:
        outputs = [{"output": name, **longest} for name in _parts(examples[0], "out:")]
        made["calibration"] = {"cases": len(examples), "problem": made["problem"], "outputs": outputs}
    return made


def measure(path: Path, cases: Sequence[Sample], examples: Sequence[Path] = ()) -> dict[str, Any]:
    """Runs an artifact on reference samples: what each output lost against the reference; if it cannot run here, why.

    With ``examples`` (quantize/calibration.py) also what each output lost on all of them together against the model in floats.
    """
    from ingot.runtime import Model

    outputs: list[dict[str, Any]] = []
    try:
        model = Model.load(path)
        for index, case in enumerate(cases):
            found = model.run(case.inputs)
            outputs += [{"sample": index, "output": name, **_compared(expected, np.asarray(found[name]))} for name, expected in case.outputs.items()]
    except IngotError as error:
        return {"target": None, "problem": str(error).replace(str(path), "the artifact")[:_PROBLEM], "outputs": []}
    result: dict[str, Any] = {"target": model.target, "problem": None, "outputs": outputs}
    if examples:
        result["calibration"] = _on_examples(model, examples)
    return result


def _on_examples(model: Model, examples: Sequence[Path]) -> dict[str, Any]:
    together: dict[str, Sums] = {}
    problem = None
    try:
        for example in examples:
            found = model.run(_parts(example, "in:"))
            for name, expected in _parts(example, "out:").items():
                actual = np.asarray(found[name])
                if expected.dtype.kind in "fiu" and expected.shape == actual.shape:
                    together.setdefault(name, Sums()).add(expected, actual)
    except (IngotError, KeyError) as error:
        problem, together = str(error)[:_PROBLEM], {}
    return {"cases": len(examples), "problem": problem, "outputs": [{"output": name, **sums.entry()} for name, sums in together.items()]}


def _parts(example: Path, prefix: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(example) as arrays:
        return {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}


def tolerance(loss: Mapping[str, Any] | None, layers: Sequence[Mapping[str, Any]], integers: bool) -> tuple[float, str]:
    """The relative error that ``ingot verify`` accepts, and where it comes from.

    It is :data:`MARGIN` times the loss that was measured. Where none could be, it is an estimate: errors of layers that know nothing of each
    other add up as the root of the sum of their squares.
    """
    measured = [o["relative_error"] for o in loss["outputs"]] if loss is not None else []
    if measured and all(m is not None for m in measured):
        return float(f"{max(LEAST_TOLERANCE, MARGIN * max(measured)):.3g}"), "measured"
    rounded = _ROUNDED_ROW if integers else 0.0
    squares = sum((layer["relative_error"] or 0.0) ** 2 + rounded**2 for layer in layers)
    return float(f"{max(LEAST_TOLERANCE, MARGIN * math.sqrt(squares)):.3g}"), "estimated"


def _compared(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> dict[str, float | None]:
    sums = Sums()
    if expected.shape != found.shape or expected.dtype.kind in "OUS":
        wrong = 1.0 if expected.shape != found.shape else float(np.mean(expected != found)) if expected.size else 0.0
        return {"relative_error": wrong, "cosine": 1 - wrong, "snr_db": None}
    sums.add(expected, found)
    return sums.entry()


def _number(value: float, digits: int = 6) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
