"""Models that carry something from step to step: translators of LSTM and GRU, a Recurrent Memory Transformer, a state-space model. Seeded weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 120


class RecurrentTranslator(nn.Module):
    """A bidirectional encoder and a decoder with attention to what it made (Luong et al., arXiv:1508.04025).

    ``forward`` reads more of a source and more of a text. Without a source, hidden state and memory are those that it is given.
    """

    def __init__(self, kind: str, width: int = 40) -> None:
        super().__init__()
        layer = getattr(nn, kind)
        self.gates = kind == "LSTM"
        self.source = nn.Embedding(VOCABULARY, width)
        self.target = nn.Embedding(VOCABULARY, width)
        self.encoder = layer(width, width, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * width, width)
        self.decoder = layer(width, width, batch_first=True)
        self.query = nn.Linear(width, 2 * width, bias=False)
        self.joined = nn.Linear(3 * width, width)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, source_ids: Tensor, token_ids: Tensor, memory: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        """[batch, source], [batch, sequence], [batch, past, 2 width], [batch, width] twice → logits [batch, sequence, vocabulary] and the next three.

        A GRU has no cell and gives it back.
        """
        encoded, final = self.encoder(self.source(source_ids))
        last = final[0] if self.gates else final
        read = torch.ones_like(source_ids).sum(dim=1, keepdim=True).clamp(max=1).to(hidden.dtype)  # 0 without a source
        hidden = read * torch.tanh(self.bridge(torch.cat([last[0], last[1]], dim=1))) + (1 - read) * hidden
        memory = torch.cat([memory, encoded], dim=1)
        first = (hidden[None], cell[None]) if self.gates else hidden[None]
        out, after = self.decoder(self.target(token_ids), first)
        hidden, cell = (after[0][0], after[1][0]) if self.gates else (after[0], cell)
        weights = torch.softmax(self.query(out) @ memory.transpose(1, 2), dim=-1)
        logits = self.head(torch.tanh(self.joined(torch.cat([weights @ memory, out], dim=-1))))
        return logits, memory, hidden, cell

    def whole(self, source_ids: Tensor, token_ids: Tensor) -> Tensor:
        """Logits of a whole text."""
        rows, width = len(source_ids), self.bridge.out_features
        nothing = torch.zeros(rows, width)
        return self(source_ids, token_ids, torch.zeros(rows, 0, 2 * width), nothing, nothing)[0]


class RecurrentMemory(nn.Module):
    """A Recurrent Memory Transformer over GPT-2 (Bulatov et al., arXiv:2207.06881): each segment reads memory tokens and writes the next ones."""

    def __init__(self, tokens: int = 4) -> None:
        super().__init__()
        import transformers

        configuration: Any = transformers.GPT2Config
        self.tokens = tokens
        self.gpt2 = transformers.GPT2Model(configuration(n_embd=48, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=64, use_cache=False,
                                                         initializer_range=0.1, bos_token_id=1, eos_token_id=2, attn_implementation="eager"))
        # States start as zeros, so that what is carried is the difference to what memory is at first.
        self.first = nn.Parameter(torch.randn(tokens, 48))

    def forward(self, input_ids: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, sequence], [batch, tokens, 48] → logits [batch, sequence, vocabulary], memory."""
        read = memory + self.first
        states = self.gpt2(inputs_embeds=torch.cat([read, self.gpt2.wte(input_ids), read], dim=1)).last_hidden_state
        return states[:, self.tokens:-self.tokens] @ self.gpt2.wte.weight.T, states[:, -self.tokens:] - self.first


class StateSpace(nn.Module):
    """Two layers of a selective state space as a semiseparable matrix (Dao and Gu, arXiv:2405.21060), each behind a causal convolution."""

    width, heads, size, states, taps = 32, 4, 8, 6, 4

    def __init__(self) -> None:
        super().__init__()
        inner = self.width + 2 * self.states
        self.embedding = nn.Embedding(VOCABULARY, self.width)
        self.norms = nn.ModuleList(nn.RMSNorm(self.width) for _ in range(2))
        self.inner = nn.ModuleList(nn.Linear(self.width, inner + self.width + self.heads) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv1d(inner, inner, self.taps, groups=inner) for _ in range(2))
        self.decay = nn.Parameter(torch.rand(2, self.heads))
        self.outer = nn.ModuleList(nn.Linear(self.width, self.width) for _ in range(2))

    def forward(self, input_ids: Tensor, space_0: Tensor, space_1: Tensor, taps_0: Tensor, taps_1: Tensor) -> tuple[Tensor, ...]:
        """[batch, sequence], [batch, heads, states, size] twice, [batch, taps - 1, inner] twice → logits, and the four."""
        x = self.embedding(input_ids)
        spaces, taps = [space_0, space_1], [taps_0, taps_1]
        for i in range(2):
            y, spaces[i], taps[i] = self.layer(i, self.norms[i](x), spaces[i], taps[i])
            x = x + y
        return x @ self.embedding.weight.T, *spaces, *taps

    def layer(self, i: int, x: Tensor, space: Tensor, taps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One layer over [batch, sequence, width]."""
        inner = self.width + 2 * self.states
        mixed, gate, step = torch.split(self.inner[i](x), [inner, self.width, self.heads], dim=-1)
        window = torch.cat([taps, mixed], dim=1)
        mixed = nn.functional.silu(self.convolutions[i](window.transpose(1, 2)).transpose(1, 2))
        values, keys, queries = torch.split(mixed, [self.width, self.states, self.states], dim=-1)
        values = values.reshape(*values.shape[:2], self.heads, self.size).transpose(1, 2)  # [batch, heads, sequence, size]
        keys, queries = keys[:, None], queries[:, None]  # of all heads
        step = nn.functional.softplus(step).transpose(1, 2)  # [batch, heads, sequence]
        total = torch.cumsum(-step * torch.exp(self.decay[i])[:, None], dim=-1)  # of the logarithms of decays
        count = x.shape[1]
        later = torch.arange(count)[:, None] >= torch.arange(count)
        between = torch.where(later, total[..., :, None] - total[..., None, :], -torch.inf).exp()
        values = values * step[..., None]
        y = ((queries @ keys.transpose(-1, -2)) * between) @ values + (queries @ space) * total.exp()[..., None]
        left = (total[..., -1:] - total).exp()[..., None]
        space = space * total[..., -1:, None].exp() + (keys.transpose(-1, -2) @ (values * left))
        y = y.transpose(1, 2).flatten(-2) * nn.functional.silu(gate)
        return self.outer[i](y), space, window[:, -(self.taps - 1):]

    def nothing(self, rows: int) -> dict[str, Tensor]:
        """The states before the first token."""
        spaces = {f"space_{i}": torch.zeros(rows, self.heads, self.states, self.size) for i in range(2)}
        return {**spaces, **{f"taps_{i}": torch.zeros(rows, self.taps - 1, self.width + 2 * self.states) for i in range(2)}}


class Windowed(nn.Module):
    """A layer that sees the three steps before those that it is given."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.product = layer == "product"
        self.layer = nn.Linear(8, 8) if self.product else nn.Conv1d(8, 8, 4, groups=8 if layer == "depthwise" else 1)

    def forward(self, x: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, sequence, 8], [batch, 3, 8] → [batch, sequence, 8] (of a product 3 + sequence), and the last three steps."""
        window = torch.cat([taps, x], dim=1)
        y = self.layer(window) if self.product else self.layer(window.transpose(1, 2)).transpose(1, 2)
        return torch.relu(y), window[:, -3:]


def seeded(make: Any) -> Any:
    """A model with the same weights each time."""
    torch.manual_seed(0)
    return make().eval()
