"""benchmarks/generation.py: what a token reads, the page, and Whisper as two models for onnxruntime."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import generation
from benchmarks.generation_models import LLAMA, Models, whisper_onnx
from benchmarks.whisper_onnx import Pair

EMBEDDINGS = [LLAMA["vocab_size"], LLAMA["hidden_size"]]


def artifact(*shapes: list[int]) -> Any:
    """As far as step_bytes looks at one."""
    return SimpleNamespace(path="x.ingot", manifest={"weights": {"tensors": [{"shape": s, "nbytes": 2 * int(np.prod(s))} for s in shapes]}})


def test_a_token_reads_all_weights_but_the_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "cache_bytes", lambda model, tokens: 10 * tokens)
    assert generation.step_bytes(artifact([3, 4], EMBEDDINGS, [5]), 7) == 2 * (12 + 5) + 70
    with pytest.raises(ValueError, match="2 weights have the shape"):
        generation.step_bytes(artifact(EMBEDDINGS, EMBEDDINGS), 7)


def test_the_page_has_the_figures_that_were_measured_in_their_order() -> None:
    def found(what: str) -> dict[str, Any]:
        row = generation.Row(what, "1.0 ms", "2.0 ms", 2.0, 1.25)
        return {"rows": [row.__dict__], "bandwidth": 25.04, "around": {"Machine": "a CPU"}}

    lines = generation.page({"ring": found("of a ring"), "int4": found("of int4")}).splitlines()
    assert lines[-2:] == ["| of int4 | 1.0 ms | 2.0 ms | 2.00 | 1.25 |", "| of a ring | 1.0 ms | 2.0 ms | 2.00 | 1.25 |"]
    assert lines.count("- Machine: a CPU") == 1 and "- Read bandwidth on 2 threads: 25.0 GB/s" in lines


def test_onnxruntime_writes_what_transformers_writes(tmp_path: Path) -> None:
    transformers: Any = import_module("transformers")
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(
        vocab_size=97, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48,
        decoder_ffn_dim=48, max_source_positions=20, max_target_positions=24, num_mel_bins=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        model.model.decoder.embed_positions.weight.mul_(8)  # else a token of tied embeddings is followed by itself
    model.save_pretrained(tmp_path / "whisper")
    whisper_onnx(Models(tmp_path), tmp_path / "pair")
    features = np.random.default_rng(0).standard_normal((1, 8, 40)).astype(np.float32)
    tokens = [3, 5, 7]
    with torch.no_grad():
        for _ in range(12):
            tokens.append(int(model(torch.from_numpy(features), decoder_input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    assert len(set(tokens[3:])) > 3, "a text of one token would show nothing"
    assert Pair(tmp_path / "pair", 1).generate(features, tokens[:3], 12) == tokens[3:]
