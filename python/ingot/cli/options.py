"""What the commands' arguments look like."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ingot.errors import InputError


def shape(text: str) -> tuple[str, list[int | str]]:
    """``NAME=1,3,224,224`` or ``NAME=batch,3,H,W``: extents, and names of symbolic ones. A scalar is ``NAME=``."""
    name, equals, extents = text.rpartition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=1,3,224,224")
    parsed: list[int | str] = []
    for extent in filter(None, (e.strip() for e in extents.split(","))):
        if extent.lstrip("-").isdigit():
            if int(extent) < 0:
                raise argparse.ArgumentTypeError(f"'{text}': the extent {extent} is negative")
            parsed.append(int(extent))
        elif extent.isidentifier():
            parsed.append(extent)
        else:
            raise argparse.ArgumentTypeError(f"'{text}': '{extent}' is neither a number nor a name")
    return name, parsed


def pair(text: str) -> tuple[str, str]:
    """``past=present``: two names."""
    first, equals, second = text.partition("=")
    if not equals or not first or not second:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form INPUT=OUTPUT")
    return first, second


def assignments(text: str) -> dict[str, int]:
    """``batch=8,sequence=128``: integers by name."""
    result = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip().isdigit():
            raise argparse.ArgumentTypeError(f"'{text}' is not of the form batch=8,sequence=128")
        result[name.strip()] = int(value)
    return result


def numbers(text: str) -> list[float]:
    """``0.485,0.456,0.406``."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of numbers such as 0.485,0.456,0.406") from None


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def lengths(text: str) -> list[int]:
    """``16,128,512``: whole numbers of at least 1."""
    try:
        return [positive(part.strip()) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers of at least 1 such as 16,128,512") from None


def count(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 0")
    return int(text)


def merged(groups: Sequence[dict[str, int]] | None) -> dict[str, int]:
    """Repeated ``assignments`` as one."""
    return {name: value for group in groups or () for name, value in group.items()}


def known_dims(given: dict[str, int], dims: Sequence[dict[str, Any]]) -> dict[str, int]:
    """``given``, checked against a manifest's symbolic dimensions and their bounds."""
    declared = {dim["name"]: dim["max"] for dim in dims}
    for name, value in given.items():
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise InputError(f"there is no symbolic dimension '{name}'; the model has: {known}")
        if declared[name] is not None and value > declared[name]:
            raise InputError(f"'{name}' is {value}, but the model was compiled for at most {declared[name]}")
    return given


def add_artifact(command: argparse.ArgumentParser) -> None:
    """The artifact to work on."""
    command.add_argument("artifact", metavar="FILE.ingot", help="a compiled model")


def add_machine(command: argparse.ArgumentParser) -> None:
    """How to run: threads and target."""
    command.add_argument("--threads", type=count, default=0, metavar="N", help="threads of one run; 0, the default, is one for each core")
    command.add_argument("--target", metavar="NAME", help="which of the artifact's targets to run; by default the best for this machine")
