"""A case as its pictures show it: image and label maps as a radiologist sees them, around what is labelled.

Volumes are (Z, Y, X): Z from inferior to superior, Y from anterior to posterior, X from the patient's right to
the left, so that every axis has its plane: axial, coronal, sagittal. The slices that were acquired (the axis
with the coarsest spacing) are all there; across them the view is cropped to the labels and what surrounds them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, SeveralVolumesError
from dsnet_med.evaluate.arrays import LabelMap, Mask, Spacing
from dsnet_med.evaluate.score_folders import CaseScore, digest_of, maps_of
from dsnet_med.evaluate.worst_place import Place, worst_place
from dsnet_med.geometry import SliceOrder
from dsnet_med.volumes import Grid, Volume, read_image, require_same_grid

PLANES = ("axial", "coronal", "sagittal")  # what slices across Z, Y and X are called
Window = tuple[float, float]


@dataclass(frozen=True)
class CaseView:
    """`maps` are the reference and one or more predictions, (Z, Y, X), their labels numbered from 1 in the
    order of the names; `grey` is the image in 0 to 255, or None. `start` is where the view begins in the case's
    `whole` shape, `plane` the axis that runs from slice to slice as acquired. With `bits` the maps hold
    regions, the n-th as the n-th bit, since a voxel may lie in several. `window` says in words which
    intensities are black and white, `note` why there is no image."""

    maps: tuple[LabelMap, ...]
    grey: NDArray[np.uint8] | None
    spacing_mm: Spacing
    start: Place
    whole: Place
    plane: int
    window: str = ""
    note: str = ""
    image_sha256: str = ""
    bits: bool = False

    @property
    def shape(self) -> Place:
        z, y, x = self.maps[0].shape
        return z, y, x

    @property
    def planes(self) -> list[int]:
        """The planes that show something: the acquired one, and across it where there are several slices."""
        across = [axis for axis in range(3) if axis != self.plane]
        return [self.plane, *across] if self.shape[self.plane] > 1 else [self.plane]

    def worst(self, only: int | None = None, show: int = 1, against: int = 0) -> Place:
        """Where map `show` differs most from map `against`: altogether, or in one label."""
        a, b = (
            self.maps[place] if only is None else self.has(self.maps[place], only) for place in (against, show)
        )
        return worst_place(a != b, a > 0, self.spacing_mm, self.plane)

    def has(self, labels: LabelMap, number: int) -> Mask:
        """Which voxels of a map, or of a part of one, have the label of this number."""
        return np.asarray(labels >> (number - 1) & 1 > 0 if self.bits else labels == number)

    def position(self, plane: int, place: Place) -> str:
        """`axial slice 12 of 148`, counted from inferior, anterior and right."""
        return f"{PLANES[plane]} slice {self.start[plane] + place[plane] + 1} of {self.whole[plane]}"


def view_of(
    scores: Sequence[CaseScore],
    labels: Mapping[int, str],
    image: Path | None = None,
    window: Window | None = None,
) -> CaseView:
    """The view of one case that was scored for one or more predictions, its files read again.

    `window` holds the intensities shown black and white (Hounsfield units for CT); without it the labelled
    voxels say what is shown. Raises InputError where a label map cannot be read, or changed since it was
    scored.
    """
    first = scores[0]
    order = SliceOrder.of(first.affine)
    acquired = SliceOrder.of(first.affine, "coarsest").axes[0]
    plane = order.axes.index(acquired)
    pairs = [maps_of(score) for score in scores]
    found = [order.to_slices(each) for each in (pairs[0][0], *(prediction for _, prediction in pairs))]
    labelled = found[0] > 0
    for each in found[1:]:
        labelled |= each > 0
    spacing = order.spacing_mm(first.affine)
    box = _box(labelled, spacing, plane)
    z, y, x = labelled.shape
    grey, words, note, digest = _grey(image, first, order, box=box, labelled=labelled, window=window)
    bits = bool(first.task and first.task.rules.labels.regions)
    numbers = _numbers(labels)
    return CaseView(
        tuple(each[box] if bits else numbers[each[box]] for each in found),
        grey,
        spacing,
        (box[0].start, box[1].start, box[2].start),
        (z, y, x),
        plane,
        words,
        note,
        digest,
        bits,
    )


def _numbers(labels: Mapping[int, str]) -> LabelMap:
    """A table from label values to their places, from 1, among the labels."""
    table: LabelMap = np.zeros(max(labels) + 1, np.uint8 if len(labels) < 256 else np.uint16)
    table[list(labels)] = np.arange(1, len(labels) + 1)
    return table


def _box(labelled: Mask, spacing: Sequence[float], plane: int) -> tuple[slice, slice, slice]:
    """All slices across `plane`; on the other axes a square in mm, as far as the volume goes, around all labels
    and some of what surrounds them."""
    box = [slice(0, length) for length in labelled.shape]
    if labelled.any():
        others = [axis for axis in range(3) if axis != plane]
        spans = {axis: np.flatnonzero(labelled.any(axis=tuple({0, 1, 2} - {axis}))) for axis in others}
        side = 1.25 * max((span[-1] - span[0] + 1) * spacing[axis] for axis, span in spans.items()) + 10
        for axis, span in spans.items():
            length = labelled.shape[axis]
            width = min(length, max(1, round(side / spacing[axis])))
            start = min(max(0, round((span[0] + span[-1] + 1 - width) / 2)), length - width)
            box[axis] = slice(start, start + width)
    return box[0], box[1], box[2]


def _grey(
    image: Path | None,
    score: CaseScore,
    order: SliceOrder,
    *,
    box: tuple[slice, slice, slice],
    labelled: Mask,
    window: Window | None,
) -> tuple[NDArray[np.uint8] | None, str, str, str]:
    """The image in the box, what its greys mean, why there is none, and the hash of the file."""
    if image is None:
        return None, "", "", ""
    try:
        volume, first = _shown_volume(image)
        x, y, z = score.shape
        require_same_grid(volume, Grid(score.reference, (x, y, z), score.affine, None))
    except InputError as error:
        return None, "", f"image not shown: {error}", ""
    shown = order.to_slices(volume.voxels)[box]
    low, high = window or _contrast(shown, labelled[box])
    grey = np.empty(shown.shape, np.uint8)
    for place, plane in enumerate(shown):  # one by one: as numbers with fractions a volume takes gigabytes
        scaled = np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1)
        grey[place] = np.nan_to_num(scaled) * 255
    span = f"{low:.4g} to {high:.4g}"
    words = f"window {span}" if window else f"greys from {span}, by the labelled voxels"
    return grey, words + first, "", digest_of(volume.digests)


def _shown_volume(image: Path) -> tuple[Volume, str]:
    """The image or, of a file of several, the first one, and words that say so. Raises InputError."""
    try:
        return read_image(image, hashed=True), ""
    except SeveralVolumesError as error:
        return read_image(image, 0, hashed=True), f", the first of {error.count} channels"


def _contrast(shown: NDArray[Any], labelled: Mask) -> Window:
    """From the labelled voxels' darkest to their brightest hundredth, with room on either side for what lies
    around them."""
    counted = shown[labelled] if labelled.any() else shown[:: max(1, len(shown) // 8)]
    counted = counted[np.isfinite(counted)]
    low, high = (float(each) for each in np.percentile(counted, (1, 99))) if counted.size else (0.0, 1.0)
    room = 0.5 * (high - low) or 1.0
    return low - room, high + room
