"""Several networks of the same classes as one: the mean of their probabilities decides."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALLEST = 1e-30  # of a probability whose logarithm is taken


class Ensemble(nn.Module):
    """Images (B, C, H, W) -> (B, K, H, W): the logarithm of the mean softmax of `networks`.

    Its softmax is their mean, its largest channel what they decide together. Where slices are resized to the
    networks and back, the parts are resized each, and averaged after that (`members_of`).
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        outputs = [main_output(network(images)) for network in self.networks]
        return mean_logits(outputs) if len(outputs) > 1 else outputs[0]


def mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean softmax over channels of logits (B, K, ...)."""
    return torch.stack([each.softmax(1) for each in logits]).mean(0).clamp_min(SMALLEST).log()


def members_of(network: nn.Module) -> list[nn.Module]:
    """The networks of an ensemble; of any other network itself alone."""
    return list(network.networks) if isinstance(network, Ensemble) else [network]


def main_output(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The logits of a network that may give auxiliary ones after them."""
    return output[0] if isinstance(output, tuple) else output
