"""From the scores of a network's outputs to probabilities and to the values of a label map."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsnet_med.regions import Region


@dataclass(frozen=True)
class Decision:
    """What scores (B, K, ...) mean: classes that exclude each other, or `regions`, which do not.

    Of classes the largest is taken; a region is where its probability exceeds a half, a later one over an
    earlier. Scores are logits, or probabilities already where several networks or views are `averaged`.
    """

    regions: tuple[Region, ...] = ()
    averaged: bool = False

    def activated(self, logits: Tensor) -> Tensor:
        """Logits as probabilities: sigmoid for regions, softmax over K for classes."""
        return logits.sigmoid() if self.regions else logits.softmax(1)

    def probabilities(self, scores: Tensor) -> Tensor:
        """The probability of each output."""
        return scores if self.averaged else self.activated(scores)

    def masks(self, scores: Tensor) -> Tensor:
        """Where each region is, (B, K, ...)."""
        return scores > (0.5 if self.averaged else 0.0)

    def bits(self, scores: Tensor) -> Tensor:
        """Each region as a bit of its own, (B, ...) uint8."""
        masks = self.masks(scores).to(torch.uint8)
        return torch.stack([masks[:, bit] << bit for bit in range(masks.shape[1])]).sum(0, dtype=torch.uint8)

    def values(self, scores: Tensor) -> Tensor:
        """The label map (B, ...) as int16."""
        if not self.regions:
            return scores.argmax(1).to(torch.int16)
        return written(self.masks(scores), self.regions)


def written(masks: Tensor, regions: Sequence[Region]) -> Tensor:
    """Masks (B, R, ...) of `regions` as one label map (B, ...), int16: later ones over earlier ones."""
    values = torch.zeros_like(masks[:, 0], dtype=torch.int16)
    for number, region in enumerate(regions):
        values.masked_fill_(masks[:, number], region.value)
    return values
