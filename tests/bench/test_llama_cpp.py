"""A Llama that benchmarks/llama_cpp.py writes as GGUF is the same model in llama.cpp, if that is installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import llama_cpp
from tests.generate.families import save

VOCABULARY = 300


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=VOCABULARY,
        max_position_embeddings=160))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder, max_shard_size="200KB")
    return folder


@pytest.mark.parametrize(("kind", "most"), [
    ("f16", 5e-3),  # 11 bits of each weight and of what it is multiplied by, over three layers
    ("q8_0", 3e-2),  # 8 bits
    ("q4_0", 3e-1),  # 4 bits
])
def test_llama_cpp_computes_what_transformers_computes(directory: Path, tmp_path: Path, kind: str, most: float) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    import transformers

    llama_cpp.write(directory, tmp_path / "model.gguf", kind)
    tokens = [int(t) for t in np.random.default_rng(1).integers(0, VOCABULARY, 37)]
    model = transformers.LlamaForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    assert llama_cpp.difference(llama_cpp.logits(tmp_path / "model.gguf", tokens), expected) < most


def test_rows_of_heads_are_interleaved() -> None:
    matrix = np.arange(16).reshape(16, 1)
    assert llama_cpp.interleaved(matrix, 2).ravel().tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_a_model_that_is_no_plain_llama_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model_type is 'gpt2'"):
        llama_cpp.write(save("gpt2", tmp_path / "gpt2"), tmp_path / "model.gguf")
    scaled = save("llama", tmp_path / "llama")
    assert json.loads((scaled / "config.json").read_text())["rope_parameters"]["rope_type"] == "llama3"
    with pytest.raises(ValueError, match="rope_scaling is"):
        llama_cpp.write(scaled, tmp_path / "model.gguf")
