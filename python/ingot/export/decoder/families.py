"""Families of decoder-only language models: what their configurations say, as data. docs/models/generation.md says how to add one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ingot.errors import UnsupportedError


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding: angles are position times ``frequencies``; ``factor`` multiplies sines and cosines.

    ``frequencies`` has half as many elements as there are rotated elements at the front of each head.
    """

    frequencies: npt.NDArray[np.float32]
    factor: float = 1.0


@dataclass(frozen=True)
class Layer:
    """What may differ from layer to layer.

    Attributes:
        window: How many tokens a query sees, its own included; None: all.
        rotary: The rotary embedding.
        sinks: How many of a text's first tokens a query sees beside the window.
    """

    window: int | None = None
    rotary: Rotary | None = None
    sinks: int = 0


@dataclass(frozen=True)
class Names:
    """Names of a checkpoint's tensors, without ``.weight`` and ``.bias``; ``{}`` is the layer's number. "" is for what a family lacks.

    ``qkv`` and ``gate_up`` are for one matrix in place of several.
    """

    embedding: str
    norm1: str
    out: str
    down: str
    final_norm: str
    head: str
    norm2: str = ""
    q: str = ""
    k: str = ""
    v: str = ""
    qkv: str = ""
    up: str = ""
    gate: str = ""
    gate_up: str = ""
    positions: str = ""
    q_norm: str = ""
    k_norm: str = ""
    after_attention: str = ""
    after_mlp: str = ""


@dataclass(frozen=True)
class Decoder:
    """A decoder-only language model.

    Attributes:
        names: Where its weights are.
        layers: One for each block.
        hidden: Elements of a token's vector.
        heads: Heads of queries, of ``head_size`` elements.
        kv_heads: Heads of keys and values.
        vocabulary: Tokens.
        context: Tokens that it was trained for.
        norm: ``layer`` (LayerNorm), ``rms``, or ``rms1`` (RMSNorm whose weight is one less than its factor).
        epsilon: Of all normalizations.
        activation: ONNX's name, or ``GeluTanh``.
        parallel: Attention and MLP read the same input and are added together.
        transposed: Matrices are stored [in, out], as Conv1D of GPT-2 has them.
        interleaved: ``qkv`` is [head, (q, k, v), size] and not [(q, k, v), head, size].
        tied: The head is the embedding.
        embedding_scale: Multiplies embeddings.
        attention_scale: Multiplies scores; by default 1 / sqrt(head_size).
        attention_softcap, logit_softcap: c of c tanh(x / c); 0 is none.
    """

    names: Names
    layers: tuple[Layer, ...]
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    norm: str = "rms"
    epsilon: float = 1e-6
    activation: str = "Silu"
    parallel: bool = False
    transposed: bool = False
    interleaved: bool = False
    tied: bool = False
    embedding_scale: float = 1.0
    attention_scale: float | None = None
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0


#: Hugging Face's names of activations.
ACTIVATIONS = {"silu": "Silu", "swish": "Silu", "gelu": "Gelu", "gelu_new": "GeluTanh", "gelu_pytorch_tanh": "GeluTanh", "gelu_fast": "GeluTanh",
                "relu": "Relu"}

_LLAMA = Names(
    embedding="model.embed_tokens", norm1="model.layers.{}.input_layernorm", norm2="model.layers.{}.post_attention_layernorm",
    q="model.layers.{}.self_attn.q_proj", k="model.layers.{}.self_attn.k_proj", v="model.layers.{}.self_attn.v_proj",
    out="model.layers.{}.self_attn.o_proj", gate="model.layers.{}.mlp.gate_proj", up="model.layers.{}.mlp.up_proj",
    down="model.layers.{}.mlp.down_proj", final_norm="model.norm", head="lm_head")
_NORMED = replace(_LLAMA, q_norm="model.layers.{}.self_attn.q_norm", k_norm="model.layers.{}.self_attn.k_norm")
_GEMMA2 = replace(_LLAMA, norm2="model.layers.{}.pre_feedforward_layernorm", after_attention="model.layers.{}.post_attention_layernorm",
                  after_mlp="model.layers.{}.post_feedforward_layernorm")
_GEMMA3 = replace(_GEMMA2, q_norm=_NORMED.q_norm, k_norm=_NORMED.k_norm)


def _base(c: Any, names: Names, **changes: Any) -> Decoder:
    """What configurations in Llama's terms have in common."""
    head_size = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    windows = _windows(c)
    fields: dict[str, Any] = {
        "hidden": c.hidden_size, "heads": c.num_attention_heads, "head_size": head_size, "vocabulary": c.vocab_size,
        "kv_heads": getattr(c, "num_key_value_heads", None) or c.num_attention_heads, "context": c.max_position_embeddings,
        "epsilon": getattr(c, "rms_norm_eps", 1e-6), "activation": _activation(c), "tied": bool(c.tie_word_embeddings),
        "layers": tuple(Layer(window, rotary_of(c, head_size, kind)) for window, kind in windows)}
    return Decoder(names, **{**fields, **changes})


def _activation(c: Any) -> str:
    name = getattr(c, "hidden_activation", None) or getattr(c, "hidden_act", None) or getattr(c, "activation_function", None)
    if name not in ACTIVATIONS:
        raise UnsupportedError(f"the activation '{name}' is not supported; Ingot knows {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _windows(c: Any) -> list[tuple[int | None, str]]:
    """The window and the kind of each layer."""
    window = getattr(c, "sliding_window", None)
    if getattr(c, "use_sliding_window", True) is False:
        window = None
    kinds = getattr(c, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if window else "full_attention"] * c.num_hidden_layers
    unknown = set(kinds) - {"sliding_attention", "full_attention"}
    if unknown:
        raise UnsupportedError(f"layers of type '{sorted(unknown)[0]}' are not supported")
    return [(window if kind == "sliding_attention" else None, kind) for kind in kinds]


def rotary_of(c: Any, head_size: int, kind: str = "full_attention") -> Rotary:
    """The rotary embedding of a configuration (Su et al., arXiv:2104.09864), with the scaling that it names.

    Raises:
        UnsupportedError: The scaling depends on the length of the text.
    """
    given = getattr(c, "rope_parameters", None) or {}
    parameters: dict[str, Any] = dict(given.get(kind, given) or {})
    theta = float(parameters.get("rope_theta") or getattr(c, "rope_theta", None) or 10000.0)
    part = parameters.get("partial_rotary_factor") or getattr(c, "partial_rotary_factor", None) or getattr(c, "rotary_pct", None) or 1.0
    rotated = int(head_size * part)
    kind = parameters.get("rope_type", "default")
    exponents = np.arange(0, rotated, 2, dtype=np.float32) / np.float32(rotated)
    plain = (1.0 / np.power(np.float32(theta), exponents)).astype(np.float32)
    if kind == "default":
        return Rotary(plain)
    if kind == "linear":
        return Rotary(plain / np.float32(parameters["factor"]))
    if kind not in ("llama3", "yarn"):
        raise UnsupportedError(f"rotary embeddings of type '{kind}' are not supported: their frequencies depend on the length of the text")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](c, "cpu")
    return Rotary(frequencies.float().numpy(), float(factor))


def _gemma(c: Any, names: Names) -> Decoder:
    scale = getattr(c, "query_pre_attn_scalar", None)
    return _base(c, names, norm="rms1", embedding_scale=float(c.hidden_size) ** 0.5,
                 attention_scale=None if scale is None else float(scale) ** -0.5,
                 attention_softcap=float(getattr(c, "attn_logit_softcapping", None) or 0),
                 logit_softcap=float(getattr(c, "final_logit_softcapping", None) or 0))


def _gpt2(c: Any) -> Decoder:
    if c.scale_attn_by_inverse_layer_idx or not c.scale_attn_weights:
        raise UnsupportedError("GPT-2 with scale_attn_by_inverse_layer_idx or without scale_attn_weights is not supported")
    names = Names(embedding="wte", positions="wpe", norm1="h.{}.ln_1", norm2="h.{}.ln_2", qkv="h.{}.attn.c_attn", out="h.{}.attn.c_proj",
                  up="h.{}.mlp.c_fc", down="h.{}.mlp.c_proj", final_norm="ln_f", head="lm_head")
    return Decoder(names, (Layer(),) * c.n_layer, c.n_embd, c.n_head, c.n_head, c.n_embd // c.n_head, c.vocab_size, c.n_positions, norm="layer",
                   epsilon=c.layer_norm_epsilon, activation=_activation(c), transposed=True, tied=bool(c.tie_word_embeddings))


def _neox(c: Any) -> Decoder:
    names = Names(embedding="gpt_neox.embed_in", norm1="gpt_neox.layers.{}.input_layernorm", norm2="gpt_neox.layers.{}.post_attention_layernorm",
                  qkv="gpt_neox.layers.{}.attention.query_key_value", out="gpt_neox.layers.{}.attention.dense",
                  up="gpt_neox.layers.{}.mlp.dense_h_to_4h", down="gpt_neox.layers.{}.mlp.dense_4h_to_h",
                  final_norm="gpt_neox.final_layer_norm", head="embed_out")
    return _base(c, names, norm="layer", epsilon=c.layer_norm_eps, parallel=bool(c.use_parallel_residual), interleaved=True)


def _phi(c: Any) -> Decoder:
    if getattr(c, "qk_layernorm", False):
        raise UnsupportedError("Phi with qk_layernorm is not supported")
    names = Names(embedding="model.embed_tokens", norm1="model.layers.{}.input_layernorm", q=_LLAMA.q, k=_LLAMA.k, v=_LLAMA.v,
                  out="model.layers.{}.self_attn.dense", up="model.layers.{}.mlp.fc1", down="model.layers.{}.mlp.fc2",
                  final_norm="model.final_layernorm", head="lm_head")
    return _base(c, names, norm="layer", epsilon=c.layer_norm_eps, parallel=True)


def _phi3(c: Any) -> Decoder:
    names = replace(_LLAMA, q="", k="", v="", gate="", up="", qkv="model.layers.{}.self_attn.qkv_proj", gate_up="model.layers.{}.mlp.gate_up_proj")
    return _base(c, names)


#: By ``model_type`` of config.json.
FAMILIES: Mapping[str, Callable[[Any], Decoder]] = {
    "gpt2": _gpt2,
    "gpt_neox": _neox,
    "llama": lambda c: _base(c, _LLAMA),
    "mistral": lambda c: _base(c, _LLAMA),
    "qwen2": lambda c: _base(c, _LLAMA),
    "qwen3": lambda c: _base(c, _NORMED),
    "gemma": lambda c: _gemma(c, _LLAMA),
    "gemma2": lambda c: _gemma(c, _GEMMA2),
    "gemma3_text": lambda c: _gemma(c, _GEMMA3),
    "phi": _phi,
    "phi3": _phi3,
}
