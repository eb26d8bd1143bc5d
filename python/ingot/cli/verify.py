"""``ingot verify``: is the file whole, and does the model still say here what the framework said?"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ingot.cli import options, printing

#: Relative norm error that is still agreement: float32 sums in another order stay two orders of magnitude below it.
TOLERANCE = 1e-3
DISAGREES = 3
#: Where the tolerance of a quantized model comes from, for people.
_ORIGINS = {"measured": " (quantized: 1.5 times the loss that was measured when it was compiled)",
            "estimated": " (quantized: estimated from the errors of its layers, because it did not run where it was compiled)"}


@dataclass(frozen=True)
class Difference:
    """How far an output is from the reference's.

    ``max_abs`` is the largest absolute difference, ``rel_norm`` the norm of the difference over that of the reference,
    ``cosine`` the cosine between the two as vectors.
    """

    sample: int
    output: str
    max_abs: float
    rel_norm: float
    cosine: float

    def agrees(self, tolerance: float) -> bool:
        """Whether the difference is within the tolerance; one that is not a number is not."""
        return self.rel_norm <= tolerance


def add(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("verify", help="check every byte, re-run the stored samples and compare with the framework",
                                  description="Checks every byte of an artifact, re-runs its samples and reports the difference to the framework's "
                                  "outputs. The exit code is 3 if one differs by more than the tolerance.")
    options.add_artifact(command)
    command.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    command.add_argument("--tolerance", type=float, metavar="X", help=f"the largest relative norm error (default: the artifact's, else {TOLERANCE})")
    options.add_machine(command)
    command.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from ingot.artifact.samples import read_samples
    from ingot.runtime import Artifact, Model

    artifact = Artifact.open(arguments.artifact)
    artifact.verify()
    manifest = artifact.manifest
    model = Model.load(arguments.artifact, threads=arguments.threads, target=arguments.target)
    stored = manifest.get("samples") or {"cases": []}
    tolerance = arguments.tolerance if arguments.tolerance is not None else float(stored.get("tolerance", TOLERANCE))
    found: list[Difference] = []
    if stored["cases"]:
        for index, sample in enumerate(read_samples(manifest, artifact.segment(stored["segment"]))):
            outputs = model.run(sample.inputs)
            found += [difference(index, name, outputs[name], expected) for name, expected in sample.outputs.items()]
    # A quantized model is held to what quantizing it was seen to lose (quantize/loss.py).
    origin = str(stored.get("tolerance_source", "")) if arguments.tolerance is None else ""
    agrees = all(d.agrees(tolerance) for d in found)
    if arguments.json:
        printing.as_json({"file": arguments.artifact, "checksums": "ok", "target": model.target, "threads": model.threads,
                          "reference": stored.get("reference"), "tolerance": tolerance,
                          "tolerance_source": origin or None, "agrees": agrees, "outputs": [asdict(d) for d in found]})
    else:
        _print(found, tolerance, stored, model, origin)
    return 0 if agrees else DISAGREES


def difference(sample: int, name: str, actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Difference:
    """Compares two arrays in float64. Equal infinities and NaNs in the same places are no difference."""
    if actual.shape != expected.shape:
        return Difference(sample, name, math.inf, math.inf, math.nan)
    if expected.dtype.kind == "O":  # strings are the same or not: the error is the fraction that are not
        wrong = float(np.mean(actual != expected)) if expected.size else 0.0
        return Difference(sample, name, float(wrong > 0), wrong, 1.0 - wrong)
    a, e = (np.asarray(x).astype(np.complex128 if x.dtype.kind == "c" else np.float64).ravel() for x in (actual, expected))
    same = (a == e) | (np.isnan(a) & np.isnan(e))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - e))
    if not np.isfinite(gap).all():
        return Difference(sample, name, math.inf, math.inf, math.nan)
    finite = np.isfinite(e)
    scale = float(np.linalg.norm(e[finite]))
    norm = float(np.linalg.norm(gap))
    lengths = float(np.linalg.norm(a[finite])) * scale
    cosine = float(np.vdot(a[finite], e[finite]).real) / lengths if lengths else 1.0 if norm == 0 else 0.0
    return Difference(sample, name, float(gap.max(initial=0.0)), norm / scale if scale else norm, cosine)


def _print(found: list[Difference], tolerance: float, stored: Mapping[str, Any], model: Any, origin: str = "") -> None:
    print("checksums: every byte as written")
    if not found:
        print("samples: none stored, so there is nothing to compare with")
        return
    print(f"{model.target}, {model.threads} thread{'s' if model.threads != 1 else ''}, against {stored.get('reference', 'the reference')}")
    printing.table(["sample", "output", "max abs error", "relative norm error", "cosine", ""],
                   [(d.sample, d.output, f"{d.max_abs:.3g}", f"{d.rel_norm:.3g}", f"{d.cosine:.9f}", "ok" if d.agrees(tolerance) else "differs")
                    for d in found], right=[0, 2, 3, 4])
    worst = max(found, key=lambda d: d.rel_norm)
    verdict = "agrees" if worst.agrees(tolerance) else "DISAGREES"
    print(f"the model {verdict}: relative norm error {worst.rel_norm:.3g}, tolerance {tolerance:g}{_ORIGINS.get(origin, '')}")
