"""Families of encoder-decoder models: what their configurations say, as data. docs/models/generation.md says how to add one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ingot.errors import UnsupportedError
from ingot.export.decoder.families import ACTIVATIONS


@dataclass(frozen=True)
class AttentionNames:
    """Names of an attention's tensors and of the normalization that belongs to it, without ``.weight`` and ``.bias``; ``{}`` is the layer."""

    norm: str
    q: str
    k: str
    v: str
    out: str


@dataclass(frozen=True)
class StackNames:
    """Names of the tensors of an encoder or a decoder. "" is for what it lacks; of several names the first that a checkpoint has is taken."""

    embedding: tuple[str, ...]
    attention: AttentionNames
    mlp_norm: str
    up: str
    down: str
    gate: str = ""
    cross: AttentionNames | None = None
    positions: str = ""
    embedding_norm: str = ""
    final_norm: str = ""
    bias: str = ""


@dataclass(frozen=True)
class Stack:
    """An encoder or a decoder: its names, and how many layers and heads it has."""

    names: StackNames
    layers: int
    heads: int


@dataclass(frozen=True)
class RelativeBias:
    """T5's position bias: distances share ``buckets``, and those from ``most`` on the last one."""

    buckets: int
    most: int


@dataclass(frozen=True)
class Audio:
    """Whisper's front end: the bands of its spectrogram, and how many seconds it hears."""

    bands: int
    seconds: int


@dataclass(frozen=True)
class Seq2seq:
    """An encoder-decoder model.

    Attributes:
        encoder, decoder: The two stacks.
        hidden: Elements of a token's vector.
        head_size: Elements of a head.
        vocabulary: Tokens of the decoder.
        context: The most tokens of the decoder.
        source_context: The most tokens, or frames of audio, of the encoder.
        head: Names of the matrix of logits; the first that a checkpoint has is taken.
        norm: ``layer`` (LayerNorm) or ``rms``.
        epsilon: Of all normalizations.
        activation: ONNX's name, ``Silu`` or ``GeluTanh``.
        first: A block's parts are normalized before they run, and not after their sum.
        embedding_scale: Multiplies embeddings.
        attention_scale: Multiplies scores.
        hidden_scale: Multiplies what the logits are computed from.
        relative: Position bias in self-attention.
        positions: ``""`` for none, ``learned``, or ``sinusoidal``, which a checkpoint need not have.
        position_offset: What is added to positions.
        logits_bias: The name of what is added to logits.
        audio: The encoder hears; None: it reads tokens.
    """

    encoder: Stack
    decoder: Stack
    hidden: int
    head_size: int
    vocabulary: int
    context: int
    source_context: int
    head: tuple[str, ...]
    norm: str = "layer"
    epsilon: float = 1e-5
    activation: str = "Gelu"
    first: bool = False
    embedding_scale: float = 1.0
    attention_scale: float = 1.0
    hidden_scale: float = 1.0
    relative: RelativeBias | None = None
    positions: str = "learned"
    position_offset: int = 0
    logits_bias: str = ""
    audio: Audio | None = None


#: T5 has no positions of its own: how far its caches reach unless somebody says otherwise.
_T5_CONTEXT = 512


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise UnsupportedError(f"the activation '{name}' is not supported; Ingot knows {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _t5(c: Any) -> Seq2seq:
    def stack(name: str, layers: int) -> Stack:
        block = f"{name}.block.{{}}.layer."

        def attention(place: int, kind: str) -> AttentionNames:
            return AttentionNames(f"{block}{place}.layer_norm", *(f"{block}{place}.{kind}.{part}" for part in "qkvo"))

        last = 2 if name == "decoder" else 1
        inner = f"{block}{last}.DenseReluDense."
        names = StackNames(("shared", f"{name}.embed_tokens"), attention(0, "SelfAttention"), f"{block}{last}.layer_norm",
                           f"{inner}wi_1" if c.is_gated_act else f"{inner}wi", f"{inner}wo", f"{inner}wi_0" if c.is_gated_act else "",
                           attention(1, "EncDecAttention") if name == "decoder" else None, final_norm=f"{name}.final_layer_norm",
                           bias=f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias")
        return Stack(names, layers, c.num_heads)

    scaled = bool(getattr(c, "scale_decoder_outputs", False))
    return Seq2seq(stack("encoder", c.num_layers), stack("decoder", c.num_decoder_layers), c.d_model, c.d_kv, c.vocab_size, _T5_CONTEXT, _T5_CONTEXT,
                   ("lm_head", "shared", "decoder.embed_tokens"), norm="rms", epsilon=c.layer_norm_epsilon, activation=_activation(c.dense_act_fn),
                   first=True, positions="", hidden_scale=float(c.d_model) ** -0.5 if scaled else 1.0,
                   relative=RelativeBias(c.relative_attention_num_buckets, c.relative_attention_max_distance))


def _bart(c: Any, **changes: Any) -> Seq2seq:
    """What Bart and its descendants have in common: their names of tensors and of settings."""
    def stack(name: str, layers: int, heads: int) -> Stack:
        block = f"model.{name}.layers.{{}}."

        def attention(kind: str) -> AttentionNames:
            return AttentionNames(f"{block}{kind}_layer_norm", *(f"{block}{kind}.{part}_proj" for part in ("q", "k", "v", "out")))

        own = (f"model.{name}.embed_tokens", "model.shared")
        embedding = own if name == "encoder" else (*own, "model.encoder.embed_tokens", "lm_head")
        names = StackNames(embedding, attention("self_attn"), f"{block}final_layer_norm", f"{block}fc1", f"{block}fc2",
                           cross=attention("encoder_attn") if name == "decoder" else None, positions=f"model.{name}.embed_positions",
                           embedding_norm=f"model.{name}.layernorm_embedding", final_norm=f"model.{name}.layer_norm")
        return Stack(names, layers, heads)

    if c.encoder_attention_heads != c.decoder_attention_heads:
        raise UnsupportedError("an encoder and a decoder with different numbers of heads are not supported")
    size = c.d_model // c.decoder_attention_heads
    fields: dict[str, Any] = {
        "encoder": stack("encoder", c.encoder_layers, c.encoder_attention_heads), "hidden": c.d_model, "head_size": size,
        "decoder": stack("decoder", c.decoder_layers, c.decoder_attention_heads), "attention_scale": float(size) ** -0.5,
        "vocabulary": getattr(c, "decoder_vocab_size", None) or c.vocab_size,
        "embedding_scale": float(c.d_model) ** 0.5 if c.scale_embedding else 1.0, "activation": _activation(c.activation_function),
        "head": ("lm_head", "proj_out", "model.decoder.embed_tokens", "model.shared", "model.encoder.embed_tokens"),
        "logits_bias": "final_logits_bias"}
    if "context" not in changes:
        fields |= {"context": c.max_position_embeddings, "source_context": c.max_position_embeddings}
    return Seq2seq(**{**fields, **changes})


def _without(model: Seq2seq, *names: str) -> Seq2seq:
    """A model whose stacks lack the tensors of these fields of StackNames."""
    lacking: dict[str, Any] = dict.fromkeys(names, "")
    encoder, decoder = (replace(stack, names=replace(stack.names, **lacking)) for stack in (model.encoder, model.decoder))
    return replace(model, encoder=encoder, decoder=decoder)


def _whisper(c: Any) -> Seq2seq:
    seconds, rest = divmod(2 * c.max_source_positions, 100)  # two frames for each position, 100 frames a second
    if rest:
        raise UnsupportedError(f"Whisper with {c.max_source_positions} positions of audio, which are no whole seconds, is not supported")
    return _without(_bart(c, first=True, context=c.max_target_positions, source_context=c.max_source_positions, logits_bias="",
                          embedding_scale=1.0, audio=Audio(c.num_mel_bins, seconds)), "embedding_norm")


#: By ``model_type`` of config.json.
FAMILIES: Mapping[str, Callable[[Any], Seq2seq]] = {
    "t5": _t5,
    "mt5": _t5,
    "marian": lambda c: _without(_bart(c, positions="sinusoidal"), "embedding_norm", "final_norm"),
    "pegasus": lambda c: _without(_bart(c, positions="sinusoidal", first=True), "embedding_norm"),
    "bart": lambda c: _without(_bart(c, position_offset=2), "final_norm"),
    "mbart": lambda c: _bart(c, position_offset=2, first=True),
    "whisper": _whisper,
}
