"""The measurements of benchmarks/language_model.py against their definitions."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import language_model
from tests.generate.families import VOCABULARY

WINDOW, SINKS, LENGTH = 6, 3, 40


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random weights that are large enough for attention to matter."""
    import transformers

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=VOCABULARY,
        max_position_embeddings=16, tie_word_embeddings=True, initializer_range=0.2))
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, (2, LENGTH + 1))


def streamed(directory: Path, row: np.ndarray, window: int, sinks: int) -> np.ndarray:
    """StreamingLLM token by token in float64: caches of unrotated keys, which are rotated to their places in the cache at each step."""
    import transformers

    model: Any = transformers.LlamaForCausalLM.from_pretrained(directory).double()
    core, heads, size = model.model, 4, 16
    frequencies = 10000.0 ** -(torch.arange(0, size, 2).double() / size)
    keys: list[list[torch.Tensor]] = [[] for _ in core.layers]
    values: list[list[torch.Tensor]] = [[] for _ in core.layers]

    def rotate(x: torch.Tensor, place: int) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        cosines, sines = torch.cos(place * frequencies), torch.sin(place * frequencies)
        return torch.cat((a * cosines - b * sines, b * cosines + a * sines), -1)

    def normed(x: torch.Tensor, norm: Any) -> torch.Tensor:
        return x / (x.pow(2).mean() + norm.variance_epsilon).sqrt() * norm.weight

    found = []
    with torch.no_grad():
        for token, target in pairwise(row):
            x = core.embed_tokens.weight[int(token)]
            for layer, ks, vs in zip(core.layers, keys, values, strict=True):
                h, own = normed(x, layer.input_layernorm), layer.self_attn
                ks.append(own.k_proj(h).view(2, size))
                vs.append(own.v_proj(h).view(2, size))
                if len(ks) > sinks + window:
                    del ks[sinks], vs[sinks]
                q = rotate(own.q_proj(h).view(heads, size), len(ks) - 1)
                cached = torch.stack([rotate(k, place) for place, k in enumerate(ks)]).repeat_interleave(2, 1)
                weights = (torch.einsum("hd,thd->ht", q, cached) / size**0.5).softmax(-1)
                x = x + own.o_proj(torch.einsum("ht,thd->hd", weights, torch.stack(vs).repeat_interleave(2, 1)).flatten())
                h = normed(x, layer.post_attention_layernorm)
                x = x + layer.mlp.down_proj(torch.nn.functional.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
            found.append(-float(model.lm_head(normed(x, core.norm)).log_softmax(-1)[int(target)]))
    return np.array(found)


@pytest.mark.parametrize("sinks", [0, SINKS])
def test_a_window_with_sinks_is_that_of_streaming_llm(directory: Path, tokens: np.ndarray, sinks: int) -> None:
    found = language_model.Streaming(directory, WINDOW, sinks).losses(tokens)
    expected = np.stack([streamed(directory, row, WINDOW, sinks) for row in tokens])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - language_model.Streaming(directory, WINDOW + 1, sinks).losses(tokens)).max() > 0.01


def test_losses_of_artifacts_are_the_framework_s(directory: Path, tokens: np.ndarray, tmp_path: Path) -> None:
    everything = language_model.losses(language_model.compiled(directory, tmp_path, {"context": LENGTH}), tokens)
    np.testing.assert_allclose(everything, language_model.Streaming(directory, LENGTH, 0).losses(tokens), atol=1e-3)
    for sinks in (0, SINKS):
        windowed = language_model.losses(language_model.compiled(directory, tmp_path, {"window": WINDOW, "sinks": sinks}), tokens)
        np.testing.assert_allclose(windowed, language_model.Streaming(directory, WINDOW, sinks).losses(tokens), atol=1e-3)
        assert np.abs(everything - windowed).max() > 0.01


def test_held_out_pages_are_not_trained_on() -> None:
    train, held_out = language_model.pages()
    assert not set(train) & set(held_out) and len(held_out) >= 0.09 * (len(train) + len(held_out))
