"""What an encoder-decoder model's settings rule out or force at each token, as generation_config.json names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Timestamps:
    """Whisper's rules for texts with timestamps (Radford et al., arXiv:2212.04356).

    Attributes:
        first: The token of 0 s; those behind it go on in steps of 0.02 s.
        end: The token that ends a text; those before it are text.
        without: The token that says that there are none.
        most_initial: The latest step that a text can begin at; None for any.
    """

    first: int
    end: int
    without: int
    most_initial: int | None

    def apply(self, generated: Sequence[int], scores: Array) -> None:
        """Rules tokens out of scores [vocabulary], in place."""
        scores[self.without] = -np.inf
        marks = [t for t in generated if t >= self.first]
        after_mark = bool(generated) and generated[-1] >= self.first
        in_pair = after_mark and (len(generated) < 2 or generated[-2] >= self.first)
        if in_pair:
            scores[self.first:] = -np.inf  # a pair ends one segment and begins the next
        elif after_mark:
            scores[:self.end] = -np.inf  # what ended a segment is said again where the next begins, unless the text ends
        if marks:  # they do not go back
            scores[self.first:marks[-1] + (0 if after_mark and not in_pair else 1)] = -np.inf
        if not generated:
            scores[:self.first] = -np.inf
            if self.most_initial is not None:
                scores[self.first + self.most_initial + 1:] = -np.inf
        if _log_sum(scores[self.first:]) > scores[:self.first].max():
            scores[:self.first] = -np.inf


@dataclass(frozen=True)
class Rules:
    """Rules of one text.

    Attributes:
        begin: How many tokens it starts with before any is generated.
        length: The most tokens that it can have, these included.
        suppressed: Tokens that never come.
        suppressed_first: Tokens that do not come first.
        bad_words: Sequences of tokens that do not come.
        forced_first: The token that comes first, None for any; only behind a single start token.
        forced_last: Tokens of which one is the last when there is room for no other.
        no_repeat: How many tokens in a row do not come twice; 0 for any.
        repetition_penalty: Scores of tokens that the text holds are divided by it if they are positive, and multiplied otherwise.
        timestamps: Rules for timestamps.
    """

    begin: int
    length: int
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    forced_first: int | None = None
    forced_last: tuple[int, ...] = ()
    no_repeat: int = 0
    repetition_penalty: float = 1.0
    timestamps: Timestamps | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any], begin: int, length: int, timestamps: Timestamps | None = None, penalty: bool = True) -> Rules:
        """The rules of an artifact's settings; without ``penalty`` somebody else sees to that of repetition."""
        last = settings.get("forced_eos_token_id")
        return cls(begin, length, tuple(settings.get("suppress_tokens") or ()), tuple(settings.get("begin_suppress_tokens") or ()),
                   tuple(tuple(words) for words in settings.get("bad_words_ids") or ()), settings.get("forced_bos_token_id"),
                   tuple(last) if isinstance(last, (list, tuple)) else () if last is None else (last,), settings.get("no_repeat_ngram_size") or 0,
                   (settings.get("repetition_penalty") or 1.0) if penalty else 1.0, timestamps)

    def apply(self, tokens: Sequence[int], scores: Array) -> Array:
        """Scores [vocabulary] of what can follow tokens, -inf for what cannot; ``scores`` is not changed."""
        scores = scores.copy()
        if self.repetition_penalty != 1:
            held = np.unique(np.asarray(tokens, np.int64))
            scores[held] = np.where(scores[held] > 0, scores[held] / self.repetition_penalty, scores[held] * self.repetition_penalty)
        if self.no_repeat:
            scores[self._repeated(tokens)] = -np.inf
        for words in self.bad_words:
            if len(words) == 1 or tuple(tokens[len(tokens) - len(words) + 1:]) == words[:-1]:
                scores[words[-1]] = -np.inf
        if self.forced_first is not None and len(tokens) == 1:
            scores = _only((self.forced_first,), scores)
        if self.forced_last and len(tokens) == self.length - 1:
            scores = _only(self.forced_last, scores)
        scores[list(self.suppressed)] = -np.inf
        # A token that is forced is not one that was chosen.
        if len(tokens) == self.begin + (self.forced_first is not None and self.begin == 1):
            scores[list(self.suppressed_first)] = -np.inf
        if self.timestamps is not None:
            self.timestamps.apply(tokens[self.begin:], scores)
        return scores

    def _repeated(self, tokens: Sequence[int]) -> list[int]:
        """What followed earlier occurrences of the last tokens."""
        size = self.no_repeat - 1
        last = list(tokens[len(tokens) - size:])
        return [tokens[i + size] for i in range(len(tokens) - size) if list(tokens[i:i + size]) == last]


def _only(tokens: Sequence[int], scores: Array) -> Array:
    forced = np.full_like(scores, -np.inf)
    forced[list(tokens)] = 0
    return forced


def _log_sum(scores: Array) -> float:
    """The logarithm of the sum of exponentials."""
    most = float(scores.max())
    return most if most == -np.inf else most + float(np.log(np.exp(scores - most).sum()))
