"""A decoder-only language model as an ONNX graph whose weights stay in the checkpoint's files.

Inputs:   input_ids [batch, sequence] int64; token_counts [batch] int64, how many of each row's ids are real, from the left;
          logits_at [batch, kept] int64, the positions in the sequence after which logits are wanted; where the model chooses tokens itself,
          sampling [batch, kept, 4] float32, temperature, top k, top p and min p, and random [batch, kept] float32, uniform numbers of [0, 1)
Outputs:  logits [batch, kept, vocabulary] float32; where it does, tokens [batch, kept] int64
States:   length [batch] int64, the tokens that a row has seen; key_i and value_i [batch, slots, kv_heads * head_size], and of int8 their scales
          [batch, slots, kv_heads]; slots are the context, or of a sliding window a ring behind the slots of its sinks
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ingot.export.decoder.checkpoint import Checkpoint
from ingot.export.decoder.families import Decoder, Layer, Rotary
from ingot.export.decoder.pieces import DOMAIN, Pieces


@dataclass(frozen=True)
class Cache:
    """One kind of cache: the name of its dimension of steps, how many it has, whether it is a ring, and how many slots come before the ring."""

    dimension: str
    slots: int
    ring: bool
    sinks: int = 0


@dataclass
class Caches:
    """The caches of a model: their type, and how many tokens they hold.

    Attributes:
        dtype: float32, float16, bfloat16, int8 or float8_e4m3fn, as ONNX numbers them.
        context: The most tokens of a text.
        chunk: The most tokens of one run: a ring has room for a window before each of them.
        bounds: The extents of the dimensions that were used.
    """

    dtype: int
    context: int
    chunk: int
    bounds: dict[str, int] = field(default_factory=dict)

    def of(self, layer: Layer) -> Cache:
        """The cache of a layer."""
        slots = self.context if layer.window is None else layer.sinks + layer.window + self.chunk - 1
        if slots < self.context:
            cache = Cache(f"window_{layer.window}" + (f"_sinks_{layer.sinks}" if layer.sinks else ""), slots, True, layer.sinks)
        else:
            cache = Cache("context", self.context, False)
        self.bounds[cache.dimension] = cache.slots
        return cache


class DecoderGraph(Pieces):
    """Builds the graph, which chooses tokens itself with ``chooses``. Methods take and give names of values."""

    def __init__(self, decoder: Decoder, checkpoint: Checkpoint, caches: Caches, chooses: bool = False) -> None:
        super().__init__(checkpoint)
        self.d = decoder
        self.caches = caches
        self.chooses = chooses
        self.states: dict[str, str] = {"length": "next_length"}
        self.shapes: dict[str, tuple[int, list[Any]]] = {"length": (TensorProto.INT64, ["batch"])}
        self._angles: dict[tuple[bytes, float, int | None], tuple[str, str]] = {}
        self._places: dict[str, tuple[str, str]] = {}

    # ---- Pieces of a graph --------------------------------------------------------------------------------

    def linear(self, x: str, name: str, transposed: bool | None = None) -> str:
        """The product x W^T + b, for weights [out, in], or x W + b for transposed ones."""
        return super().linear(x, name, self.d.transposed if transposed is None else transposed)

    def norm(self, x: str, name: str, axis: int = -1) -> str:
        """The family's normalization over the last axis."""
        weight = self.tensor(f"{name}.weight")
        if self.d.norm == "layer":
            bias = [self.tensor(f"{name}.bias")] if self.has(f"{name}.bias") else []
            return str(self.node("LayerNormalization", x, weight, *bias, name=f"/{name}", axis=axis, epsilon=self.d.epsilon))
        if self.d.norm == "rms1":
            weight = self.node("Add", weight, self.constant(1.0, np.float32))
        return str(self.node("RMSNormalization", x, weight, name=f"/{name}", axis=axis, epsilon=self.d.epsilon))

    # ---- The model ------------------------------------------------------------------------------------------

    def build(self) -> onnx.ModelProto:
        """The whole model."""
        d = self.d
        ids, counts, length = "input_ids", "token_counts", "length"
        steps = self.node("Shape", ids, start=1, end=2)
        count = self.node("Squeeze", steps, self.constant([0]))
        offsets = self.node("Range", self.constant(0), count, self.constant(1))
        positions = self.node("Add", self.node("Unsqueeze", length, self.constant([1])), offsets)  # [batch, sequence]
        self.positions = self.node("Cast", self.node("Unsqueeze", positions, self.constant([2])), to=TensorProto.FLOAT)
        self.filled = self.node("Add", length, steps)  # what attention sees, garbage behind a row's last token included
        x = self.node("Gather", self.tensor(f"{self.embedding()}.weight"), ids, name="/embedding")
        if d.embedding_scale != 1.0:
            x = self.node("Mul", x, self.constant(d.embedding_scale, np.float32))
        if d.names.positions:
            if self.caches.context > d.context:  # a window goes on: all tokens behind the last learned position are given that one
                positions = self.node("Min", positions, self.constant(d.context - 1))
            x = self.node("Add", x, self.node("Gather", self.tensor(f"{d.names.positions}.weight"), positions))
        for i, layer in enumerate(d.layers):
            x = self.block(x, i, layer)
        logits = self.head(self.norm(self.kept(x, steps, d.hidden), d.names.final_norm))
        self.node("Identity", logits, name="logits")
        if self.chooses:
            self.node("Sample", "logits", "random", "sampling", name="tokens", domain=DOMAIN)
        self.node("Add", length, counts, name="next_length")
        return self.model()

    def block(self, x: str, i: int, layer: Layer) -> str:
        """One block of attention and MLP."""
        n = self.d.names
        normed = self.norm(x, n.norm1.format(i))
        attended = self.attention(normed, i, layer)
        if n.after_attention:
            attended = self.norm(attended, n.after_attention.format(i))
        if self.d.parallel:
            inner = self.norm(x, n.norm2.format(i)) if n.norm2 else normed
            return str(self.node("Add", x, self.node("Add", attended, self.mlp(inner, i))))
        x = self.node("Add", x, attended)
        y = self.mlp(self.norm(x, n.norm2.format(i)), i)
        if n.after_mlp:
            y = self.norm(y, n.after_mlp.format(i))
        return str(self.node("Add", x, y))

    def mlp(self, x: str, i: int) -> str:
        """The feed-forward part."""
        d, n = self.d, self.d.names
        if n.gate_up:
            gate, up = self.node("Split", self.linear(x, n.gate_up.format(i)), outputs=2, axis=-1, num_outputs=2)
            inner = self.node("Mul", self.activation(gate, d.activation), up)
        elif n.gate:
            inner = self.node("Mul", self.activation(self.linear(x, n.gate.format(i)), d.activation), self.linear(x, n.up.format(i)))
        else:
            inner = self.activation(self.linear(x, n.up.format(i)), d.activation)
        return self.linear(inner, n.down.format(i))

    def attention(self, x: str, i: int, layer: Layer) -> str:
        """Attention over the cache, into which the new keys and values go first."""
        d, n = self.d, self.d.names
        q, k, v = self.projections(x, i)
        if n.q_norm:
            q, k = self.head_norm(q, n.q_norm.format(i), d.heads), self.head_norm(k, n.k_norm.format(i), d.kv_heads)
        sink_q = ""
        if layer.rotary is not None:
            if layer.sinks and layer.window is not None:
                # StreamingLLM counts positions in a cache of sinks and window: no query is farther than that from a sink, all else is as in the text.
                sink_q = self.rotate(q, d.heads, layer.rotary, layer.sinks + layer.window - 1)
            q, k = (self.rotate(t, heads, layer.rotary) for t, heads in ((q, d.heads), (k, d.kv_heads)))
        cache = self.caches.of(layer)
        stored, scales = [], []
        for name, new in ((f"key_{i}", k), (f"value_{i}", v)):
            if self.caches.dtype == TensorProto.INT8:
                new, factors = self.rounded(new)
                scales.append(self.store(f"{name}_scale", factors, cache, TensorProto.FLOAT, d.kv_heads))
            elif self.caches.dtype == TensorProto.FLOAT8E4M3FN:
                new = self.node("QuantizeLinear", new, self.constant(1.0, np.float32), output_dtype=self.caches.dtype)
            elif self.caches.dtype != TensorProto.FLOAT:
                new = self.node("Cast", new, to=self.caches.dtype)
            stored.append(self.store(name, new, cache, self.caches.dtype, d.kv_heads * d.head_size))
        lengths, ring = self.places(cache)
        window = {} if layer.window is None else {"left_window_size": layer.window - 1, "sinks": layer.sinks}
        inputs = [q, *stored, lengths, ring, *(scales or ["", ""]), "", sink_q] if sink_q else [q, *stored, lengths, ring, *scales]
        y = self.node("CachedAttention", *inputs, name=f"/attention.{i}", domain=DOMAIN, num_heads=d.heads, kv_num_heads=d.kv_heads,
                      scale=d.attention_scale or d.head_size ** -0.5, softcap=d.attention_softcap, **window)
        return self.linear(y, n.out.format(i))

    def rotate(self, x: str, heads: int, rotary: Rotary, most: int | None = None) -> str:
        """Queries or keys [batch, sequence, heads * size] with their rotary embedding, at position ``most`` where they stand behind it."""
        rotated = 2 * len(rotary.frequencies)
        return str(self.node("RotaryEmbedding", x, *self.angles(rotary, most), num_heads=heads,
                             rotary_embedding_dim=rotated if rotated < self.d.head_size else 0))

    def store(self, name: str, new: str, cache: Cache, dtype: int, width: int) -> str:
        """New steps [batch, sequence, width] go into a state; the name of what it holds then."""
        self.states[name] = f"next_{name}"
        self.shapes[name] = (dtype, ["batch", cache.dimension, width])
        own: dict[str, Any] = {"domain": DOMAIN, "sinks": cache.sinks} if cache.sinks else {}
        return str(self.node("TensorScatter", name, new, "length", name=f"next_{name}", axis=1, mode="circular" if cache.ring else "linear", **own))

    def rounded(self, x: str) -> tuple[str, str]:
        """Keys or values [batch, sequence, heads * size] as int8, and the scales of their heads [batch, sequence, heads]."""
        apart = self.node("Reshape", x, self.constant([0, 0, self.d.kv_heads, self.d.head_size]))
        most = self.node("ReduceMax", self.node("Abs", apart), self.constant([3]), keepdims=1)
        scales = self.node("Div", self.node("Max", self.constant(1e-30, np.float32), most), self.constant(127.0, np.float32))
        codes = self.node("Cast", self.node("Round", self.node("Div", apart, scales)), to=TensorProto.INT8)
        flat = self.node("Reshape", codes, self.constant([0, 0, self.d.kv_heads * self.d.head_size]))
        return flat, self.node("Squeeze", scales, self.constant([3]))

    def places(self, cache: Cache) -> tuple[str, str]:
        """How many keys each row has, and position and slot of the oldest one behind the sinks [batch, 2] of a ring ("" otherwise)."""
        if not cache.ring:
            return self.filled, ""
        if cache.dimension not in self._places:
            slots, turning, sinks = (self.constant([n]) for n in (cache.slots, cache.slots - cache.sinks, cache.sinks))
            oldest = self.node("Max", self.node("Sub", self.filled, slots), self.constant([0]))
            pair = [self.node("Unsqueeze", t, self.constant([1])) for t in (oldest, self.node("Mod", oldest, turning))]
            if cache.sinks:
                pair = [self.node("Add", t, sinks) for t in pair]
            self._places[cache.dimension] = self.node("Min", self.filled, slots), self.node("Concat", *pair, axis=1)
        return self._places[cache.dimension]

    def projections(self, x: str, i: int) -> tuple[str, str, str]:
        """Queries, keys and values [batch, sequence, heads * head_size]."""
        d, n = self.d, self.d.names
        if not n.qkv:
            q, k, v = (self.linear(x, name.format(i)) for name in (n.q, n.k, n.v))
            return q, k, v
        mixed = self.linear(x, n.qkv.format(i))
        if d.interleaved:
            apart = self.node("Reshape", mixed, self.constant([0, 0, d.heads, 3, d.head_size]))
            parts = self.node("Split", apart, outputs=3, axis=3, num_outputs=3)
            q, k, v = (self.node("Reshape", p, self.constant([0, 0, d.heads * d.head_size])) for p in parts)
            return q, k, v
        sizes = [d.heads * d.head_size, d.kv_heads * d.head_size, d.kv_heads * d.head_size]
        q, k, v = self.node("Split", mixed, self.constant(sizes), outputs=3, axis=-1)
        return q, k, v

    def head_norm(self, x: str, name: str, heads: int) -> str:
        """The normalization of each head."""
        apart = self.node("Reshape", x, self.constant([0, 0, heads, self.d.head_size]))
        return str(self.node("Reshape", self.norm(apart, name), self.constant([0, 0, heads * self.d.head_size])))

    def angles(self, rotary: Rotary, most: int | None = None) -> tuple[str, str]:
        """Cosines and sines [batch, sequence, rotated / 2] of positions, which are ``most`` at most."""
        key = (rotary.frequencies.tobytes(), rotary.factor, most)
        if key not in self._angles:
            positions = self.positions if most is None else self.node("Min", self.positions, self.constant(most, np.float32))
            angle = self.node("Mul", positions, self.constant(rotary.frequencies, np.float32))
            pair = [self.node(op, angle) for op in ("Cos", "Sin")]
            if rotary.factor != 1.0:
                pair = [self.node("Mul", p, self.constant(rotary.factor, np.float32)) for p in pair]
            self._angles[key] = (pair[0], pair[1])
        return self._angles[key]

    def embedding(self) -> str:
        """The name of the embedding: where it is the head too, a checkpoint may have it under that name alone."""
        n = self.d.names
        return n.head if self.d.tied and not self.has(f"{n.embedding}.weight") else n.embedding

    def head(self, x: str) -> str:
        """Logits."""
        d = self.d
        tied = d.tied or not self.has_matrix(d.names.head)
        logits = self.linear(x, self.embedding() if tied else d.names.head, transposed=False)
        if d.logit_softcap:
            cap = self.constant(d.logit_softcap, np.float32)
            logits = self.node("Mul", self.node("Tanh", self.node("Div", logits, cap)), cap)
        return logits

    def model(self) -> onnx.ModelProto:
        """The nodes with their inputs and outputs."""
        d = self.d
        inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
                  helper.make_tensor_value_info("token_counts", TensorProto.INT64, ["batch"]),
                  helper.make_tensor_value_info("logits_at", TensorProto.INT64, ["batch", "kept"])]
        if self.chooses:
            inputs += [helper.make_tensor_value_info("sampling", TensorProto.FLOAT, ["batch", "kept", 4]),
                       helper.make_tensor_value_info("random", TensorProto.FLOAT, ["batch", "kept"])]
        inputs += [helper.make_tensor_value_info(n, *self.shapes[n]) for n in self.states]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "kept", d.vocabulary])]
        if self.chooses:
            outputs.append(helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "kept"]))
        outputs += [helper.make_tensor_value_info(self.states[n], *self.shapes[n]) for n in self.states]
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, list(self.initializers.values()))
        return helper.make_model(graph, opset_imports=self.opsets(), producer_name="ingot")
