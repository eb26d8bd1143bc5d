"""Checkpoints that GPTQ or AWQ quantized compile to products of the same integers, and agree with transformers on the numbers they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import ingot
from ingot.cli.main import main
from ingot.errors import CompileError, MissingFileError, UnsupportedError
from ingot.export import export_directory, export_huggingface
from ingot.export.huggingface import load
from ingot.export.packed import Settings, unpack
from ingot.export.quantized import QuantizedLinear
from ingot.runtime.artifact import Artifact
from tests.export.checkpoints import MODELS, Layout, random_layer, write

LAYOUTS = {
    "gptq": Layout(), "gptq-v2": Layout(version="gptq_v2"), "gptq-8": Layout(bits=8), "gptq-column": Layout(group=-1),
    "gptq-order": Layout(order=True), "gptq-symmetric": Layout(symmetric=True, order=True, bits=8), "gptq-shards": Layout(shards=3),
    "gptq-48": Layout(group=48), "awq": Layout("awq"), "awq-64": Layout("awq", group=64), "awq-128": Layout("awq", group=128),
}
#: Products of each model whose weights are quantized.
PRODUCTS = {"llama": 14, "gpt2": 8, "bert": 12}


def inputs(name: str) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(2).integers(0, 100, (3, 7))
    found = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {**found, "token_type_ids": np.zeros_like(ids)} if name == "bert" else found


def logits(model: torch.nn.Module, given: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = model(**{key: torch.from_numpy(value) for key, value in given.items()}).logits.numpy()
    return found


def products(path: Path) -> list[str]:
    return [s.get("name") for s in Artifact(path).manifest["targets"][0]["program"]["functions"][0]["steps"] if s.get("name") == "quantized_matmul"]


def checkpoints() -> list[Any]:
    """A model and a layout. Each layout is read by test_integers_are_those_of_the_file: few need to run in every test of the suite."""
    every = [*(("llama", layout) for layout in LAYOUTS), ("gpt2", "gptq"), ("gpt2", "gptq-order"), ("bert", "gptq-8"), ("bert", "awq")]
    few = [("llama", "gptq"), ("llama", "gptq-symmetric"), ("llama", "awq"), ("gpt2", "gptq-order"), ("bert", "gptq-8")]
    return [pytest.param(*case, marks=[] if case in few else [pytest.mark.extended]) for case in every]


@pytest.mark.parametrize(("name", "layout"), checkpoints())
def test_a_checkpoint_runs_as_transformers_runs_its_numbers(name: str, layout: str, tmp_path: Path) -> None:
    model, _ = write(name, LAYOUTS[layout], tmp_path / "in")
    exported = export_huggingface(tmp_path / "in", tmp_path / "out")
    ingot.compile(exported.path, tmp_path / "m.ingot", samples=0)
    assert len(products(tmp_path / "m.ingot")) == PRODUCTS[name]
    given = inputs(name)
    expected = logits(model, given)
    found = np.asarray(ingot.load(tmp_path / "m.ingot").run(given)["logits"])
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
    reference = exported.reference(given)["logits"]
    assert np.linalg.norm(reference - expected) < 1e-5 * np.linalg.norm(expected)


def test_a_directory_compiles_and_verifies_and_inspect_shows_the_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("bert", LAYOUTS["gptq-order"], tmp_path / "in")
    assert main(["compile", str(tmp_path / "in"), "-o", str(tmp_path / "m.ingot")]) == 0
    assert main(["verify", str(tmp_path / "m.ingot"), "--tolerance", "1e-5"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "m.ingot")]) == 0
    assert "quantized_matmul" in capsys.readouterr().out
    folder = sum(f.stat().st_size for f in (tmp_path / "in").glob("*.safetensors"))
    assert sum(t["nbytes"] for t in Artifact(tmp_path / "m.ingot").manifest["weights"]["tensors"]) < 1.5 * folder  # float32 has about 4 times that


def test_activations_are_rounded_to_int8_where_asked(tmp_path: Path) -> None:
    model, _ = write("bert", LAYOUTS["gptq"], tmp_path / "in")
    exported = export_huggingface(tmp_path / "in", tmp_path / "out")
    given = inputs("bert")
    expected = logits(model, given)
    lost = {}
    for compute in ("kept:float", "kept:int8"):
        ingot.compile(exported.path, tmp_path / "m.ingot", samples=0, quantize=compute)
        found = np.asarray(ingot.load(tmp_path / "m.ingot").run(given)["logits"])
        lost[compute] = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert lost["kept:float"] < 1e-5
    # A number of a group of 32 is rounded by at most 1/254 of the largest, 4 standard deviations at most of so few: 1.6 % of the norm, as the root of
    # the mean square 0.9 %, in each of twelve products, whose errors add up as the root of the sum of squares.
    assert 1e-5 < lost["kept:int8"] < 12**0.5 * 0.009


def test_only_weights_that_are_quantized_can_be_kept_so(tmp_path: Path) -> None:
    exported = export_huggingface(save_floats(tmp_path / "in"), tmp_path / "out")
    with pytest.raises(CompileError, match="no quantized weights"):
        ingot.compile(exported.path, tmp_path / "m.ingot", quantize="kept:int8")
    with pytest.raises(CompileError, match="kept:int8 or kept:float"):
        ingot.compile(exported.path, tmp_path / "m.ingot", quantize="kept:int4")
    with pytest.raises(CompileError, match="quantizes nothing as kept:int8"):
        ingot.compile(exported.path, tmp_path / "m.ingot", quantize="kept:int8", quantize_include=["*"])


def save_floats(folder: Path) -> Path:
    MODELS["bert"]().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_integers_are_those_of_the_file(layout: str, tmp_path: Path) -> None:
    _, layers = write("llama", LAYOUTS[layout], tmp_path)
    loaded = load(tmp_path)
    for name, layer in layers.items():
        module = loaded.get_submodule(name)
        assert isinstance(module, QuantizedLinear)
        order = np.arange(module.depth) if module.order is None else module.order.numpy()
        assert (layer.groups[order] == np.sort(layer.groups)).all()
        stored = module.codes.numpy()
        codes = stored if module.bits == 8 else np.stack([stored & 15, stored >> 4], axis=-1)
        np.testing.assert_array_equal(codes.reshape(module.columns, -1)[:, : module.depth].T, layer.codes[order])
        np.testing.assert_array_equal(module.weight_floats().numpy().T, layer.floats[order])


@settings(max_examples=25, deadline=None)
@given(method=st.sampled_from(["gptq", "awq"]), bits=st.sampled_from([4, 8]), groups=st.integers(1, 4), last=st.integers(1, 4),
       columns=st.integers(1, 5), order=st.booleans(), version=st.sampled_from(["gptq", "gptq_v2"]), seed=st.integers(0, 99))
def test_any_shape_is_unpacked_to_its_numbers(method: str, bits: int, groups: int, last: int, columns: int, order: bool, version: str,
                                              seed: int) -> None:
    if method == "awq":
        bits, order, last = 4, False, 4
    layout = Layout(method, bits, 32, order, version)
    depth = 32 * (groups - 1) + 8 * last
    rng = np.random.default_rng(seed)
    layer = random_layer(rng.standard_normal((depth, columns * 8)), layout, rng)
    found = unpack(Settings(method, bits, 32, version == "gptq"), layer.tensors(layout), depth, columns * 8, "layer")
    rows = np.arange(depth) if found.order is None else found.order
    assert (found.codes == layer.codes[rows]).all()
    assert (found.floats() == layer.floats[rows]).all()


def test_inputs_in_another_order_are_permuted_once_for_layers_that_share_it(tmp_path: Path) -> None:
    write("llama", LAYOUTS["gptq-order"], tmp_path / "in")
    tensors = load_file(tmp_path / "in" / "model.safetensors")
    shared = tensors["model.layers.0.self_attn.q_proj.g_idx"]
    for layer in range(2):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"model.layers.{layer}.self_attn.{name}.g_idx"] = shared
        for name in ("gate_proj", "up_proj"):
            tensors[f"model.layers.{layer}.mlp.{name}.g_idx"] = shared
    save_file({key: value.clone() for key, value in tensors.items()}, tmp_path / "in" / "model.safetensors")
    path = export_huggingface(tmp_path / "in", tmp_path / "out").path
    graph = onnx.load(path, load_external_data=False).graph
    makes = {output: node.op_type for node in graph.node for output in node.output}
    assert {makes[node.input[0]] for node in graph.node if node.op_type == "MatMulNBits"} == {"Gather"}
    ingot.compile(path, tmp_path / "m.ingot", samples=0)
    steps = Artifact(tmp_path / "m.ingot").manifest["targets"][0]["program"]["functions"][0]["steps"]
    readers: dict[int, int] = {}
    for step in steps:
        if step.get("name") == "quantized_matmul":
            readers[step["inputs"][0]] = readers.get(step["inputs"][0], 0) + 1
    assert sorted(readers.values()) == [1, 1, 1, 1, 2, 2, 3, 3]  # o, down; gate and up; q, k and v, of two layers


def test_sentence_encoders_may_be_quantized_too(tmp_path: Path) -> None:
    write("bert", Layout("awq"), tmp_path / "in")
    config = json.loads((tmp_path / "in" / "config.json").read_text())
    tensors = load_file(tmp_path / "in" / "model.safetensors")
    renamed = {key.removeprefix("bert."): value for key, value in tensors.items() if key.startswith("bert.")}
    save_file(renamed, tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    (tmp_path / "in" / "modules.json").write_text(json.dumps([{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
                                                              {"idx": 1, "path": "", "type": "sentence_transformers.models.Normalize"}]))
    exported = export_directory(tmp_path / "in", tmp_path / "out")
    ingot.compile(exported.path, tmp_path / "m.ingot", samples=0)
    found = np.asarray(ingot.load(tmp_path / "m.ingot").run(exported.inputs)["sentence_embedding"])
    expected = exported.reference(exported.inputs)["sentence_embedding"]
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(("change", "message"), [
    ({"quant_method": "bitsandbytes"}, "quantized by 'bitsandbytes'; Ingot reads gptq, awq and fp8"), ({"bits": 3}, "gptq weights of 3 bits"),
    ({"checkpoint_format": "marlin"}, "format 'marlin'; Ingot reads gptq, gptq_v2")])
def test_other_methods_are_refused_by_name(change: dict[str, object], message: str, tmp_path: Path) -> None:
    write("llama", Layout(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=message):
        load(tmp_path)


def test_a_checkpoint_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    write("llama", Layout(), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    layer = "model.layers.0.mlp.up_proj"

    def refused(changed: dict[str, torch.Tensor], message: str, error: type[Exception] = CompileError) -> None:
        save_file({key: value.clone() for key, value in changed.items()}, file)
        with pytest.raises(error, match=message):
            load(tmp_path)

    refused({k: v for k, v in tensors.items() if k != f"{layer}.scales"}, rf"{layer}: its quantized weight lacks 'scales'")
    refused({**tensors, f"{layer}.qweight": tensors[f"{layer}.qweight"][1:]}, r"qweight is int32 \[7, 96\].*has int32 \[8, 96\]")
    refused({**tensors, f"{layer}.g_idx": tensors[f"{layer}.g_idx"] * 0 + 5}, "g_idx does not give each of 64 inputs one of 2 groups")
    refused({**tensors, f"{layer}.g_idx": tensors[f"{layer}.g_idx"] * 0}, "makes groups of 0 to 64 inputs", UnsupportedError)
    refused({**tensors, "model.layers.9.mlp.up_proj.qweight": tensors[f"{layer}.qweight"]}, "belongs to no layer of LlamaForCausalLM")
    refused({k: v for k, v in tensors.items() if k != "model.norm.weight"}, "1 weights of LlamaForCausalLM are not in its .*'model.norm.weight'")
    refused({k: v for k, v in tensors.items() if ".q" not in k}, r"no tensor is named \*.qweight")
    file.unlink()
    with pytest.raises(MissingFileError, match=r"there is no model\.safetensors"):
        load(tmp_path)
