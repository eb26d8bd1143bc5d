"""Weights: large constants that are read from their file only when they are written to the artifact."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

#: What Relax and TIR call the type of strings: a string is 16 bytes (docs/format.md), which generated code moves as one integer.
#: No operator computes with it; manifests say "string".
STRING = "uint128"


@dataclass(eq=False)
class Weight:
    """A constant tensor that may not be in memory.

    ``load`` reads it; what it returns is not kept, so that a model's weights pass through memory one at a time.
    ``shape`` and ``dtype`` (NumPy's name) describe what ``load`` will return.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray] = field(repr=False)
    _made: dict[Hashable, Weight] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Size in bytes; of strings, as files hold them."""
        if self.dtype == STRING:
            return len(encode_strings(self.load()))
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(numpy_dtype(self.dtype)).itemsize

    def map(
        self,
        transform: Callable[[np.ndarray], np.ndarray],
        shape: tuple[int, ...],
        suffix: str,
        dtype: str | None = None,
    ) -> Weight:
        """The weight that ``transform`` makes of this one, when it is loaded."""
        load = self.load
        return Weight(f"{self.name}{suffix}", shape, dtype or self.dtype, lambda: transform(load()))

    def once(self, key: Hashable, make: Callable[[], Weight]) -> Weight:
        """What ``make`` gives, the same for an equal ``key``: functions that make one thing of a weight share its place in the artifact."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def transposed(self, axes: Sequence[int]) -> Weight:
        """The weight with its axes permuted."""
        shape = tuple(self.shape[a] for a in axes)
        return self.once(("transposed", *axes), lambda: self.map(lambda a: np.ascontiguousarray(a.transpose(axes)), shape,
                                                                 ":t" + "".join(map(str, axes))))


def from_array(name: str, array: np.ndarray) -> Weight:
    """A weight that is in memory already."""
    if array.dtype.kind in "OUST":
        array = as_strings(array)
    return Weight(name, tuple(array.shape), dtype_name(array.dtype), lambda: array)


def as_strings(array: np.ndarray) -> np.ndarray:
    """An array of strings of any of NumPy's kinds as one of str objects."""
    flat = [s.decode() if isinstance(s, bytes) else str(s) for s in array.ravel().tolist()]
    result = np.empty(len(flat), object)
    result[:] = flat
    return result.reshape(array.shape)


def encode_strings(array: np.ndarray) -> bytes:
    """An array of str objects as files hold it (docs/format.md): offsets, then UTF-8."""
    texts = [s.encode() for s in array.ravel().tolist()]
    offsets = np.zeros(len(texts) + 1, np.uint64)
    np.cumsum([len(t) for t in texts], out=offsets[1:], dtype=np.uint64)
    return offsets.tobytes() + b"".join(texts)


def dtype_name(dtype: np.dtype) -> str:
    """NumPy's name of a dtype, with ml_dtypes' names for the small floats and integers, and :data:`STRING`."""
    if np.dtype(dtype).kind in "OUST":
        return STRING
    return np.dtype(dtype).name


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype of a dtype's name; small floats and integers come from ml_dtypes, strings are objects."""
    if name == STRING:
        return np.dtype(object)
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
