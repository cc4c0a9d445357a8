"""Whole volumes through a 3-D network in a validation, as inference does it, decided slice by slice."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from dsnet_med.inference.windows import window_labels


class VolumeInferer(Inferer):
    """A 3-D network for windows of `size` on a volume (1, C, D, H, W), for MONAI's engines.

    It gives what is decided of each voxel and not its scores, which may be many times as large as the volume:
    class ids (1, 1, D, H, W), uint8, or with `regions` the mask of each, (1, R, D, H, W).
    """

    def __init__(self, size: Sequence[int], *, regions: Any = None) -> None:
        self.size, self.decide = tuple(size), _masks if regions else _classes

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        run = partial(network, *args, **kwargs) if args or kwargs else network
        volumes = [window_labels(volume, run, self.size, self.decide).transpose(0, 1) for volume in inputs]
        return torch.stack(volumes).to(inputs.device)


def _classes(scores: Tensor) -> Tensor:
    return scores.argmax(0, keepdim=True).to(torch.uint8)


def _masks(scores: Tensor) -> Tensor:
    return scores > 0
