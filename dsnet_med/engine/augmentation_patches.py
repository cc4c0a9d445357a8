"""The augmentation of patches: nnU-Net's, by MONAI's transforms, on the device on which the network is trained.

What nnU-Net does to an image, https://www.nature.com/articles/s41592-020-01008-z, with about its odds:
turned and scaled, mirrored, noise, blur, brightness, contrast, coarser resolution, gamma. Departures: turning
and scaling have one probability, since one resampling does both; each axis is scaled on its own, and less; a
patch is changed as it was read, with its mirror image beyond its borders, where nnU-Net reads a larger one.
"""

from collections.abc import Sequence
from math import radians
from typing import Any

import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
)
from monai.utils import convert_to_tensor
from torch import Tensor

KEYS = ("image", "label")


class RandPatches:
    """Change images (B, C, D, H, W) and labels (B, 1, D, H, W), each pair by a number of its own.

    With probability `affine_prob` a patch is turned by up to `degrees` about each axis and shows, along each,
    as much as a number in `scale` times its side; with `in_plane` within slices alone. `flip_prob` is that of
    being mirrored along each of `flip_axes` (0 slices, 1 rows, 2 columns). Images get noise of a deviation to
    `noise`, a blur of up to `blur` voxels, a brightness and a contrast from 1 - `brightness` and 1 - `contrast`
    to 1 + each, a resolution from `resolution` to 1, and an exponent in `gamma`, each with its probability.
    Labels are resampled by the nearest neighbour. On one device the same numbers give the same bits.
    """

    def __init__(
        self,
        *,
        affine_prob: float = 0.3,
        degrees: float = 30.0,
        scale: Sequence[float] = (0.8, 1.25),
        in_plane: bool = False,
        flip_prob: float = 0.5,
        flip_axes: Sequence[int] = (0, 1, 2),
        noise_prob: float = 0.1,
        noise: float = 0.3,
        blur_prob: float = 0.2,
        blur: float = 1.0,
        brightness_prob: float = 0.15,
        brightness: float = 0.25,
        contrast_prob: float = 0.15,
        contrast: float = 0.25,
        resolution_prob: float = 0.2,
        resolution: float = 0.5,
        gamma_prob: float = 0.3,
        gamma: Sequence[float] = (0.7, 1.5),
    ) -> None:
        angle = radians(degrees)
        wide = (scale[0] - 1, scale[1] - 1)
        steps: list[tuple[float, Any]] = [
            (
                affine_prob,
                RandAffined(
                    KEYS,
                    prob=affine_prob,
                    rotate_range=[angle, 0.0 if in_plane else angle, 0.0 if in_plane else angle],
                    scale_range=[(0.0, 0.0) if in_plane else wide, wide, wide],
                    mode=("bilinear", "nearest"),
                    padding_mode="reflection",
                ),
            ),
            *((flip_prob, RandFlipd(KEYS, prob=flip_prob, spatial_axis=axis)) for axis in flip_axes),
            (noise_prob, RandGaussianNoised("image", prob=noise_prob, std=noise)),
            (
                blur_prob,
                RandGaussianSmoothd(
                    "image",
                    prob=blur_prob,
                    sigma_x=(blur / 2, blur),
                    sigma_y=(blur / 2, blur),
                    sigma_z=(blur / 2, blur),
                ),
            ),
            (brightness_prob, RandScaleIntensityd("image", prob=brightness_prob, factors=brightness)),
            (
                contrast_prob,
                RandScaleIntensityFixedMeand(
                    "image", prob=contrast_prob, factors=contrast, preserve_range=True
                ),
            ),
            (
                resolution_prob,
                RandSimulateLowResolutiond("image", prob=resolution_prob, zoom_range=(resolution, 1.0)),
            ),
            (
                gamma_prob,
                RandAdjustContrastd("image", prob=gamma_prob, gamma=tuple(gamma), retain_stats=True),
            ),
        ]
        self.steps = Compose([step for prob, step in steps if prob])

    def __call__(self, images: Tensor, labels: Tensor, draws: Sequence[int]) -> tuple[Tensor, Tensor]:
        pairs = [self._one(*each) for each in zip(images, labels, draws, strict=True)]
        image, label = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return image, label

    def _one(self, image: Tensor, label: Tensor, draw: int) -> tuple[Tensor, Tensor]:
        self.steps.set_random_state(seed=draw)
        done = self.steps({"image": image, "label": label})
        image, labels = (convert_to_tensor(done[key], track_meta=False) for key in KEYS)
        return image.float(), labels.to(label.dtype)
