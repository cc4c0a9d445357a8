"""Channel attention as it is published: the maximum less the energy, and a softmax of that."""

import torch
from torch import Tensor, nn


class TextbookChannelAttention(nn.Module):
    """On (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Module()
        self.gamma.scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        energy = torch.einsum("bcn,bdn->bcd", pixels, pixels)
        reversed_energy = energy.amax(2, keepdim=True) - energy
        output = torch.einsum("bcd,bdn->bcn", torch.softmax(reversed_energy, dim=2), pixels)
        return self.gamma.scale * output.unflatten(2, x.shape[2:]) + x
