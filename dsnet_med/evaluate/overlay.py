"""Pictures of where a prediction differs from its reference: one slice, three panels, as small PNG files.

The slice is the one with the most differing voxels, seen as a radiologist sees it (geometry.SliceOrder) in its
true proportions, cropped to the labels. The grey image behind it is optional.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsnet_med.errors import InputError
from dsnet_med.evaluate.arrays import LabelMap
from dsnet_med.evaluate.score_folders import CaseScore, digest_of
from dsnet_med.geometry import SliceOrder
from dsnet_med.organs import organ_of
from dsnet_med.volumes import Grid, read_image, require_same_grid

Colour = tuple[int, int, int]
Rgb = NDArray[np.float64]

DIFFERENCES: dict[str, Colour] = {
    "missed": (255, 159, 64),
    "too much": (64, 196, 255),
    "another organ": (255, 92, 170),
}
_PANEL_PIXELS = 340
_BACKGROUND = 24.0
_FILL = 0.42
_PALETTE = 160


@dataclass(frozen=True)
class Overlay:
    """The worst slice of a case: panels as `data:` addresses, and what to write beneath them."""

    position: str
    reference: str
    prediction: str
    difference: str
    note: str
    image_sha256: str = ""


def draw(score: CaseScore, labels: Mapping[int, str], image: Path | None = None) -> Overlay:
    """The overlay of the worst slice of a case that was scored, on `image` where it is given and fits."""
    worst = score.worst
    if worst is None:
        raise ValueError(f"{score.case} was not scored, so it has no worst slice")
    order = SliceOrder.of(score.affine, "coarsest")
    grey, note, image_sha256 = _grey(image, score, order, worst.index)
    spacing = order.spacing_mm(score.affine)[1:]
    reference, prediction = worst.reference.unpacked(), worst.prediction.unpacked()
    box = _view(reference | prediction, spacing)
    a, b = (_enlarged(labelled[box], spacing) for labelled in (reference, prediction))
    canvas = _canvas(None if grey is None else grey[box], a, b)
    colours = {label: organ_of(name).colour for label, name in labels.items()}
    return Overlay(
        f"slice {worst.index + 1} of {worst.depth}",
        _address(painted(canvas, a, colours)),
        _address(painted(canvas, b, colours)),
        _address(painted(canvas, *_difference(a, b))),
        note,
        image_sha256,
    )


def _grey(
    image: Path | None, score: CaseScore, order: SliceOrder, index: int
) -> tuple[NDArray[Any] | None, str, str]:
    """The slice of the image, why there is none, and the hash of the file."""
    if image is None:
        return None, "", ""
    try:
        volume = read_image(image, hashed=True)
        x, y, z = score.shape
        require_same_grid(volume, Grid(score.reference, (x, y, z), score.affine, None))
    except InputError as error:
        return None, f"image not shown: {error}", ""
    return order.to_slices(volume.voxels)[index], "", digest_of(volume.digests)


def _view(labelled: LabelMap, spacing: Sequence[float]) -> tuple[slice, slice]:
    """A square in mm, as far as the slice goes, around all labels and some of what surrounds them."""
    if not labelled.any():
        return slice(0, labelled.shape[0]), slice(0, labelled.shape[1])
    spans = [np.flatnonzero(labelled.any(axis=1 - axis)) for axis in (0, 1)]
    side = 1.25 * max((span[-1] - span[0] + 1) * size for span, size in zip(spans, spacing, strict=True)) + 10
    box = []
    for span, size, length in zip(spans, spacing, labelled.shape, strict=True):
        width = min(length, round(side / size))
        start = min(max(0, round((span[0] + span[-1] + 1 - width) / 2)), length - width)
        box.append(slice(start, start + width))
    return box[0], box[1]


def _enlarged(labels: LabelMap, spacing: Sequence[float]) -> LabelMap:
    """The slice in square pixels, its longer side `_PANEL_PIXELS`, each pixel from the voxel it lies in."""
    height, width = panel_shape(labels.shape, spacing)
    rows = np.arange(height) * labels.shape[0] // height
    columns = np.arange(width) * labels.shape[1] // width
    return labels[np.ix_(rows, columns)]


def panel_shape(shape: Sequence[int], spacing: Sequence[float], pixels: int = _PANEL_PIXELS) -> tuple[int, int]:
    """The size in square pixels, `pixels` along its longer side, of a slice of `shape` and `spacing`."""
    height, width = (length * size for length, size in zip(shape, spacing, strict=True))
    scale = pixels / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _canvas(grey: NDArray[Any] | None, reference: LabelMap, prediction: LabelMap) -> Rgb:
    if grey is None:
        return np.full((*reference.shape, 3), _BACKGROUND)
    picture = Image.fromarray(grey.astype(np.float32))
    resized = np.asarray(picture.resize(reference.shape[::-1], Image.Resampling.BILINEAR), np.float64)
    labelled = (reference | prediction) > 0
    low, high = np.percentile(resized[labelled] if labelled.any() else resized, (1, 99))
    # Half a range of room on either side shows what lies around the organs.
    room = 0.5 * (high - low) or 1.0
    scaled = np.clip((resized - low + room) / (high - low + 2 * room), 0, 1)
    return np.repeat(255 * scaled[..., None], 3, axis=2)


def _difference(reference: LabelMap, prediction: LabelMap) -> tuple[LabelMap, dict[int, Colour]]:
    kind = np.zeros(reference.shape, np.uint8)
    differ = reference != prediction
    kind[differ & (prediction == 0)] = 1
    kind[differ & (reference == 0)] = 2
    kind[differ & (reference > 0) & (prediction > 0)] = 3
    return kind, dict(enumerate(DIFFERENCES.values(), start=1))


def painted(canvas: Rgb, labels: LabelMap, colours: dict[int, Colour]) -> NDArray[np.uint8]:
    """The canvas with each label filled and outlined in its colour."""
    table = np.zeros((1 + max([int(labels.max()), *colours]), 3))
    for label, colour in colours.items():
        table[label] = colour
    flat = table[labels]
    share = np.where(labels > 0, np.where(_edges(labels), 1.0, _FILL), 0.0)[..., None]
    return np.rint((1 - share) * canvas + share * flat).astype(np.uint8)


def _edges(labels: LabelMap) -> NDArray[np.bool_]:
    """Pixels with a neighbour of another value; the rim of the picture is none."""
    around = np.pad(labels, 1, mode="edge")
    above, below, left, right = around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]
    edge: NDArray[np.bool_] = (above != labels) | (below != labels) | (left != labels) | (right != labels)
    return edge


def _address(picture: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    # An octree is ten times as fast as a median cut, and as good at these few colours.
    Image.fromarray(picture).quantize(_PALETTE, Image.Quantize.FASTOCTREE).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
