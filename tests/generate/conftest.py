"""Compiled language models that several tests use, each made once for all processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

import ingot
from tests.cache import made
from tests.generate import seq2seq_families
from tests.generate.families import save

_SOURCES = ("tests/generate/families.py", "tests/generate/seq2seq_families.py", "tests/generate/conftest.py")


def _load(kind: str, name: str, save: Callable[[str, Path], Path]) -> ingot.Model:
    folder = made(kind, name, _SOURCES, lambda folder: ingot.compile(save(name, folder / "model"), folder / "model.ingot"))
    return ingot.load(folder / "model.ingot", threads=2)


@pytest.fixture(scope="session")
def compiled() -> Callable[[str], ingot.Model]:
    """The model of a family, compiled once."""
    return lru_cache(lambda name: _load("decoder", name, save))


@pytest.fixture(scope="session")
def compiled_seq2seq() -> Callable[[str], ingot.Model]:
    """The encoder-decoder model of a family, compiled once."""
    return lru_cache(lambda name: _load("seq2seq", name, seq2seq_families.save))


@pytest.fixture(scope="session")
def with_tokenizer() -> Path:
    """A small Llama with a byte-level tokenizer and a chat template, as an artifact."""
    return made("text", "llama", _SOURCES, _with_tokenizer) / "model.ingot"


def _with_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(["the cat sat on the mat. \u00e4\u00f6\u00fc \u20ac {\"a\": 1}"] * 3,
                                  trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    directory = save("llama", folder / "model")
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                                                   "{% if add_generation_prompt %}assistant:{% endif %}")
    (directory / "generation_config.json").write_text('{"eos_token_id": 0}')
    ingot.compile(directory, folder / "model.ingot")
