"""Text from encoder-decoder models: a source is encoded once, and its text decoded token by token or by beam search."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.errors import InputError
from ingot.generate.batch import Batch, step_bytes
from ingot.generate.beam import BeamSearch, Hypothesis, Search, rows_of
from ingot.generate.generation import Generation, Options, Token
from ingot.generate.rules import Rules, Timestamps
from ingot.generate.sampling import Sampling, log_probabilities
from ingot.generate.stats import GenerationStats
from ingot.generate.text import Stream

if TYPE_CHECKING:
    from ingot.generate.speech import Segment
    from ingot.runtime.model import Model

Array = np.ndarray[Any, Any]


class Translation(Generation):
    """The text that is made of a source, token by token."""

    def __init__(self, batch: Translator, source: Array, start: Sequence[int], rules: Rules, options: Options) -> None:
        super().__init__(batch, start, options, batch.stream(options.stop), None, batch.vocabulary)
        self.source = source
        self.rules = rules
        self.stats.prompt_tokens = len(source)

    def choose(self, logits: Array) -> int:
        """The next token for logits [vocabulary]."""
        return super().choose(self.rules.apply([*self.prompt, *self.tokens], logits))


class BeamTranslation:
    """The texts that beam search finds for a source: :meth:`wait` for them, or iterate for the tokens of the best one when it is found.

    Attributes:
        sequences: The texts, best first, with their scores.
        tokens: The ids of the best one.
        text: What they say ("" without a tokenizer).
        stats: How long the steps took.
        finish_reason: ``stop token``, ``length`` or ``cancelled``; None while it goes on.
    """

    segments: Sequence[Segment] = ()

    def __init__(self, translator: Translator, source: Array, start: Sequence[int], rules: Rules, options: Options, search: Search) -> None:
        self.source = source
        self.start = list(start)
        self.rules = rules
        self.sequences: list[Hypothesis] = []
        self.stats = GenerationStats(prompt_tokens=len(source))
        self.finish_reason: str | None = None
        self.search = BeamSearch(search, start, options.stop_tokens, rules.length)
        self._stop_tokens = options.stop_tokens
        self._translator = translator
        self._rows: list[int] = []
        self._last = 0.0

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.finish_reason is not None

    @property
    def tokens(self) -> list[int]:
        """The ids of the best text."""
        return list(self.sequences[0].tokens) if self.sequences else []

    @property
    def text(self) -> str:
        """The best text."""
        return self.sequences[0].text if self.sequences else ""

    def __iter__(self) -> Iterator[Token]:
        self.wait()
        stream = self._translator.stream(())
        pieces = ["" if t in self._stop_tokens else stream.add(t) for t in self.tokens]
        if pieces:
            pieces[-1] += stream.finish()
        yield from (Token(t, piece) for t, piece in zip(self.tokens, pieces, strict=True))

    def wait(self) -> str:
        """Searches to the end; returns the best text ("" without a tokenizer)."""
        while not self.done:
            self.advance()
        return self.text

    def cancel(self) -> None:
        """Ends it without a result."""
        if not self.done:
            self.finish_reason = "cancelled"
            self._translator.abandon()

    def advance(self) -> None:
        """Goes on by a token of each beam."""
        beams = self.search.beams
        try:
            if not self._rows:
                self._last = time.perf_counter()
                logits = np.repeat(self._translator.encode(0, self.source, self.start)[None], len(beams), axis=0)
                self._rows = [0] * len(beams)
            else:
                logits = self._translator.step([b.tokens[-1] for b in beams], self._rows)
        except BaseException:
            self._translator.abandon()
            self._rows = []
            raise
        scores = log_probabilities(logits).astype(np.float32)
        self.search.advance(np.stack([self.rules.apply(b.tokens, s) for b, s in zip(beams, scores, strict=True)]))
        if not self.search.done:
            self._rows, copies = rows_of(self.search.beams, self._rows)
            self._translator.copy_rows(copies)
        self._timed()
        if self.search.done:
            self.sequences = [replace(h, text=self._translator.decode([t for t in h.tokens if t not in self._stop_tokens]))
                              for h in self.search.results()]
            self.finish_reason = "stop token" if self.tokens and self.tokens[-1] in self._stop_tokens else "length"
            self.stats.generated_tokens = len(self.tokens)
            self._translator.abandon()

    def _timed(self) -> None:
        now = time.perf_counter()
        if self.stats.time_to_first_token:
            self.stats.between_tokens.append(now - self._last)
        else:
            self.stats.time_to_first_token = now - self._last
        self._last = now
        self.stats.cache_bytes = max(self.stats.cache_bytes, self._translator.bytes_of(
            len(set(self._rows)), len(self.search.beams[0].tokens), self.source))


class Translator(Batch):
    """Generates texts with an encoder-decoder model: several at once, or one by beam search.

    Args:
        model: An artifact of a translator (``ingot compile DIRECTORY``).
        rows: How many texts, or beams of one text, run at once.
        context: The most tokens of one text; by default the model's bound.

    Raises:
        InputError: The model is no translator, or the context is beyond its bound.
    """

    kind = "translation"

    def __init__(self, model: Model, rows: int = 1, context: int | None = None) -> None:
        super().__init__(model, rows, context)
        entry: dict[str, Any] = model.manifest["generation"]
        self.settings: dict[str, Any] = entry["settings"]
        self._entry = entry
        self._source_bytes = step_bytes(model) - step_bytes(model, "context")
        self._step_bytes = step_bytes(model, "context")

    # ---- Public ---------------------------------------------------------------------------------------------

    def add(self, prompt: Any, options: Options | None = None, *, json_schema: Mapping[str, Any] | str | None = None, grammar: str | None = None,
            regex: str | None = None) -> Translation:
        """A source whose text is to be generated. It starts when a row is free.

        Args:
            prompt: A text, or its token ids with those that end it.
            options: What is asked of the text. By default the artifact's settings.
            json_schema: Not for these models.
            grammar: Nor this.
            regex: Nor this.

        Raises:
            InputError: The source is empty, too long, or has tokens that do not exist; or an option does not go with these models.
        """
        options = options or self.usual()
        source = self.source(prompt)
        self._check(options, json_schema or grammar or regex)
        start = self.start()
        # The penalty of repetition is the sampler's.
        rules = Rules.of(self.settings, len(start), self._length(start, options), self._timestamps(), penalty=False)
        made = Translation(self, source, start, rules, options)
        self._waiting.append(made)
        return made

    def search(self, prompt: Any, search: Search, options: Options | None = None) -> BeamTranslation:
        """Texts for a source by beam search, for which the translator must have as many rows as there are beams, and nothing else to do.

        Raises:
            InputError: As of :meth:`add`; there are too few rows, or others go on.
        """
        options = options or self.usual()
        source = self.source(prompt)
        self._check(options, None)
        if options.sampling.temperature or options.stop:
            raise InputError("beam search takes the likeliest texts: temperature and stop strings do not go with it")
        if len(self._active) < search.num_beams:
            raise InputError(f"{search.num_beams} beams need as many rows, but the translator has {len(self._active)}")
        if self._waiting or any(self._active):
            raise InputError("beam search takes all rows, but other texts go on in some")
        start = self.start()
        settings = {**self.settings, "repetition_penalty": options.sampling.repetition_penalty}
        rules = Rules.of(settings, len(start), self._length(start, options), self._timestamps())
        return BeamTranslation(self, source, start, rules, options, search)

    def usual(self) -> Options:
        """What is asked of a text unless somebody says otherwise: what the artifact's settings say."""
        return Options(self.longest(), Sampling(repetition_penalty=self.settings["repetition_penalty"]), stop_tokens=self.stop_tokens)

    def longest(self) -> int:
        """How many tokens are generated unless somebody says otherwise: what the settings say, or as many as there is room for."""
        start, most = len(self.start()), self.settings
        wanted = most["max_new_tokens"] or (most["max_length"] - start if most["max_length"] else self.context)
        return max(1, min(wanted, self.context - start))

    def start(self) -> list[int]:
        """The tokens that a text starts with."""
        return list(self._entry["start_tokens"])

    def source(self, prompt: Any) -> Array:
        """What is encoded: token ids.

        Raises:
            InputError: It is empty, too long, or has tokens that do not exist.
        """
        if isinstance(prompt, str):
            if self.text is None:
                raise InputError(f"{self.model.path}: the artifact has no tokenizer, so the source has to be token ids")
            tokens = self.text.encode(prompt)
        else:
            tokens = [int(t) for t in prompt]
        most, vocabulary = self._entry["source_context"], self._entry["source_vocabulary"]
        if not tokens:
            raise InputError("the source is empty: it has no tokens")
        outside = next((t for t in tokens if not 0 <= t < vocabulary), None)
        if outside is not None:
            raise InputError(f"the source has token {outside}; the model's tokens are 0 to {vocabulary - 1}")
        if len(tokens) > most:
            raise InputError(f"the source has {len(tokens)} tokens, more than the {most} that the artifact was compiled for (--context)")
        return np.array(tokens, np.int64)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without special tokens; "" without a tokenizer."""
        return "" if self.text is None else self.text.decode(tokens)

    def stream(self, stop: Sequence[str]) -> Stream:
        """Text that comes token by token, and ends before any of these strings."""
        return Stream(self.text, stop)

    # ---- For texts ------------------------------------------------------------------------------------------

    def encode(self, row: int, source: Array, start: Sequence[int]) -> Array:
        """Forgets a row, encodes a source in it, and runs the tokens that its text starts with. Logits [vocabulary] after the last of them."""
        self._forget(row)
        self.session.select_rows(row, 1)
        logits = self._run_with(self._encoder_inputs(source), [list(start)], [len(start)], [[len(start) - 1]])[0, 0]
        self._held[row] = list(start)
        return np.asarray(logits)

    def step(self, tokens: Sequence[int], rows: Sequence[int]) -> Array:
        """Logits [texts, vocabulary] after one more token of each of several texts, which are in these rows from 0 on."""
        self.session.select_rows(0, len(rows))
        inputs = [[0]] * len(rows)
        for token, row in zip(tokens, rows, strict=True):
            inputs[row] = [token]
            self._held[row].append(token)
        return np.asarray(self._run(inputs, [1] * len(rows), [[0]] * len(rows))[list(rows), 0])

    def copy_rows(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copies what rows hold to others."""
        self.session.select_rows()
        for source, target in copies:
            self.session.copy_row(source, target)
            self._held[target] = list(self._held[source])

    def abandon(self) -> None:
        """Forgets all rows."""
        self.session.select_rows()
        for row in range(len(self._held)):
            self._forget(row)

    def bytes_of(self, rows: int, tokens: int, source: Array) -> int:
        """What so many rows of a source and as many tokens take in caches."""
        return rows * (tokens * self._step_bytes + self._steps(source) * self._source_bytes)

    # ---- What differs from language models -------------------------------------------------------------------

    def _check(self, options: Options, grammar: Any) -> None:
        if options.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {options.max_new_tokens}; it is at least 1")
        if options.lookup or grammar:
            raise InputError("lookup, json_schema, grammar and regex are for language models, not for encoder-decoder models")

    def _length(self, start: Sequence[int], options: Options) -> int:
        return min(len(start) + options.max_new_tokens, self.context)

    def _timestamps(self) -> Timestamps | None:
        return None

    def _steps(self, source: Array) -> int:
        """How many steps a source has when it is encoded."""
        return len(source)

    def _encoder_inputs(self, source: Array) -> dict[str, Array]:
        return {"source_ids": source[None], "source_counts": np.array([len(source)])}

    def _source(self, rows: int) -> dict[str, Array]:
        return {"source_ids": np.zeros((rows, 0), np.int64), "source_counts": np.zeros(rows, np.int64)}

    def _run_with(self, source: Mapping[str, Array], tokens: list[list[int]], counts: list[int], at: list[list[int]]) -> Array:
        return self.session.run({**source, "input_ids": np.array(tokens, np.int64), "token_counts": np.array(counts, np.int64),
                                 "logits_at": np.array(at, np.int64)})["logits"]

    def _start(self, generation: Generation) -> None:
        assert isinstance(generation, Translation)
        row = self._active.index(None)
        self._active[row] = generation
        generation.started(0)
        try:
            logits = self.encode(row, generation.source, generation.prompt)
        except BaseException:
            self._active[row] = None
            self._forget(row)
            raise
        self._accept(row, generation.choose(logits), logits)

    def _cut(self, row: int, length: int) -> None:
        # What a row has encoded cannot be kept without its text: a row that is idle starts anew.
        if length < len(self._held[row]):
            self._forget(row)

    def _cache_bytes(self, row: int) -> int:
        active = self._active[row]
        assert isinstance(active, Translation)
        return self.bytes_of(1, len(self._held[row]), active.source)
