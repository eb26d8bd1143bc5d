"""Language models whose checkpoints hold FP8 (E4M3) with scales of blocks, rows or whole weights: the text of the numbers they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ingot
from ingot.errors import CompileError, UnsupportedError
from ingot.export.packed import fp8_numbers
from tests.generate.families import build, logits


def scales_of(w: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """The largest magnitude of each block over E4M3's, 448; blocks at the ends may be smaller."""
    rows, columns = (-(-extent // size) for extent, size in zip(w.shape, block, strict=True))
    found = torch.zeros(rows, columns)
    for i in range(rows):
        for j in range(columns):
            found[i, j] = w[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]].abs().max() / 448
    return found


def write(folder: Path, kind: str, name: str = "llama") -> Any:
    """A model with matrices in FP8 as a directory; the model of the numbers that are stored."""
    model = build(name)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    state = model.state_dict()
    for key in [k for k in tensors if k.endswith("_proj.weight")]:
        w = tensors[key]
        block = {"blocks": (32, 16), "rows": (1, w.shape[1]), "whole": tuple(w.shape)}[kind]
        scales = scales_of(w, block)
        spread = scales.repeat_interleave(block[0], 0)[: w.shape[0]].repeat_interleave(block[1], 1)[:, : w.shape[1]]
        codes = (w / spread).to(torch.float8_e4m3fn)
        state[key] = (codes.float() * spread).bfloat16().float()
        tensors[key] = codes
        tensors[key + ("_scale_inv" if kind == "blocks" else "_scale")] = scales if kind != "whole" else scales.reshape(())
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 16]}
    (folder / "config.json").write_text(json.dumps(config))
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("kind", ["blocks", "rows", "whole"])
def test_scores_are_those_of_the_numbers_that_are_stored(kind: str, tmp_path: Path) -> None:
    reference = write(tmp_path / "model", kind)
    ingot.compile(tmp_path / "model", tmp_path / "m.ingot")
    tokens = np.random.default_rng(0).integers(0, 100, (2, 9))
    found = ingot.load(tmp_path / "m.ingot").run({"input_ids": tokens, "token_counts": np.array([9, 9]), "logits_at": np.array([[8]] * 2)})["logits"]
    np.testing.assert_allclose(found[:, 0], logits(reference, tokens.tolist())[:, 8], atol=1e-5)


def test_they_may_be_quantized_further(tmp_path: Path) -> None:
    write(tmp_path / "model", "blocks")
    report = ingot.compile(tmp_path / "model", tmp_path / "m.ingot", quantize="int8", quantize_exclude=["lm_head*"]).quantization
    assert report is not None
    assert len(report["layers"]) >= 12
    assert all(layer["relative_error"] < 0.01 for layer in report["layers"])


def test_codes_times_scales_are_the_numbers() -> None:
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((130, 70)).astype(ml_dtypes.float8_e4m3fn)
    scales = rng.uniform(0.5, 2, (2, 3)).astype(np.float32)
    spread = scales.repeat(128, 0)[:130].repeat(32, 1)[:, :70]
    np.testing.assert_array_equal(fp8_numbers(codes, scales, "w"), codes.astype(np.float32) * spread)
    with pytest.raises(UnsupportedError, match=r"w: FP8 weights of shape \[130, 70\] with scales of shape \[100, 1\], which are not of blocks"):
        fp8_numbers(codes, np.ones((100, 1), np.float32), "w")


def test_scales_that_are_missing_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "model", "whole")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if not k.endswith("q_proj.weight_scale")}, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CompileError, match=r"q_proj\.weight: it is stored in FP8, but there are no scales"):
        ingot.compile(tmp_path / "model", tmp_path / "m.ingot")


def test_other_models_are_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(UnsupportedError, match="weights in fp8 are read for language models alone"):
        ingot.compile(tmp_path, tmp_path / "m.ingot")
