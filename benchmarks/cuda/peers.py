"""PyTorch's models of the architectures that bench_models.py times, in bfloat16 with random weights. PyTorch is all that is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

PROMPT, SEQUENCE = 512, 128  # tokens before the one that a decoder makes; tokens of a text


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1, relu: bool = True) -> nn.Module:
    layers = [nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class _Bottleneck(nn.Module):
    """Three convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            _convolution(inputs, width, 1), _convolution(width, width, 3, stride), _convolution(width, outputs, 1, relu=False)
        )
        self.shortcut = nn.Identity() if inputs == outputs else _convolution(inputs, outputs, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    """ResNet-50: images [batch, 3, 224, 224] to scores [batch, 1000]."""
    layers, channels = [_convolution(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)], 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            layers.append(_Bottleneck(channels, 64 << stage, 2 if stage > 0 and block == 0 else 1))
            channels = 256 << stage
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class _Encoder(nn.Module):
    """A layer of BERT: 12 heads of 64."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.up, self.down = nn.Linear(768, 2304), nn.Linear(768, 768), nn.Linear(768, 3072), nn.Linear(3072, 768)
        self.first, self.second = nn.LayerNorm(768), nn.LayerNorm(768)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 12, 64)).permute(2, 0, 3, 1, 4)
        read = functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
        x = self.first(x + self.out(read))
        return self.second(x + self.down(functional.gelu(self.up(x))))


class BertBase(nn.Module):
    """BERT-base: ids, mask and types [batch, sequence] to its last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.types = nn.Embedding(30522, 768), nn.Embedding(512, 768), nn.Embedding(2, 768)
        self.norm, self.layers = nn.LayerNorm(768), nn.ModuleList(_Encoder() for _ in range(12))

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        x = self.norm(self.words(ids) + self.places.weight[: ids.shape[1]] + self.types(types))
        for layer in self.layers:
            x = layer(x, mask[:, None, None] != 0)
        return x


class _Decoder(nn.Module):
    """A layer of the Llama of 1.1 billion parameters, with its caches: 32 heads of 64 that share 4 of keys and values."""

    cache: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(2048, 2560, bias=False), nn.Linear(2048, 2048, bias=False)
        self.gate_up, self.down = nn.Linear(2048, 11264, bias=False), nn.Linear(5632, 2048, bias=False)
        self.first, self.second = nn.RMSNorm(2048, eps=1e-5), nn.RMSNorm(2048, eps=1e-5)
        self.register_buffer("cache", torch.randn(2, 1, 4, PROMPT + 1, 64))

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (40, 64)).transpose(1, 2).split((32, 4, 4), 1)
        q, k = (t * cosines + torch.cat((-t[..., 32:], t[..., :32]), -1) * sines for t in (q, k))
        self.cache[0, :, :, PROMPT:], self.cache[1, :, :, PROMPT:] = k, v
        read = functional.scaled_dot_product_attention(q, self.cache[0], self.cache[1], enable_gqa=True)
        x = x + self.out(read.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.second(x)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)


class Llama(nn.Module):
    """The Llama of 1.1 billion parameters: the token [1, 1] behind a prompt to its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layers, self.norm = nn.Embedding(32000, 2048), nn.ModuleList(_Decoder() for _ in range(22)), nn.RMSNorm(2048, eps=1e-5)
        self.logits = nn.Linear(2048, 32000, bias=False)
        angles = PROMPT / 10000 ** (torch.arange(64) % 32 / 32)
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x, self.cosines, self.sines)
        return self.logits(self.norm(x))


@dataclass(frozen=True)
class Peer:
    """A row of :data:`PEERS`: the model, and its inputs at a batch size."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]


def _texts(batch: int) -> tuple[Tensor, ...]:
    return tuple(torch.full((batch, SEQUENCE), value, device="cuda") for value in (1, 1, 0))


#: By the name of Ingot's.
PEERS = {
    "resnet50": Peer(
        resnet50, lambda n: (torch.randn(n, 3, 224, 224, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last),)
    ),
    "bert_base": Peer(BertBase, _texts),
    "llama_1b": Peer(Llama, lambda n: (torch.ones(n, 1, device="cuda", dtype=torch.int64),)),
}
