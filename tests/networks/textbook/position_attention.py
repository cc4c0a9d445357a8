"""Position attention as its formula reads, with the whole map of pixel pairs."""

import torch
from torch import Tensor, nn


class TextbookPositionAttention(nn.Module):
    """On (B, C, H, W)."""

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or max(channels // 8, 1)
        self.query_project = nn.Conv2d(channels, hidden, 1)
        self.key_project = nn.Conv2d(channels, hidden, 1)
        self.value_project = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Module()
        self.gamma.scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.query_project(x).flatten(2), self.key_project(x).flatten(2)
        value = self.value_project(x).flatten(2)
        energy = torch.einsum("bki,bkj->bij", query, key)  # (B, N, N)
        attention = torch.softmax(energy, dim=2)
        output = torch.einsum("bcj,bij->bci", value, attention)
        return self.gamma.scale * output.unflatten(2, x.shape[2:]) + x
