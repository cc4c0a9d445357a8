"""FcaNet's layer as its authors' reads: every filter filled entry by entry, under its names."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TOP16 = ((0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2), (0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2))


class TextbookFrequencyChannel(nn.Module):
    def __init__(self, channels: int, height: int = 7, width: int = 7, ratio: int = 16) -> None:
        super().__init__()
        self.dct_layer = nn.Module()
        self.dct_layer.register_buffer("weight", self.filters(channels, height, width))
        hidden = max(channels // ratio, 1)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    @staticmethod
    def filters(channels: int, height: int, width: int) -> Tensor:
        values = torch.zeros(channels, height, width, dtype=torch.float64, device="cpu").tolist()
        for channel in range(channels):
            u, v = (axis[channel * 16 // channels] for axis in TOP16)
            u, v = u * (height // 7), v * (width // 7)
            for row in range(height):
                for column in range(width):
                    down = math.cos(math.pi * u * (row + 0.5) / height) / math.sqrt(height)
                    across = math.cos(math.pi * v * (column + 0.5) / width) / math.sqrt(width)
                    scale = (math.sqrt(2) if u else 1) * (math.sqrt(2) if v else 1)
                    values[channel][row][column] = down * across * scale
        return torch.tensor(values, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        size = self.dct_layer.weight.shape[1:]
        pooled = x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size)
        gate = self.fc((pooled * self.dct_layer.weight).sum((2, 3)))
        return x * gate[:, :, None, None].expand_as(x)
