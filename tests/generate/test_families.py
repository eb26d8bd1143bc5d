"""Every family of language models against transformers: logits, and greedy text token by token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ingot
from ingot.errors import CompileError, FileError
from ingot.generate import Batch, Options
from tests.generate.families import FAMILIES, VOCABULARY, build, greedy, logits, save

Compiled = Callable[[str], ingot.Model]
#: The tests of one family go to one process, which builds and loads it once.
EACH = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in FAMILIES])
PROMPTS = [[5, 9, 100, 3], [7] * 20 + [8, 9], [1, 2, 3, 4, 5, 6, 7, 8]]


@EACH
def test_logits_of_a_prompt_and_of_single_tokens_are_those_of_transformers(name: str, compiled: Compiled) -> None:
    model = compiled(name)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (2, 14))
    expected = logits(build(name), tokens.tolist())
    with model.session() as session:
        found = session.run(input_ids=tokens[:, :9].copy(), token_counts=np.array([9, 9]), logits_at=np.array([[2, 8]] * 2))["logits"]
        np.testing.assert_allclose(found, expected[:, [2, 8]], atol=1e-5)
        for t in range(9, 14):
            found = session.run(input_ids=tokens[:, t:t + 1].copy(), token_counts=np.array([1, 1]), logits_at=np.array([[0]] * 2))["logits"]
            np.testing.assert_allclose(found[:, 0], expected[:, t], atol=1e-5)
        assert session.state("length").tolist() == [14, 14]


@EACH
def test_greedy_text_is_that_of_transformers_alone_and_in_batches(name: str, compiled: Compiled) -> None:
    model = compiled(name)
    reference = build(name)
    expected = [greedy(reference, prompt, 64) for prompt in PROMPTS]
    for rows in (1, 2):
        batch = Batch(model, rows)
        texts = [batch.add(prompt, Options(max_new_tokens=64)) for prompt in PROMPTS]
        batch.run()
        assert [t.tokens for t in texts] == expected
        assert {t.finish_reason for t in texts} == {"length"}


def test_rows_of_different_lengths_run_together(compiled: Compiled) -> None:
    model = compiled("llama")
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (2, 8))
    reference = build("llama")
    with model.session() as session:
        session.run(input_ids=tokens, token_counts=np.array([8, 3]), logits_at=np.array([[7], [2]]))
        found = session.run(input_ids=np.array([[4], [5]]), token_counts=np.array([1, 1]), logits_at=np.array([[0], [0]]))["logits"]
    np.testing.assert_allclose(found[0, 0], logits(reference, [[*tokens[0], 4]])[0, -1], atol=1e-5)
    np.testing.assert_allclose(found[1, 0], logits(reference, [[*tokens[1, :3], 5]])[0, -1], atol=1e-5)


@pytest.mark.parametrize("name", [pytest.param("mistral", marks=pytest.mark.extended), "gemma2"])
def test_a_ring_that_goes_round_many_times_gives_the_text_of_transformers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.export.decoder.CHUNK", 4)
    ingot.compile(save(name, tmp_path / "model"), tmp_path / "m.ingot")
    model = ingot.load(tmp_path / "m.ingot", threads=2)
    assert {(s.kind, s.shape[1]) for s in model.states if s.kind != "carry"} >= {("ring", "window_5")}
    reference = build(name)
    batch = Batch(model, 2)
    texts = [batch.add(prompt, Options(max_new_tokens=64)) for prompt in PROMPTS]
    batch.run()
    assert [t.tokens for t in texts] == [greedy(reference, prompt, 64) for prompt in PROMPTS]


def test_a_model_of_windows_alone_goes_on_beyond_its_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.export.decoder.CHUNK", 4)
    ingot.compile(save("mistral", tmp_path / "model"), tmp_path / "m.ingot")
    generation = ingot.load(tmp_path / "m.ingot").generate([1, 2, 3], max_new_tokens=400)
    generation.wait()
    assert generation.finish_reason == "length"
    assert len(generation.tokens) == 400


@pytest.mark.parametrize(("cache", "dtype", "tolerance"), [("f16", "float16", 2e-3), ("bf16", "bfloat16", 2e-2), ("int8", "int8", 2e-2)])
def test_caches_of_fewer_bits_change_logits_by_their_rounding(cache: str, dtype: str, tolerance: float, tmp_path: Path) -> None:
    ingot.compile(save("llama", tmp_path / "model"), tmp_path / "m.ingot", cache=cache)
    model = ingot.load(tmp_path / "m.ingot")
    assert {s.dtype for s in model.states if s.kind == "cache" and not s.name.endswith("scale")} == {dtype}
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (1, 30))
    found = model.run(input_ids=tokens, token_counts=np.array([30]), logits_at=np.array([[29]]))["logits"][0, 0]
    expected = logits(build("llama"), tokens.tolist())[0, -1]
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < tolerance


def test_a_sharded_checkpoint_is_the_same_model(compiled: Compiled, tmp_path: Path) -> None:
    directory = save("llama", tmp_path / "model", shard="200KB")
    assert len(list(directory.glob("*.safetensors"))) > 1
    ingot.compile(directory, tmp_path / "m.ingot")
    options = Options(max_new_tokens=20)
    texts = []
    for model in (compiled("llama"), ingot.load(tmp_path / "m.ingot", threads=2)):
        batch = Batch(model)
        texts.append(batch.add(PROMPTS[0], options))
        batch.run()
    assert texts[0].tokens == texts[1].tokens


def test_an_artifact_verifies_against_transformers_if_asked_to(tmp_path: Path) -> None:
    ingot.compile(save("gpt2", tmp_path / "model"), tmp_path / "m.ingot", samples=1)
    from ingot.cli.main import main

    assert main(["verify", str(tmp_path / "m.ingot")]) == 0


def test_wrong_directories_and_options_are_explained(tmp_path: Path) -> None:
    directory = save("llama", tmp_path / "model", shard="200KB")
    output = tmp_path / "m.ingot"
    with pytest.raises(CompileError, match="there is no cache type 'f8'; they are f32, f16, bf16, int8"):
        ingot.compile(directory, output, cache="f8")
    with pytest.raises(CompileError, match="a context of 0 tokens cannot be"):
        ingot.compile(directory, output, context=0)
    next(iter(sorted(directory.glob("*.safetensors")))).unlink()
    with pytest.raises(FileError, match=r"1 of the \d+ files in model.safetensors.index.json are missing"):
        ingot.compile(directory, output)
    broken = tmp_path / "broken"
    save("llama", broken)
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CompileError, match="truncated"):
        ingot.compile(broken, output)
    scaled = save("llama", tmp_path / "scaled")
    config = json.loads((scaled / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    (scaled / "config.json").write_text(json.dumps(config))
    with pytest.raises(ingot.errors.UnsupportedError, match="'dynamic' are not supported"):
        ingot.compile(scaled, output)
    assert not output.exists()
