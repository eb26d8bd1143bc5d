"""Calibration data as users have them, and as a model is run on them: texts become token ids, and a language model's other inputs are filled in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ingot.errors import CompileError
from ingot.quantize.runner import Case
from ingot.sources import Source


def cases_of(source: Source, given: Iterable[Case | str]) -> Iterator[Case]:
    """Cases of calibration data for a model.

    Of a decoder (``ingot compile`` of a language model's directory) a case may be a text, which is cut into runs of as many tokens as one may
    have, or inputs without ``token_counts`` and ``logits_at``: all ids count then, and logits are wanted behind each.

    Raises:
        CompileError: A case is a text and the model has no tokenizer or is no decoder, or it has more tokens than a run may have.
    """
    for number, case in enumerate(given):
        if isinstance(case, str):
            for ids in _pieces(source, case, number):
                yield _complete(source, {"input_ids": ids}, number)
        else:
            yield _complete(source, case, number)


def _decoder(source: Source) -> Mapping[str, Any] | None:
    found = source.generation
    return found if found is not None and found["kind"] == "decoder" else None


def _longest(source: Source, generation: Mapping[str, Any]) -> int:
    """The most tokens of a run that starts with empty caches."""
    return min(int(generation["chunk"]), source.bounds.get("context", int(generation["chunk"])))


def _pieces(source: Source, text: str, number: int) -> Iterator[Any]:
    from ingot.generate.text import Text

    generation = _decoder(source)
    if generation is None:
        raise CompileError(f"calibration: case {number} is a text, which only the directory of a decoder takes; give the inputs by name")
    path = source.assets.get("tokenizer.json")
    if path is None:
        raise CompileError(f"calibration: case {number} is a text, but {source.label} has no tokenizer.json; give token ids as 'input_ids'")
    ids = np.array(Text(path.read_bytes(), None, None).encode(text), np.int64)
    chunk = _longest(source, generation)
    for begin in range(0, len(ids), chunk):
        yield ids[None, begin:begin + chunk]


def _complete(source: Source, case: Case, number: int) -> Case:
    generation = _decoder(source)
    if generation is None or "input_ids" not in case:
        return case
    ids = np.asarray(case["input_ids"])
    if ids.ndim != 2:
        raise CompileError(f"calibration: 'input_ids' of case {number} has shape {list(ids.shape)}, expected [batch, sequence]")
    batch, sequence = ids.shape
    longest = _longest(source, generation)
    if sequence > longest:
        raise CompileError(f"calibration: case {number} has {sequence} tokens in a row; a run of this model has at most {longest}: make several "
                           "cases of it, or give it as text")
    filled: dict[str, Any] = {"token_counts": np.full(batch, sequence, np.int64),
                              "logits_at": np.tile(np.arange(sequence, dtype=np.int64), (batch, 1)), **case}
    if any(i.name == "sampling" for i in source.model.graph.input):
        shape = np.shape(filled["logits_at"])  # of the likeliest tokens
        filled = {"sampling": np.zeros((*shape, 4), np.float32), "random": np.zeros(shape, np.float32), **filled}
    return filled
