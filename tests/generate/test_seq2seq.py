"""Encoder-decoder models against transformers: logits, and text token by token and by beam search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ingot
from ingot.errors import CompileError, InputError, UnsupportedError
from ingot.export.seq2seq.graph import buckets
from ingot.generate import Options, Search, Translator
from tests.generate.seq2seq_families import CONTEXT, END, FAMILIES, PAD, STOPS, TRANSLATORS, VOCABULARY, build, logits, save, sources

Compiled = Callable[[str], ingot.Model]
#: The tests of one family go to one process, which loads it once.
EACH = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in TRANSLATORS])
NOTHING: dict[str, Any] = {"source_ids": np.zeros((2, 0), np.int64), "source_counts": np.zeros(2, np.int64)}


def reference(model: Any, source: list[int], count: int, **options: Any) -> Any:
    """What transformers generates. Without its cache: it cannot hold more layers of a decoder than of an encoder."""
    with torch.no_grad():
        return model.generate(torch.tensor([source]), max_new_tokens=count, do_sample=False, use_cache=False, return_dict_in_generate=True,
                              output_scores=True, **options)


def rows() -> list[list[int]]:
    ids, counts = sources(4)
    return [[int(t) for t in row[:count]] for row, count in zip(ids, counts, strict=True)]


@EACH
def test_logits_of_a_text_and_of_single_tokens_are_those_of_transformers(name: str, compiled_seq2seq: Compiled) -> None:
    model = compiled_seq2seq(name)
    source, counts = sources()
    ids = np.random.default_rng(0).integers(0, 200, (2, 9))
    expected = logits(build(name), ids, source, counts)
    bound = 1e-4 * np.abs(expected).max()
    with model.session() as session:
        found = session.run(source_ids=source, source_counts=counts, input_ids=ids[:, :4].copy(), token_counts=np.array([4, 4]),
                            logits_at=np.array([[0, 3]] * 2))["logits"]
        np.testing.assert_allclose(found, expected[:, [0, 3]], atol=bound)
        for t in range(4, 9):
            found = session.run(**NOTHING, input_ids=ids[:, t:t + 1].copy(), token_counts=np.array([1, 1]), logits_at=np.zeros((2, 1), np.int64))
            np.testing.assert_allclose(found["logits"][:, 0], expected[:, t], atol=bound)
        assert session.state("length").tolist() == [9, 9]
        assert session.state("source_length").tolist() == counts.tolist()


@pytest.mark.parametrize("name", ["t5", "marian"])
def test_a_source_can_be_encoded_by_itself(name: str, compiled_seq2seq: Compiled) -> None:
    model = compiled_seq2seq(name)
    source, counts = sources()
    ids, at = np.full((2, 3), 7), np.full((2, 1), 2)
    expected = model.run(source_ids=source, source_counts=counts, input_ids=ids, token_counts=np.array([3, 3]), logits_at=at)["logits"]
    empty = np.zeros((2, 0), np.int64)
    with model.session() as session:
        found = session.run(source_ids=source, source_counts=counts, input_ids=empty, token_counts=np.zeros(2, np.int64), logits_at=empty)["logits"]
        assert found.shape[:2] == (2, 0)
        found = session.run(**NOTHING, input_ids=ids, token_counts=np.array([3, 3]), logits_at=at)["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@EACH
def test_greedy_text_is_that_of_transformers_alone_and_in_batches(name: str, compiled_seq2seq: Compiled) -> None:
    model, framework = compiled_seq2seq(name), build(name)
    expected = [[int(t) for t in reference(framework, source, 30).sequences[0, 1:]] for source in rows()]
    for number in (1, 3):
        translator = Translator(model, number)
        options = Options(30, stop_tokens=translator.stop_tokens)
        # The settings' penalty of repetition is an option of the sampler.
        texts = [translator.add(source, options_with_penalty(options)) for source in rows()]
        translator.run()
        assert [t.tokens for t in texts] == expected
    found = model.generate(rows()[1], max_new_tokens=30)
    assert [token.id for token in found] == expected[1]
    assert found.finish_reason == ("stop token" if expected[1][-1] in STOPS else "length")


def test_settings_of_the_artifact_hold_unless_somebody_says_otherwise(compiled_seq2seq: Compiled) -> None:
    model, framework = compiled_seq2seq("mbart"), build("mbart")
    expected = reference(framework, rows()[0], CONTEXT - 1).sequences[0, 1:].tolist()
    translator = Translator(model)
    text = translator.add(rows()[0])
    translator.run()
    assert text.tokens == expected
    found = model.generate(rows()[0])
    found.wait()
    assert found.tokens == expected
    other = model.generate(rows()[0], repetition_penalty=1.0, max_new_tokens=3)
    other.wait()
    assert len(other.tokens) == 3


def options_with_penalty(options: Options) -> Options:
    from dataclasses import replace

    return replace(options, sampling=replace(options.sampling, repetition_penalty=1.2))


SEARCHES: list[dict[str, Any]] = [{}, {"length_penalty": 2.0}, {"length_penalty": -1.0}, {"early_stopping": True},
                                  {"early_stopping": "never", "length_penalty": 0.5}]
#: With every change one model searches, that which takes transformers least time: what is searched is scores, whichever model they are from.
BEAMS = [pytest.param(name, search, id=f"{name}-{search}", marks=[] if name == "marian_apart" else [pytest.mark.extended])
         for name in ("t5", "mbart", "marian_apart") for search in SEARCHES]


@pytest.mark.parametrize(("name", "search"), BEAMS)
def test_beam_search_finds_the_texts_and_scores_of_transformers(name: str, search: dict[str, Any], compiled_seq2seq: Compiled) -> None:
    model, framework = compiled_seq2seq(name), build(name)
    for source in rows():
        expected = reference(framework, source, 24, num_beams=4, num_return_sequences=3, **search)
        found = model.generate(source, max_new_tokens=24, num_beams=4, num_return_sequences=3, **search)
        assert list(found) and found.done
        for hypothesis, sequence, score in zip(found.sequences, expected.sequences, expected.sequences_scores, strict=True):
            count = len(hypothesis.tokens)
            assert list(hypothesis.tokens) == sequence[1:1 + count].tolist()
            assert set(sequence[1 + count:].tolist()) <= {PAD, END}  # what is shorter is padded
            assert hypothesis.score == pytest.approx(float(score), rel=1e-4)


def test_a_single_beam_and_more_beams_than_a_first_step_has_tokens(compiled_seq2seq: Compiled) -> None:
    model, framework = compiled_seq2seq("mbart"), build("mbart")
    for beams in (2, 7):
        expected = reference(framework, rows()[0], 12, num_beams=beams, num_return_sequences=beams, forced_bos_token_id=5)
        translator = Translator(model, beams)
        translator.settings["forced_bos_token_id"] = 5
        options = options_with_penalty(Options(12, stop_tokens=translator.stop_tokens))
        found = translator.search(rows()[0], Search(beams, num_return_sequences=beams), options)
        found.wait()
        assert [h.tokens[0] for h in found.sequences] == [5] * beams
        assert list(found.sequences[0].tokens) == expected.sequences[0, 1:1 + len(found.tokens)].tolist()


def test_a_translator_goes_on_after_errors_and_cancelled_texts(compiled_seq2seq: Compiled) -> None:
    model = compiled_seq2seq("marian")
    for prompt, message in (([], "the source is empty"), ([VOCABULARY], f"token {VOCABULARY}; the model's tokens are 0 to {VOCABULARY - 1}"),
                            ([1] * (CONTEXT + 1), f"{CONTEXT + 1} tokens, more than the {CONTEXT}"), ("text", "has no tokenizer")):
        with pytest.raises(InputError, match=message):
            model.generate(prompt)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"num_beams": 0}, "num_beams is 0"), ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3"),
        ({"early_stopping": "soon"}, "early_stopping is 'soon'"), ({"num_beams": 2, "temperature": 0.5}, "temperature"),
        ({"language": "en"}, "unexpected keyword argument 'language'"), ({"lookup": 3}, "lookup"), ({"regex": "a"}, "regex"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"), ({"context": 500}, "a context of 500 tokens cannot be"))
    for given, message in wrong:
        with pytest.raises(InputError, match=message):
            model.generate([5], **given)
    translator = Translator(model, 2)
    options = options_with_penalty(Options(12, stop_tokens=translator.stop_tokens))
    expected = translator.add(rows()[0], options)
    translator.run()
    for start in (lambda: translator.add(rows()[1], options), lambda: translator.search(rows()[1], Search(2), options)):
        begun = start()
        translator.advance() if isinstance(begun, ingot.generate.Translation) else begun.advance()
        begun.cancel()
        assert begun.finish_reason == "cancelled"
        again = translator.add(rows()[0], options)
        translator.run()
        assert again.tokens == expected.tokens
    translator.add(rows()[0], options)
    with pytest.raises(InputError, match="other texts go on"):
        translator.search(rows()[1], Search(2), options)


def test_a_text_ends_where_its_cache_does(compiled_seq2seq: Compiled) -> None:
    model = compiled_seq2seq("bart")
    translator = Translator(model, 2, context=8)
    text = translator.add(rows()[0], Options(100))  # no token stops it
    translator.run()
    assert (len(text.tokens), text.finish_reason) == (8, "context")


@pytest.mark.parametrize("cache", ["f16", "bf16"])
def test_caches_of_fewer_bits_change_logits_by_their_rounding(cache: str, tmp_path: Path) -> None:
    ingot.compile(save("t5", tmp_path / "model"), tmp_path / "m.ingot", cache=cache, context=30)
    model = ingot.load(tmp_path / "m.ingot")
    assert {(s.dtype, s.shape[1]) for s in model.states if s.kind == "cache"} == \
        {({"f16": "float16", "bf16": "bfloat16"}[cache], d) for d in ("context", "source_context")}
    assert {d["name"]: d["max"] for d in model.manifest["dims"] if d["max"]} == {"context": 30, "source_context": 30}
    source, counts = sources()
    ids = np.random.default_rng(0).integers(0, 200, (2, 9))
    found = model.run(source_ids=source, source_counts=counts, input_ids=ids, token_counts=np.array([9, 9]), logits_at=np.array([[8], [8]]))["logits"]
    expected = logits(build("t5"), ids, source, counts)[:, 8:]
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < {"f16": 2e-3, "bf16": 2e-2}[cache]


@pytest.mark.parametrize("name", [pytest.param("marian", marks=pytest.mark.extended), "whisper"])
def test_an_artifact_verifies_against_transformers_if_asked_to(name: str, tmp_path: Path) -> None:
    from ingot.cli.main import main

    ingot.compile(save(name, tmp_path / "model"), tmp_path / "m.ingot", samples=1)
    assert main(["verify", str(tmp_path / "m.ingot")]) == 0


@pytest.mark.parametrize(("count", "most"), [(32, 128), (16, 64), (20, 100), (8, 20)])
@pytest.mark.parametrize("both", [True, False])
def test_buckets_of_distances_are_those_of_t5(count: int, most: int, both: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    bucket: Any = T5Attention._relative_position_bucket
    distances = torch.arange(-most - 40, most + 41 if both else 1)
    expected = bucket(distances, both, count, most).numpy()
    found = buckets(count, most, both)[np.clip(distances.numpy(), -most, most if both else 0) + most]
    np.testing.assert_array_equal(found, expected)


def test_wrong_directories_and_options_are_explained(tmp_path: Path) -> None:
    directory = save("marian", tmp_path / "model")
    output = tmp_path / "m.ingot"
    with pytest.raises(CompileError, match="caches of an encoder-decoder model are f32, f16, bf16, not 'int8'"):
        ingot.compile(directory, output, cache="int8")
    with pytest.raises(CompileError, match=f"a context of 100 tokens cannot be; the model has positions for 1 to {CONTEXT}"):
        ingot.compile(directory, output, context=100)
    config = directory / "config.json"
    config.write_text(config.read_text().replace('"activation_function": "swish"', '"activation_function": "quick_gelu"'))
    with pytest.raises(UnsupportedError, match="activation 'quick_gelu' is not supported"):
        ingot.compile(directory, output)
    assert not output.exists()


@pytest.mark.slow
@pytest.mark.extended
def test_a_translator_of_real_size_is_that_of_transformers(tmp_path: Path) -> None:
    """T5-small's shape: 60 million weights."""
    import transformers

    torch.manual_seed(0)
    configuration: Any = transformers.T5Config
    config = configuration(decoder_start_token_id=0)
    framework: Any = transformers.T5ForConditionalGeneration(config)
    framework.eval()
    with torch.no_grad():
        for parameter in framework.parameters():
            parameter.mul_(1.0 + 0.1 * torch.randn_like(parameter))
    framework.save_pretrained(tmp_path / "model")
    ingot.compile(tmp_path / "model", tmp_path / "m.ingot")
    model = ingot.load(tmp_path / "m.ingot", threads=2)
    source = np.random.default_rng(0).integers(0, config.vocab_size, (2, 67))
    counts = np.array([67, 40])
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (2, 12))
    expected = logits(framework, ids, source, counts)
    found = model.run(source_ids=source, source_counts=counts, input_ids=ids, token_counts=np.array([12, 12]),
                      logits_at=np.array([[0, 11]] * 2))["logits"]
    np.testing.assert_allclose(found, expected[:, [0, 11]], atol=1e-4 * np.abs(expected).max())
    for beams in (1, 4):
        wanted = reference(framework, source[0].tolist(), 16, num_beams=beams).sequences[0, 1:].tolist()
        text = model.generate(source[0].tolist(), max_new_tokens=16, num_beams=beams)
        text.wait()
        assert text.tokens == wanted[:len(text.tokens)]


def test_every_family_is_tried() -> None:
    from ingot.export.seq2seq.families import FAMILIES as SUPPORTED

    assert {family.config for family in FAMILIES.values()} == {
        {"t5": "T5", "mt5": "MT5", "mbart": "MBart"}.get(name, name.capitalize()) + "Config" for name in SUPPORTED}
