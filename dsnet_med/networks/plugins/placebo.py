"""Placebos: plug-ins that are no attention, so that a gain can be put down to what made it.

Each takes (B, C, *spatial) with any number of spatial axes and answers one question about a plug-in P that sits
where the placebo sits. If the placebo gains as much as P, P's idea explains nothing beyond the answer.

    Identity      Does the place or the run itself (seed, code path) change the score? Gain of nothing.
    RandomGate    Is it enough to scale the channels unequally, whatever the image and without learning?
    ConstantGate  Is it enough to learn one factor per channel, the same for every image?
    PointwiseConv Is it enough to have as many parameters, applied to each pixel by itself?
    UniformDSM    (a file of its own) Is DSM more than adding the mean of a projected map?
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.networks.arguments import whole_numbers
from dsnet_med.networks.axes import made_for
from dsnet_med.networks.explaining import on_grid
from dsnet_med.networks.layers import per_channel, project
from dsnet_med.networks.plugins.dsm import DSM


class Identity(nn.Module):
    """x: what the plumbing alone does."""

    def __init__(self, channels: int) -> None:
        whole_numbers("Identity", channels=channels)
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x

    def explained(self, _x: Tensor) -> dict[str, Tensor]:
        """No maps: nothing multiplies x, and nothing is added."""
        return {}


class RandomGate(nn.Module):
    """x g with a fixed g = sigmoid(z), z from N(0, 1) per channel: as an untrained gate that ignores the image.

    `seed` decides g, which is kept in the state dict and never learned; PyTorch's own generator is not touched.
    """

    gate: Tensor

    def __init__(self, channels: int, seed: int = 0) -> None:
        whole_numbers("RandomGate", channels=channels)
        whole_numbers("RandomGate", at_least=0, at_most=2**64 - 1, seed=seed)
        super().__init__()
        generator = torch.Generator("cpu").manual_seed(seed)
        values = torch.randn(channels, generator=generator, device="cpu").sigmoid()
        self.register_buffer("gate", torch.empty(channels).copy_(values))  # on whatever device is the default

    def forward(self, x: Tensor) -> Tensor:
        return x * per_channel(self.gate, x)

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`gate` (B, channels), the same for every image."""
        return {"gate": self.gate.expand(len(x), -1)}


class ConstantGate(nn.Module):
    """x sigmoid(logit) with one learned logit per channel, which starts at 0 (a gate of one half)."""

    def __init__(self, channels: int) -> None:
        whole_numbers("ConstantGate", channels=channels)
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * per_channel(self.logit.sigmoid(), x)

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`gate` (B, channels), the same for every image."""
        return {"gate": self.logit.sigmoid().expand(len(x), -1)}


class PointwiseConv(nn.Module):
    """x + W2 relu(W1 x), two 1x1 convolutions without bias: no pixel learns of another.

    The hidden channels are as many as bring the number of parameters, 2 * channels * hidden, nearest to
    `parameters`: a number, or a plug-in factory such as `SE` whose plug-in for these channels, and for maps of
    `spatial_dims` axes, is counted (DSM where nothing is given). So the count is matched to within `channels`,
    and is 2 * channels at least.
    """

    def __init__(
        self,
        channels: int,
        parameters: int | Callable[[int], nn.Module] | None = None,
        *,
        spatial_dims: int = 2,
    ) -> None:
        whole_numbers("PointwiseConv", channels=channels)
        whole_numbers("PointwiseConv", at_most=3, spatial_dims=spatial_dims)
        plugin = DSM if parameters is None else parameters
        wanted = _count(plugin, channels, spatial_dims) if callable(plugin) else plugin
        whole_numbers("PointwiseConv", at_least=0, parameters=wanted)
        super().__init__()
        hidden = max(round(wanted / (2 * channels)), 1)
        self.reduce = nn.Linear(channels, hidden, bias=False)
        self.expand = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)  # (B, C, N)
        return (pixels + self._added(pixels)).reshape(x.shape)

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`added` (B, channels, *spatial)."""
        return on_grid({"added": self._added(x.flatten(2))}, x)

    def _added(self, pixels: Tensor) -> Tensor:
        hidden = F.relu(project(pixels, self.reduce.weight))  # (B, hidden, N)
        return project(hidden, self.expand.weight)


def _count(plugin: Callable[[int], nn.Module], channels: int, spatial_dims: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in made_for(plugin, channels, spatial_dims).parameters())
