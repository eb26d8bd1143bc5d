"""Whisper as two ONNX models for onnxruntime: the encoder with the keys and values of cross attention, and the decoder with a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional


def names(layers: int) -> tuple[list[str], list[str], list[str]]:
    """Keys and values of each layer: of the source, of the tokens before a run, and of those after it."""
    found = [[f"{part}_{what}_{i}" for i in range(layers) for what in ("key", "value")] for part in ("cross", "past", "present")]
    return found[0], found[1], found[2]


class Encoder(torch.nn.Module):
    """features [1, mel, frames] → keys and values [1, heads, frames / 2, size] of each layer of the decoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.layers = model.model.encoder, model.model.decoder.layers

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.encoder(features).last_hidden_state
        return tuple(_apart(product(x), layer.encoder_attn.num_heads) for layer in self.layers
                     for product in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj))


class Decoder(torch.nn.Module):
    """ids [1, new], cross and past keys and values [1, heads, steps, size] → logits [1, vocabulary] after the last token, and present ones."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.head = model.model.decoder, model.proj_out

    def forward(self, ids: torch.Tensor, *held: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = 2 * len(self.decoder.layers)
        cross, past = held[:count], held[count:]
        begin = past[0].shape[2]
        places = torch.arange(ids.shape[1]) + begin
        seen = places[:, None] >= torch.arange(begin + ids.shape[1])[None]
        x = self.decoder.embed_tokens(ids) + self.decoder.embed_positions.weight[places]
        present: list[torch.Tensor] = []
        for i, layer in enumerate(self.decoder.layers):
            own, other = layer.self_attn, layer.encoder_attn
            y = layer.self_attn_layer_norm(x)
            k, v = (torch.cat((before, _apart(product(y), own.num_heads)), 2)
                    for before, product in zip(past[2 * i:2 * i + 2], (own.k_proj, own.v_proj), strict=True))
            present += [k, v]
            x = x + own.out_proj(_together(functional.scaled_dot_product_attention(_apart(own.q_proj(y), own.num_heads), k, v, attn_mask=seen)))
            q = _apart(other.q_proj(layer.encoder_attn_layer_norm(x)), other.num_heads)
            x = x + other.out_proj(_together(functional.scaled_dot_product_attention(q, cross[2 * i], cross[2 * i + 1])))
            x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
        return (self.head(self.decoder.layer_norm(x[:, -1])), *present)


def _apart(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _together(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


class Pair:
    """Both models in onnxruntime.

    Args:
        folder: With encoder.onnx and decoder.onnx.
        threads: Of one run.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._encoder, self._decoder = (onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
                                        for name in ("encoder", "decoder"))

    def generate(self, features: Any, start: list[int], count: int) -> list[int]:
        """The likeliest ``count`` tokens after ``start``, for features float32[1, mel, frames]."""
        found = self._encoder.run(None, {"features": features})
        cross, past, _ = names(len(found) // 2)
        held = dict(zip(cross, found, strict=True))
        batch, heads, _, size = found[0].shape
        caches = [np.zeros((batch, heads, 0, size), np.float32) for _ in past]
        tokens: list[int] = []
        ids = start
        for _ in range(count):
            logits, *caches = self._decoder.run(None, {"ids": np.array([ids], np.int64), **held, **dict(zip(past, caches, strict=True))})
            tokens.append(int(logits[0].argmax()))
            ids = tokens[-1:]
        return tokens
