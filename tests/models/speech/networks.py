"""A recognizer of the kind of Deep Speech 2 (Amodei et al., 2016), which transformers does not have."""

from __future__ import annotations

import torch
from torch import nn


class LstmCtc(nn.Module):
    """Filter banks [batch, frames, bands] → log-probabilities [batch, ceil(frames / 4), symbols]; symbol 0 is CTC's blank."""

    def __init__(self, bands: int = 40, width: int = 64, symbols: int = 29) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Hardtanh(0, 20),
                                   nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Hardtanh(0, 20))
        self.lstm = nn.LSTM(16 * (bands // 4), width, num_layers=2, bidirectional=True, batch_first=True)
        self.symbols = nn.Linear(2 * width, symbols)
        nn.init.normal_(self.symbols.weight, std=1.0)  # as decided as after training

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.front(features.unsqueeze(1))  # [batch, channels, frames, bands]
        x = self.lstm(x.permute(0, 2, 1, 3).flatten(2))[0]
        return torch.log_softmax(self.symbols(x), 2)
