"""Text in and text out: streams, stop strings, chat, grammars, shared prefixes, cancelling, wrong prompts."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import ingot
from ingot.cli.main import main
from ingot.errors import InputError
from ingot.generate import Batch, Generation, Options, Sampling
from ingot.generate.text import Stream, Text
from tests.generate.families import VOCABULARY

Compiled = Callable[[str], ingot.Model]


@pytest.fixture(scope="module")
def model(with_tokenizer: Path) -> ingot.Model:
    return ingot.load(with_tokenizer, threads=2)


@pytest.fixture(scope="module")
def text(model: ingot.Model) -> Text:
    definition = model.asset("tokenizer.json")
    assert definition is not None
    return Text(definition, None, model.asset("chat_template.jinja"))


@pytest.mark.parametrize("words", ["the cat sat", "äöü €", "€" * 5, "a€b", ""])
def test_a_stream_gives_the_text_whole_however_tokens_divide_it(words: str, text: Text) -> None:
    stream = Stream(text)
    pieces = [stream.add(token) for token in text.encode(words)]
    assert "".join(pieces) + stream.finish() == words
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize(("stop", "expected"), [("sat", "the cat "), ("t s", "the ca"), ("mat.", "the cat sat on the "), ("nowhere", None)])
def test_text_ends_before_a_stop_string(stop: str, expected: str | None, text: Text) -> None:
    stream = Stream(text, [stop])
    found = ""
    for token in text.encode("the cat sat on the mat."):
        found += stream.add(token)
        if stream.stopped:
            break
    found += stream.finish()
    assert found == ("the cat sat on the mat." if expected is None else expected)
    assert stream.stopped == (expected is not None)


def test_generated_tokens_carry_the_text(model: ingot.Model, text: Text) -> None:
    generation = model.generate("the cat", max_new_tokens=24)
    pieces = [token.text for token in generation]
    assert "".join(pieces) == generation.text == text.decode(generation.tokens)
    assert generation.stats.generated_tokens == len(generation.tokens) <= 24
    assert generation.stats.time_to_first_token > 0
    assert len(generation.stats.between_tokens) == len(generation.tokens) - 1


def test_a_conversation_becomes_the_template_s_prompt(model: ingot.Model, text: Text) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the mat?"}]
    assert text.chat(messages) == "system: be brief\nuser: the mat?\nassistant:"
    generation = model.generate(messages, max_new_tokens=4)
    assert isinstance(generation, Generation)
    assert generation.prompt == text.encode("system: be brief\nuser: the mat?\nassistant:")


def test_log_probabilities_are_reported(model: ingot.Model) -> None:
    token = next(iter(model.generate("the cat", max_new_tokens=1, logprobs=3)))
    assert len(token.top) == 3
    assert token.logprob == max(token.top.values()) <= 0


def test_prompt_lookup_gives_the_same_text(compiled: Compiled) -> None:
    model = compiled("gpt2")
    for prompt in ([1, 2, 3, 4, 1, 2, 3], [7] * 30):
        plain, drafted = (model.generate(prompt, max_new_tokens=60, lookup=n) for n in (0, 5))
        plain.wait()
        drafted.wait()
        assert drafted.tokens == plain.tokens
    with pytest.raises(InputError, match="temperature 0"):
        model.generate([1], lookup=2, temperature=1)


def test_a_prompt_that_starts_like_an_earlier_one_shares_its_caches(compiled: Compiled) -> None:
    model = compiled("llama")
    prefix = list(range(10, 40))
    alone = []
    for tail in ([1, 2], [3, 4, 5]):
        generation = model.generate(prefix + tail, max_new_tokens=10)
        generation.wait()
        alone.append(generation.tokens)
    batch = Batch(model, rows=2)
    texts = [batch.add(prefix + tail, Options(max_new_tokens=10)) for tail in ([1, 2], [3, 4, 5])]
    batch.run()
    assert [t.tokens for t in texts] == alone
    assert [t.stats.shared_tokens for t in texts] == [0, 30]


def test_more_texts_than_rows_wait_for_their_turn(compiled: Compiled) -> None:
    batch = Batch(compiled("llama"), rows=3)
    texts = [batch.add([n + 1, n + 2], Options(max_new_tokens=3 + n, sampling=Sampling(temperature=1, seed=n))) for n in range(8)]
    batch.run()
    assert [len(t.tokens) for t in texts] == [3 + n for n in range(8)]


def test_a_cancelled_text_ends_and_its_session_goes_on(compiled: Compiled) -> None:
    batch = Batch(compiled("llama"))
    first, second = (batch.add([5, 6, 7], Options(max_new_tokens=50)) for _ in range(2))
    next(iter(first))
    first.cancel()
    assert first.finish_reason == "cancelled"
    assert len(list(second)) == 50


def test_a_text_that_fills_the_context_ends(compiled: Compiled) -> None:
    model = compiled("llama")
    generation = model.generate([1, 2, 3, 4], max_new_tokens=100, context=10)
    generation.wait()
    assert generation.finish_reason == "context"
    assert len(generation.tokens) == 7  # the last one is never run
    batch = Batch(model, 2, context=10)
    texts = [batch.add([1, 2, 3, 4], Options(max_new_tokens=n)) for n in (100, 3, 100)]
    batch.run()
    assert [t.finish_reason for t in texts] == ["context", "length", "context"]


def test_wrong_prompts_are_explained_and_the_model_stays_usable(compiled: Compiled, model: ingot.Model) -> None:
    plain = compiled("llama")
    for prompt, message in (([], "the prompt is empty"), ([VOCABULARY], f"token {VOCABULARY}; the model's tokens are 0 to {VOCABULARY - 1}"),
                            ([-1], "token -1"), ([1] * 161, "161 tokens, more than the context of 160"), ("text", "has no tokenizer")):
        with pytest.raises(InputError, match=message):
            plain.generate(prompt)
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        plain.generate([1], max_new_tokens=0)
    with pytest.raises(InputError, match="unexpected keyword argument 'heat'"):
        plain.generate([1], heat=3)
    with pytest.raises(InputError, match="a stop string is empty"):
        model.generate("the", stop="")
    with pytest.raises(InputError, match="a context of 500 tokens cannot be; the artifact was compiled for 1 to 160"):
        plain.generate([1], context=500)
    assert len(list(plain.generate([1], max_new_tokens=2))) == 2


@pytest.mark.skipif(importlib.util.find_spec("llguidance") is None, reason="llguidance is not installed")
def test_a_grammar_is_followed(model: ingot.Model) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 99}}, "required": ["a"], "additionalProperties": False}
    for seed in range(3):
        generation = model.generate("the cat", max_new_tokens=60, json_schema=schema, temperature=1, seed=seed)
        assert isinstance(json.loads(generation.wait())["a"], int)
    assert model.generate("the", max_new_tokens=20, regex="(cat|mat)", temperature=1, seed=1).wait() in ("cat", "mat")
    with pytest.raises(InputError, match="grammar"):
        model.generate("the", regex="(")


def test_the_command_streams_text(with_tokenizer: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["generate", str(with_tokenizer), "--prompt", "the cat", "--max-new-tokens", "6", "--json", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr()
    written = json.loads((tmp_path / "out.json").read_text())
    assert shown.out == written["text"] + "\n"
    assert "tokens/s" in shown.err
    assert main(["generate", str(with_tokenizer)]) == 1
    assert "give one of --prompt, --tokens and --audio" in capsys.readouterr().err
