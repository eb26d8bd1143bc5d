"""Recurrent translators with attention, which transformers does not have: a bidirectional encoder, and a decoder that attends to it."""

from __future__ import annotations

import torch
from torch import nn

START, END = 1, 2


class Translator(nn.Module):
    """Source [batch, length] → memory [batch, length, width], and steps over it. A step's state is [states, batch, width]."""

    def __init__(self, layer: type[nn.RNNBase], vocabulary: int = 200, width: int = 32) -> None:
        super().__init__()
        self.source = nn.Embedding(vocabulary, width)
        self.target = nn.Embedding(vocabulary, width)
        self.encoder = layer(width, width // 2, num_layers=2, bidirectional=True, batch_first=True)
        self.decoder = layer(2 * width, width, batch_first=True)
        self.keys = nn.Linear(width, width, bias=False)
        self.scores = nn.Linear(2 * width, vocabulary)

    def encode(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.source(input_ids))[0]

    def attend(self, energy: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(energy.masked_fill(mask == 0, -1e9), 1)
        return torch.bmm(weights.unsqueeze(1), memory).squeeze(1)


class LstmTranslator(Translator):
    """LSTMs with the attention of Luong et al. (2015, "general")."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM)
        self.states = 2

    def step(self, token: torch.Tensor, state: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        context = self.attend(torch.bmm(self.keys(memory), state[0].unsqueeze(2)).squeeze(2), memory, mask)
        output, (hidden, cell) = self.decoder(torch.cat([self.target(token), context], 1).unsqueeze(1), (state[:1], state[1:]))
        return self.scores(torch.cat([output.squeeze(1), context], 1)), torch.cat([hidden, cell])


class GruTranslator(Translator):
    """GRUs with the attention of Bahdanau et al. (2015)."""

    def __init__(self) -> None:
        super().__init__(nn.GRU)
        self.states = 1
        self.queries = nn.Linear(32, 32)
        self.energy = nn.Linear(32, 1)

    def step(self, token: torch.Tensor, state: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy = self.energy(torch.tanh(self.keys(memory) + self.queries(state[0]).unsqueeze(1)))
        context = self.attend(energy.squeeze(2), memory, mask)
        output, state = self.decoder(torch.cat([self.target(token), context], 1).unsqueeze(1), state)
        return self.scores(torch.cat([output.squeeze(1), context], 1)), state


class Step(nn.Module):
    """The encoder and one step of the decoder: scores [batch, vocabulary] of the next token, and the new state."""

    def __init__(self, translator: LstmTranslator | GruTranslator) -> None:
        super().__init__()
        self.translator = translator

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token: torch.Tensor,
                state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.translator.step(token, state, self.translator.encode(input_ids), attention_mask)


class Greedy(nn.Module):
    """The whole translation, the likeliest token at each step: until all sentences have ended, or ``most`` tokens are made."""

    def __init__(self, translator: LstmTranslator | GruTranslator) -> None:
        super().__init__()
        self.translator = translator
        self.states = translator.states
        self.start, self.end = START, END  # a script knows no global numbers

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, most: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        memory = self.translator.encode(input_ids)
        batch = input_ids.shape[0]
        token = torch.full([batch], self.start, dtype=torch.int64)
        state = torch.zeros([self.states, batch, memory.shape[2]])
        ended = torch.zeros([batch], dtype=torch.bool)
        tokens = torch.zeros([batch, 0], dtype=torch.int64)
        step = 0
        while step < int(most) and not bool(ended.all()):
            scores, state = self.translator.step(token, state, memory, attention_mask)
            token = scores.argmax(1).masked_fill(ended, self.end)
            ended = ended | (token == self.end)
            tokens = torch.cat([tokens, token.unsqueeze(1)], 1)
            step += 1
        return tokens, state


def greedy(translator: LstmTranslator | GruTranslator) -> nn.Module:
    """The loop as a program of TorchScript, whose exporter writes ONNX's Loop; the scores of END are raised so that sentences end."""
    with torch.no_grad():
        translator.scores.bias[END] += 0.5
    module: nn.Module = torch.jit.script(Greedy(translator.eval()))
    return module
