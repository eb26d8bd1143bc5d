"""Quantized checkpoints as GPTQ's and AWQ's tools write them, packed here from the formats' definitions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass(frozen=True)
class Layout:
    """A checkpoint's format: ``group`` -1 is a whole column; ``order`` is GPTQ's desc_act, a random order of inputs."""

    method: str = "gptq"
    bits: int = 4
    group: int = 32
    order: bool = False
    version: str = "gptq"
    symmetric: bool = False
    shards: int = 1

    @property
    def config(self) -> dict[str, Any]:
        """The ``quantization_config``."""
        if self.method == "awq":
            return {"quant_method": "awq", "bits": self.bits, "group_size": self.group, "zero_point": True, "version": "gemm"}
        return {"quant_method": "gptq", "bits": self.bits, "group_size": self.group, "desc_act": self.order, "sym": self.symmetric,
                "checkpoint_format": self.version}


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers [n, rows] as int32 [n * bits / 32, rows], the first in the lowest bits, number by number."""
    per = 32 // bits
    packed = np.zeros((len(values) // per, values.shape[1]), np.uint32)
    for i, row in enumerate(values):
        packed[i // per] |= row.astype(np.uint32) << np.uint32(bits * (i % per))
    return packed.view(np.int32)


def pack_awq(values: np.ndarray) -> np.ndarray:
    """Nibbles [rows, n] as int32 [rows, n / 8]: the i-th nibble of an integer is column AWQ_ORDER[i] of its eight."""
    packed = np.zeros((len(values), values.shape[1] // 8), np.uint32)
    for column in range(packed.shape[1]):
        for i, place in enumerate(AWQ_ORDER):
            packed[:, column] |= values[:, column * 8 + place].astype(np.uint32) << np.uint32(4 * i)
    return packed.view(np.int32)


@dataclass(frozen=True)
class Layer:
    """A layer's integers: codes [K, N], zeros and scales [groups, N], and the group of each k."""

    codes: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray
    groups: np.ndarray

    @property
    def floats(self) -> np.ndarray:
        """The matrix [K, N], float32."""
        return (self.codes - self.zeros[self.groups]).astype(np.float32) * self.scales[self.groups].astype(np.float32)

    def tensors(self, layout: Layout) -> dict[str, np.ndarray]:
        """The layer as a checkpoint has it."""
        if layout.method == "awq":
            return {"qweight": pack_awq(self.codes), "qzeros": pack_awq(self.zeros), "scales": self.scales}
        stored = (self.zeros - (layout.version == "gptq")) % 2**layout.bits
        return {"qweight": pack(self.codes, layout.bits), "qzeros": np.ascontiguousarray(pack(stored.T, layout.bits).T),
                "scales": self.scales, "g_idx": self.groups.astype(np.int32)}


def random_layer(weight: np.ndarray, layout: Layout, rng: np.random.Generator) -> Layer:
    """A weight [K, N] rounded to random zero points, scales in float16."""
    depth, columns = weight.shape
    size = depth if layout.group < 0 else layout.group
    count = -(-depth // size)
    groups = np.arange(depth) // size
    if layout.order:
        groups = groups[np.argsort(rng.permutation(depth))]
    top = 2**layout.bits - 1
    zeros = np.full((count, columns), (top + 1) // 2) if layout.symmetric else rng.integers(top // 3, 2 * top // 3 + 1, (count, columns))
    scales = np.maximum(np.abs(weight).max(), 1e-3) / top * 2 * rng.uniform(0.8, 1.2, (count, columns))
    scales = scales.astype(np.float16)
    codes = np.clip(np.rint(weight / scales[groups].astype(np.float32)) + zeros[groups], 0, top).astype(np.int64)
    return Layer(codes, zeros, scales, groups)


LLAMA = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100,
         "max_position_embeddings": 64}
MISTRAL_ODD = {**LLAMA, "hidden_size": 72, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 24, "intermediate_size": 200,
               "sliding_window": 5}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 64}
BERT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 100,
        "max_position_embeddings": 64, "num_labels": 3}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)),
    "mistral_odd": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**MISTRAL_ODD)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)),
    "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**BERT)),
}
#: The ends of names of modules that such checkpoints keep in floats.
_FLOATS = ("lm_head", "classifier", "pooler.dense")


def write(name: str, layout: Layout, folder: Path) -> tuple[Any, dict[str, Layer]]:
    """Writes a seeded model; returns it as transformers runs it, with the numbers of the quantized weights, and its quantized layers."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for parameter in model.parameters():  # biases start as zeros, which would hide a lost one
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    rng = np.random.default_rng(1)
    layers: dict[str, Layer] = {}
    model.save_pretrained(folder)
    (saved,) = folder.glob("*.safetensors")
    saved.unlink()
    tensors = {key: value.contiguous().clone() for key, value in model.state_dict().items()
               if not (key == "lm_head.weight" and model.config.tie_word_embeddings)}
    for path, module in model.named_modules():
        linear = isinstance(module, torch.nn.Linear)
        if (not linear and type(module).__name__ != "Conv1D") or path.endswith(_FLOATS):
            continue
        weight = module.weight.detach().numpy()
        layer = random_layer(weight.T if linear else weight, layout, rng)
        module.weight.data = torch.from_numpy(np.ascontiguousarray(layer.floats.T if linear else layer.floats))
        del tensors[f"{path}.weight"]
        tensors.update({f"{path}.{part}": torch.from_numpy(array) for part, array in layer.tensors(layout).items()})
        layers[path] = layer
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": layout.config}))
    _save(tensors, layout.shards, folder)
    return model, layers


def _save(tensors: dict[str, torch.Tensor], shards: int, folder: Path) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    names = sorted(tensors)
    files = {name: f"model-{1 + i % shards:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(files.values())):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
