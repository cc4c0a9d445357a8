"""A contact sheet: slices of an image with its label map over them, as one PNG picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dsnet_med.evaluate.overlay import Rgb, organ_colour, painted, panel_shape
from dsnet_med.files import written_whole
from dsnet_med.geometry import SliceAxis, SliceOrder
from dsnet_med.inference.mask import Mask
from dsnet_med.prepare.intensity import Scaling

_COLUMNS, _ROWS = 4, 3
_PANEL_PIXELS = 256
_LINE_PIXELS = 16


def write_preview(path: Path, mask: Mask, slice_axis: SliceAxis, scaling: Scaling) -> None:
    """Draw twelve slices over the labelled part of the volume, seen as a radiologist sees them.

    `scaling` says which intensities are black and white. Raises InputError when the file cannot be written.
    """
    order = SliceOrder.of(mask.affine, slice_axis)
    image, ids = order.to_slices(mask.source.voxels), order.to_slices(mask.voxels)
    spacing = order.spacing_mm(mask.affine)[1:]
    chosen = _chosen(ids, _COLUMNS * _ROWS)
    panels = [_panel(image[k], ids[k], spacing, scaling) for k in chosen]
    sheet = _sheet(panels, [f"slice {k + 1} of {len(ids)}" for k in chosen])
    found = np.flatnonzero(np.bincount(ids.ravel(order="K"), minlength=len(mask.class_names))[1:])
    _write_legend(sheet, [(mask.class_names[k + 1], organ_colour(int(k))) for k in found])
    with written_whole(path) as temporary:
        sheet.save(temporary, "PNG")


def _chosen(ids: NDArray[np.unsignedinteger[Any]], count: int) -> list[int]:
    """Slices evenly spread over those with labels, or over all where there are none."""
    labelled = np.flatnonzero(ids.any(axis=(1, 2)))
    first, last = (labelled[0], labelled[-1]) if len(labelled) else (0, len(ids) - 1)
    return sorted({round(place) for place in np.linspace(first, last, count)})


def _panel(
    image: NDArray[Any],
    ids: NDArray[np.unsignedinteger[Any]],
    spacing: Sequence[float],
    scaling: Scaling,
) -> NDArray[np.uint8]:
    height, width = panel_shape(ids.shape, spacing, _PANEL_PIXELS)
    rows = np.arange(height) * ids.shape[0] // height
    columns = np.arange(width) * ids.shape[1] // width
    near = np.ix_(rows, columns)
    scaled = scaling.apply(image[near])
    grey: Rgb = np.repeat(255 * np.clip(scaled / _brightest(scaling), 0, 1)[..., None], 3, axis=2)
    classes = ids[near]
    return painted(grey, classes, {int(k): organ_colour(int(k) - 1) for k in np.unique(classes) if k})


def _brightest(scaling: Scaling) -> float:
    return (scaling.high - scaling.low) * scaling.slope or 1.0


def _sheet(panels: Sequence[NDArray[np.uint8]], titles: Sequence[str]) -> Image.Image:
    height, width = (max(panel.shape[axis] for panel in panels) for axis in (0, 1))
    rows = -(-len(panels) // _COLUMNS)
    columns = min(len(panels), _COLUMNS)
    size = (columns * max(width, 110), rows * (height + _LINE_PIXELS) + 3 * _LINE_PIXELS)
    sheet = Image.new("RGB", size)
    draw = ImageDraw.Draw(sheet)
    for number, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        x = number % _COLUMNS * max(width, 110)
        y = number // _COLUMNS * (height + _LINE_PIXELS)
        sheet.paste(Image.fromarray(panel), (x, y))
        draw.text((x + 3, y + panel.shape[0] + 2), title, fill=(200, 200, 200))
    return sheet


def _write_legend(sheet: Image.Image, organs: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
    draw = ImageDraw.Draw(sheet)
    x, y = 3, sheet.height - 3 * _LINE_PIXELS + 2
    for name, colour in organs:
        length = round(draw.textlength(name)) + 12
        if x + length > sheet.width and x > 3:
            x, y = 3, y + _LINE_PIXELS
        draw.text((x, y), name, fill=colour)
        x += length
