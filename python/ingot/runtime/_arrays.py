"""Arrays of types that NumPy does not have itself: ml_dtypes' arrays, seen as integers of their size and back; strings."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingot.errors import InputError


def extended_dtype(name: str, subject: str) -> np.dtype[Any]:
    """The NumPy dtype of ml_dtypes' type ``name``; ``subject`` says in the message what needs it."""
    try:
        import ml_dtypes
    except ImportError:
        raise InputError(f"{subject} is of type {name}, which NumPy does not have: install ml_dtypes (pip install ml_dtypes)") from None
    return np.dtype(getattr(ml_dtypes, name))


def dtype_of(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a type's name, from ml_dtypes if NumPy does not have it; strings are objects."""
    if name == "string":
        return np.dtype(object)
    try:
        return np.dtype(name)
    except TypeError:
        return extended_dtype(name, "the tensor")


def to_stored(array: Any, name: str, subject: str) -> Any:
    """An array of ml_dtypes' type ``name`` as unsigned (or signed) integers of the same size."""
    dtype = extended_dtype(name, subject)
    found = getattr(array, "dtype", None)
    if found != dtype:
        raise InputError(f"{subject} has type {found}, expected {name} (numpy.dtype of ml_dtypes.{name})")
    return array.view(_storage(dtype, name))


def from_stored(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """The inverse of :func:`to_stored`."""
    return array.view(extended_dtype(name, "the output"))


def to_strings(array: Any, subject: str) -> tuple[list[Any], list[int]]:
    """The elements of an array of strings (object, str, bytes or ``StringDType``) as a flat list, and its shape."""
    if not isinstance(array, (np.ndarray, np.generic)):
        raise InputError(f"{subject} is of type {type(array).__name__}; expected a NumPy array of strings (object, str or StringDType)")
    found = np.asarray(array)
    if found.dtype.kind not in "OUST":
        raise InputError(f"{subject} has type {found.dtype}, expected strings: an array of object, str or StringDType")
    return found.astype(object).ravel().tolist(), list(found.shape)


def from_strings(elements: list[str], shape: list[int]) -> np.ndarray[Any, Any]:
    """An array of str objects."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)


def _storage(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    return np.dtype(f"{'int' if name in ('int4', 'int2') else 'uint'}{8 * dtype.itemsize}")


def first_not_finite(array: Any) -> tuple[int, ...] | None:
    """The index of the first NaN or infinity of an array of floating-point numbers, or None."""
    if not isinstance(array, np.ndarray):
        try:
            array = np.from_dlpack(array)
        except (BufferError, TypeError, RuntimeError):
            return None  # a type that NumPy cannot look into; setting it as an input says what is wrong, if anything is
    try:
        finite = np.isfinite(array)
    except TypeError:
        return None  # a type without infinities
    if finite.all():
        return None
    return tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), array.shape))
