"""The programs that generate text: one row each."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module, util
from typing import Any, Protocol

import numpy as np

from ingot.bench.generate.sweep import Case, Round
from ingot.errors import FileError, InputError


class UnsupportedCaseError(Exception):
    """A program does not run such a case; the message says why."""


class Contestant(Protocol):
    """A loaded model."""

    def run(self, case: Case, seed: int) -> Round:
        """Runs a case once, on prompts of random tokens. Raises :class:`UnsupportedCaseError`."""


def prompts(case: Case, seed: int, vocabulary: int) -> list[list[int]]:
    """Random tokens [batch, prompt]. First tokens differ from text to text and from seed to seed: nothing that is cached can be taken over."""
    drawn = np.random.default_rng(seed).integers(0, vocabulary, (case.batch, case.prompt))
    drawn[:, 0] = (seed * case.batch + np.arange(case.batch)) % vocabulary
    return [[int(t) for t in row] for row in drawn]


class Ingot:
    """An artifact."""

    def __init__(self, path: str, threads: int, target: str | None, context: int) -> None:
        from ingot.runtime import Model

        self._model = Model.load(path, threads=threads, target=target)
        self._held: tuple[Case, Any] | None = None

    def run(self, case: Case, seed: int) -> Round:
        """Texts start one after the other, as :class:`ingot.generate.Batch` does it, then go on together."""
        from ingot.generate import Batch, Options

        if self._held is None or self._held[0] != case:
            self._held = None  # a batch's caches are freed before the next are made
            rings_alone = not any(d["name"] == "context" for d in self._model.manifest["dims"])
            self._held = case, Batch(self._model, case.batch, None if rings_alone else case.context)
        batch = self._held[1]
        options = Options(max_new_tokens=case.output)
        texts = [batch.add(prompt, options) for prompt in prompts(case, seed, batch.vocabulary)]
        first, between = [], []
        start = time.perf_counter()
        for _ in texts:
            batch.advance()
            first.append(time.perf_counter() - start)
        last = time.perf_counter()
        while batch.advance():
            now = time.perf_counter()
            between.append(now - last)
            last = now
        assert all(len(text.tokens) == case.output for text in texts) and len(between) == case.output - 1
        return Round(first, first[-1], between, cache_bytes(self._model, case.context - 1) * case.batch)


def cache_bytes(model: Any, tokens: int) -> int:
    """What a text of so many tokens takes in caches; a ring holds no more than its slots."""
    from ingot.generate.batch import slot_bytes

    return sum(size * min(tokens, slots) for slots, size in slot_bytes(model).items())


class LlamaCpp:
    """A GGUF file in llama.cpp, through llama-cpp-python."""

    def __init__(self, path: str, threads: int, target: str | None, context: int) -> None:
        llama: Any = import_module("llama_cpp").Llama
        self._llama = llama(model_path=path, n_gpu_layers=0, n_ctx=context, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False)

    def run(self, case: Case, seed: int) -> Round:
        """One text."""
        if case.batch > 1:
            raise UnsupportedCaseError("llama-cpp-python runs one text at a time")
        tokens = prompts(case, seed, self._llama.n_vocab())[0]
        start = time.perf_counter()
        times = [time.perf_counter() for _ in itertools.islice(self._llama.generate(tokens, temp=0.0, repeat_penalty=1.0), case.output)]
        return Round([times[0] - start], times[0] - start, [b - a for a, b in itertools.pairwise(times)], None)


@dataclass(frozen=True)
class Program:
    """How a program loads a model, the module that it needs, and what to install where that is missing."""

    load: Callable[[str, int, str | None, int], Contestant]
    module: str
    install: str


PROGRAMS: Mapping[str, Program] = {
    "ingot": Program(Ingot, "ingot", "ingot"),
    "llama.cpp": Program(LlamaCpp, "llama_cpp", "llama-cpp-python"),
}


def peer(text: str) -> tuple[str, str]:
    """``llama.cpp=FILE.gguf``: a program that can be compared, and its model.

    Raises:
        InputError: There is no such program, or it is not installed.
        FileError: There is no such file.
    """
    name, equals, path = text.partition("=")
    names = [n for n in PROGRAMS if n != "ingot"]
    if not equals or not path or name not in names:
        raise InputError(f"--peer '{text}' is not a program and its model; they are " + ", ".join(f"{n}=FILE.gguf" for n in names))
    if util.find_spec(PROGRAMS[name].module) is None:
        raise InputError(f"--peer {name} needs the package {PROGRAMS[name].install}, which is not installed: pip install {PROGRAMS[name].install}")
    if not os.path.isfile(path):
        raise FileError(f"--peer {text}: there is no file {path}")
    return name, path
