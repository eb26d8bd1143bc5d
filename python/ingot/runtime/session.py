"""Session: the mutable part of running a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.errors import IngotError
from ingot.runtime import _native
from ingot.runtime._inputs import check_finite as refuse_not_finite
from ingot.runtime._inputs import in_order, index_of

if TYPE_CHECKING:
    from ingot.runtime.model import Model

Array = np.ndarray[Any, Any]


class Session:
    """Inputs, outputs and scratch memory of one run after another, for one thread at a time. Made by ``Model.session()``.

    Use it as a context manager, or :meth:`close` it. Inputs that were set stay set; outputs can be bound to arrays of the
    caller's, which later runs write into.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._native: Any = _native.Session(model._native)
        self._inputs = tuple(info.name for info in model.inputs)
        self._outputs = tuple(info.name for info in model.outputs)
        self._bound: dict[str, Any] = {}
        self._results: dict[str, Any] | None = None
        self._profiling = False

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the session's memory. Outputs that were returned stay valid."""
        self._native = None
        self._bound = {}
        self._results = None

    def _open(self) -> Any:
        if self._native is None:
            raise IngotError("the session is closed")
        return self._native

    def set_input(self, name: str, array: Any) -> None:
        """Sets an input for the runs that follow. The array is borrowed, not copied: changing it changes the input."""
        self._open().set_input(index_of(self._inputs, name, "input"), array)

    def bind_output(self, name: str, array: Any | None) -> None:
        """Has the runs that follow write an output into ``array``, until it is None."""
        self._open().bind_output(index_of(self._outputs, name, "output"), array)
        if array is None:
            self._bound.pop(name, None)
        else:
            self._bound[name] = array

    def run(self, inputs: Mapping[str, Any] | Sequence[Any] | None = None, /, *, check_finite: bool = False, **named: Any) -> dict[str, Array]:
        """Runs the model once: with these inputs as in ``Model.run``, or without any with those that are set."""
        native = self._open()
        if inputs is not None or named:
            ordered = in_order(self._inputs, inputs, named)
            if check_finite:
                refuse_not_finite(self._inputs, ordered)
            for index, array in enumerate(ordered):
                native.set_input(index, array)
        self._results = None
        native.run()
        self._results = {name: self._bound[name] if name in self._bound else native.take(i) for i, name in enumerate(self._outputs)}
        return self._results

    @property
    def outputs(self) -> dict[str, Array]:
        """The outputs of the last run by name."""
        if self._results is None:
            raise IngotError("the session has no outputs: it has not run, or its last run failed")
        return self._results

    @property
    def profiling(self) -> bool:
        """Whether runs are timed step by step. Turning it on starts from zero."""
        return self._profiling

    @profiling.setter
    def profiling(self, enabled: bool) -> None:
        self._open().set_profiling(enabled)
        self._profiling = enabled

    def profile(self) -> tuple[list[int], int]:
        """The nanoseconds gathered for each step of the program's main function, in the manifest's order, and the number of runs."""
        nanoseconds, runs = self._open().profile()
        return nanoseconds, runs
