"""An encoder-decoder model as one ONNX graph, which encodes what it is given and decodes the tokens that it is given.

Inputs:   source_ids [batch, source] int64 and source_counts [batch] int64, how many ids of each row are real, from the left; of audio instead
          audio [clips, samples] float32 at 16 kHz, of which there are as many clips as rows, or none;
          input_ids [batch, sequence] int64, token_counts [batch] int64 and logits_at [batch, kept] int64 as of a decoder (export/decoder/graph.py)
Outputs:  logits [batch, kept, vocabulary] float32
States:   source_length [batch] int64, the steps of the source that a row has encoded, and cross_key_i and cross_value_i [batch, source slots,
          hidden], what each layer of the decoder reads of them; length [batch] int64, the tokens that a row has seen, and key_i and value_i

A run without a source (an extent of 0) leaves those of the first kind as they are, and its encoder computes nothing: all of its extents are 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from ingot.export.decoder.checkpoint import Checkpoint
from ingot.export.decoder.pieces import DOMAIN, Pieces
from ingot.export.seq2seq.audio import spectrogram
from ingot.export.seq2seq.families import AttentionNames, Seq2seq, Stack


class Seq2seqGraph(Pieces):
    """Builds the graph. ``dtype`` is that of the caches, as ONNX numbers it: float32, float16 or bfloat16."""

    def __init__(self, model: Seq2seq, checkpoint: Checkpoint, dtype: int) -> None:
        super().__init__(checkpoint)
        self.m = model
        self.dtype = dtype
        self.states = {"length": "next_length", "source_length": "next_source_length"}
        self.shapes: dict[str, tuple[int, list[Any]]] = dict.fromkeys(self.states, (TensorProto.INT64, ["batch"]))
        self.bounds = {"context": model.context}
        if model.audio is None:
            self.bounds["source_context"] = model.source_context

    def build(self) -> onnx.ModelProto:
        """The whole model."""
        encoded, lengths = self.heard() if self.m.audio is not None else self.read()
        steps = self.node("Shape", "input_ids", start=1, end=2)
        filled = self.node("Add", "length", steps)  # what attention sees, garbage behind a row's last token included
        positions = self.node("Add", self.node("Unsqueeze", "length", self.constant([1])), self.counted(steps))  # [batch, sequence]
        x = self.embedded("input_ids", self.m.decoder, positions)
        bias = self.decoder_bias(positions)
        for i in range(self.m.decoder.layers):
            x = self.decoder_block(x, i, encoded, lengths, filled, bias)
        logits = self.head(self.finished(self.kept(x, steps, self.m.hidden), self.m.decoder))
        self.node("Identity", logits, name="logits")
        self.node("Add", "length", "token_counts", name="next_length")
        return self.model()

    # ---- The encoder ----------------------------------------------------------------------------------------

    def read(self) -> tuple[str, str]:
        """What the encoder makes of token ids [batch, source, hidden], and how many steps each row has encoded now."""
        steps = self.node("Shape", "source_ids", start=1, end=2)
        positions = self.counted(steps)
        x = self.embedded("source_ids", self.m.encoder, positions)
        bias = self.encoder_bias(positions)
        for i in range(self.m.encoder.layers):
            x = self.encoder_block(x, i, "source_counts", bias)
        return self.finished(x, self.m.encoder), str(self.node("Add", "source_length", "source_counts", name="next_source_length"))

    def heard(self) -> tuple[str, str]:
        """What the encoder makes of audio [batch, frames, hidden], and how many frames each row has encoded now."""
        assert self.m.audio is not None
        x = spectrogram(self, "audio", self.m.audio)  # [clips, bands, 2 * frames]
        for number, stride in ((1, 1), (2, 2)):
            name = f"model.encoder.conv{number}"
            x = self.node("Conv", x, self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), name=f"/{name}", pads=[1, 1], strides=[stride])
            x = self.node("Gelu", x)
        x = self.node("Add", self.node("Transpose", x, perm=[0, 2, 1]), self.tensor(f"{self.m.encoder.names.positions}.weight"))
        frames = self.node("Expand", self.constant(self.m.source_context), self.node("Shape", "audio", start=0, end=1))
        for i in range(self.m.encoder.layers):
            x = self.encoder_block(x, i, frames, "")
        # As many clips as rows, or none: [clips, frames, hidden] is [batch, frames, hidden] or [batch, 0, hidden].
        rows = self.node("Concat", self.node("Shape", "length"), self.constant([-1, self.m.hidden]), axis=0)
        x = self.node("Reshape", self.finished(x, self.m.encoder), rows)
        return x, str(self.node("Add", "source_length", self.node("Shape", x, start=1, end=2), name="next_source_length"))

    def encoder_block(self, x: str, i: int, counts: str, bias: str) -> str:
        """A block of attention among a row's tokens, and MLP."""
        n = self.m.encoder.names

        def attention(y: str) -> str:
            k, v = (self.linear(y, name.format(i)) for name in (n.attention.k, n.attention.v))
            return self.attention(y, n.attention, i, k, v, counts, bias, causal=False)

        x = self.part(x, n.attention.norm.format(i), attention)
        return self.part(x, n.mlp_norm.format(i), lambda y: self.mlp(y, i, self.m.encoder))

    # ---- The decoder ----------------------------------------------------------------------------------------

    def decoder_block(self, x: str, i: int, encoded: str, lengths: str, filled: str, bias: str) -> str:
        """A block of causal attention over the cache, attention to the source, and MLP."""
        n = self.m.decoder.names
        cross = n.cross
        assert cross is not None

        def attention(y: str) -> str:
            k, v = (self.store(f"{kind}_{i}", self.linear(y, name.format(i)), "length", "context")
                    for kind, name in (("key", n.attention.k), ("value", n.attention.v)))
            return self.attention(y, n.attention, i, k, v, filled, bias, causal=True)

        def attention_to_source(y: str) -> str:
            slots = "source_context" if self.m.audio is None else self.m.source_context
            k, v = (self.store(f"cross_{kind}_{i}", self.linear(encoded, name.format(i)), "source_length", slots)
                    for kind, name in (("key", cross.k), ("value", cross.v)))
            return self.attention(y, cross, i, k, v, lengths, "", causal=False)

        x = self.part(x, n.attention.norm.format(i), attention)
        x = self.part(x, cross.norm.format(i), attention_to_source)
        return self.part(x, n.mlp_norm.format(i), lambda y: self.mlp(y, i, self.m.decoder))

    def store(self, name: str, new: str, length: str, slots: str | int) -> str:
        """New steps [batch, steps, heads * head_size] go into a state at its length; the name of what it holds then."""
        self.states[name] = f"next_{name}"
        self.shapes[name] = (self.dtype, ["batch", slots, self.m.decoder.heads * self.m.head_size])
        if self.dtype != TensorProto.FLOAT:
            new = self.node("Cast", new, to=self.dtype)
        return str(self.node("TensorScatter", name, new, length, name=f"next_{name}", axis=1))

    def head(self, x: str) -> str:
        """Logits."""
        logits = self.linear(self.scaled(x, self.m.hidden_scale), self.first(self.m.head))
        return str(self.node("Add", logits, self.tensor(self.m.logits_bias))) if self.m.logits_bias and self.has(self.m.logits_bias) else logits

    # ---- What both have -------------------------------------------------------------------------------------

    def part(self, x: str, norm: str, run: Any) -> str:
        """A part of a block with its residual: normalized before it runs, or after the sum."""
        if self.m.first:
            return str(self.node("Add", x, run(self.norm(x, norm))))
        return self.norm(self.node("Add", x, run(x)), norm)

    def attention(self, x: str, names: AttentionNames, i: int, k: str, v: str, lengths: str, bias: str, causal: bool) -> str:
        """Attention of the tokens of ``x`` to keys and values of which each row has as many as ``lengths`` says."""
        heads = self.m.decoder.heads
        y = self.node("CachedAttention", self.linear(x, names.q.format(i)), k, v, lengths, *(["", "", "", bias] if bias else []),
                      name=f"/{names.q.format(i).rpartition('.')[0]}", domain=DOMAIN, num_heads=heads, kv_num_heads=heads,
                      scale=self.m.attention_scale, causal=int(causal))
        return self.linear(y, names.out.format(i))

    def mlp(self, x: str, i: int, stack: Stack) -> str:
        """The feed-forward part."""
        n = stack.names
        inner = self.linear(x, n.up.format(i))
        if n.gate:
            inner = self.node("Mul", self.activation(self.linear(x, n.gate.format(i)), self.m.activation), inner)
        else:
            inner = self.activation(inner, self.m.activation)
        return self.linear(inner, n.down.format(i))

    def norm(self, x: str, name: str) -> str:
        """The family's normalization over the last axis."""
        weight = self.tensor(f"{name}.weight")
        if self.m.norm == "layer":
            return str(self.node("LayerNormalization", x, weight, self.tensor(f"{name}.bias"), name=f"/{name}", epsilon=self.m.epsilon))
        return str(self.node("RMSNormalization", x, weight, name=f"/{name}", epsilon=self.m.epsilon))

    def embedded(self, ids: str, stack: Stack, positions: str) -> str:
        """Vectors of token ids at positions, which are [sequence] or [batch, sequence]."""
        n = stack.names
        x = self.node("Gather", self.tensor(f"{self.first(n.embedding)}.weight"), ids, name=f"/{ids}")
        x = self.scaled(x, self.m.embedding_scale)
        if self.m.positions:
            if self.m.position_offset:
                positions = self.node("Add", positions, self.constant(self.m.position_offset))
            x = self.node("Add", x, self.node("Gather", self.position_table(n.positions), positions))
        return self.norm(x, n.embedding_norm) if n.embedding_norm else str(x)

    def finished(self, x: str, stack: Stack) -> str:
        """The last normalization, if there is one."""
        return self.norm(x, stack.names.final_norm) if stack.names.final_norm else x

    def scaled(self, x: str, factor: float) -> str:
        """A product with a number."""
        return x if factor == 1.0 else str(self.node("Mul", x, self.constant(factor, np.float32)))

    def counted(self, steps: str) -> str:
        """0, 1, 2, … for a tensor [1] that says how many."""
        return str(self.node("Range", self.constant(0), self.node("Squeeze", steps, self.constant([0])), self.constant(1)))

    def first(self, names: tuple[str, ...]) -> str:
        """The first name that the checkpoint has a matrix of."""
        return next((name for name in names if self.has_matrix(name)), names[0])

    # ---- Positions ------------------------------------------------------------------------------------------

    def position_table(self, name: str) -> str:
        """Vectors of positions [positions, hidden]; sinusoidal ones are computed where the checkpoint has none."""
        if self.m.positions == "learned" or self.has(f"{name}.weight"):
            return self.tensor(f"{name}.weight")
        angles = np.arange(self.m.context)[:, None] / 10000 ** (2 * np.arange((self.m.hidden + 1) // 2) / self.m.hidden)
        return self.constant(np.concatenate([np.sin(angles), np.cos(angles[:, :self.m.hidden // 2])], axis=1), np.float32)

    def encoder_bias(self, positions: str) -> str:
        """T5's bias [1, heads, source, source], or ""."""
        if self.m.relative is None:
            return ""
        distances = self.node("Sub", self.node("Unsqueeze", positions, self.constant([0])), self.node("Unsqueeze", positions, self.constant([1])))
        return str(self.node("Unsqueeze", self.biases(distances, self.m.encoder, both=True), self.constant([0])))

    def decoder_bias(self, positions: str) -> str:
        """T5's bias [batch, heads, sequence, slots], or ""."""
        if self.m.relative is None:
            return ""
        slots = self.counted(self.node("Shape", "key_0", start=1, end=2))
        distances = self.node("Sub", slots, self.node("Unsqueeze", positions, self.constant([2])))
        return str(self.node("Transpose", self.biases(distances, self.m.decoder, both=False), perm=[1, 0, 2, 3]))

    def biases(self, distances: str, stack: Stack, both: bool) -> str:
        """[heads, *distances]: what T5 adds to the scores of keys that stand so far behind their queries, or before them."""
        assert self.m.relative is not None
        most = self.m.relative.most
        numbers = buckets(self.m.relative.buckets, most, both)
        table = self.node("Gather", self.tensor(f"{stack.names.bias}.weight"), self.constant(numbers))  # [distances, heads], of weights alone
        low, high = self.constant(-most), self.constant(most if both else 0)
        places = self.node("Add", self.node("Clip", distances, low, high), self.constant(most))
        return str(self.node("Gather", self.node("Transpose", table, perm=[1, 0]), places, axis=1))

    # ---- The model ------------------------------------------------------------------------------------------

    def model(self) -> onnx.ModelProto:
        """The nodes with their inputs and outputs."""
        value, int64 = helper.make_tensor_value_info, TensorProto.INT64
        source = [value("audio", TensorProto.FLOAT, ["clips", "samples"])] if self.m.audio is not None else \
            [value("source_ids", int64, ["batch", "source"]), value("source_counts", int64, ["batch"])]
        inputs = [*source, value("input_ids", int64, ["batch", "sequence"]), value("token_counts", int64, ["batch"]),
                  value("logits_at", int64, ["batch", "kept"]), *(value(n, *self.shapes[n]) for n in self.states)]
        outputs = [value("logits", TensorProto.FLOAT, ["batch", "kept", self.m.vocabulary]),
                   *(value(self.states[n], *self.shapes[n]) for n in self.states)]
        graph = helper.make_graph(self.nodes, "seq2seq", inputs, outputs, list(self.initializers.values()))
        return helper.make_model(graph, opset_imports=self.opsets(), producer_name="ingot")


def buckets(count: int, most: int, both: bool) -> npt.NDArray[np.int64]:
    """The bucket of each distance of T5 (Raffel et al., arXiv:1910.10683): from -most to 0, or to most where keys stand on both sides.

    Half of a side's buckets are for one distance each; those behind grow as the logarithm up to ``most``.
    """
    side = count // 2 if both else count
    exact = side // 2
    distances = np.arange(most + 1)
    # In float32, whose rounding decides the bucket of distances at a border.
    ratio = np.log(np.maximum(distances, 1).astype(np.float32) / np.float32(exact)) / np.float32(np.log(most / exact))
    far = exact + (ratio * np.float32(side - exact)).astype(np.int64)
    behind = np.where(distances < exact, distances, np.minimum(far, side - 1)).astype(np.int64)
    return np.concatenate([behind[::-1], behind[1:] + side]) if both else behind[::-1].copy()
