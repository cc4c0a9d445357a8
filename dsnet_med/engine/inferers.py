"""From slices of any size to logits of that size, and from volumes to stacks of slices."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from dsnet_med.errors import InputError, unknown
from dsnet_med.inference.bundle_reader import FITS
from dsnet_med.inference.slice_model import slice_logits
from dsnet_med.networks.layers import with_channels


class SliceFitInferer(Inferer):
    """A 2-D network on slices (B, C, H, W) of any size, as `slice_logits` does it, for MONAI's engines."""

    def __init__(self, size: Sequence[int], fit: str = "resize", overlap: float = 0.5) -> None:
        if fit not in FITS:
            raise unknown("fit", fit, FITS)
        self.size, self.fit, self.overlap = (int(size[0]), int(size[1])), fit, overlap

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        run = partial(network, *args, **kwargs) if args or kwargs else network
        return slice_logits(inputs, run, self.size, self.fit, self.overlap)


class SliceWise(nn.Module):
    """A 2-D network as one that takes volumes: (B, C, D, H, W) or (C, D, H, W) -> logits of the same layout.

    The slices are taken along D, `batch_size` at a time. Viewers and deployment tools that hand over whole
    volumes can so use the network without knowing that it sees slices. Grey volumes are repeated for a network
    of `in_channels`. Its state dict may be that of the 2-D network (as in a run's model.pt) or its own.
    """

    def __init__(
        self,
        network: nn.Module,
        size: Sequence[int],
        fit: str = "resize",
        batch_size: int = 8,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        self.network, self.in_channels = network, in_channels
        self.inferer = SliceFitInferer(size, fit)
        self.batch_size = batch_size
        self.register_load_state_dict_pre_hook(_as_own_names)  # type: ignore[no-untyped-call]

    def forward(self, image: Tensor) -> Tensor:
        if image.ndim == 4:
            return self.forward(image[None])[0]
        if image.ndim != 5:
            raise InputError(
                f"got an image of shape {tuple(image.shape)}, wanted (B, C, D, H, W) or (C, D, H, W)"
            )
        return torch.stack([self._volume(volume) for volume in image])

    def _volume(self, volume: Tensor) -> Tensor:
        stack = with_channels(volume.transpose(0, 1), self.in_channels)  # (D, C, H, W)
        logits = [self.inferer(part, self.network) for part in stack.split(self.batch_size)]
        return torch.cat(logits).transpose(0, 1)


def _as_own_names(_: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    # Tools that load with strict=False would otherwise skip every weight without a word.
    own = prefix + "network."
    for name in [name for name in state if name.startswith(prefix) and not name.startswith(own)]:
        state[own + name[len(prefix) :]] = state.pop(name)
