"""Windows with attention sinks, of every kind of position, against StreamingLLM's definition (streaming.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ingot
from ingot.cli.main import main
from ingot.errors import CompileError, IngotError
from ingot.generate import Batch, Options
from tests.cache import made as once
from tests.generate import streaming
from tests.generate.families import VOCABULARY, build, save

WINDOW, SINKS, CHUNK = 12, 3, 8
SLOTS = SINKS + WINDOW + CHUNK - 1
LENGTH = 5 * SLOTS
SOURCES = ("tests/generate/families.py", "tests/generate/test_windows.py")
Made = Callable[..., ingot.Model]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A family's model with a window and sinks, whose runs have few tokens."""
    monkeypatch.setattr("ingot.export.decoder.CHUNK", CHUNK)

    def make(name: str, **options: object) -> ingot.Model:
        given: dict[str, object] = {"window": WINDOW, "sinks": SINKS, **options}

        def compile_in(folder: Path) -> object:
            return ingot.compile(save(name, folder / "model"), folder / "m.ingot", **given)  # type: ignore[arg-type]

        folder = tmp_path
        if options:
            compile_in(folder)
        else:  # several tests use these
            folder = once("windows", name, SOURCES, compile_in)
        return ingot.load(folder / "m.ingot", threads=2)

    return make


def text(seed: int = 0, length: int = LENGTH) -> np.ndarray:
    """A text of random tokens."""
    return np.random.default_rng(seed).integers(0, VOCABULARY, length)


def run(session: ingot.Session, rows: list[np.ndarray]) -> np.ndarray:
    """Logits at all tokens of rows of equal length."""
    tokens = np.stack(rows)
    count = tokens.shape[1]
    return session.run(input_ids=tokens, token_counts=np.full(len(rows), count), logits_at=np.tile(np.arange(count), (len(rows), 1)))["logits"]


def read(session: ingot.Session, tokens: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Logits at all tokens of one text, in runs whose lengths go round ``sizes``."""
    found, start = [], 0
    while start < len(tokens):
        size = sizes[len(found) % len(sizes)]
        found.append(run(session, [tokens[start:start + size]])[0])
        start += size
    return np.concatenate(found)


# Learned positions; a part of each head rotated; grouped queries; layers with a shorter window and soft caps. The others' positions are Llama's.
@pytest.mark.parametrize("name", ["gpt2", "llama", *(pytest.param(n, marks=pytest.mark.extended) for n in ("gpt_neox", "gemma2", "qwen3", "phi3"))])
def test_a_text_of_many_windows_is_that_of_streaming_llm(name: str, made: Made) -> None:
    model = made(name)
    assert {s.shape[1] for s in model.states if s.kind == "ring"} >= {f"window_{WINDOW}_sinks_{SINKS}"}
    tokens = text(length=LENGTH + 60) if name == "gpt2" else text()  # GPT-2's beyond what it has positions for
    expected = streaming.logits(build(name), tokens.tolist(), WINDOW, SINKS)
    scale = np.abs(expected).max()
    for sizes in ([CHUNK, 1, 1], [1, 5]):
        with model.session() as session:
            np.testing.assert_allclose(read(session, tokens, sizes), expected, atol=2e-5 * scale)
    others = streaming.logits(build(name), tokens.tolist(), WINDOW, SINKS - 1)
    assert np.abs(expected - others)[WINDOW + SINKS:].max() > 1e-2 * scale


def test_sinks_are_as_far_away_as_in_the_cache(made: Made) -> None:
    """What tells these positions from those of the text: keys of the first tokens that all queries far behind see at one distance."""
    model = made("llama")
    tokens = text()
    far = np.concatenate([tokens[:SINKS], text(1, 900), tokens[-40:]])  # other tokens between, whose traces are gone after some windows
    near = np.concatenate([tokens[:SINKS], text(1, 900)[500:], tokens[-40:]])
    with model.session() as a, model.session() as b:
        np.testing.assert_allclose(read(a, far, [CHUNK])[-1], read(b, near, [CHUNK])[-1], atol=1e-3)


@pytest.mark.parametrize("window", [pytest.param(1, marks=pytest.mark.extended), pytest.param(2, marks=pytest.mark.extended), WINDOW])
def test_a_run_may_be_longer_than_the_window(window: int, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.export.decoder.CHUNK", 70)
    model = made("llama", window=window, cache="f32")
    tokens = text(length=140)
    with model.session() as session:
        found = read(session, tokens, [70])
    expected = streaming.logits(build("llama"), tokens.tolist(), window, SINKS)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_a_run_that_would_replace_what_it_reads_is_refused(made: Made) -> None:
    with made("llama").session() as session:
        with pytest.raises(IngotError, match=f"ring of window_{WINDOW}_sinks_{SINKS} slots .* window of {WINDOW}; give a long text in several runs"):
            run(session, [text(length=CHUNK + 1)])
        assert run(session, [text(length=CHUNK)]).shape == (1, CHUNK, VOCABULARY)


@pytest.mark.parametrize(("cache", "tolerance"), [
    pytest.param("f16", 2e-3, marks=pytest.mark.extended), pytest.param("bf16", 2e-2, marks=pytest.mark.extended), ("int8", 2e-2)])
def test_caches_of_fewer_bits_keep_their_sinks(cache: str, tolerance: float, made: Made) -> None:
    model = made("llama", cache=cache)
    tokens = text()
    with model.session() as session:
        found = read(session, tokens, [CHUNK, 1])
    expected = streaming.logits(build("llama"), tokens.tolist(), WINDOW, SINKS)
    assert np.linalg.norm(found[-20:] - expected[-20:]) / np.linalg.norm(expected[-20:]) < tolerance


def test_a_context_that_is_given_is_a_cache_that_never_goes_round(made: Made) -> None:
    model = made("llama", context=SLOTS)
    assert {s.kind for s in model.states} == {"cache", "carry"}
    tokens = text(length=SLOTS)
    with model.session() as session:
        found = read(session, tokens, [CHUNK])
    expected = streaming.logits(build("llama"), tokens.tolist(), WINDOW, SINKS)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert Batch(model).context == SLOTS


def test_rows_of_different_lengths_forks_cuts_and_files(made: Made, tmp_path: Path) -> None:
    model = made("llama")
    texts = [text(0), text(1)]
    expected = [streaming.logits(build("llama"), t.tolist(), WINDOW, SINKS) for t in texts]
    scale = 2e-5 * np.abs(expected[0]).max()
    half = LENGTH // 2
    ahead = half + SLOTS + 4  # the second text's, where the first stands at half
    with model.session() as session:
        session.set_dimension("batch", 2)
        for row, end in ((0, half), (1, ahead)):
            session.select_rows(row, 1)
            read(session, texts[row][:end], [CHUNK])
        session.select_rows()
        session.save(tmp_path / "states")
        with model.session() as loaded:
            loaded.load(tmp_path / "states")
            for other in (session.fork(), loaded, session):
                for i in range(6):
                    found = run(other, [texts[0][half + i:half + i + 1], texts[1][ahead + i:ahead + i + 1]])[:, 0]
                    np.testing.assert_allclose(found, [expected[0][half + i], expected[1][ahead + i]], atol=scale)
        with pytest.raises(IngotError, match="earlier steps are gone"):
            session.truncate(half, 0)
        session.copy_row(1, 0)
        found = run(session, [texts[1][ahead + 6:ahead + 7]] * 2)[:, 0]
        np.testing.assert_allclose(found, [expected[1][ahead + 6]] * 2, atol=scale)
        session.reset(0)
        session.select_rows(0, 1)
        np.testing.assert_allclose(read(session, texts[0][:SLOTS], [CHUNK]), expected[0][:SLOTS], atol=scale)
        session.truncate(SINKS + 2, 0)  # nothing has been replaced yet
        np.testing.assert_allclose(read(session, texts[0][SINKS + 2:half], [CHUNK]), expected[0][SINKS + 2:half], atol=scale)


def test_generated_text_is_that_of_streaming_llm(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    model = made("qwen2")
    prompts = [text(2, 40).tolist(), [5, 9, 100]]
    batch = Batch(model, 2)
    texts = [batch.add(prompt, Options(max_new_tokens=LENGTH)) for prompt in prompts]
    batch.run()
    assert [t.tokens for t in texts] == [streaming.greedy(build("qwen2"), prompt, LENGTH, WINDOW, SINKS) for prompt in prompts]
    assert main(["inspect", str(model.path)]) == 0
    assert f"window_{WINDOW}_sinks_{SINKS}" in capsys.readouterr().out


def test_an_artifact_with_a_window_verifies_against_transformers(made: Made) -> None:
    model = made("llama", window=4, sinks=1, samples=1)  # on as many tokens as the window has
    assert main(["verify", str(model.path)]) == 0


def test_windows_and_sinks_that_cannot_be_are_explained(tmp_path: Path) -> None:
    output = tmp_path / "m.ingot"
    llama, gpt2 = save("llama", tmp_path / "llama"), save("gpt2", tmp_path / "gpt2")
    for directory, options, message in (
        (llama, {"sinks": 4}, "sinks are tokens that stay beside a window, which was not given"),
        (llama, {"window": 0}, "a window of 0 tokens with 0 sinks cannot be"),
        (llama, {"window": 8, "sinks": -1}, "a window of 8 tokens with -1 sinks cannot be"),
        (gpt2, {"window": 158, "sinks": 4}, "a window of 158 tokens with 4 sinks cannot be; the model has positions for 160"),
    ):
        with pytest.raises(CompileError, match=message):
            ingot.compile(directory, output, **options)  # type: ignore[arg-type]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(CompileError, match="window and sinks are options of a language model's directory, which this is not"):
        ingot.compile(tmp_path / "other", output, window=8)
    with pytest.raises(CompileError, match="context, cache, window and sinks are options of a language model's directory"):
        ingot.compile(object(), output, window=8)
    assert not output.exists()
