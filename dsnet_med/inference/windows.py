"""Windows that slide over slices, half overlapping, weighted by a Gaussian: the rule of MONAI and nnU-Net.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z; weights and places are those of MONAI's
`sliding_window_inference(..., mode="gaussian", sigma_scale=0.125)`, which the tests compare with.
"""

from collections.abc import Callable, Iterator, Sequence
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

_SIGMA = 0.125  # in window lengths
_LEAST_WEIGHT = 1e-3


def slide(
    images: Tensor, window: Sequence[int], network: Callable[[Tensor], Tensor], overlap: float = 0.5
) -> Tensor:
    """Logits (B, K, H, W) for images (B, C, H, W): the weighted mean over all windows that cover a pixel.

    `network` maps windows (B, C, h, w) to logits of that size. Slices smaller than a window are padded with
    zeros, the floor of the intensity scale.
    """
    padded, (rows, columns) = padded_to(images, window)
    weights = _weights(window, images.device)
    sums: Tensor | None = None
    total = torch.zeros(padded.shape[-2:], device=images.device)
    for place in _places(padded.shape[-2:], window, overlap):
        logits = network(padded[:, :, *place]).float()
        if sums is None:
            sums = logits.new_zeros((len(images), logits.shape[1], *padded.shape[-2:]))
        sums[:, :, *place] += weights * logits
        total[place] += weights
    if sums is None:
        raise ValueError(f"no window of {tuple(window)} fits images of shape {tuple(images.shape)}")
    return (sums / total)[:, :, rows, columns]


def padded_to(images: Tensor, size: Sequence[int]) -> tuple[Tensor, tuple[slice, slice]]:
    """Images (B, C, H, W) with zeros around them up to at least `size`, and where they lie in the result."""
    pads, places = [], []
    for length, wanted in zip(images.shape[-2:], size, strict=True):
        missing = max(wanted - length, 0)
        pads.append((missing // 2, missing - missing // 2))
        places.append(slice(missing // 2, missing // 2 + length))
    (top, bottom), (left, right) = pads
    return F.pad(images, (left, right, top, bottom)), (places[0], places[1])


def _places(size: Sequence[int], window: Sequence[int], overlap: float) -> Iterator[tuple[slice, slice]]:
    rows, columns = (_starts(*pair, overlap) for pair in zip(size, window, strict=True))
    for top in rows:
        for left in columns:
            yield slice(top, top + window[0]), slice(left, left + window[1])


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along one axis; the last one ends with the axis."""
    step = max(int(window * (1 - overlap)), 1)
    last = length - window
    return [min(number * step, last) for number in range(ceil(last / step) + 1)]


def _weights(window: Sequence[int], device: torch.device) -> Tensor:
    rows, columns = (_bell(length, device) for length in window)
    weights = rows[:, None] * columns
    return weights.clamp(min=max(float(weights.min()), _LEAST_WEIGHT))


def _bell(length: int, device: torch.device) -> Tensor:
    offsets = torch.arange(length, device=device, dtype=torch.float32) - (length - 1) / 2
    return torch.exp(-offsets.square() / (2 * (length * _SIGMA) ** 2))
