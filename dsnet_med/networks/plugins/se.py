"""Squeeze-and-excitation.

Paper: Hu et al. 2018, https://arxiv.org/abs/1709.01507, in MMSegmentation's form: the gate is a hard sigmoid,
the squeezed width is a multiple of 8, and both layers start as convolutions before a ReLU do. Departures: none;
any number of spatial axes is taken.
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.networks.arguments import whole_numbers
from dsnet_med.networks.layers import hard_sigmoid, kaiming, per_channel


class SE(nn.Module):
    """(B, channels, *spatial) -> the same shape: x times a gate per channel, from the channels' means.

    `ratio` divides the channels inside the gate; their number is rounded to a multiple of 8, at least 8.
    """

    reference_name: ClassVar[str] = "se_layer"
    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"reduce", "conv1.conv"),
        (r"expand", "conv2.conv"),
    )

    def __init__(self, channels: int, ratio: int = 16) -> None:
        whole_numbers("SE", channels=channels, ratio=ratio)
        super().__init__()
        hidden = _multiple_of_8(channels // ratio)
        self.reduce = kaiming(nn.Linear(channels, hidden), "fan_out")
        self.expand = kaiming(nn.Linear(hidden, channels), "fan_out")

    def forward(self, x: Tensor) -> Tensor:
        return x * per_channel(self._gate(x), x)

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`gate` (B, channels)."""
        return {"gate": self._gate(x)}

    def _gate(self, x: Tensor) -> Tensor:
        pooled = x.flatten(2).mean(2)  # (B, C)
        return hard_sigmoid(self.expand(F.relu(self.reduce(pooled))))


def _multiple_of_8(width: int) -> int:
    """The nearest multiple of 8, at least 8, and never under nine tenths of `width`."""
    nearest = max(8, (width + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * width else nearest + 8
