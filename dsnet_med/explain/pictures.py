"""Pictures of what a plug-in computes: a slice with its contours, and beside it the map over the same slice.

Numbers are told by viridis, whose steps look equally large and whose lightness rises with the number; the bar
at the right says which colour is which number. The map lies over the slice so that the anatomy is seen through
it, and the bar's colours are what the map makes of a mid-grey slice.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dsnet_med.errors import InputError
from dsnet_med.evaluate.overlay import BACKGROUND, OUTLINE, Colour, edges_of, panel_shape

COLOUR_MAP = "viridis"
_OPACITY = 0.7
_PIXELS = 340  # of a panel's longer side
_GAP, _BAR, _TEXT = 8, 14, 62  # pixels: between the parts, the bar's width, its numbers'
_INK, _PAPER = (225, 225, 225), (24, 24, 24)

Limits = tuple[float, float]
Rgb = NDArray[np.float64]


def map_picture(
    slice_image: NDArray[Any],
    values: NDArray[Any],
    spacing_mm: Sequence[float],
    contours: NDArray[Any] | None = None,
    limits: Limits | None = None,
    *,
    colours: Mapping[int, Colour] | None = None,
) -> bytes:
    """A PNG of a map (H, W) over the slice (H, W) that it was measured on, in its true proportions.

    `spacing_mm` is the size of a pixel, down and to the right. `contours` (H, W) are the labels of the
    reference, outlined in `colours` on the slice, or in white. `limits` are the values of the darkest and the
    lightest colour, by default those of `common_limits`; what lies beyond has the colour of the end. Values
    that are not finite leave the slice as it is. Raises InputError where shapes differ.
    """
    image, values = np.asarray(slice_image, np.float64), np.asarray(values, np.float64)
    for other in (values, image if contours is None else contours):
        if image.ndim != 2 or other.shape != image.shape:
            raise InputError(f"a slice of shape {image.shape} has a map or contours of shape {other.shape}")
    low, high = limits or common_limits([values])
    size = panel_shape(image.shape, spacing_mm, _PIXELS)
    grey = _grey(image, size)
    labels = None if contours is None else np.asarray(contours)[_nearest(image.shape, size)]
    panels = [
        _outlined(grey, labels, colours or {}),
        _outlined(_over(grey, values[_nearest(image.shape, size)], (low, high)), labels, {}),
    ]
    return _png(panels, (low, high))


def common_limits(maps: Sequence[NDArray[Any]]) -> Limits:
    """One pair of limits for maps that are to be compared: the 1st and 99th percentile of all their values.

    Maps of one value get a range around it; maps without a finite value that of 0 to 1.
    """
    finite = [each[np.isfinite(each)] for each in (np.asarray(one, np.float64) for one in maps)]
    values = np.concatenate(finite) if finite else np.empty(0)
    if not values.size:
        return 0.0, 1.0
    low, high = (float(each) for each in np.percentile(values, (1, 99)))
    room = 1e-3 * max(abs(low), abs(high)) or 1e-3  # less is rounding, which nobody should see a pattern in
    return (low, high) if high - low > room else (low - room, high + room)


def _grey(image: NDArray[np.float64], size: tuple[int, int]) -> Rgb:
    """The slice (H, W) at `size` as colours; greys from its 0.5th to its 99.5th percentile."""
    finite = image[np.isfinite(image)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    scaled = (
        np.nan_to_num(np.clip((image - low) / ((high - low) or 1.0), 0, 1)) * (255 - BACKGROUND) + BACKGROUND
    )
    resized = Image.fromarray(scaled.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.repeat(np.asarray(resized, np.float64)[..., None], 3, axis=2)


def _nearest(shape: Sequence[int], size: Sequence[int]) -> tuple[NDArray[np.intp], ...]:
    """For each pixel of `size` the place in `shape` that it lies in: a map is shown as it was measured."""
    return np.ix_(*(np.arange(many) * length // many for many, length in zip(size, shape, strict=True)))


def _over(grey: Rgb, values: NDArray[np.float64], limits: Limits) -> Rgb:
    known = np.isfinite(values)[..., None]
    return np.where(known, (1 - _OPACITY) * grey + _OPACITY * _coloured(values, limits), grey)


def _coloured(values: NDArray[np.float64], limits: Limits) -> Rgb:
    from matplotlib import colormaps  # noqa: PLC0415 -- takes a quarter of a second to import

    low, high = limits
    shares = np.nan_to_num((values - low) / ((high - low) or 1.0))
    return np.asarray(colormaps[COLOUR_MAP](np.clip(shares, 0, 1))[..., :3] * 255)


def _outlined(panel: Rgb, labels: NDArray[Any] | None, colours: Mapping[int, Colour]) -> Rgb:
    if labels is None:
        return panel
    result = panel.copy()
    edges = edges_of(labels) & (labels > 0)
    edges |= edges_of(np.where(edges, 0, labels)) & (labels > 0)  # two pixels wide
    for label in np.unique(labels[edges]):
        result[edges & (labels == label)] = colours.get(int(label), OUTLINE)
    return result


def _png(panels: Sequence[Rgb], limits: Limits) -> bytes:
    """The panels side by side, and the bar with the numbers of its ends and its middle."""
    height, width = panels[0].shape[:2]
    canvas = np.empty((max(height, 60), 2 * width + 2 * _GAP + _BAR + _TEXT, 3))
    canvas[:] = _PAPER
    top = (len(canvas) - height) // 2
    for place, panel in enumerate(panels):
        left = place * (width + _GAP)
        canvas[top : top + height, left : left + width] = panel
    left = 2 * (width + _GAP)
    ramp = np.linspace(limits[1], limits[0], len(canvas))[:, None]
    canvas[:, left : left + _BAR] = (1 - _OPACITY) * 128 + _OPACITY * _coloured(ramp, limits)
    picture = Image.fromarray(np.rint(canvas).astype(np.uint8))
    drawing, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    middle = (limits[0] + limits[1]) / 2
    for value, at, anchor in (
        (limits[1], 1, "lt"),
        (middle, len(canvas) // 2, "lm"),
        (limits[0], len(canvas) - 2, "lb"),
    ):
        drawing.text((left + _BAR + 5, at), _number(value, limits), _INK, font, anchor)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _number(value: float, limits: Limits) -> str:
    """As many digits as it takes to tell the ends of the bar apart."""
    spread = abs(limits[1] - limits[0])
    largest = max(abs(limits[0]), abs(limits[1])) or 1.0
    if not 1e-3 <= largest < 1e4:
        return f"{value:.2g}"
    digits = int(np.clip(1 - np.floor(np.log10(spread or 1.0)), 0, 5))
    return f"{value:.{digits}f}"
