"""Directories whose weights torch.save wrote: files of transformers, DeepSpeed and Composer give the model that safetensors give."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import ingot
from ingot.errors import CompileError, FileError, MissingFileError, UnsupportedError
from ingot.export.decoder.checkpoint import Checkpoint
from ingot.export.huggingface import load
from tests.export import torch_files
from tests.export.torch_files import Tensors, deepspeed
from tests.generate.families import build, logits
from tests.generate.seq2seq_families import save as save_seq2seq

NORM = "model.layers.1.input_layernorm.weight"
EMBEDDING = "model.embed_tokens.weight"
LAYOUTS: dict[str, Callable[[Tensors, Path], None]] = {
    "one file": torch_files.one_file, "several files": torch_files.several_files, "composer": torch_files.composer, "state_dict": torch_files.plain,
    "zero 1": deepspeed(1, processes=1), "zero 2": deepspeed(2), "zero 2, bf16 optimizer": deepspeed(2, processes=2, prefix="bf16_"),
    "zero 3": deepspeed(3), "zero 3, frozen parameters": deepspeed(3, processes=5, frozen=(EMBEDDING, NORM)),
    "zero 2, frozen parameters": deepspeed(2, frozen=(EMBEDDING, NORM)),
}


def save_config(model: Any, folder: Path) -> None:
    """A directory with nothing but a config.json that names the class."""
    folder.mkdir()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)


def directory(name: str, layout: Callable[[Tensors, Path], None], folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The family's model, saved by a layout."""
    model = build(name)
    for parameter in model.parameters():  # and not buffers, which are no numbers of the checkpoint
        parameter.data = parameter.data.to(dtype).float()
    save_config(model, folder)
    stored: dict[int, torch.Tensor] = {}
    layout({n: stored.setdefault(t.data_ptr(), t.detach().to(dtype)) for n, t in model.state_dict().items()}, folder)
    return model


def first_logits(folder: Path, output: Path) -> np.ndarray:
    ingot.compile(folder, output)
    tokens = np.random.default_rng(0).integers(0, 300, (2, 9))
    found: np.ndarray = ingot.load(output).run(input_ids=tokens, token_counts=np.array([9, 9]), logits_at=np.array([[2, 8]] * 2))["logits"]
    return found


def expected_logits(model: Any) -> np.ndarray:
    found: np.ndarray = logits(model, np.random.default_rng(0).integers(0, 300, (2, 9)).tolist())[:, [2, 8]]
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_language_model_is_read_from_each_layout(layout: str, tmp_path: Path) -> None:
    model = directory("llama", LAYOUTS[layout], tmp_path / "model")
    loaded = load(tmp_path / "model").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    np.testing.assert_allclose(first_logits(tmp_path / "model", tmp_path / "m.ingot"), expected_logits(model), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_16_bits_stay_what_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    model = directory("llama", torch_files.several_files, tmp_path / "model", dtype)
    np.testing.assert_allclose(first_logits(tmp_path / "model", tmp_path / "m.ingot"), expected_logits(model), atol=1e-5)


@pytest.mark.parametrize("layout", [torch_files.one_file, deepspeed(2, shared={"lm_head.weight": "transformer.wte.weight"}),
                                    deepspeed(3, shared={"lm_head.weight": "transformer.wte.weight"})])
def test_weights_that_are_shared_are_read_once(layout: Callable[[Tensors, Path], None], tmp_path: Path) -> None:
    model = directory("gpt2", layout, tmp_path / "model")
    checkpoint = Checkpoint(tmp_path / "model", tmp_path)
    places = [[e.value for e in checkpoint.initializer(n).external_data] for n in ("lm_head.weight", "transformer.wte.weight")]
    assert places[0] == places[1]
    np.testing.assert_allclose(first_logits(tmp_path / "model", tmp_path / "m.ingot"), expected_logits(model), atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gemma"])
def test_a_model_that_accelerate_saved_without_its_embedding_takes_it_from_the_head(name: str, tmp_path: Path) -> None:
    """accelerate.save_model keeps the first of the names of a tensor, in alphabetical order."""
    from safetensors.torch import save_file

    model = build(name)
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in sorted(model.state_dict().items()):
        if not any(tensor.data_ptr() == other.data_ptr() for other in tensors.values()):
            tensors[key] = tensor
    assert "lm_head.weight" in tensors and not any(key.endswith(("wte.weight", "embed_tokens.weight")) for key in tensors)
    folder = tmp_path / "model"
    save_config(model, folder)
    names = list(tensors)
    files = {key: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, key in enumerate(names)}
    for file in set(files.values()):
        save_file({key: tensors[key] for key in names if files[key] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    np.testing.assert_allclose(first_logits(folder, tmp_path / "m.ingot"), expected_logits(model), atol=1e-5)


def test_a_translator_and_an_encoder_are_read_too(tmp_path: Path) -> None:
    folder = save_seq2seq("marian", tmp_path / "marian")
    ingot.compile(folder, tmp_path / "safe.ingot")
    model = transformers.MarianMTModel.from_pretrained(folder)
    next(folder.glob("*.safetensors")).unlink()
    torch_files.several_files(model.state_dict(), folder)
    ingot.compile(folder, tmp_path / "bin.ingot")
    source = [5, 9, 100, 3, 1]
    texts = [ingot.load(tmp_path / f"{name}.ingot").generate(source, max_new_tokens=12) for name in ("safe", "bin")]
    for text in texts:
        text.wait()
    assert texts[0].tokens == texts[1].tokens
    torch.manual_seed(0)
    bert = transformers.BertModel(transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
                                                          vocab_size=50, max_position_embeddings=16)).eval()
    save_config(bert, tmp_path / "bert")
    torch_files.plain(bert.state_dict(), tmp_path / "bert")
    for name, tensor in load(tmp_path / "bert").state_dict().items():
        assert torch.equal(tensor, bert.state_dict()[name])


def test_nothing_in_a_file_runs(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",)

    tensors = {n: t.detach() for n, t in build("llama").state_dict().items()}
    folder = tmp_path / "model"
    save_config(build("llama"), folder)
    torch.save({"state": {"model": tensors, "other": Runs()}}, folder / "model.pt")
    ingot.compile(folder, tmp_path / "m.ingot")
    assert not (tmp_path / "ran").exists()

    class RunsShell:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"state": {"model": tensors, "other": RunsShell()}}, folder / "model.pt")
    with pytest.raises(CompileError, match=r"model\.pt: it holds more than tensors and plain objects, and asks for posix\.system, which is not run"):
        ingot.compile(folder, tmp_path / "m.ingot")
    assert not (tmp_path / "ran").exists()


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    def made(name: str, layout: str) -> Path:
        directory("llama", LAYOUTS[layout], tmp_path / name)
        return tmp_path / name

    def refused(error: type[Exception], message: str, folder: Path) -> None:
        for run in (lambda: ingot.compile(folder, tmp_path / "m.ingot"), lambda: load(folder)):
            with pytest.raises(error, match=message):
                run()

    folder = made("bin", "several files")
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    refused(FileError, r"1 of the 3 files in pytorch_model\.bin\.index\.json are missing, such as 'pytorch_model-00002-of-00003\.bin'", folder)
    (folder / "pytorch_model.bin.index.json").unlink()
    refused(MissingFileError, r"there are no weights; Ingot reads \*\.safetensors .* pytorch_model\.bin", folder)
    (folder / "pytorch_model.bin").write_bytes((folder / "pytorch_model-00001-of-00003.bin").read_bytes()[:3000])
    refused(CompileError, r"pytorch_model\.bin: not a whole file of torch\.save", folder)
    torch.save(build("llama").state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    refused(CompileError, r"pytorch_model\.bin: .* before PyTorch 1\.6, which has to be loaded and saved again", folder)
    torch.save({"weights": [1, 2]}, folder / "pytorch_model.bin")
    refused(CompileError, r"pytorch_model\.bin: there are no tensors by name in it, at the top or at 'state'->'model', 'state_dict'", folder)

    folder = made("zero", "zero 3")
    step = folder / "global_step20"
    name = "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    (step / name).rename(step / "kept")
    refused(MissingFileError, r"of the files like zero_pp_rank_0_mp_rank_00_optim_states\.pt that of process 1 is missing", folder)
    (step / "kept").rename(step / name)
    (step / "zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
    refused(MissingFileError, r"there are 2 files \*_optim_states\.pt, but 3 processes wrote it", folder)
    shutil.copy(step / name, step / "zero_pp_rank_0_mp_rank_01_optim_states.pt")
    refused(UnsupportedError, r"mp_rank_01_optim_states\.pt: the model was cut among processes", folder)
    for file in step.glob("*_optim_states.pt"):
        file.unlink()
    refused(MissingFileError, r"there are no \*_optim_states\.pt, .* or what zero_to_fp32\.py makes of it", folder)
    (folder / "latest").write_text("global_step30")
    refused(MissingFileError, r"latest names 'global_step30', but there is no such folder", folder)

    folder = made("two", "composer")
    shutil.copy(folder / "ep1-ba100-rank0.pt", folder / "ep2-ba200-rank0.pt")
    refused(CompileError, r"there are 2 checkpoints \(ep1-ba100-rank0\.pt, ep2-ba200-rank0\.pt", folder)
    shutil.copy(folder / "ep1-ba100-rank0.pt", folder / "latest-rank0.pt")
    ingot.compile(folder, tmp_path / "m.ingot")
    for file in folder.glob("*.pt"):
        file.unlink()
    (folder / "pytorch_model_fsdp_0").mkdir()
    (folder / "pytorch_model_fsdp_0" / "__0_0.distcp").touch()
    refused(UnsupportedError, r"pytorch_model_fsdp_0: torch\.distributed's shards .* make one file of them", folder)


def test_zero_without_its_optimizer_gives_the_model_as_it_was_trained(tmp_path: Path) -> None:
    model = directory("llama", LAYOUTS["zero 2"], tmp_path / "model")
    for file in (tmp_path / "model" / "global_step20").glob("*_optim_states.pt"):
        file.unlink()
    loaded = load(tmp_path / "model").state_dict()
    assert all(torch.equal(loaded[name], tensor.bfloat16().float()) for name, tensor in model.state_dict().items())


def test_partitions_that_do_not_fit_the_shapes_are_refused(tmp_path: Path) -> None:
    for stage in (2, 3):
        folder = tmp_path / f"model{stage}"
        directory("llama", deepspeed(stage), folder)
        file = folder / "global_step20" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
        content = torch.load(file, weights_only=False)
        key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
        content["optimizer_state_dict"][key][0] = content["optimizer_state_dict"][key][0][:-20]
        torch.save(content, file)
        with pytest.raises(CompileError, match="partition"):
            load(folder)
