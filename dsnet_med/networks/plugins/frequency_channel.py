"""Frequency channel attention (FcaNet).

Paper: Qin et al. 2021, https://arxiv.org/abs/2012.11879: squeeze-and-excitation in which every group of
channels is pooled with one two-dimensional cosine instead of the mean. Departures: channels need not be a
multiple of the number of frequencies; sizes below 7, where all frequencies become zero, are refused.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks.arguments import one_of, shares, whole_numbers
from dsnet_med.networks.layers import per_channel

_GRID = 7  # frequencies are multiples of those of a grid of this size
_PRODUCT = 56 * 256  # FcaNet's size times its channels, the same in all four stages
# Vertical and horizontal frequencies on a 7x7 grid, best first, from the paper's ranking of single frequencies.
_TOP = (
    (0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2, 4, 6, 3, 5, 5, 2, 6, 5, 5, 3, 3, 4, 2, 2, 6, 1),
    (0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2, 6, 3, 3, 3, 5, 1, 1, 2, 4, 2, 1, 1, 3, 0, 5, 3),
)
_LOW = (
    (0, 0, 1, 1, 0, 2, 2, 1, 2, 0, 3, 4, 0, 1, 3, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4),
    (0, 1, 0, 1, 2, 0, 1, 2, 2, 3, 0, 0, 4, 3, 1, 5, 4, 3, 2, 1, 0, 6, 5, 4, 3, 2, 1, 0, 6, 5, 4, 3),
)
_BOTTOM = (
    (6, 1, 3, 3, 2, 4, 1, 2, 4, 4, 5, 1, 4, 6, 2, 5, 6, 1, 6, 2, 2, 4, 3, 3, 5, 5, 6, 2, 5, 5, 3, 6),
    (6, 4, 4, 6, 6, 3, 1, 4, 4, 5, 6, 5, 2, 2, 5, 1, 4, 3, 5, 0, 3, 1, 1, 2, 4, 2, 1, 1, 5, 3, 3, 3),
)
_RANKINGS = {
    f"{name}{count}": tuple(axis[:count] for axis in ranking)
    for name, ranking in (("top", _TOP), ("low", _LOW), ("bot", _BOTTOM))
    for count in (1, 2, 4, 8, 16, 32)
}


class FrequencyChannel(nn.Module):
    """(B, channels, H, W) -> the same shape: x times a gate per channel, from cosine-weighted means.

    Maps are pooled to `height` x `width` first where they differ; FcaNet takes 56, 28, 14 and 7 in its four
    stages. `ratio` divides the channels inside the gate; `frequencies` is "top", "low" or "bot" and 1 to 32.
    Raises InputError for unknown frequencies or a size below 7, and in `forward` for other than two axes.
    """

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"cosines", "dct_layer.weight"),
        (r"reduce", "fc.0"),
        (r"expand", "fc.2"),
    )
    reference_name: ClassVar[str] = "att"
    cosines: Tensor

    def __init__(
        self, channels: int, height: int = 7, width: int = 7, ratio: int = 16, frequencies: str = "top16"
    ) -> None:
        whole_numbers("FrequencyChannel", channels=channels, height=height, width=width, ratio=ratio)
        one_of("frequencies of FrequencyChannel", frequencies, _RANKINGS)
        super().__init__()
        if min(height, width) < _GRID:
            raise InputError(
                f"FrequencyChannel got height={height} and width={width}, on which frequencies of a "
                f"{_GRID} x {_GRID} grid do not fit: use at least {_GRID}; maps of any size are pooled to it"
            )
        hidden = max(channels // ratio, 1)
        self.register_buffer("cosines", _filters(channels, height, width, _RANKINGS[frequencies]))
        self.reduce = nn.Linear(channels, hidden, bias=False)
        self.expand = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * per_channel(self._gate(x), x)

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`gate` (B, channels)."""
        return {"gate": self._gate(x)}

    def _gate(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise InputError(
                f"FrequencyChannel got a map of shape {tuple(x.shape)} and wants (batch, channels, H, W), as "
                "its frequencies were ranked on images: SE and ECA take volumes"
            )
        size = self.cosines.shape[1:]
        pooled = x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, (size[0], size[1]))
        squeezed = (pooled * self.cosines).sum((2, 3))  # (B, C)
        return torch.sigmoid(self.expand(F.relu(self.reduce(squeezed))))


def fcanet_layer(
    channels: int, ratio: int = 16, frequencies: str = "top16", width: float = 1.0
) -> FrequencyChannel:
    """FcaNet's layer behind the third norm of a ResNet's blocks: 56x56 for the 256 channels of stage 1, 28x28
    for 512, 14x14 for 1024 and 7x7 for 2048, where `width` multiplies the channels.
    """
    whole_numbers("FrequencyChannel", channels=channels)
    shares("fcanet_layer", at_most=100, width=width)
    size = max(round(_PRODUCT * width / channels), _GRID)
    return FrequencyChannel(channels, size, size, ratio, frequencies)


def _filters(channels: int, height: int, width: int, ranking: tuple[tuple[int, ...], ...]) -> Tensor:
    """One filter per channel, (channels, height, width): consecutive channels share a frequency."""
    rows, columns = ranking
    group = torch.arange(channels) * len(rows) // channels
    vertical = torch.stack([_cosine(row * (height // _GRID), height) for row in rows])
    horizontal = torch.stack([_cosine(column * (width // _GRID), width) for column in columns])
    return vertical[group].unsqueeze(2) * horizontal[group].unsqueeze(1)


def _cosine(frequency: int, size: int) -> Tensor:
    positions = (torch.arange(size) + 0.5) / size
    return torch.cos(math.pi * frequency * positions) * math.sqrt((2 if frequency else 1) / size)
