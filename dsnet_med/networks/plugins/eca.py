"""Efficient channel attention.

Paper: Wang et al. 2020, https://arxiv.org/abs/1910.03151, with the fixed kernel of the DSNet code instead of
the paper's size by channels. Departures: any number of spatial axes is taken.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from dsnet_med.networks.arguments import odd_numbers, whole_numbers
from dsnet_med.networks.layers import per_channel


class ECA(nn.Module):
    """(B, channels, *spatial) -> the same shape: x times a gate per channel, from its neighbours' means.

    `kernel_size` is the number of neighbouring channels that a gate sees; InputError for an even one.
    """

    reference_name: ClassVar[str] = "eca_layer"
    reference_names: ClassVar[tuple[tuple[str, str], ...]] = ((r"neighbours", "conv"),)

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        whole_numbers("ECA", channels=channels)
        odd_numbers("ECA", kernel_size=kernel_size)
        super().__init__()
        self.neighbours = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * per_channel(self._gate(x), x)

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`gate` (B, channels)."""
        return {"gate": self._gate(x)}

    def _gate(self, x: Tensor) -> Tensor:
        pooled = x.flatten(2).mean(2)  # (B, C)
        return torch.sigmoid(self.neighbours(pooled.unsqueeze(1))).squeeze(1)
