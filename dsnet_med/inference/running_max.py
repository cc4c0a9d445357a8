"""From logits to class ids without ever holding the logits of all classes at full size.

`torch.argmax` over the classes takes longer on a CPU than a small network. Here one class after the other is
resized and compared with the best so far: the same values in the same order, so the same ids.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dsnet_med.networks.layers import resized

Size = Sequence[int]


def resized_in_turn(maps: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Maps (B, C, h, w) resized bilinearly to each of `sizes` in turn; a size that they have is passed over."""
    for size in sizes:
        if tuple(maps.shape[-2:]) != tuple(size):
            maps = resized(maps, size)
    return maps


def class_ids(logits: Tensor, sizes: Sequence[Size] = ()) -> Tensor:
    """The class of the largest logit, the first of equal ones: (B, K, h, w) -> (B, H, W), uint8 or int16.

    (H, W) is the last of `sizes`, to which the logits are resized in turn.
    """
    count = logits.shape[1]
    best = resized_in_turn(logits[:, :1], sizes)[:, 0]
    ids = torch.zeros(best.shape, dtype=id_type(count), device=best.device)
    for k in range(1, count):
        rival = resized_in_turn(logits[:, k : k + 1], sizes)[:, 0]
        ids.masked_fill_(rival > best, k)
        best = torch.maximum(best, rival)
    return ids


def id_type(classes: int) -> torch.dtype:
    """The type that holds this many class ids."""
    return torch.uint8 if classes <= 256 else torch.int16


def padded_to(images: Tensor, size: Size) -> tuple[Tensor, tuple[slice, slice]]:
    """Images (B, C, H, W) with zeros around them up to at least `size`, and where they lie in the result."""
    pads, places = [], []
    for length, wanted in zip(images.shape[-2:], size, strict=True):
        missing = max(wanted - length, 0)
        pads.append((missing // 2, missing - missing // 2))
        places.append(slice(missing // 2, missing // 2 + length))
    (top, bottom), (left, right) = pads
    return F.pad(images, (left, right, top, bottom)), (places[0], places[1])
