"""Small language models of every family, with seeded weights, as their framework saves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 300
CONTEXT = 160

#: What most configurations share: three layers of four heads.
_SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": VOCABULARY,
                          "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
_GROUPED = {**_SMALL, "num_key_value_heads": 2}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 64}


@dataclass(frozen=True)
class Family:
    """A class of transformers and what its configuration is given."""

    model: str
    config: str
    arguments: dict[str, Any]


FAMILIES: dict[str, Family] = {
    "gpt2": Family("GPT2LMHeadModel", "GPT2Config", {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": CONTEXT,
                                                     "bos_token_id": 1, "eos_token_id": None}),
    "gpt_neox": Family("GPTNeoXForCausalLM", "GPTNeoXConfig", {**_SMALL, "rotary_pct": 0.25}),
    "gpt_neox_sequential": Family("GPTNeoXForCausalLM", "GPTNeoXConfig", {**_SMALL, "rotary_pct": 0.5, "use_parallel_residual": False}),
    "llama": Family("LlamaForCausalLM", "LlamaConfig", {**_GROUPED, "rope_parameters": _LLAMA3}),
    "mistral": Family("MistralForCausalLM", "MistralConfig", {**_GROUPED, "sliding_window": 5}),
    "qwen2": Family("Qwen2ForCausalLM", "Qwen2Config", _GROUPED),
    "qwen3": Family("Qwen3ForCausalLM", "Qwen3Config", {**_GROUPED, "head_dim": 32}),
    "gemma": Family("GemmaForCausalLM", "GemmaConfig", {**_SMALL, "num_key_value_heads": 1, "head_dim": 32}),
    "gemma2": Family("Gemma2ForCausalLM", "Gemma2Config", {**_GROUPED, "head_dim": 32, "sliding_window": 5, "query_pre_attn_scalar": 24}),
    "gemma3": Family("Gemma3ForCausalLM", "Gemma3TextConfig", {**_GROUPED, "head_dim": 32, "sliding_window": 5}),
    "phi": Family("PhiForCausalLM", "PhiConfig", {**_SMALL, "partial_rotary_factor": 0.5}),
    "phi3": Family("Phi3ForCausalLM", "Phi3Config", _GROUPED),
}


def build(name: str) -> Any:
    """A family's model. Biases and norms are random too, so that one that is left out shows."""
    import transformers

    family = FAMILIES[name]
    torch.manual_seed(0)
    model = getattr(transformers, family.model)(getattr(transformers, family.config)(**family.arguments)).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def save(name: str, folder: Path, shard: str = "5GB") -> Path:
    """The family's model as a directory."""
    build(name).save_pretrained(folder, max_shard_size=shard)
    return folder


def logits(model: Any, tokens: Sequence[Sequence[int]]) -> Any:
    """What the framework gives for rows of equal length: [batch, sequence, vocabulary]."""
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.float().numpy()


def greedy(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """The framework's greedy continuation."""
    with torch.no_grad():
        found = model.generate(torch.tensor([list(prompt)]), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
    return [int(t) for t in found[0, len(prompt):]]


