"""What the command line says of an artifact's quantization (docs/format.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ingot.cli import printing
from ingot.errors import FileError


def summary(found: Mapping[str, Any]) -> None:
    """The scheme, the sizes, and what the model lost."""
    layers, kept = len(found["layers"]), len(found["kept"])
    reasons = ", ".join(dict.fromkeys(layer["reason"] for layer in found["kept"]))
    print(f"  {found['scheme']}, {found['method']}")
    print(f"  {layers} layer{'s' if layers != 1 else ''} quantized, {kept} left as they were{f' ({reasons})' if reasons else ''}; weights "
          f"{printing.size(found['bytes_before'])} → {printing.size(found['bytes_after'])}")
    loss = found["loss"]
    if loss is None:
        print("  loss of the whole model: not measured, because the artifact has no samples")
    elif loss["problem"]:
        print(f"  loss of the whole model: not measured: {loss['problem']}")
    else:
        for output in loss["outputs"]:
            print(f"  sample {output['sample']}, {output['output']}: relative error {_number(output['relative_error'], '.3g')}, "
                  f"cosine {_number(output['cosine'], '.6f')}")
    calibration = loss.get("calibration") if loss is not None else None
    if calibration is None:
        return
    if calibration["problem"]:
        print(f"  loss on calibration data: not measured: {calibration['problem']}")
    for output in calibration["outputs"]:
        print(f"  {calibration['cases']} calibration case{'s' if calibration['cases'] != 1 else ''}, {output['output']}: "
              f"relative error {_number(output['relative_error'], '.3g')}, cosine {_number(output['cosine'], '.6f')}")


def layers(found: Mapping[str, Any]) -> None:
    """A table of all layers."""
    rows: list[list[str]] = []
    for layer in found["layers"]:
        rows.append([layer["node"], layer["weight"], printing.shape(layer["shape"]), _number(layer["relative_error"], ".3g"),
                     _number(layer.get("input_error"), ".3g"), _number(layer.get("output_error"), ".3g"), _number(layer["cosine"], ".6f"),
                     _number(layer["snr_db"], ".1f"), _factors(layer), printing.size(layer["bytes_before"]), printing.size(layer["bytes_after"])])
    printing.table(["layer", "weight", "shape", "relative error", "input error", "output error", "cosine", "SNR (dB)", "factors", "before", "after"],
                   rows, right=[3, 4, 5, 6, 7, 9, 10])
    for layer in found["kept"]:
        print(f"  {layer['node']} stays as it was: {layer['reason']}")


def _factors(layer: Mapping[str, Any]) -> str:
    """The strength of AWQ's or SmoothQuant's factors, and whether they cost a multiplication."""
    return f"{layer['strength']:.2f}, {'folded' if layer['folded'] else 'multiplied'}" if "strength" in layer else "-"


def cases(paths: Sequence[str]) -> list[dict[str, Any] | str]:
    """Calibration data: the arrays of each file, or the text of a ``.txt`` file. A FileError says if one is neither."""
    found: list[dict[str, Any] | str] = []
    for path in paths:
        try:
            if path.endswith(".txt"):
                found.append(Path(path).read_text(encoding="utf-8"))
                continue
            with np.load(path) as arrays:
                found.append({name: arrays[name] for name in arrays.files})
        except (OSError, ValueError, AttributeError, TypeError, BadZipFile) as error:
            raise FileError(f"cannot read calibration data from '{path}', which is to be an .npz file of inputs by name, or for a language model's "
                            f"directory a .txt file: {error}") from error
    return found


def write(found: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes the report as JSON. A FileError says if it cannot be written."""
    try:
        Path(path).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise FileError(f"cannot write the report to '{path}': {error.strerror}") from error


def _number(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)
