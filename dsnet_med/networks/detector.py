"""Faster R-CNN with a feature pyramid, torchvision's, on any backbone that gives a list of feature maps.

Papers: Ren et al. 2015, https://arxiv.org/abs/1506.01497; Lin et al. 2017,
https://arxiv.org/abs/1612.03144.
The published rows are MMDetection's; sizes and ratios of anchors, sampling, thresholds and numbers of boxes
here are theirs, and so is the box regression for the foreground classes alone. Departures, all torchvision's:
smooth L1 (beta 1/9) for L1; RoIAlign with two samples per bin and corners not shifted by half a pixel; anchors
rounded to whole pixels, and on the smallest map spaced by the image over the map (61 to 64 pixels), not by 64;
the best anchor of an object is trained on however little they overlap, where MMDetection wants an IoU of 0.3.
"""

from collections import OrderedDict
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from dsnet_med.networks.layers import levels_of, pyramid, scaled

_CHANNELS = 256  # of every level of the pyramid
_HIDDEN = 1024  # of the box head
_REGION = 7  # rows and columns that a region is pooled to
_PROPOSALS = 1000  # per image, after non-maximum suppression
_FROZEN = ("conv1", "bn1", "layer1")  # the stem and the first stage of a ResNet


def faster_rcnn(
    backbone: nn.Module,
    num_classes: int,
    *,
    pretrained: bool | str | Path = False,
    width: float = 1.0,
    min_size: int = 800,
    max_size: int = 1333,
) -> FasterRCNN:
    """torchvision's Faster R-CNN on `backbone` for `num_classes` classes, the background not counted.

    Takes a list of images (3, H, W) in 0 to 1, of any sizes, and in training also a list of dictionaries with
    `boxes` (N, 4), x1 y1 x2 y2 in pixels, and `labels` (N,) from 1. Gives a dictionary of losses in training,
    otherwise `boxes`, `labels` and `scores` of every image. Images are normalised and resized inside: the short
    side to `min_size`, but the long one to at most `max_size`.

    Where the backbone is `pretrained`, its stem and first stage are frozen and its batch norms keep their
    running statistics, as published. `width` multiplies the channels of the pyramid and the head.
    """
    channels, hidden = scaled(_CHANNELS, width), scaled(_HIDDEN, width)
    return FasterRCNN(
        Pyramid(backbone, channels, frozen=bool(pretrained)),
        min_size=min_size,
        max_size=max_size,
        rpn_post_nms_top_n_train=_PROPOSALS,
        rpn_post_nms_top_n_test=_PROPOSALS,
        box_head=TwoMLPHead(channels * _REGION**2, hidden),
        box_predictor=BoxPredictor(hidden, num_classes),
    )


class Pyramid(nn.Module):
    """Images (B, 3, H, W) -> maps of `out_channels` by level, "0" to "3" and "pool", at [1/4, 1/8, ..., 1/64].

    `frozen` keeps the backbone's stem and first stage, and the statistics of all its batch norms.
    """

    without_reference_names: ClassVar[str] = (
        "the published weights of a detector are not translated, only those of its backbone: give the file as "
        "pretrained"
    )

    def __init__(self, backbone: nn.Module, out_channels: int, *, frozen: bool) -> None:
        super().__init__()
        self.body = backbone
        self.fpn = FeaturePyramidNetwork(list(levels_of(backbone)[0]), out_channels, LastLevelMaxPool())
        self.out_channels = out_channels
        self.frozen = frozen
        if frozen:
            for name in _FROZEN:
                backbone.get_submodule(name).requires_grad_(requires_grad=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = pyramid(self.body, images)  # [1/4, 1/8, 1/16, 1/32]
        levels: dict[str, Tensor] = self.fpn(OrderedDict((str(i), each) for i, each in enumerate(features)))
        return levels  # [1/4, 1/8, 1/16, 1/32, 1/64]

    def train(self, mode: bool = True) -> "Pyramid":
        """As of every module, but the batch norms of a frozen backbone stay in evaluation."""
        super().train(mode)
        if self.frozen:
            for module in self.body.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


class BoxPredictor(nn.Module):
    """Regions (N, in_channels) -> scores (N, 1 + num_classes), background first, and box deltas (N, 4 of each).

    The background's deltas are zeros and have no weights: torchvision reads none of them.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes + 1)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        deltas = self.bbox_pred(regions)
        return self.cls_score(regions), torch.cat([torch.zeros_like(deltas[:, :4]), deltas], dim=1)
