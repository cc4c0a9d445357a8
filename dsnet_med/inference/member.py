"""One network of a predictor, and how slices of any size become logits of that size."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsnet_med.errors import InputError
from dsnet_med.inference.fold import folded
from dsnet_med.inference.model_folder import Model
from dsnet_med.inference.running_max import class_ids, resized_in_turn
from dsnet_med.inference.windows import slide
from dsnet_med.networks import Segmenter
from dsnet_med.prepare.intensity import Intensity


@dataclass
class Member:
    """A network on its device, with the size and the intensities that it was trained on."""

    network: nn.Module
    size: tuple[int, int]
    fit: str
    intensity: Intensity
    in_channels: int = 1
    precision: torch.dtype = torch.float32

    @classmethod
    def of(cls, model: Model, device: torch.device, precision: torch.dtype = torch.float32) -> "Member":
        """`model` made fast: batch norms folded, channels last in memory."""
        network = model.network.eval().requires_grad_(False)
        lean = folded(network, torch.rand(2, model.in_channels, *model.size, generator=torch.manual_seed(0)))
        placed = lean.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(placed, model.size, model.fit, model.intensity, model.in_channels, precision)

    def ids(self, images: Tensor) -> Tensor:
        """Class ids (B, H, W) for images (B, 1, H, W), by a running maximum over the classes."""
        if self.fit == "window":
            return class_ids(self.logits(images))
        return class_ids(self._coarse(images), (self.size, images.shape[2:]))

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W), float32, for images (B, 1, H, W)."""
        if self.fit == "window":
            return slide(images, self.size, lambda part: resized_in_turn(self._coarse(part), [self.size]))
        return resized_in_turn(self._coarse(images), (self.size, images.shape[2:]))

    def _coarse(self, images: Tensor) -> Tensor:
        """Logits (B, K, h, w) of the network for images brought to its size, before they are enlarged."""
        fitted = resized_in_turn(images, [self.size])
        fitted = fitted.expand(-1, self.in_channels, -1, -1).contiguous(memory_format=torch.channels_last)
        with self._autocast(images.device):
            output = self._run(fitted)
        logits: Tensor = (output[0] if isinstance(output, tuple) else output).float()
        if not torch.isfinite(logits).all():
            raise InputError(
                "the network gives numbers that are not finite; try --precision float32, or train again"
            )
        return logits

    def _run(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        if isinstance(self.network, Segmenter) and not self.network._forward_hooks:  # they see `forward` only
            return self.network.coarse(images)
        output: Tensor | tuple[Tensor, ...] = self.network(images)
        return output

    def _autocast(self, device: torch.device) -> AbstractContextManager[None]:
        lower = self.precision != torch.float32
        return torch.autocast(device.type, self.precision, enabled=lower)


def mean_probabilities(members: Sequence[Member], images: Sequence[Tensor], mirror: bool) -> Tensor:
    """The mean of the members' softmax (B, K, H, W) over mirror images; each has its images (B, 1, H, W)."""
    flips: list[list[int]] = [[], [2], [3], [2, 3]] if mirror else [[]]
    total: Tensor | None = None
    for member, image in zip(members, images, strict=True):
        for axes in flips:
            part = member.logits(image.flip(axes)).softmax(1).flip(axes)
            total = part if total is None else total.add_(part)
    if total is None:
        raise ValueError("no network to average")
    return total.div_(len(members) * len(flips))
