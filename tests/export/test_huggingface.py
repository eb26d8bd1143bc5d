"""Hugging Face directories become ONNX with the inputs of their task, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ingot.errors import CompileError, FileError, UnsupportedError
from ingot.export import export_directory, export_huggingface, export_sentence_encoder
from tests.export.test_module import agrees, shapes

TEXT = ["batch", "sequence"]
BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100,
        "max_position_embeddings": 64}


def save(model: Any, folder: Path) -> Path:
    """A directory as transformers writes it."""
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(transformers.BertModel(transformers.BertConfig(**BERT)), tmp_path_factory.mktemp("bert"))


def test_an_encoder_takes_ids_mask_and_types(bert: Path, tmp_path: Path) -> None:
    exported = export_huggingface(bert, tmp_path)
    assert shapes(exported) == {"input_ids": TEXT, "attention_mask": TEXT, "token_type_ids": TEXT,
                                "last_hidden_state": [*TEXT, 32], "pooler_output": ["batch", 32]}
    ids = np.arange(15).reshape(3, 5)
    agrees(exported, {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    assert exported.metadata["class"] == "BertModel"


def test_a_classifier_gives_logits(tmp_path: Path) -> None:
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**BERT, num_labels=3))
    exported = export_directory(save(model, tmp_path / "in"), tmp_path / "out")
    assert shapes(exported)["logits"] == ["batch", 3]
    assert exported.output_names == ["logits"]


def test_a_decoder_takes_one_step_without_a_cache(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
                                      vocab_size=100, max_position_embeddings=64)
    exported = export_huggingface(save(transformers.LlamaForCausalLM(config), tmp_path / "in"), tmp_path / "out")
    assert shapes(exported) == {"input_ids": TEXT, "attention_mask": TEXT, "logits": [*TEXT, 100]}
    ids = np.arange(12).reshape(2, 6)
    agrees(exported, {"input_ids": ids, "attention_mask": np.ones_like(ids)})


def test_an_image_model_takes_pixels_of_its_size(tmp_path: Path) -> None:
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
                                    image_size=32, patch_size=8, num_labels=5)
    exported = export_huggingface(save(transformers.ViTForImageClassification(config), tmp_path / "in"), tmp_path / "out")
    assert shapes(exported) == {"pixel_values": ["batch", 3, 32, 32], "logits": ["batch", 5]}


def test_the_image_size_may_stand_in_the_preprocessor(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5)
    folder = save(transformers.ResNetForImageClassification(config), tmp_path / "in")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 48, "width": 64}}))
    assert shapes(export_huggingface(folder, tmp_path / "out"))["pixel_values"] == ["batch", 3, 48, 64]


def test_an_encoder_decoder_also_takes_the_decoder_s_tokens(tmp_path: Path) -> None:
    config = transformers.WhisperConfig(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
                                        encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=100, num_mel_bins=8, max_source_positions=20,
                                        max_target_positions=30, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3)
    exported = export_huggingface(save(transformers.WhisperForConditionalGeneration(config), tmp_path / "in"), tmp_path / "out")
    assert shapes(exported) == {"input_features": ["batch", 8, 40], "decoder_input_ids": ["batch", "decoder_sequence"],
                                "logits": ["batch", "decoder_sequence", 100]}


SENTENCE = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]


def sentence_directory(folder: Path, steps: list[dict[str, Any]], **pooling: bool) -> Path:
    """A small sentence-transformers directory."""
    torch.manual_seed(0)
    save(transformers.BertModel(transformers.BertConfig(**BERT)), folder)
    (folder / "modules.json").write_text(json.dumps(steps))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    return folder


@pytest.mark.parametrize("mode", ["mean_tokens", "max_tokens", *(pytest.param(mode, marks=pytest.mark.extended) for mode in
                                                                ("cls_token", "mean_sqrt_len_tokens"))])
def test_a_sentence_encoder_pools_as_its_directory_says_and_ignores_padding(tmp_path: Path, mode: str) -> None:
    exported = export_directory(sentence_directory(tmp_path / "in", SENTENCE, **{f"pooling_mode_{mode}": True}), tmp_path / "out")
    assert shapes(exported)["sentence_embedding"] == ["batch", 32]
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 100, (2, 8))
    mask = np.ones_like(ids)
    mask[0, 5:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    agrees(exported, inputs)
    padded = exported.reference(inputs)["sentence_embedding"]
    np.testing.assert_allclose(np.linalg.norm(padded, axis=1), 1, rtol=1e-5)
    alone = exported.reference({name: array[:1, :5] for name, array in inputs.items()})["sentence_embedding"]
    np.testing.assert_allclose(padded[0], alone[0], atol=1e-5)


def test_an_unknown_step_or_pooling_is_refused_by_name(tmp_path: Path) -> None:
    steps = [*SENTENCE[:2], {"idx": 2, "name": "2", "path": "2_LSTM", "type": "sentence_transformers.models.LSTM"}]
    with pytest.raises(UnsupportedError, match="'LSTM'"):
        export_sentence_encoder(sentence_directory(tmp_path / "a", steps, pooling_mode_mean_tokens=True), tmp_path / "out")
    with pytest.raises(UnsupportedError, match="pooling"):
        export_sentence_encoder(sentence_directory(tmp_path / "b", SENTENCE), tmp_path / "out")


def test_what_is_missing_or_foreign_is_named(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such directory"):
        export_directory(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(FileError, match=r"config\.json"):
        export_directory(tmp_path, tmp_path / "out")

    def with_config(name: str, **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**json.loads((bert / "config.json").read_text()), **changes}))
        return folder

    with pytest.raises(FileError, match="safetensors"):
        export_directory(with_config("no-weights"), tmp_path / "out")
    with pytest.raises(CompileError, match="architectures"):
        export_directory(with_config("no-class", architectures=None), tmp_path / "out")
    with pytest.raises(UnsupportedError, match="NoSuchModel"):
        export_directory(with_config("unknown-class", architectures=["NoSuchModel"]), tmp_path / "out")
    with pytest.raises(UnsupportedError, match="auto_map"):
        export_directory(with_config("own-code", auto_map={"AutoModel": "own.Model"}), tmp_path / "out")
    some = {name: tensor for name, tensor in load_file(bert / "model.safetensors").items() if "pooler" not in name}
    save_file(some, with_config("some-weights") / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CompileError, match=r"2 weights of BertModel are not in.*'pooler"):
        export_directory(tmp_path / "some-weights", tmp_path / "out")
    (tmp_path / "no-weights" / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CompileError, match="cannot be loaded"):
        export_directory(tmp_path / "no-weights", tmp_path / "out")
