"""What ``Model.generate`` does: a language model goes on with a text, a translator reads a source, Whisper listens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ingot.errors import InputError
from ingot.generate.batch import Batch
from ingot.generate.beam import Hypothesis, Search
from ingot.generate.generation import Options, Token
from ingot.generate.sampling import Sampling
from ingot.generate.speech import Segment, Speech, Transcriber, Transcription
from ingot.generate.stats import GenerationStats
from ingot.generate.translation import Translator

if TYPE_CHECKING:
    from ingot.runtime.model import Model


class Made(Protocol):
    """What is being generated, whatever the kind of model: iterate over it, or :meth:`wait` for all of it.

    Attributes:
        stats: How long the tokens took.
        finish_reason: Why it ended; None while it goes on.
    """

    stats: GenerationStats
    finish_reason: str | None

    @property
    def tokens(self) -> Sequence[int]:
        """The ids that were generated, of beam search those of the best text."""

    @property
    def text(self) -> str:
        """What they say ("" without a tokenizer)."""

    @property
    def sequences(self) -> Sequence[Hypothesis]:
        """Of beam search, the texts with their scores, best first."""

    @property
    def segments(self) -> Sequence[Segment]:
        """Of speech with timestamps, what is said when."""

    @property
    def done(self) -> bool:
        """Whether it has ended."""

    def __iter__(self) -> Iterator[Token]: ...

    def wait(self) -> str:
        """Generates all of it; returns the text."""

    def cancel(self) -> None:
        """Ends it where it is."""


#: How many tokens a language model generates unless somebody says otherwise.
_USUAL = 128


def generate(model: Model, prompt: Any, max_new_tokens: int | None, stop: str | Sequence[str], lookup: int, context: int | None,
             grammar: Mapping[str, Any], more: Mapping[str, Any]) -> Made:
    """Starts a text.

    Args:
        model: Any kind of artifact that generates.
        prompt: What its kind takes.
        max_new_tokens: The most tokens to generate; None: 128, or what the settings of an encoder-decoder model say.
        stop: Strings that the text ends before.
        lookup: Tokens to draft at a time.
        context: The most tokens, prompt included.
        grammar: ``json_schema``, ``grammar`` or ``regex``.
        more: Fields of :class:`Sampling`, and of encoder-decoder models of :class:`Search` and :class:`Speech`.

    Raises:
        InputError: The model generates nothing, or the prompt or an option does not fit it.
    """
    entry = model.manifest.get("generation") or {}
    kind = entry.get("kind")
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    known = {"translation": (Sampling, Search), "speech": (Sampling, Search, Speech)}.get(str(kind), (Sampling,))
    names = {field.name for cls in known for field in fields(cls)}
    unknown = next((name for name in more if name not in names), None)
    if unknown is not None:
        raise InputError(f"generate: got an unexpected keyword argument '{unknown}'; of this model they are also {', '.join(sorted(names))}")
    # Settings of the artifact hold unless somebody says otherwise.
    given = {**{name: value for name, value in entry.get("settings", {}).items() if name in names}, **more}
    sampling = Sampling(**_of(Sampling, given))
    if kind not in ("translation", "speech"):
        batch = Batch(model, 1, context)
        options = Options(_USUAL if max_new_tokens is None else max_new_tokens, sampling, stops, batch.stop_tokens, lookup)
        return batch.add(prompt, options, **grammar)
    if (sampling.temperature or stops) and "num_beams" not in more:
        given |= {"num_beams": 1, "num_return_sequences": 1}
    search = Search(**_of(Search, given))
    if any(grammar.values()):
        raise InputError("json_schema, grammar and regex are for language models, not for encoder-decoder models")
    if kind == "translation":
        translator = Translator(model, search.num_beams, context)
        options = _options(translator, max_new_tokens, sampling, stops, lookup)
        return translator.add(prompt, options) if search.num_beams == 1 else translator.search(prompt, search, options)
    speech = Speech(**_of(Speech, given))
    if np.size(prompt) > entry["speech"]["rate"] * entry["speech"]["seconds"] and entry["speech"]["no_timestamps"] is not None:
        speech = Speech(speech.language, speech.task, True)
    transcriber = Transcriber(model, search.num_beams, context, speech)
    return Transcription(transcriber, prompt, _options(transcriber, max_new_tokens, sampling, stops, lookup), search)


def _options(translator: Translator, max_new_tokens: int | None, sampling: Sampling, stops: tuple[str, ...], lookup: int) -> Options:
    return Options(translator.longest() if max_new_tokens is None else max_new_tokens, sampling, stops, translator.stop_tokens, lookup)


def _of(cls: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in given.items() if name in names}
