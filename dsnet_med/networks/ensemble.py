"""Several networks of the same classes as one: the mean of their probabilities decides."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALLEST = 1e-30  # of a probability whose logarithm is taken
CERTAIN = 1e-7  # that a probability whose odds are taken keeps from 0 and 1


class Ensemble(nn.Module):
    """Images (B, C, ...) -> (B, K, ...): the logarithm of the mean softmax of `networks`.

    Its softmax is their mean, its largest channel what they decide together; of `regions`, which do not exclude
    each other, its sigmoid is their mean. Where slices are resized to the networks and back, the parts are
    resized each, and averaged after that (`members_of`).
    """

    def __init__(self, networks: Sequence[nn.Module], regions: bool = False) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.regions = regions

    def forward(self, images: Tensor) -> Tensor:
        outputs = [main_output(network(images)) for network in self.networks]
        return mean_logits(outputs, self.regions) if len(outputs) > 1 else outputs[0]


def mean_logits(logits: Sequence[Tensor], regions: bool = False) -> Tensor:
    """The logarithm of the mean softmax over channels of logits (B, K, ...); of `regions` that of the odds."""
    if regions:
        return torch.stack([each.sigmoid() for each in logits]).mean(0).logit(CERTAIN)
    return torch.stack([each.softmax(1) for each in logits]).mean(0).clamp_min(SMALLEST).log()


def members_of(network: nn.Module) -> list[nn.Module]:
    """The networks of an ensemble; of any other network itself alone."""
    return list(network.networks) if isinstance(network, Ensemble) else [network]


def main_output(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The logits of a network that may give auxiliary ones after them."""
    return output[0] if isinstance(output, tuple) else output
