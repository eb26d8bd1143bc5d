"""Between text and tokens: the tokenizer in the artifact, text that arrives token by token, stop strings, chat templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ingot.errors import IngotError, InputError

_UNFINISHED = "\ufffd"  # what decoders give for bytes that are no whole character yet


class Text:
    """The tokenizer that travels in an artifact (the package ``tokenizers``).

    Raises:
        IngotError: The package is missing.
    """

    def __init__(self, tokenizer: bytes, config: bytes | None, template: bytes | None) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise IngotError("text needs the package 'tokenizers': pip install tokenizers; or give token ids") from error
        self.tokenizer = tokenizers.Tokenizer.from_str(tokenizer.decode())
        self.config: dict[str, Any] = json.loads(config) if config else {}
        given = self.config.get("chat_template")
        self.template = template.decode() if template else given if isinstance(given, str) else None

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The token ids of a text, with the special tokens that the model expects around it."""
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt that the model's template makes of a conversation.

        Raises:
            InputError: The model has no template, or it refuses the messages.
            IngotError: The package ``jinja2`` is missing.
        """
        if self.template is None:
            raise InputError("the model has no chat template: give the prompt as text")
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise IngotError("chat templates need the package 'jinja2': pip install jinja2") from error

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        special = {name: _content(self.config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        try:
            return environment.from_string(self.template).render(messages=list(messages), add_generation_prompt=True, **special)
        except TemplateError as error:
            raise InputError(f"the chat template refuses these messages: {error}") from error


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token or "")


class Stream:
    """Text that arrives token by token. A character of several tokens comes when it is whole; what may become a stop string is held back."""

    def __init__(self, text: Text | None, stop: Sequence[str] = ()) -> None:
        if stop and text is None:
            raise InputError("stop strings need the model's tokenizer, which the artifact does not have")
        if any(not s for s in stop):
            raise InputError("a stop string is empty")
        self.text = text
        self.stop = tuple(stop)
        self.stopped = False
        self._tokens: list[int] = []
        self._start = 0  # what is decoded from, for the sake of decoders that look at the token before
        self._read = 0
        self._held = ""

    def add(self, token: int) -> str:
        """The text that a token makes known."""
        if self.text is None:
            return ""
        self._tokens.append(token)
        before = self.text.decode(self._tokens[self._start:self._read])
        whole = self.text.decode(self._tokens[self._start:])
        if whole.endswith(_UNFINISHED) or len(whole) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return self._released(self._held + whole[len(before):])

    def finish(self) -> str:
        """What was held back."""
        if self.text is None or self.stopped:
            return ""
        before = self.text.decode(self._tokens[self._start:self._read])
        rest, self._held = self._held + self.text.decode(self._tokens[self._start:])[len(before):], ""
        self._start = self._read = len(self._tokens)
        return rest

    def _released(self, text: str) -> str:
        found = [at for at in (text.find(s) for s in self.stop) if at >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[:min(found)]
        held = max((n for s in self.stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        self._held = text[len(text) - held:]
        return text[:len(text) - held]
