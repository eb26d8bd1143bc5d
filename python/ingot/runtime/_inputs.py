"""Inputs by name, brought into order."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ingot.errors import InputError
from ingot.runtime._arrays import dtype_of, first_not_finite


def in_order(names: Sequence[str], given: Mapping[str, Any] | Sequence[Any] | None, named: Mapping[str, Any], what: str = "input",
             dtypes: Sequence[str] = ()) -> list[Any]:
    """The values of ``names``, from a mapping or a sequence and from keyword arguments; an error says what is missing or unknown.

    Where the inputs are ``x_keys`` and ``x_values``, a mapping called ``x`` is both of them, as arrays of the types ``dtypes``.
    """
    if isinstance(given, (list, tuple)):
        if len(given) + len(named) == len(names):
            return in_order(names, {**dict(zip(names, given, strict=False)), **named}, {}, what) if named else list(given)
        raise InputError(f"{len(given) + len(named)} {what}s were given, the model takes {len(names)}: {', '.join(names)}")
    if given is not None and not isinstance(given, Mapping):
        example = names[0] if names else "name"
        raise InputError(f"{what}s are a dictionary or a list, not {type(given).__name__}; pass {{'{example}': array}} or [array]")
    values = {**given, **named} if given and named else (given or named)
    if len(values) == len(names):
        try:
            return [values[name] for name in names]
        except KeyError:
            pass
    if dtypes and any(isinstance(value, Mapping) for value in values.values()):
        return in_order(names, _without_maps(dict(zip(names, dtypes, strict=True)), values), {}, what)
    raise InputError(_mismatch(names, values, what))


def _without_maps(dtypes: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs whose mappings are the arrays of their keys and values."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        parts = f"{name}_keys", f"{name}_values"
        if not isinstance(value, Mapping) or name in dtypes or not all(part in dtypes for part in parts):
            result[name] = value
            continue
        for part, elements in zip(parts, (list(value.keys()), list(value.values())), strict=True):
            try:
                result[part] = np.array(elements, dtype_of(dtypes[part]))
            except (TypeError, ValueError) as error:
                raise InputError(f"the {part[len(name) + 1:]} of the map '{name}' are of type {dtypes[part]}: {error}") from None
    return result


def index_of(names: Sequence[str], name: str, what: str) -> int:
    """The position of a name; an error suggests what was meant."""
    try:
        return names.index(name)
    except ValueError:
        raise InputError(_mismatch(names, {name: None}, what, complete=False)) from None


def is_gpu(model: str, device: str | None) -> bool:
    """Whether outputs that are asked for on ``device`` stay on a GPU, that of a model on device ``model``."""
    if device is None or device == "cpu":
        return False
    if device == model or (device == "cuda" and model != "cpu"):
        return True
    raise InputError(f"outputs cannot be given on device '{device}': the model runs on '{model}'")


def check_finite(names: Sequence[str], values: Sequence[Any]) -> None:
    """Refuses arrays that hold a NaN or an infinity."""
    for name, value in zip(names, values, strict=True):
        index = first_not_finite(value)
        if index is not None:
            raise InputError(f"input '{name}' has a NaN or an infinity, first at index {list(index)}")


def _mismatch(names: Sequence[str], values: Mapping[str, Any], what: str, complete: bool = True) -> str:
    missing = [name for name in names if name not in values]
    parts = []
    for name in values:
        if name not in names:
            close = difflib.get_close_matches(str(name), missing or names, n=1)
            parts.append(f"there is no {what} '{name}'" + (f"; did you mean '{close[0]}'?" if close else ""))
    if complete and missing:
        parts.append(f"{what} {', '.join(repr(name) for name in missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return "; ".join(parts) + f" (the model's {what}s: {', '.join(names) or 'none'})"
