"""The models that benchmarks/generation.py measures: real shapes, seeded weights, made once in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import ingot
from benchmarks import llama_cpp

CONTEXT = 4608
WINDOW = 2048
#: A Llama of 1.1 billion parameters.
LLAMA: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32000, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float16"}
_SHARD = 500_000_000


@dataclass(frozen=True)
class Models:
    """Paths in a folder; each is made when it is first asked for."""

    folder: Path

    def path(self, name: str) -> Path:
        """The file or directory of that name (:data:`MADE`)."""
        path = self.folder / name
        if not path.exists():
            part = self.folder / f"part-{name}"
            MADE[name](self, part)
            part.rename(path)
        return path


def llama(models: Models, path: Path) -> None:
    """A directory with normal weights of standard deviation 0.02 in float16, norms of 1."""
    _directory(path, LLAMA, _shapes(LLAMA))


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    d, f, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    layer = {"input_layernorm": (d,), "self_attn.q_proj": (heads, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d),
             "self_attn.o_proj": (d, heads), "post_attention_layernorm": (d,), "mlp.gate_proj": (f, d), "mlp.up_proj": (f, d),
             "mlp.down_proj": (d, f)}
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens": (config["vocab_size"], d)}
    for i in range(config["num_hidden_layers"]):
        found |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    found |= {"model.norm": (d,), "lm_head": (config["vocab_size"], d)}
    return {f"{name}.weight": shape for name, shape in found.items()}


def _directory(path: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    from safetensors.numpy import save_file

    path.mkdir()
    (path / "config.json").write_text(json.dumps(config, indent=1))
    rng = np.random.default_rng(0)
    place: dict[str, str] = {}
    shard: dict[str, np.ndarray[Any, Any]] = {}

    def finish() -> None:
        file = f"model-{len(set(place.values())):05}.safetensors"
        save_file(shard, path / file, {"format": "pt"})
        place.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, shape in shapes.items():
        norm = len(shape) == 1
        shard[name] = np.ones(shape, np.float16) if norm else (rng.standard_normal(shape, np.float32) * np.float32(0.02)).astype(np.float16)
        if sum(t.nbytes for t in shard.values()) > _SHARD:
            finish()
    finish()
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))


def window(models: Models, path: Path) -> None:
    """The same weights with a sliding window in every layer: Mistral is Llama with one."""
    source = models.path("llama")
    path.mkdir()
    config = {**LLAMA, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": WINDOW}
    (path / "config.json").write_text(json.dumps(config, indent=1))
    for file in source.glob("model*"):
        (path / file.name).symlink_to(file.resolve())


def whisper(models: Models, path: Path) -> None:
    """Whisper-tiny's shape, with seeded weights."""
    import torch

    transformers: Any = import_module("transformers")
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig())
    model.generation_config.update(lang_to_id={"<|en|>": 50259}, task_to_id={"transcribe": 50359, "translate": 50358}, no_timestamps_token_id=50363,
                                   is_multilingual=True, suppress_tokens=None, begin_suppress_tokens=None, max_length=448)
    model.save_pretrained(path)


def whisper_onnx(models: Models, path: Path) -> None:
    """The same for onnxruntime: an encoder that also gives the keys and values that the decoder reads of it, and a decoder with a cache."""
    import torch

    from benchmarks.whisper_onnx import Decoder, Encoder, names

    transformers: Any = import_module("transformers")
    model = transformers.WhisperForConditionalGeneration.from_pretrained(models.path("whisper")).eval()
    config = model.config
    path.mkdir()
    features = torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions)
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    size = config.d_model // heads
    cross, past, present = names(layers)
    options: dict[str, Any] = {"dynamo": False, "opset_version": 18}
    with torch.no_grad():
        torch.onnx.export(Encoder(model), (features,), str(path / "encoder.onnx"), input_names=["features"], output_names=cross, **options)
        held = [torch.zeros(1, heads, config.max_source_positions, size) for _ in cross]
        caches = [torch.zeros(1, heads, 3, size) for _ in past]
        torch.onnx.export(Decoder(model), (torch.zeros(1, 2, dtype=torch.int64), *held, *caches), str(path / "decoder.onnx"),
                          input_names=["ids", *cross, *past], output_names=["logits", *present],
                          dynamic_axes={"ids": {1: "new"}, **{name: {2: "past"} for name in past}}, **options)


def _compiled(source: str, **options: Any) -> Callable[[Models, Path], None]:
    def make(models: Models, path: Path) -> None:
        ingot.compile(models.path(source), path, samples=0, **options)

    return make


def _gguf(kind: str) -> Callable[[Models, Path], None]:
    return lambda models, path: llama_cpp.quantize(models.path("f16.gguf"), path, kind)


#: What there is, and what makes it. Caches have llama.cpp's type.
MADE: Mapping[str, Callable[[Models, Path], None]] = {
    "llama": llama,
    "window": window,
    "whisper": whisper,
    "whisper_onnx": whisper_onnx,
    "f16.gguf": lambda models, path: llama_cpp.write(models.path("llama"), path),
    "q4_0.gguf": _gguf("q4_0"),
    "q8_0.gguf": _gguf("q8_0"),
    "int4.ingot": _compiled("llama", quantize="int4:g32", context=CONTEXT, cache="f16"),
    "int8.ingot": _compiled("llama", quantize="int8", context=CONTEXT, cache="f16"),
    "window.ingot": _compiled("window", quantize="int4:g32", cache="f16"),
    "whisper.ingot": _compiled("whisper"),
}
