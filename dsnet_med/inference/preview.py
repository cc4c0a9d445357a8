"""A contact sheet: slices of an image with its label map over them, as one PNG picture."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dsnet_med.evaluate.overlay import painted, panel_shape
from dsnet_med.files import written_whole
from dsnet_med.geometry import SliceAxis, SliceOrder
from dsnet_med.inference.mask import Mask
from dsnet_med.organs import organ_of
from dsnet_med.prepare.intensity import Scaling

_COLUMNS, _ROWS = 4, 3
_PANEL_PIXELS = 256
_LINE_PIXELS = 16
_NARROWEST = 110  # the title under a panel


def write_preview(path: Path, mask: Mask, slice_axis: SliceAxis, scaling: Scaling) -> None:
    """Draw twelve slices over the labelled part of the volume, seen as a radiologist sees them.

    `scaling` says which intensities are black and white. Raises InputError when the file cannot be written.
    """
    order = SliceOrder.of(mask.affine, slice_axis)
    image, ids = order.to_slices(mask.source.voxels), order.to_slices(mask.voxels)
    chosen = _chosen(ids, _COLUMNS * _ROWS)
    colours = {k: organ_of(name).colour for k, name in enumerate(mask.class_names) if k}
    height, width = panel_shape(ids.shape[1:], order.spacing_mm(mask.affine)[1:], _PANEL_PIXELS)
    nearest = np.ix_(
        *(np.arange(n) * have // n for n, have in zip((height, width), ids.shape[1:], strict=True))
    )
    brightest = (scaling.high - scaling.low) * scaling.slope or 1.0
    scaling = replace(scaling, centre=None, keep_zero=False)  # the lowest is black

    column, row = max(width, _NARROWEST), height + _LINE_PIXELS
    rows = -(-len(chosen) // _COLUMNS)
    sheet = Image.new("RGB", (min(len(chosen), _COLUMNS) * column, rows * row + 3 * _LINE_PIXELS))
    draw = ImageDraw.Draw(sheet)
    for number, k in enumerate(chosen):
        x, y = number % _COLUMNS * column, number // _COLUMNS * row
        grey = np.clip(scaling.apply(image[k][nearest]) / brightest, 0, 1)[..., None].repeat(3, axis=2)
        sheet.paste(Image.fromarray(painted(255.0 * grey, ids[k][nearest], colours)), (x, y))
        draw.text((x + 3, y + height + 2), f"slice {k + 1} of {len(ids)}", fill=(200, 200, 200))

    x, y = 3, rows * row + 2
    for k in np.unique(ids):  # the legend
        if name := mask.class_names[k] if k else "":
            length = round(draw.textlength(name)) + 12
            if x + length > sheet.width and x > 3:
                x, y = 3, y + _LINE_PIXELS
            draw.text((x, y), name, fill=colours[int(k)])
            x += length
    with written_whole(path) as temporary:
        sheet.save(temporary, "PNG")


def _chosen(ids: NDArray[np.unsignedinteger[Any]], count: int) -> list[int]:
    """Slices evenly spread over those with labels, or over all where there are none."""
    labelled = np.flatnonzero(ids.any(axis=(1, 2)))
    first, last = (labelled[0], labelled[-1]) if len(labelled) else (0, len(ids) - 1)
    return sorted({round(place) for place in np.linspace(first, last, count)})
