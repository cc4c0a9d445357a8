"""FcaNet's layer as its authors' reads: every filter filled entry by entry, under its names."""

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Vertical and horizontal frequency of every rank, as pairs of digits.
RANKINGS = {
    "top": ("00 01 60 05 02 10 12 40 50 16 30 04 06 03 35 22 46 63 33 53 55 21 61 52 54 32 31 41 23 20 65 13"),
    "low": ("00 01 10 11 02 20 21 12 22 03 30 40 04 13 31 05 14 23 32 41 50 06 15 24 33 42 51 60 16 25 34 43"),
    "bot": ("66 14 34 36 26 43 11 24 44 45 56 15 42 62 25 51 64 13 65 20 23 41 31 32 54 52 61 21 55 53 33 63"),
}


class TextbookFrequencyChannel(nn.Module):
    def __init__(self, channels: int, height=7, width=7, ratio=16, frequencies="top16") -> None:
        super().__init__()
        self.dct_layer = nn.Module()
        self.dct_layer.register_buffer("weight", self.filters(channels, height, width, frequencies).clone())
        hidden = max(channels // ratio, 1)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    @staticmethod
    @cache
    def filters(channels: int, height: int, width: int, frequencies: str) -> Tensor:
        values = torch.zeros(channels, height, width, dtype=torch.float64, device="cpu").tolist()
        count = int(frequencies[3:])
        pairs = RANKINGS[frequencies[:3]].split()[:count]
        for channel in range(channels):
            u, v = (int(digit) for digit in pairs[channel * count // channels])
            u, v = u * (height // 7), v * (width // 7)
            for row in range(height):
                for column in range(width):
                    down = math.cos(math.pi * u * (row + 0.5) / height) / math.sqrt(height)
                    across = math.cos(math.pi * v * (column + 0.5) / width) / math.sqrt(width)
                    scale = (math.sqrt(2) if u else 1) * (math.sqrt(2) if v else 1)
                    values[channel][row][column] = down * across * scale
        return torch.tensor(values, dtype=torch.float32, device="cpu")

    def forward(self, x: Tensor) -> Tensor:
        size = self.dct_layer.weight.shape[1:]
        pooled = x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size)
        gate = self.fc((pooled * self.dct_layer.weight).sum((2, 3)))
        return x * gate[:, :, None, None].expand_as(x)


def textbook_fcanet_layer(channels: int, width: float = 1.0) -> TextbookFrequencyChannel:
    """Behind the third norm of a ResNet-50's blocks."""
    size = {64: 56, 128: 28, 256: 14, 512: 7}[round(channels / 4 / width)]
    return TextbookFrequencyChannel(channels, size, size)
