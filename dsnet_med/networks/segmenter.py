"""Encoder-decoder: a backbone, and a head that is handed in."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from dsnet_med.errors import InputError
from dsnet_med.networks.layers import (
    becomes_a_graph,
    levels_of,
    pyramid,
    refuse_script,
    resized,
    sizes_explained,
)

Head = Callable[[tuple[int, ...]], nn.Module]


class Segmenter(nn.Module):
    """Images (B, C, H, W) -> logits (B, num_classes, H, W) at the images' size, in training too.

    `backbone` gives a list of feature maps and describes them as every timm network made with
    `features_only=True` does: `feature_info.channels()` and `feature_info.reduction()`. `head` is called with
    the channels, one number per level, and returns a module from the feature maps to logits at any size, which
    are resized bilinearly (corners not aligned). A head may give a tuple, the main logits and then auxiliary
    ones (DANet's does) or logits of presence (B, num_classes) (EncNet's does): in training so does the network,
    and the loss counts each. `auxiliary` is a second head for training alone, whose logits come last.

    `forward` raises InputError for images smaller than the largest reduction of the backbone, or of a size that
    it does not take, and in training for those that leave a batch norm one value.
    """

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"head", "decode_head"),
        (r"auxiliary", "auxiliary_head"),
    )

    __prepare_scriptable__ = refuse_script

    def __init__(self, backbone: nn.Module, head: Head, auxiliary: Head | None = None) -> None:
        super().__init__()
        channels, self.smallest = levels_of(backbone)
        self.backbone = backbone
        self.head = head(channels)
        self.auxiliary = auxiliary(channels) if auxiliary else None

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        logits = self.coarse(images)
        if isinstance(logits, tuple):
            return tuple(resized(each, images.shape[2:]) if each.ndim == 4 else each for each in logits)
        return resized(logits, images.shape[2:])

    def coarse(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The logits (B, num_classes, H / stride, W / stride), or several, before they are resized."""
        if becomes_a_graph():  # which must not carry the checks
            return self._coarse(images)
        self._check(images)
        with sizes_explained(images):
            return self._coarse(images)

    def _coarse(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        features = pyramid(self.backbone, images)
        logits: Tensor | tuple[Tensor, ...] = self.head(features)
        every = logits if isinstance(logits, tuple) else (logits,)
        if not self.training:
            return every[0]
        return logits if self.auxiliary is None else (*every, self.auxiliary(features))

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4:
            raise InputError(
                f"the network got a tensor of shape {tuple(images.shape)} and wants images "
                "(batch, channels, height, width): pass volumes slice by slice"
            )
        height, width = images.shape[2:]
        if min(height, width) < self.smallest:
            raise InputError(
                f"the network got images of {height}x{width} pixels and needs at least "
                f"{self.smallest}x{self.smallest}: pad or resize them"
            )
