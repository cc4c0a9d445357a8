"""One network of a predictor, and how slices of any size become logits of that size."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsnet_med.errors import InputError, one_line
from dsnet_med.inference.bundle_reader import Model
from dsnet_med.inference.fuse_batch_norm import fuse_batch_norm, main_output
from dsnet_med.inference.hardware import gives_coarse
from dsnet_med.inference.running_max import class_ids, resized_in_turn
from dsnet_med.inference.windows import slide
from dsnet_med.networks import Segmenter
from dsnet_med.networks.layers import with_channels
from dsnet_med.prepare.intensity import Intensity

_TRIAL_PIXELS = 64


@dataclass
class SliceModel:
    """A network on its device, with the size and the intensities that it was trained on."""

    network: nn.Module
    size: tuple[int, int]
    fit: str
    intensity: Intensity
    in_channels: int = 1
    precision: torch.dtype = torch.float32

    @classmethod
    def of(cls, model: Model, device: torch.device, precision: torch.dtype = torch.float32) -> "SliceModel":
        """`model` made fast: batch norms folded, channels last in memory.

        Raises InputError where the network does not run, or does not give a logit for every class.
        """
        network = model.network.eval().requires_grad_(False)
        try:
            examples = _examples(model)
            with torch.inference_mode():
                logits = main_output(network(examples[0]))
            lean = fuse_batch_norm(network, examples)
        except InputError:
            raise
        except Exception as error:  # whatever a network raises that was not made for its settings
            raise InputError(f"the network does not run: {type(error).__name__}: {one_line(error)}") from error
        if logits.ndim != 4 or logits.shape[1] != len(model.class_names):
            raise InputError(
                f"the network gives outputs of shape {tuple(logits.shape)}, and class_names has "
                f"{len(model.class_names)} names; correct the model's configuration"
            )
        placed = lean.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(placed, model.size, model.fit, model.intensity, model.in_channels, precision)

    def ids(self, images: Tensor) -> Tensor:
        """Class ids (B, H, W) for images (B, 1, H, W), by a running maximum over the classes."""
        return self.ids_and_logits(images, logits=False)[0]

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W), float32, for images (B, 1, H, W)."""
        if self.fit == "window":
            return slide(images, self.size, lambda part: resized_in_turn(self._coarse(part), [self.size]))
        return resized_in_turn(self._coarse(images), (self.size, images.shape[2:]))

    def ids_and_logits(self, images: Tensor, *, logits: bool) -> tuple[Tensor, Tensor | None]:
        """`ids` and, where wanted, `logits` of one run of the network; the ids are the same either way."""
        if self.fit == "window":
            whole = self.logits(images)
            return class_ids(whole), whole if logits else None
        coarse, sizes = self._coarse(images), (self.size, images.shape[2:])
        return class_ids(coarse, sizes), resized_in_turn(coarse, sizes) if logits else None

    def _coarse(self, images: Tensor) -> Tensor:
        """Logits (B, K, h, w) of the network for images brought to its size, before they are enlarged."""
        fitted = resized_in_turn(images, [self.size])
        fitted = with_channels(fitted, self.in_channels).contiguous(memory_format=torch.channels_last)
        with self._autocast(images.device):
            network = self.network
            output = network.coarse(fitted) if gives_coarse(network) else network(fitted)
        logits = main_output(output).float()
        if not torch.isfinite(logits).all():
            raise InputError(
                "the network gives numbers that are not finite; look at the image's intensities, try "
                "--precision float32, or train again"
            )
        return logits

    def _autocast(self, device: torch.device) -> AbstractContextManager[None]:
        lower = self.precision != torch.float32
        return torch.autocast(device.type, self.precision, enabled=lower)


def _examples(model: Model) -> list[Tensor]:
    """Images for a trial, small where the network takes small ones, of a window's and of a z-score's range."""
    size = [min(length, _TRIAL_PIXELS) for length in model.size]
    if not isinstance(model.network, Segmenter):  # which may have been made for one size
        size = list(model.size)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, model.in_channels, *size, generator=generator)
    return [images, 8 * images.flip(0)]


def mean_probabilities(members: Sequence[SliceModel], images: Sequence[Tensor], mirror: bool) -> Tensor:
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
