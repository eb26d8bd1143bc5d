"""Language models from checkpoints that GPTQ or AWQ quantized: caches inside, integers as they are, the text of the numbers they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import ingot
from ingot.cli.main import main
from ingot.errors import CompileError, UnsupportedError
from ingot.generate import Batch, Options
from ingot.runtime.artifact import Artifact
from tests.export.checkpoints import Layout, write
from tests.generate.families import greedy, logits
from tests.generate.test_families import PROMPTS

#: A model, its format, and how many of its matrices are quantized.
CASES = {
    "llama gptq": ("llama", Layout(), 14), "llama gptq in order of activations": ("llama", Layout(order=True), 14),
    "llama gptq 8 bits, symmetric, v2": ("llama", Layout(bits=8, symmetric=True, version="gptq_v2"), 14),
    "llama gptq whole columns, three files": ("llama", Layout(group=-1, shards=3), 14),
    "mistral gptq, groups of 48": ("mistral_odd", Layout(group=48), 14), "mistral gptq 8 bits": ("mistral_odd", Layout(bits=8, group=16), 14),
    "llama awq": ("llama", Layout("awq"), 14), "mistral awq": ("mistral_odd", Layout("awq", group=8 * 9), 14),
    "gpt2 gptq": ("gpt2", Layout(order=True), 8), "gpt2 awq": ("gpt2", Layout("awq", group=64), 8),
}
#: These read groups that fit their odd sizes, or not.
REFUSED = "mistral awq"


def quantized_steps(path: Path) -> int:
    steps = Artifact(path).manifest["targets"][0]["program"]["functions"][0]["steps"]
    return sum(s.get("name") == "quantized_matmul" for s in steps)


@pytest.mark.parametrize("case", [c for c in CASES if c != REFUSED])
def test_greedy_text_is_that_of_the_dequantized_model(case: str, tmp_path: Path) -> None:
    name, layout, count = CASES[case]
    reference, _ = write(name, layout, tmp_path / "model")
    ingot.compile(tmp_path / "model", tmp_path / "m.ingot")
    assert quantized_steps(tmp_path / "m.ingot") == count
    model = ingot.load(tmp_path / "m.ingot", threads=2)
    assert {s.kind for s in model.states} >= {"cache", "carry"}
    prompts = [[t % 99 + 1 for t in prompt] for prompt in PROMPTS]  # transformers takes 0 for padding
    with model.session() as session:
        tokens = np.random.default_rng(0).integers(0, 100, (2, 9))
        found = session.run(input_ids=tokens[:, :8].copy(), token_counts=np.array([8, 8]), logits_at=np.array([[7]] * 2))["logits"]
        expected = logits(reference, tokens.tolist())
        np.testing.assert_allclose(found[:, 0], expected[:, 7], atol=1e-5)
        found = session.run(input_ids=tokens[:, 8:].copy(), token_counts=np.array([1, 1]), logits_at=np.array([[0]] * 2))["logits"]
        np.testing.assert_allclose(found[:, 0], expected[:, 8], atol=1e-5)
    batch = Batch(model, 2)
    texts = [batch.add(prompt, Options(max_new_tokens=24)) for prompt in prompts]
    batch.run()
    assert [t.tokens for t in texts] == [greedy(reference, prompt, 24) for prompt in prompts]


def test_the_command_line_compiles_verifies_and_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("llama", Layout("awq"), tmp_path / "model")
    assert main(["compile", str(tmp_path / "model"), "-o", str(tmp_path / "m.ingot"), "--cache", "f16", "--samples", "1"]) == 0
    assert main(["verify", str(tmp_path / "m.ingot"), "--tolerance", "1e-3"]) == 0  # what caches of 16 bits lose
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "m.ingot")]) == 0
    shown = capsys.readouterr().out
    assert "quantized_matmul" in shown and "float16" in shown


def test_the_head_may_be_quantized_beside_the_rest(tmp_path: Path) -> None:
    write("llama", Layout(), tmp_path / "model")
    report = ingot.compile(tmp_path / "model", tmp_path / "m.ingot", quantize="int8", quantize_include=["*lm_head*"])
    assert quantized_steps(tmp_path / "m.ingot") == 15
    assert report.quantization is not None and [layer["weight"] for layer in report.quantization["layers"]] == ["lm_head.weight"]
    ingot.compile(tmp_path / "model", tmp_path / "m.ingot", quantize="kept:int8")
    generation = ingot.load(tmp_path / "m.ingot").generate([1, 2, 3], max_new_tokens=4)
    generation.wait()
    assert len(generation.tokens) == 4


def test_what_contradicts_itself_is_explained(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write("llama", Layout(), folder)
    file, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    tensors = load_file(file)

    def refused(error: type[Exception], message: str, without: str = "", **settings: object) -> None:
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {**config["quantization_config"], **settings}}))
        save_file({k: v.clone() for k, v in tensors.items() if not without or without not in k}, file)
        with pytest.raises(error, match=message):
            ingot.compile(folder, tmp_path / "m.ingot")

    refused(UnsupportedError, r"config\.json: the weights are quantized by 'bitsandbytes'; Ingot reads gptq, awq and fp8",
            quant_method="bitsandbytes")
    refused(UnsupportedError, r"config\.json: gptq weights of 3 bits", bits=3)
    refused(CompileError, r"layers\.0\.mlp\.up_proj: its quantized weight lacks scales", without="layers.0.mlp.up_proj.scales")
    refused(CompileError, r"layers\.0\.mlp\.up_proj: its quantized weight lacks 'qzeros'", without="layers.0.mlp.up_proj.qzeros")
    refused(CompileError, r"there is no tensor 'model\.layers\.1\.mlp\.down_proj\.weight'", without="layers.1.mlp.down_proj.qweight")
    refused(CompileError, r"groups of 16 do not make", group_size=16)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "quantization_config"}))
    save_file(tensors, file)
    with pytest.raises(CompileError, match=r"its weight is quantized, but config\.json has no quantization_config"):
        ingot.compile(folder, tmp_path / "m.ingot")


def test_groups_that_no_power_of_two_divides_are_refused_by_layer(tmp_path: Path) -> None:
    name, layout, _ = CASES[REFUSED]
    write(name, layout, tmp_path / "model")
    with pytest.raises(UnsupportedError, match=r"_proj: groups of 72 inputs; Ingot reads multiples of 16"):
        ingot.compile(tmp_path / "model", tmp_path / "m.ingot")
