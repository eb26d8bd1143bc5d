"""Session: the mutable part of running a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.errors import IngotError, InputError
from ingot.runtime import _native
from ingot.runtime._inputs import check_finite as refuse_not_finite
from ingot.runtime._inputs import in_order, index_of, is_gpu

if TYPE_CHECKING:
    from ingot.runtime.model import Model

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Graphs:
    """How often runs of a session on a GPU were captured as a CUDA graph and replayed as one.

    ``reason`` says why the last run was not; it is empty if it was.
    """

    captured: int
    replayed: int
    reason: str


class Session:
    """Inputs, outputs and scratch memory of one run after another, for one thread at a time. Made by ``Model.session()``.

    Use it as a context manager, or :meth:`close` it. Inputs that were set stay set; outputs can be bound to arrays of the
    caller's, which later runs write into.
    """

    def __init__(self, model: Model, _native_session: Any = None) -> None:
        self.model = model
        self._native: Any = _native_session if _native_session is not None else _native.Session(model._native)
        self._inputs = tuple(info.name for info in model.inputs)
        self._dtypes = tuple(info.dtype for info in model.inputs)
        self._outputs = tuple(info.name for info in model.outputs)
        self._states = tuple(info.name for info in model.states)
        self._bound: dict[str, Any] = {}
        self._results: dict[str, Any] | None = None
        self._profiling = False
        self._on_gpu = [False] * len(self._outputs)  # where outputs that are not bound are given

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

    def run(self, inputs: Mapping[str, Any] | Sequence[Any] | None = None, /, *, check_finite: bool = False,
            device: str | Mapping[str, str] | None = None, **named: Any) -> dict[str, Any]:
        """Runs the model once: with these inputs as in ``Model.run``, or without any with those that are set.

        Outputs that are not bound are given on ``device``, as ``Model.run`` says, or each on its own by name; what is not named, on the CPU.

        Raises:
            InputError: As of ``Model.run``; ``device`` names no output.
        """
        native = self._open()
        for index, on_gpu in enumerate(self._devices(device)):
            if on_gpu != self._on_gpu[index] and self._outputs[index] not in self._bound:
                native.set_output_device(index, on_gpu)
                self._on_gpu[index] = on_gpu
        if inputs is not None or named:
            ordered = in_order(self._inputs, inputs, named, dtypes=self._dtypes)
            if check_finite:
                refuse_not_finite(self._inputs, ordered)
            for index, array in enumerate(ordered):
                native.set_input(index, array)
        self._results = None
        native.run()
        self._results = {name: self._bound[name] if name in self._bound else native.take(i) for i, name in enumerate(self._outputs)}
        return self._results

    def _devices(self, device: str | Mapping[str, str] | None) -> list[bool]:
        """For each output, whether it stays on the GPU."""
        if not isinstance(device, Mapping):
            return [is_gpu(self.model.device, device)] * len(self._outputs)
        for name in device:
            index_of(self._outputs, name, "output")
        return [is_gpu(self.model.device, device.get(name)) for name in self._outputs]

    @property
    def outputs(self) -> dict[str, Array]:
        """The outputs of the last run by name."""
        if self._results is None:
            raise IngotError("the session has no outputs: it has not run, or its last run failed")
        return self._results

    # ---- GPUs -----------------------------------------------------------------------------------------------

    def set_stream(self, stream: Any) -> None:
        """Has the session put its work on a stream of the caller's: an object with ``cuda_stream``, such as PyTorch's, or its number.

        Args:
            stream: The stream, which outlives its use here; None is the session's own again. The legacy default stream is 1 (or 0).
        """
        handle = getattr(stream, "cuda_stream", stream)
        self._open().set_stream(0 if handle is None else int(handle) or 1)

    def synchronize(self) -> None:
        """Waits for all work of the session on its GPU. A run waits itself when an output is given on the CPU.

        Raises:
            ExecutionError: A step was given data that it does not take: an index out of range, a step past a full cache.
        """
        self._open().synchronize()

    @property
    def graphs(self) -> Graphs:
        """How often runs were captured and replayed as CUDA graphs."""
        return Graphs(*self._open().graphs())

    # ---- States ---------------------------------------------------------------------------------------------

    def set_dimension(self, name: str, extent: int) -> None:
        """Sets a symbolic dimension of the states, such as the capacity of caches, or more rows than one run has.

        Raises:
            IngotError: There is no such dimension, it is beyond its bound, or the states hold something already.
        """
        self._open().set_dimension(name, extent)

    def select_rows(self, first: int = 0, count: int = 0) -> None:
        """Has later runs see only ``count`` rows (axis 0) of the states from ``first`` on; 0: all rows again."""
        self._open().select_rows(first, count)

    def reset(self, row: int | None = None) -> None:
        """Forgets what the states hold, or what one row of them holds."""
        self._open().reset(-1 if row is None else row)

    def truncate(self, length: int, row: int | None = None) -> None:
        """Keeps the first ``length`` steps of caches, in all rows or in one.

        Raises:
            IngotError: There are fewer steps, earlier ones were replaced in a ring, or the model has hidden states, which cannot go back.
        """
        self._open().truncate(-1 if row is None else row, length)

    def copy_row(self, source: int, target: int) -> None:
        """Copies what one row of the states holds to another."""
        self._open().copy_row(source, target)

    def fork(self) -> Session:
        """A new session that remembers the same. Inputs and outputs are not copied."""
        return Session(self.model, self._open().fork())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what the states hold to a file."""
        self._open().save_states(os.fspath(path))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Reads what :meth:`save` wrote, in a session of the same artifact.

        Raises:
            FileError: The file is missing, damaged, or of another artifact.
        """
        self._open().load_states(os.fspath(path))

    def state(self, name: str) -> Array:
        """A copy of a state, all rows of it."""
        array: Array = self._open().read_state(index_of(self._states, name, "state"))
        return array

    def set_state(self, name: str, value: Any) -> None:
        """Overwrites a state, whose shape stays."""
        index = index_of(self._states, name, "state")
        before = self._open().read_state(index)
        array = np.asarray(value)
        if array.shape != before.shape or array.dtype != before.dtype:
            raise InputError(f"state '{name}' is {before.dtype}{list(before.shape)}, not {array.dtype}{list(array.shape)}")
        self._open().write_state(index, np.ascontiguousarray(array).reshape(array.shape))

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
