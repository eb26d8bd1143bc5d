"""The stages of a compile that quantize a model: what runs it on calibration data, and what is rounded before and after it is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import onnx

    from ingot.importer.module import Imported
    from ingot.passes.products import Selection
    from ingot.passes.quantize import Quantization
    from ingot.quantize.calibration import Moments
    from ingot.quantize.method import Method
    from ingot.quantize.runner import Case, Runner
    from ingot.quantize.scheme import Scheme
    from ingot.sources import Source


class Stages(Protocol):
    """What times stages and tells about them."""

    def __call__(self, stage: str) -> AbstractContextManager[None]:
        """A stage."""

    def advance(self, fraction: float | None, detail: str) -> None:
        """How far it is."""


@dataclass(frozen=True)
class Request:
    """How a model is to be quantized: what ``ingot.compile`` was given."""

    scheme: Scheme
    method: Method
    selection: Selection
    calibration: Iterable[Case | str] | None
    constants: Case


def quantize(request: Request, source: Source, imported: Imported, importing: Callable[[onnx.ModelProto], Imported],
             runnable: Callable[[], tuple[Source, Runner]], folder: Path, stages: Stages) -> tuple[Imported, Quantization]:
    """Quantizes a model.

    Args:
        request: How.
        source: The model.
        imported: The same, imported.
        importing: Imports it when its convolutions are rounded.
        runnable: What runs on calibration data: the model, perhaps with other caches, and a runner for it.
        folder: An existing folder for scratch files, which must last until the artifact is written.
        stages: Told what is done.

    Raises:
        CompileError: A pattern fits no layer, there is nothing to quantize, or the model cannot be run on the data.
    """
    from ingot.passes.quantize import quantize_weights
    from ingot.quantize import convolutions

    plan = convolutions.plan(source.model, request.scheme, request.calibration is not None, request.selection.unselected)
    moments: Moments | None = None
    if request.calibration is not None:
        from ingot.quantize.calibration import collect
        from ingot.quantize.cases import cases_of

        with stages("calibrate"):
            run, runner = runnable()
            moments = collect(run.model, runner, cases_of(run, request.calibration), request.constants, folder, plan.values)

    def advance(layer: str) -> None:
        stages.advance(None, layer)

    with stages("quantize"):
        done = convolutions.Done(kept=plan.kept)
        if plan.layers and moments is not None:
            rounded, done = convolutions.quantized(source.model, source.folder, source.label, plan, moments.histograms, advance)
            imported = importing(rounded)
        return quantize_weights(imported, request.scheme, request.selection, folder, advance, moments, request.method, done)
