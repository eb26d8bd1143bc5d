"""Small transformers, written as Hugging Face wrote them when onnxruntime's fusions were made, so that those recognize them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

VOCABULARY, POSITIONS, HIDDEN, HEADS, LAYERS = 99, 40, 64, 4, 2


class _Attention(nn.Module):
    """Self-attention of BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.dense = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), HEADS, HIDDEN // HEADS).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(HIDDEN // HEADS) + mask
        context = torch.matmul(scores.softmax(dim=-1), v).permute(0, 2, 1, 3).contiguous()
        return self.norm(self.dense(context.view(context.size(0), context.size(1), HIDDEN)) + x)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = _Attention()
        self.wide, self.narrow = nn.Linear(HIDDEN, 2 * HIDDEN), nn.Linear(2 * HIDDEN, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        return self.norm(self.narrow(nn.functional.gelu(self.wide(x))) + x)


class Bert(nn.Module):
    """An encoder: token ids, a mask and types [batch, sequence] → [batch, sequence, 64]."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.types = nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(2, HIDDEN)
        self.positions = nn.Embedding(POSITIONS, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.register_buffer("position_ids", torch.arange(POSITIONS).expand((1, -1)))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        places = self.position_ids[:, :input_ids.size(1)]
        x = self.norm(self.words(input_ids) + self.types(token_type_ids) + self.positions(places))
        mask = (1.0 - attention_mask.unsqueeze(1).unsqueeze(2).to(torch.float32)) * -10000.0
        for layer in self.layers:
            x = layer(x, mask)
        return x


class _Conv1d(nn.Module):
    """A linear map with weights [in, out], of a matrix: GPT-2's projection."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(size, out) * size**-0.5), nn.Parameter(torch.randn(out) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(x.size()[:-1] + (self.bias.size(0),))


class _Block(nn.Module):
    """A decoder's layer, of GPT-2."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.join, self.out = _Conv1d(HIDDEN, 3 * HIDDEN), _Conv1d(HIDDEN, HIDDEN)
        self.wide, self.narrow = _Conv1d(HIDDEN, 4 * HIDDEN), _Conv1d(4 * HIDDEN, HIDDEN)
        self.register_buffer("causal", torch.tril(torch.ones(POSITIONS, POSITIONS, dtype=torch.uint8)).view(1, 1, POSITIONS, POSITIONS))

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), HEADS, HIDDEN // HEADS).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(t) for t in self.join(self.first(x)).split(HIDDEN, dim=2))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(HIDDEN // HEADS)
        queries, keys = scores.size(-2), scores.size(-1)
        seen = self.causal[:, :, keys - queries:keys, :keys]
        scores = torch.where(seen.to(torch.bool), scores, torch.tensor(-10000.0))
        context = torch.matmul(scores.softmax(dim=-1), v).permute(0, 2, 1, 3).contiguous()
        x = x + self.out(context.view(context.size(0), context.size(1), HIDDEN))
        y = self.wide(self.second(x))
        y = 0.5 * y * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (y + 0.044715 * torch.pow(y, 3.0))))
        return x + self.narrow(y)


class Gpt(nn.Module):
    """A decoder: token ids [batch, sequence] → scores of tokens [batch, sequence, 99]."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(POSITIONS, HIDDEN)
        self.blocks = nn.ModuleList(_Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids) + self.positions(torch.arange(input_ids.size(1)))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def export(module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    """Writes a module as ONNX by PyTorch's older exporter, whose graphs the fusions know; batch and sequence are symbolic."""
    torch.onnx.export(module, tuple(inputs.values()), str(path), input_names=list(inputs), output_names=["y"], opset_version=14, dynamo=False,
                      dynamic_axes={name: {0: "batch", 1: "sequence"} for name in [*inputs, "y"]})


def seeded(kind: type[nn.Module]) -> nn.Module:
    """A network with seeded weights."""
    torch.manual_seed(0)
    return kind().eval()
