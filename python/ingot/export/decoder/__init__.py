"""Decoder-only language models from Hugging Face directories: a graph with caches, its weights streamed from safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from ingot.errors import CompileError, UnsupportedError
from ingot.export.decoder.checkpoint import Checkpoint
from ingot.export.decoder.families import FAMILIES, Decoder
from ingot.export.decoder.graph import Caches, DecoderGraph
from ingot.export.packed import Settings, settings_of
from ingot.sources import Source

CACHE_TYPES = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "int8": TensorProto.INT8,
               "fp8": TensorProto.FLOAT8E4M3FN}
#: The types that only GPUs have kernels for.
GPU_CACHE_TYPES = ("fp8",)
#: Tokens of a prompt that run at once: enough for matrix products to be at their best, few enough for little scratch memory.
CHUNK = 512
#: Tokens of the example that an artifact may be verified with.
_EXAMPLE = 9
#: The context of a model whose layers all have windows: a text of any length.
_ENDLESS = 1 << 62
#: The largest vocabulary that a model chooses tokens of itself (kernels/cuda/sampling).
_MOST_TOKENS = 1 << 20
#: What travels in the artifact, where the directory has it.
ASSETS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def is_decoder(directory: Path) -> bool:
    """Whether a directory holds a language model of a family that Ingot generates text with."""
    config = config_of(directory)
    generates = any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in config.get("architectures") or [])
    return generates and config.get("model_type") in FAMILIES and not config.get("auto_map")


def export_decoder(directory: Path, folder: Path, context: int | None = None, cache: str | None = None, window: int | None = None,
                   sinks: int | None = None, chooses: bool = False, cpus: Sequence[str] = ()) -> Source:
    """The directory's model with its caches as states.

    Args:
        directory: With ``config.json`` and weights, which GPTQ or AWQ may have quantized; a tokenizer travels along.
        folder: Where weights are written that the directory has in another form; it has to be there until the artifact is.
        context: The most tokens that caches can hold; by default as many as the model was trained for, and any number with ``window``.
        cache: ``f32``, ``f16``, ``bf16`` or ``int8``, or for GPUs ``fp8`` (E4M3).
        window: How many tokens layers see at most, each query's own included.
        sinks: How many of a text's first tokens layers with this window see beside it.
        chooses: The model chooses tokens itself, unless its vocabulary is too large.
        cpus: The names of the targets that are CPUs, which do not have all types of caches.

    Raises:
        FileError: A file is missing.
        CompileError: A file is malformed, or an option does not exist.
        UnsupportedError: The model needs what Ingot does not have.
    """
    import transformers

    if cache is not None and cache not in CACHE_TYPES:
        raise CompileError(f"there is no cache type '{cache}'; they are {', '.join(CACHE_TYPES)}")
    if cache in GPU_CACHE_TYPES and cpus:
        others = ", ".join(name for name in CACHE_TYPES if name not in GPU_CACHE_TYPES)
        raise CompileError(f"caches of {cache} are for GPUs, and {cpus[0]} is none; caches that CPUs have are {others}")
    config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    try:
        decoder = FAMILIES[config.model_type](config)
    except UnsupportedError as error:
        raise UnsupportedError(f"{directory}: {error}") from error
    decoder = _windowed(decoder, window, sinks, directory)
    longest = context if context is not None else decoder.context if window is None else _ENDLESS
    if longest < 1 or (decoder.names.positions and longest > decoder.context and window is None):
        raise CompileError(f"{directory}: a context of {longest} tokens cannot be; the model has positions for 1 to {decoder.context}")
    checkpoint = Checkpoint(directory, folder, quantization_of(directory))
    caches = Caches(CACHE_TYPES[cache or "f32"], longest, CHUNK)
    graph = DecoderGraph(decoder, checkpoint, caches, chooses and decoder.vocabulary <= _MOST_TOKENS)
    model = graph.build()
    assets = {name: directory / name for name in ASSETS if (directory / name).is_file()}
    generation = {"kind": "decoder", "vocabulary": decoder.vocabulary, "trained_context": decoder.context, "chunk": CHUNK,
                  "stop_tokens": _stop_tokens(config, directory)}
    metadata = {"framework": "transformers", "class": (config.architectures or ["?"])[0], "family": config.model_type}
    return Source(model, directory.name, str(checkpoint.root), directory.name, metadata, reference=_Reference(directory),
                  reference_name=f"transformers {transformers.__version__}", examples=_example(decoder.vocabulary, window), states=graph.states,
                  bounds=caches.bounds, assets=assets, generation=generation, samples=0)


def _windowed(decoder: Decoder, window: int | None, sinks: int | None, directory: Path) -> Decoder:
    """The model with layers that see ``window`` tokens and the first ``sinks``; one whose own window is shorter keeps that."""
    if window is None:
        if sinks is not None:
            raise CompileError("sinks are tokens that stay beside a window, which was not given (--window)")
        return decoder
    sinks = sinks or 0
    if window < 1 or sinks < 0:
        raise CompileError(f"a window of {window} tokens with {sinks} sinks cannot be; a window is 1 or more, sinks are 0 or more")
    if decoder.names.positions and window + sinks > decoder.context:
        raise CompileError(f"{directory}: a window of {window} tokens with {sinks} sinks cannot be; the model has positions for {decoder.context}")
    return replace(decoder, layers=tuple(layer if layer.window is not None and layer.window < window else
                                         replace(layer, window=window, sinks=sinks) for layer in decoder.layers))


def _example(vocabulary: int, window: int | None) -> dict[str, Any]:
    """Inputs of one run: two prompts, the second shorter. They fit into a window, which the framework does not know of."""
    count = min(_EXAMPLE, window or _EXAMPLE)
    counts = np.array([count, max(1, count - 2)])
    return {"input_ids": np.random.default_rng(0).integers(0, vocabulary, (2, count)), "token_counts": counts, "logits_at": counts[:, None] - 1}


class _Reference:
    """The model as transformers runs it, which is loaded when it is asked."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        from ingot.export.huggingface import load

        with torch.no_grad():
            logits = load(self._directory)(torch.from_numpy(np.asarray(inputs["input_ids"]))).logits.float().numpy()
        return {"logits": np.take_along_axis(logits, np.asarray(inputs["logits_at"])[:, :, None], axis=1)}


def config_of(directory: Path) -> dict[str, Any]:
    """The content of the directory's config.json; nothing where there is none."""
    path = directory / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise CompileError(f"{path}: this is not JSON: {error}") from error
    return config


def quantization_of(directory: Path) -> Settings | None:
    """How the directory's weights are quantized; None if they are not.

    An UnsupportedError names a method that Ingot does not read.
    """
    config = config_of(directory).get("quantization_config")
    return settings_of(config, str(directory / "config.json")) if config else None


def _stop_tokens(config: Any, directory: Path) -> list[int]:
    """The tokens that end a text, of generation_config.json or else of config.json."""
    path = directory / "generation_config.json"
    given = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    given = config.eos_token_id if given is None else given
    return [] if given is None else [int(t) for t in (given if isinstance(given, list) else [given])]
