"""One text that is generated, and what is asked of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.generate.grammar import Grammar
from ingot.generate.sampling import Sampler, Sampling, log_probabilities
from ingot.generate.stats import GenerationStats
from ingot.generate.text import Stream

if TYPE_CHECKING:
    from ingot.generate.batch import Batch
    from ingot.generate.beam import Hypothesis
    from ingot.generate.speech import Segment

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Token:
    """A generated token.

    ``text`` is what it makes known of the text, which may be nothing or come from earlier tokens; ``logprob`` is its log probability, and
    ``top`` those of the likeliest tokens by id, if they were asked for.
    """

    id: int
    text: str
    logprob: float | None = None
    top: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What is asked of a text.

    Attributes:
        max_new_tokens: The most tokens to generate.
        sampling: How they are chosen.
        stop: The text ends before any of these strings.
        stop_tokens: The text ends at any of these tokens.
        lookup: Draft tokens from what followed the same words earlier in the text, up to this many at a time, and check them in one run
            (Saxena, prompt lookup decoding). The text is the same; only for temperature 0.
    """

    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    lookup: int = 0


class Generation:
    """A text that comes token by token: iterate over it, or :meth:`wait` for all of it. There are no ``sequences`` and no ``segments``.

    Attributes:
        tokens: The ids that were generated.
        stats: How long they took.
        finish_reason: ``stop token``, ``stop string``, ``length``, ``context``, ``grammar`` or ``cancelled``; None while it goes on.
    """

    sequences: Sequence[Hypothesis] = ()
    segments: Sequence[Segment] = ()

    def __init__(self, batch: Batch, prompt: Sequence[int], options: Options, stream: Stream, grammar: Grammar | None, vocabulary: int) -> None:
        self.prompt = list(prompt)
        self.options = options
        self.tokens: list[int] = []
        self.stats = GenerationStats(prompt_tokens=len(prompt))
        self.finish_reason: str | None = None
        self.text = ""
        self._batch = batch
        self._stream = stream
        self._grammar = grammar
        self._sampler = Sampler(options.sampling, np.asarray(prompt, np.int64), vocabulary)
        self._ready: deque[Token] = deque()
        self._last = 0.0

    def __iter__(self) -> Iterator[Token]:
        while True:
            while self._ready:
                yield self._ready.popleft()
            if self.finish_reason is not None:
                return
            self._batch.advance()

    def wait(self) -> str:
        """Generates all of it; returns the text ("" without a tokenizer)."""
        for _ in self:
            pass
        return self.text

    def cancel(self) -> None:
        """Ends it where it is."""
        if self.finish_reason is None:
            self._finish("cancelled")
            self._batch.release(self)

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.finish_reason is not None

    # ---- For the batch --------------------------------------------------------------------------------------

    def started(self, shared: int) -> None:
        """Its prompt is about to run; ``shared`` tokens of it are in the cache."""
        self.stats.shared_tokens = shared
        self._last = time.perf_counter()

    @property
    def plain(self) -> bool:
        """Whether a model can choose its tokens: without penalties, log probabilities and a grammar."""
        return self._grammar is None and not self.options.sampling.penalizes and not self.options.sampling.logprobs

    def number(self) -> float:
        """The random number of [0, 1) that chooses the next token, where the model does."""
        return self._sampler.number()

    def choose(self, logits: Array) -> int:
        """The next token for logits [vocabulary]."""
        return self._sampler.choose(logits, self._grammar.allowed() if self._grammar is not None else None)

    def take(self, token: int, logits: Array | None) -> None:
        """Goes on by a token that was chosen from logits [vocabulary]; None: by the model."""
        now = time.perf_counter()
        if self.tokens:
            self.stats.between_tokens.append(now - self._last)
        else:
            self.stats.time_to_first_token = now - self._last
        self._last = now
        self.tokens.append(token)
        self.stats.generated_tokens = len(self.tokens)
        self.stats.chosen_by_model += logits is None
        self._sampler.add(token)
        complete = self._grammar is not None and self._grammar.add(token)
        stopped = token in self.options.stop_tokens
        piece = "" if stopped else self._stream.add(token)
        self._ready.append(self._described(token, piece, logits))
        self.text += piece
        reasons = (("stop token", stopped), ("stop string", self._stream.stopped), ("grammar", complete),
                   ("length", len(self.tokens) >= self.options.max_new_tokens))
        reason = next((name for name, holds in reasons if holds), None)
        if reason is not None:
            self._finish(reason)

    def out_of_context(self) -> None:
        """The cache has no room for another token."""
        self._finish("context")

    def _finish(self, reason: str) -> None:
        self.finish_reason = reason
        rest = self._stream.finish()
        if rest and self._ready:
            last = self._ready.pop()
            self._ready.append(Token(last.id, last.text + rest, last.logprob, last.top))
        elif rest:
            self._ready.append(Token(self.tokens[-1], rest))
        self.text += rest

    def _described(self, token: int, text: str, logits: Array | None) -> Token:
        count = self.options.sampling.logprobs
        if not count or logits is None:
            return Token(token, text)
        found = log_probabilities(logits)
        likeliest = np.argsort(-found, kind="stable")[:count]
        return Token(token, text, float(found[token]), {int(t): float(found[t]) for t in likeliest})
