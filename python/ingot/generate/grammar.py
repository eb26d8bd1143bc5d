"""Text that has to follow a JSON schema, a regular expression or a grammar: the package ``llguidance`` says which tokens can come next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ingot.errors import IngotError, InputError

Array = np.ndarray[Any, Any]


class Grammar:
    """One text's place in a grammar.

    Raises:
        InputError: The grammar is malformed.
        IngotError: The package is missing.
    """

    def __init__(self, definition: str, tokenizer: bytes, vocabulary: int, stop_tokens: list[int]) -> None:
        try:
            from llguidance import LLMatcher, LLTokenizer
        except ImportError as error:
            raise IngotError("grammars need the package 'llguidance': pip install llguidance") from error
        tokens = LLTokenizer(tokenizer.decode(), n_vocab=vocabulary, eos_token=stop_tokens[0] if stop_tokens else None)
        self._matcher = LLMatcher(tokens, definition)
        if self._matcher.get_error():
            raise InputError(f"the grammar cannot be used: {self._matcher.get_error()}")
        self._vocabulary = vocabulary

    @staticmethod
    def definition(schema: Mapping[str, Any] | str | None, grammar: str | None, regex: str | None) -> str | None:
        """The definition of whichever is given.

        Raises:
            InputError: Several are given, or the schema is not JSON.
        """
        given = sum(x is not None for x in (schema, grammar, regex))
        if given > 1:
            raise InputError("give one of json_schema, grammar and regex")
        if not given:
            return None
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise IngotError("grammars need the package 'llguidance': pip install llguidance") from error
        if schema is not None:
            try:
                return str(LLMatcher.grammar_from_json_schema(schema if isinstance(schema, str) else json.dumps(schema)))
            except ValueError as error:
                raise InputError(f"the JSON schema cannot be used: {error}") from error
        return str(LLMatcher.grammar_from_lark(grammar) if grammar is not None else LLMatcher.grammar_from_regex(regex or ""))

    def allowed(self) -> Array:
        """[vocabulary] bool: the tokens that can come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, bitorder="little")[:self._vocabulary].astype(bool)

    def add(self, token: int) -> bool:
        """Goes on by a token; whether the text is complete."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())
