"""Language models at their real sizes, compiled for a GPU without weights: what a step of them launches."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import ingot
import ingot.compiler
from ingot.lower.cuda import nvcc

#: The Llama of 1.1 billion parameters.
LLAMA: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000,
                         "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "dtype": "bfloat16"}


def checkpoint(folder: Path, layers: int, **settings: Any) -> Path:
    """The directory of a Llama whose weights are a hole in a file: zeros that nothing stores."""
    import torch
    import transformers

    config = transformers.LlamaConfig(**{**LLAMA, "num_hidden_layers": layers, "architectures": ["LlamaForCausalLM"], **settings})
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: list(tensor.shape) for name, tensor in transformers.LlamaForCausalLM(config).state_dict().items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


def launches(directory: Path, target: str = "cuda:sm_90", **options: Any) -> list[str]:
    """The kernels, and the kernels of generated functions, that a step of a model runs, by name; its weights are never read."""
    kept: list[Any] = []

    def keep(path: Path, name: str, source: Any, imported: Any, built: tuple[list[Any], list[Any]], *rest: Any) -> int:
        kept.extend(built[0])
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingot.compiler, "_write", keep)
        patch.setattr(nvcc, "build", lambda source, architectures, jobs=2: nvcc.Fatbin(b"no code", {}))
        patch.setattr(nvcc, "find_nvcc", lambda: "none is needed")
        ingot.compile(str(directory), directory / "never.ingot", target=target, samples=0, **options)
    (built,) = kept
    found = []
    for step in built.program["functions"][0]["steps"]:
        if step["op"] == "kernel":
            found.append(step["name"])
        elif step["op"] == "call":
            found += [launch["kernel"] for launch in built.image.functions[step["function"]]["launches"]]
    return found
