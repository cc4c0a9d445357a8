"""A volume through a 3-D network window by window, handed over slice by slice, in memory that has a bound.

MONAI's sliding_window_inference gives the logits of the whole volume: of 105 classes on 300 slices of 512 x 512
that is 33 GB before the largest one is looked for. Here windows come in order along the slices, and a slice
that no later window reaches is handed over and forgotten: what is held is one window's thickness, on disk where
memory is short. The places of the windows and their weights are MONAI's, and so are the sums.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import prod
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.inference.batches import Batches, first_guess
from dsnet_med.inference.probabilities import on_disk

Network = Callable[[Tensor], Tensor]
Window = tuple[slice, slice, slice]
_SHARE = 0.5  # of the memory that is free, for sums
_BYTES = 4  # of a float32


def window_scores(
    volume: Tensor,
    network: Network,
    size: Sequence[int],
    batches: Batches | None = None,
    *,
    device: torch.device | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Iterator[Tensor]:
    """For each slice of a volume (C, D, H, W) the scores (K, H, W) of a network for windows of `size`.

    The network takes (B, C, d, h, w) and gives (B, K, d, h, w). Windows overlap by half and are weighted by a
    Gaussian of an eighth of their size; volumes smaller than one are padded with zeros on both sides. The
    scores are float32, on `device` (where the volume is, if none is given) or on the CPU. `progress` is told
    each share of the windows that is done. Raises InputError.
    """
    device = volume.device if device is None else device
    padded, kept = _padded(volume, size)
    windows = windows_of(padded.shape[1:], size)
    batches = batches or Batches(first_guess(prod(size), 0, device), lambda _: None, "window")
    weights = _weights(size, device)
    rows = [(first, list(row)) for first, row in groupby(windows, key=lambda window: window[0])]
    sums: _Sums | None = None
    done = 0
    for number, (first, row) in enumerate(rows):

        def work(part: slice, row: Sequence[Window] = row) -> tuple[Sequence[Window], Tensor]:
            taken = row[part]
            given = torch.stack([padded[(slice(None), *window)] for window in taken]).to(device)
            scores = network(given)
            _require_size(scores, given)
            return taken, scores.float() * weights

        for taken, scores in batches.over(len(row), work):
            sums = sums or _Sums((size[0], scores.shape[1], *padded.shape[2:]), weights)
            for window, each in zip(taken, scores, strict=True):
                sums.add(window, each)
            progress(len(taken) / len(windows))
        end = rows[number + 1][0].start if number + 1 < len(rows) else first.stop
        for index in range(done, end):
            mean = sums.taken(index) if sums else torch.empty(0)
            if kept[0].start <= index < kept[0].stop:
                yield mean[:, kept[1], kept[2]]
        done = end


def window_labels(
    volume: Tensor,
    network: Network,
    size: Sequence[int],
    decide: Callable[[Tensor], Tensor] = lambda scores: scores.argmax(0),
    batches: Batches | None = None,
    *,
    device: torch.device | None = None,
) -> Tensor:
    """What `decide` makes of the scores (K, H, W) of every slice, the largest unless told otherwise, (D, ...).

    On the CPU. The rest is as in `window_scores`.
    """
    slices = window_scores(volume, network, size, batches, device=device)
    return torch.stack([decide(scores).cpu() for scores in slices])


def windows_of(shape: Sequence[int], size: Sequence[int]) -> list[Window]:
    """Windows of `size` that cover a volume of `shape`, which is no smaller, half overlapping; D slowest."""
    from monai.data.utils import dense_patch_slices  # noqa: PLC0415 -- takes seconds, for 3-D networks alone

    steps = [length if length == n else max(1, length // 2) for n, length in zip(shape, size, strict=True)]
    return [(window[0], window[1], window[2]) for window in dense_patch_slices(shape, size, steps)]


def _weights(size: Sequence[int], device: torch.device) -> Tensor:
    from monai.data.utils import compute_importance_map  # noqa: PLC0415 -- as above

    weights: Tensor = compute_importance_map(tuple(size), "gaussian", 0.125, device)
    return weights


def _padded(volume: Tensor, size: Sequence[int]) -> tuple[Tensor, Window]:
    """The volume (C, D, H, W), zeros around it where it is smaller than `size`, and where in that it lies."""
    lengths = volume.shape[1:]
    more = [max(wanted - length, 0) for wanted, length in zip(size, lengths, strict=True)]
    z, y, x = (slice(m // 2, m // 2 + length) for m, length in zip(more, lengths, strict=True))
    around = [part for m in reversed(more) for part in (m // 2, m - m // 2)]
    return F.pad(volume, around) if any(more) else volume, (z, y, x)


def _require_size(scores: Tensor, given: Tensor) -> None:
    if scores.ndim != 5 or scores.shape[2:] != given.shape[2:]:
        raise InputError(
            f"the network gives outputs of shape {tuple(scores.shape)} for windows of shape "
            f"{tuple(given.shape)}, wanted one score for each voxel"
        )


class _Sums:
    """Weighted sums of scores and of their weights over the slices that a row of windows covers.

    `shape` is (thickness, K, H, W): slice z of the volume lies at z modulo the thickness.
    """

    def __init__(self, shape: Sequence[int], weights: Tensor) -> None:
        self.thickness = shape[0]
        self.weights = weights
        self.scores = _zeros(shape, weights.device)
        self.shares = torch.zeros(self.thickness, *shape[2:], device=self.scores.device)

    def add(self, window: Window, scores: Tensor) -> None:
        """Add weighted scores (K, d, h, w) of a window of the volume."""
        scores = scores.to(self.scores.device).transpose(0, 1)
        weights = self.weights.to(self.scores.device)
        first = window[0].start % self.thickness
        until = self.thickness - first  # what lies behind that wraps around
        for own, at in ((slice(until), slice(first, None)), (slice(until, None), slice(first))):
            self.scores[at, :, window[1], window[2]] += scores[own]
            self.shares[at, window[1], window[2]] += weights[own]

    def taken(self, index: int) -> Tensor:
        """The mean scores (K, H, W) of a slice that is done; its place is free for another."""
        place = index % self.thickness
        mean = self.scores[place] / self.shares[place]
        self.scores[place] = 0
        self.shares[place] = 0
        return mean


def _zeros(shape: Sequence[int], device: torch.device) -> Tensor:
    """float32 zeros: on the device where they fit, else in memory, else in a file of the temporary folder."""
    need = prod(shape) * _BYTES
    if device.type == "cuda":
        if need <= _SHARE * torch.cuda.mem_get_info(device)[0]:
            return torch.zeros(*shape, device=device)
        device = torch.device("cpu")
    if need <= _SHARE * psutil.virtual_memory().available:
        return torch.zeros(*shape, device=device)
    return torch.from_numpy(on_disk(Path(tempfile.gettempdir()), shape, np.float32, "C"))
