"""Beam search: several continuations of a text at once, of which the likeliest are kept.

The rules are those that transformers' results follow: finished texts are compared by their log probability divided by a power of their length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.errors import InputError

Array = np.ndarray[Any, Any]

#: In place of a beam that is not there: below any sum of log probabilities.
_NOTHING = np.float32(-1e9)


@dataclass(frozen=True)
class Search:
    """How beams are searched.

    Attributes:
        num_beams: How many continuations are kept; 1 is no search.
        length_penalty: The power of the length that divides a text's log probability: more favors longer texts.
        early_stopping: Stop as soon as there are ``num_beams`` finished texts (True), when none that goes on looks better at its length of now
            (False), or when none could become better (``"never"``).
        num_return_sequences: How many texts are wanted, the best first.

    Raises:
        InputError: A number is outside its range.
    """

    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise InputError(f"num_beams is {self.num_beams}; it is at least 1")
        if not 1 <= self.num_return_sequences <= self.num_beams:
            raise InputError(f"num_return_sequences is {self.num_return_sequences}; with {self.num_beams} beams it can be 1 to {self.num_beams}")
        if self.early_stopping not in (True, False, "never"):
            raise InputError(f"early_stopping is {self.early_stopping!r}; it is True, False or 'never'")


@dataclass(frozen=True)
class Hypothesis:
    """A finished text: its tokens without those that it starts with, and its score."""

    tokens: tuple[int, ...]
    score: float
    text: str = ""


@dataclass(frozen=True)
class Beam:
    """A text that goes on: its tokens, the sum of their log probabilities, and which beam of the step before it continues."""

    tokens: tuple[int, ...]
    score: np.float32
    parent: int


class BeamSearch:
    """The search for the continuation of one start.

    Args:
        search: How.
        start: The tokens that every text starts with.
        stop_tokens: The tokens that end a text.
        length: The most tokens of a text, those of the start included.
    """

    def __init__(self, search: Search, start: Sequence[int], stop_tokens: Sequence[int], length: int) -> None:
        self._search = search
        self._start = len(start)
        self._stop = frozenset(stop_tokens)
        self._length = length
        self._step = 0
        # All but one start with nothing, so that the first step takes different tokens of the same beam.
        self.beams = [Beam(tuple(start), np.float32(0) if i == 0 else _NOTHING, 0) for i in range(search.num_beams)]
        self._finished: list[Hypothesis] = []
        self._open = True  # whether what goes on may still become better than what is finished
        self.done = False

    def advance(self, log_probabilities: Array) -> None:
        """Goes on by a token.

        Args:
            log_probabilities: [beams, vocabulary] float32: what may follow each of ``beams``.
        """
        count = self._search.num_beams
        totals = (log_probabilities + np.array([b.score for b in self.beams], np.float32)[:, None]).reshape(-1)
        candidates = [Beam((*self.beams[i // log_probabilities.shape[1]].tokens, int(i % log_probabilities.shape[1])), totals[i],
                           int(i // log_probabilities.shape[1])) for i in _largest(totals, max(2, 1 + len(self._stop)) * count)]
        ended = [b.tokens[-1] in self._stop or len(b.tokens) >= self._length for b in candidates]
        self._step += 1
        # Only the best are taken as finished: the others are there in case all of these end.
        if self._open and not (self._full and self._search.early_stopping is True):
            self._finished += [Hypothesis(b.tokens[self._start:], self._per_length(b, self._step))
                               for b, end in zip(candidates[:count], ended, strict=False) if end and b.score > _NOTHING]
            self._finished = sorted(self._finished, key=lambda h: -h.score)[:count]
        going_on = [b for b, end in zip(candidates, ended, strict=True) if not end][:count]
        if not going_on:
            self.done = True
            return
        # Where fewer go on than there are beams, the best is there again with a score that never comes up.
        self.beams = going_on + [Beam(going_on[0].tokens, _NOTHING, going_on[0].parent)] * (count - len(going_on))
        self._open = self._open and self._may_improve()
        self.done = not self._open or (self._full and self._search.early_stopping is True)

    def results(self) -> list[Hypothesis]:
        """The best texts, as many as are wanted."""
        return self._finished[:self._search.num_return_sequences]

    @property
    def _full(self) -> bool:
        return len(self._finished) == self._search.num_beams

    def _may_improve(self) -> bool:
        if not self._full:
            return True
        longest = self._search.early_stopping == "never" and self._search.length_penalty > 0
        return self._per_length(self.beams[0], self._length - self._start if longest else self._step) > self._finished[-1].score

    def _per_length(self, beam: Beam, length: int) -> float:
        return float(beam.score / np.float32(length ** self._search.length_penalty))


def rows_of(beams: Sequence[Beam], rows: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Where beams live after a step, and which rows have to be copied (from, to) for it.

    The first continuation of a beam stays in its row; others take the rows of beams that nothing continues, so that no row is read after it was
    written.

    Args:
        beams: The beams after the step.
        rows: The rows of the beams before it.
    """
    taken: dict[int, int] = {}
    placed = [-1] * len(beams)
    for number, beam in enumerate(beams):
        row = rows[beam.parent]
        if row not in taken:
            taken[row] = placed[number] = row
    free = iter(sorted(set(range(len(beams))) - set(taken)))
    copies = []
    for number, beam in enumerate(beams):
        if placed[number] < 0:
            placed[number] = next(free)
            copies.append((rows[beam.parent], placed[number]))
    return placed, copies


def _largest(values: Array, count: int) -> list[int]:
    """Where the largest values are, in order; of equal ones the first."""
    count = min(count, len(values))
    part = np.argpartition(-values, count - 1)[:count] if count < len(values) else np.arange(len(values))
    part = np.sort(part)
    return [int(i) for i in part[np.argsort(-values[part], kind="stable")]]
