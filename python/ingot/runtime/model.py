"""Model: a loaded artifact, immutable and safe to run from any thread."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.errors import FileError, MissingFileError
from ingot.runtime import _native
from ingot.runtime._inputs import check_finite as refuse_not_finite
from ingot.runtime._inputs import in_order, is_gpu
from ingot.runtime.artifact import Artifact
from ingot.runtime.session import Session

if TYPE_CHECKING:
    from ingot.generate import Made
    from ingot.generate.text import Text

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: extents of ``shape`` are integers, names of symbolic dimensions, or expressions over them."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class StateInfo(TensorInfo):
    """What a session remembers from run to run.

    ``kind`` is ``"carry"`` (an output of one run is an input of the next), ``"cache"`` (changed in place) or ``"ring"`` (a cache of a fixed
    extent, in which new steps replace the oldest).
    """

    kind: str = "carry"


class Model:
    """A model that was loaded from an artifact. Weights are mapped once and shared by all threads and sessions.

    Args:
        path: The ``.ingot`` file.
        threads: Threads for one run, the caller's included; by default one for each core.
        target: The name of one of the artifact's targets; by default the best that this machine can run. Without a GPU and its driver an
            artifact that has code for both runs on the CPU (see ``target`` of the model), unless this names its CUDA target.
        gpu: The number of the GPU for a CUDA target.
        verify: Check the weights' checksums too, which reads the whole file. Code is always checked.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None, target: str | None = None, verify: bool = False,
                 gpu: int = 0) -> None:
        self.path = Path(path)
        try:
            self._native = _native.Model(os.fspath(path), threads or 0, target, verify, gpu)
        except FileError as error:
            raise MissingFileError.if_missing(self.path, error) from None
        self.inputs = tuple(TensorInfo(*info) for info in self._native.inputs())
        self.outputs = tuple(TensorInfo(*info) for info in self._native.outputs())
        self.states = tuple(StateInfo(name, dtype, shape, kind) for (name, dtype, shape), kind in self._native.states())
        self.target, self.threads = self._native.target()
        kind, number = self._native.device()
        #: Where it runs, and its sessions' states are: ``"cpu"`` or ``"cuda:0"``.
        self.device = "cpu" if kind == 1 else f"cuda:{number}"
        self._input_names = tuple(info.name for info in self.inputs)
        self._input_dtypes = tuple(info.dtype for info in self.inputs)
        self._output_names = tuple(info.name for info in self.outputs)
        # Sessions that no run is using. Appending to and popping from a list are atomic, so threads need no lock.
        self._idle: list[Any] = []

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, threads: int | None = None, target: str | None = None, verify: bool = False,
             gpu: int = 0) -> Model:
        """Loads a model from an artifact: the same as the constructor."""
        return cls(path, threads=threads, target=target, verify=verify, gpu=gpu)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The artifact's manifest (docs/format.md)."""
        manifest: dict[str, Any] = json.loads(self._native.manifest())
        return manifest

    @cached_property
    def _artifact(self) -> Artifact:
        return Artifact(self.path)

    @cached_property
    def tokenizer(self) -> Text | None:
        """The tokenizer that travels in the artifact, read once; None if there is none."""
        definition = self.asset("tokenizer.json")
        if definition is None:
            return None
        from ingot.generate.text import Text

        return Text(definition, self.asset("tokenizer_config.json"), self.asset("chat_template.jinja"))

    def run(self, inputs: Mapping[str, Any] | Sequence[Any] | None = None, /, *, check_finite: bool = False, device: str | None = None,
            **named: Any) -> dict[str, Any]:
        """Runs the model once. States start from zero: what is to be remembered takes a :meth:`session`.

        Args:
            inputs: Arrays by the names of the inputs, or a list of them in order: NumPy arrays, or anything with ``__dlpack__`` on the CPU
                or the model's GPU. They are not copied, but from the CPU to a GPU, so they have to be C-contiguous and of the exact type.
                Strings are NumPy arrays of any shape and of type object (of str), str, bytes (of UTF-8) or ``StringDType``. A dictionary may
                stand for a map ``x``, whose keys and values are the inputs ``x_keys`` and ``x_values``.
            check_finite: Refuse inputs on the CPU that hold a NaN or an infinity.
            device: Where the outputs are given: ``"cpu"``, the default, or the model's device (``"cuda"``), where they may still be computed
                when this returns.
            **named: More inputs by name.

        Returns:
            The outputs by name; they own their memory. On the CPU they are NumPy arrays; strings are arrays of str objects. On a GPU they
            are objects with ``shape``, ``dtype``, ``numpy()`` and ``__dlpack__``, which ``torch.from_dlpack`` takes without a copy.

        Raises:
            InputError: An input is missing, unknown, or not what the model takes.
            ExecutionError: A node of the model failed.
        """
        ordered = in_order(self._input_names, inputs, named, dtypes=self._input_dtypes)
        if check_finite:
            refuse_not_finite(self._input_names, ordered)
        on_gpu = is_gpu(self.device, device)
        try:
            session = self._idle.pop()
        except IndexError:
            session = _native.Session(self._native)
        try:
            if self.states:
                session.reset(-1)
            return dict(zip(self._output_names, session.run_once(ordered, on_gpu), strict=True))
        finally:
            self._idle.append(session)

    def session(self) -> Session:
        """A session: inputs and outputs that stay from run to run, for one thread at a time."""
        return Session(self)

    def asset(self, name: str) -> bytes | None:
        """A file that travels in the artifact, such as ``tokenizer.json``; None if there is none of that name."""
        entry = self.manifest.get("assets", {"files": []})
        found = next((f for f in entry["files"] if f["name"] == name), None)
        if found is None:
            return None
        segment = self._artifact.segment(entry["segment"])
        return bytes(segment[found["offset"]:found["offset"] + found["nbytes"]])

    def generate(self, prompt: Any, *, max_new_tokens: int | None = None, stop: str | Sequence[str] = (), lookup: int = 0, context: int | None = None,
                 json_schema: Mapping[str, Any] | str | None = None, grammar: str | None = None, regex: str | None = None, **more: Any) -> Made:
        """Generates text with a language model, a translator or a model of speech; tokens come as the result is iterated over.

        Args:
            prompt: A text, token ids, or messages (``{"role": ..., "content": ...}``) for the model's chat template; for a model of speech
                float32 samples, 16,000 a second.
            max_new_tokens: The most tokens to generate; by default 128, or what the settings of an encoder-decoder model say.
            stop: Strings that the text ends before.
            lookup: Tokens to draft at a time from what the text holds already; the text stays the same.
            context: The most tokens, prompt included; by default the artifact's bound.
            json_schema: The text is JSON of this schema.
            grammar: The text follows this grammar (Lark's notation).
            regex: The text matches this regular expression.
            **more: How tokens are chosen: see :class:`ingot.generate.Sampling`. By default the likeliest one. Of encoder-decoder models also how
                beams are searched (:class:`ingot.generate.Search`), and of speech :class:`ingot.generate.Speech`; by default what the
                artifact's settings say.

        Raises:
            InputError: The model generates no text, or the prompt or an option does not fit it.
        """
        from ingot.generate import generate

        return generate(self, prompt, max_new_tokens, stop, lookup, context, {"json_schema": json_schema, "grammar": grammar, "regex": regex}, more)

    def memory(self, **dims: int) -> int:
        """Bytes of scratch memory that one run takes when the symbolic dimensions have these extents."""
        names = [d["name"] for d in self.manifest["dims"]]
        ordered = in_order(names, dims, {}, what="dimension")
        return int(self._native.memory(ordered))

    def __repr__(self) -> str:
        def side(infos: tuple[TensorInfo, ...]) -> str:
            return ", ".join(f"{i.name}: {i.dtype}[{', '.join(map(str, i.shape))}]" for i in infos)

        return f"<Model {self.path.name} ({side(self.inputs)}) -> ({side(self.outputs)}) on {self.target}, {self.threads} threads>"


def load(path: str | os.PathLike[str], *, threads: int | None = None, target: str | None = None, verify: bool = False, gpu: int = 0) -> Model:
    """Loads a model from an artifact: see :class:`Model`."""
    return Model(path, threads=threads, target=target, verify=verify, gpu=gpu)
