"""Speech to text with Whisper: sound in, text with timestamps out, half a minute at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.errors import InputError
from ingot.generate.beam import Hypothesis, Search
from ingot.generate.generation import Options, Token
from ingot.generate.rules import Timestamps
from ingot.generate.stats import GenerationStats
from ingot.generate.text import Stream, Text
from ingot.generate.translation import BeamTranslation, Translation, Translator

if TYPE_CHECKING:
    from ingot.runtime.model import Model

Array = np.ndarray[Any, Any]

_STEP = 0.02  # seconds from one timestamp to the next


@dataclass(frozen=True)
class Speech:
    """What is asked of a transcription.

    Attributes:
        language: As the model's vocabulary has it, such as ``en``; None: what the model hears.
        task: ``transcribe``, or ``translate`` into English.
        timestamps: Say when each segment begins and ends. Sound of more than one window is always cut where a segment ends.
    """

    language: str | None = None
    task: str | None = None
    timestamps: bool = False


@dataclass(frozen=True)
class Segment:
    """What is said from ``start`` to ``end``, in seconds."""

    start: float
    end: float
    tokens: tuple[int, ...]
    text: str


class Transcriber(Translator):
    """Writes down what is said in sound of 16,000 samples a second: several at once, or one by beam search.

    Args:
        model: An artifact of Whisper (``ingot compile DIRECTORY``).
        rows: How many windows, or beams of one, run at once.
        context: The most tokens of one window's text; by default the model's bound.
        speech: What is asked.

    Raises:
        InputError: The model is not one of speech, or has no such language or task.
    """

    kind = "speech"

    def __init__(self, model: Model, rows: int = 1, context: int | None = None, speech: Speech | None = None) -> None:
        super().__init__(model, rows, context)
        self.speech = speech or Speech()
        self._source_bytes //= self._steps(np.zeros(0))  # these caches have a fixed number of steps
        self._settings: dict[str, Any] = self._entry["speech"]
        self.rate: int = self._settings["rate"]
        self.window: int = self.rate * self._settings["seconds"]
        self._languages = {str(token).strip("<|>"): int(id) for token, id in self._settings["languages"].items()}
        for what, given, known in (("language", self.speech.language, self._languages), ("task", self.speech.task, self._settings["tasks"])):
            if given is not None and given not in known:
                raise InputError(f"the model has no {what} '{given}'; it has {', '.join(known) or 'none that can be chosen'}")
        if self.speech.timestamps and self._settings["no_timestamps"] is None:
            raise InputError("the model has no timestamps")

    @property
    def first_timestamp(self) -> int:
        """The token of 0 s; beyond the vocabulary if there are no timestamps."""
        without = self._settings["no_timestamps"]
        return self.vocabulary if without is None else int(without) + 1

    @property
    def _listens(self) -> bool:
        """Whether the language is what the model hears."""
        forced = self._settings["forced"]
        return bool(self._languages) and self.speech.language is None and (not forced or forced[0][1] is None)

    def start(self) -> list[int]:
        """The tokens that a text starts with; in place of a language that is not known yet, the first of all languages."""
        tokens = list(self._entry["start_tokens"])
        if self.speech.language is not None:
            tokens.append(self._languages[self.speech.language])
        elif self._listens:
            tokens.append(min(self._languages.values()))
        tokens += [int(token) for _, token in self._settings["forced"] if self.speech.language is None and token is not None]
        tasks = self._settings["tasks"]
        if self.speech.task is not None:
            tokens = [t for t in tokens if t not in tasks.values()] + [tasks[self.speech.task]]
        elif self.speech.language is not None and tasks and not set(tokens) & set(tasks.values()):
            tokens.append(tasks["transcribe"])
        without = self._settings["no_timestamps"]
        tokens = [t for t in tokens if t != without]
        return tokens if self.speech.timestamps or without is None else [*tokens, int(without)]

    def source(self, prompt: Any) -> Array:
        """What is encoded: float32 samples of one window.

        Raises:
            InputError: It is no sound of one channel, empty, not finite, or longer than a window.
        """
        audio = np.asarray(prompt)
        if audio.ndim != 1 or audio.dtype.kind != "f":
            raise InputError(f"sound is a one-dimensional array of float32 samples, not {audio.dtype}{list(audio.shape)}; "
                             "16-bit samples are divided by 32768")
        if not len(audio):
            raise InputError("the sound is empty: it has no samples")
        if len(audio) > self.window:
            raise InputError(f"the sound has {len(audio)} samples, more than the {self.window} of a window; Model.generate goes from window to "
                             "window")
        if not np.isfinite(audio).all():
            raise InputError("the sound has samples that are not finite")
        return np.ascontiguousarray(audio, np.float32)

    def encode(self, row: int, source: Array, start: Sequence[int]) -> Array:
        """As of a translator; where the language is not known, it is the likeliest after the first token."""
        begin = len(self._entry["start_tokens"])
        if not self._listens:
            return super().encode(row, source, start)
        logits = super().encode(row, source, start[:begin])
        ids = sorted(self._languages.values())
        rest = [ids[int(np.argmax(logits[ids]))], *start[begin + 1:]]
        self._held[row] += rest
        return np.asarray(self._run([rest], [len(rest)], [[len(rest) - 1]])[0, 0])

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without timestamps and special tokens."""
        return super().decode([t for t in tokens if t < self.first_timestamp])

    def stream(self, stop: Sequence[str]) -> Stream:
        """Text that comes token by token, without timestamps."""
        return _Words(self.text, stop, self.first_timestamp)

    def _timestamps(self) -> Timestamps | None:
        if not self.speech.timestamps:
            return None
        return Timestamps(self.first_timestamp, self.stop_tokens[0], int(self._settings["no_timestamps"]), self._settings["most_initial_timestamp"])

    def _steps(self, source: Array) -> int:
        return int(self._entry["source_context"])

    def _encoder_inputs(self, source: Array) -> dict[str, Array]:
        return {"audio": source[None]}

    def _source(self, rows: int) -> dict[str, Array]:
        return {"audio": np.zeros((0, 0), np.float32)}


class _Words(Stream):
    """Text without timestamps, which a tokenizer may write like words."""

    def __init__(self, text: Text | None, stop: Sequence[str], first_timestamp: int) -> None:
        super().__init__(text, stop)
        self._first = first_timestamp

    def add(self, token: int) -> str:
        """The text that a token makes known."""
        return super().add(token) if token < self._first else ""


class Transcription:
    """What is said in sound of any length; tokens come as it is iterated over.

    Attributes:
        tokens: The ids that were generated, of all windows.
        text: What they say, without timestamps.
        segments: With timestamps, what is said when.
        sequences: Of beam search in a single window, the texts with their scores.
        stats: How long the tokens took, of all windows.
        finish_reason: ``stop token``, ``length``, ``context`` or ``cancelled``; None while it goes on.
    """

    def __init__(self, transcriber: Transcriber, audio: Any, options: Options, search: Search) -> None:
        samples = np.asarray(audio)
        transcriber.source(samples[:transcriber.window])
        self.tokens: list[int] = []
        self.segments: list[Segment] = []
        self.sequences: Sequence[Hypothesis] = ()
        self.stats = GenerationStats()
        self.finish_reason: str | None = None
        self.text = ""
        self._transcriber = transcriber
        self._audio = samples
        self._options = options
        self._search = search
        self._at = 0
        self._current: Translation | BeamTranslation | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.finish_reason is not None

    def __iter__(self) -> Iterator[Token]:
        while self.finish_reason is None:
            window = self._audio[self._at:self._at + self._transcriber.window]
            self._current = self._transcriber.add(window, self._options) if self._search.num_beams == 1 else \
                self._transcriber.search(window, self._search, self._options)
            for token in self._current:
                yield token
                if self.done:  # cancelled
                    return
            self._finish_window(self._current, window)

    def wait(self) -> str:
        """Generates all of it; returns the text ("" without a tokenizer)."""
        for _ in self:
            pass
        return self.text

    def cancel(self) -> None:
        """Ends it where it is."""
        if self.finish_reason is None:
            self.finish_reason = "cancelled"
            if self._current is not None:
                self._current.cancel()

    def _finish_window(self, made: Translation | BeamTranslation, window: Array) -> None:
        rate, first = self._transcriber.rate, self._transcriber.first_timestamp
        self.tokens += made.tokens
        self.text += made.text
        self.sequences = made.sequences if len(self._audio) <= self._transcriber.window else ()
        self._add_stats(made.stats)
        begin = self._at / rate
        moved = len(window)
        if self._transcriber.speech.timestamps:
            tokens = [t for t in made.tokens if t not in self._transcriber.stop_tokens]
            found, heard = segments(tokens, first, len(window) / rate)
            self.segments += [Segment(begin + a, begin + b, part, self._transcriber.decode(part)) for a, b, part in found]
            moved = min(len(window), max(round(_STEP * rate), round(heard * rate)))
        self._at += moved
        if self._at >= len(self._audio):
            self.finish_reason = made.finish_reason

    def _add_stats(self, stats: GenerationStats) -> None:
        self.stats.prompt_tokens += stats.prompt_tokens
        self.stats.generated_tokens += stats.generated_tokens
        if not self.stats.time_to_first_token:
            self.stats.time_to_first_token = stats.time_to_first_token
        else:
            self.stats.between_tokens.append(stats.time_to_first_token)  # the next window's encoder is a wait like any other
        self.stats.between_tokens += stats.between_tokens
        self.stats.cache_bytes = max(self.stats.cache_bytes, stats.cache_bytes)


def segments(tokens: Sequence[int], first: int, seconds: float) -> tuple[list[tuple[float, float, tuple[int, ...]]], float]:
    """The segments of a window's tokens, as (start, end, tokens) in seconds, and after how many seconds the next window begins.

    Args:
        tokens: With timestamps, which are ``first`` and those behind it; they stand in pairs where one segment ends and the next begins.
        first: The token of 0 s.
        seconds: How long the window is.
    """
    marks = [t >= first for t in tokens]
    cuts = [i for i in range(1, len(tokens)) if marks[i] and marks[i - 1]]
    found = []
    begin = 0
    # A segment that ends the text without a pair behind it ends with the window's speech.
    alone = len(tokens) >= 2 and marks[-1] and not marks[-2]
    for cut in [*cuts, *([len(tokens)] if alone or not cuts else [])]:
        part = tuple(tokens[begin:cut])
        times = [(t - first) * _STEP for t in part if t >= first]
        start, end = (times[0], times[-1]) if len(times) > 1 else (times[0] if times else 0.0, seconds)
        if part:
            found.append((min(start, seconds), min(end, seconds), part))
        begin = cut
    if not cuts or alone:
        return found, seconds
    return found, (tokens[cuts[-1] - 1] - first) * _STEP
