"""Pictures of where predictions differ from their reference: panels through one place, as small PNG files.

Every panel is a plane in its true proportions: axial as a radiologist sees it, coronal and sagittal with the
head up, sagittal with the front at the left. Yellow ticks at the rim say where the other planes lie.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsnet_med.evaluate.arrays import LabelMap, Mask
from dsnet_med.evaluate.case_view import PLANES, CaseView
from dsnet_med.evaluate.worst_place import Place
from dsnet_med.organs import organ_of

Colour = tuple[int, int, int]
Rgb = NDArray[np.float64]

DIFFERENCES: dict[str, Colour] = {
    "missed": (255, 159, 64),
    "too much": (64, 196, 255),
    "another organ": (255, 92, 170),
}
OUTLINE: Colour = (235, 235, 235)  # of the reference, beneath a difference
TICK: Colour = (255, 221, 51)
_TICK_PIXELS = 9
_PANEL_PIXELS = 340
BACKGROUND = 24.0
FILL = 0.42
_PALETTE = 160


@dataclass(frozen=True)
class Panel:
    """What one panel shows: map `show` on a plane, in the organs' colours; or how it differs from map
    `against`, in all labels or in the one numbered `only`."""

    words: str
    plane: int
    show: int
    against: int | None = None
    only: int | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """The same for the page's script."""
        return {"plane": self.plane, "show": self.show, "against": self.against, "only": self.only}


@dataclass(frozen=True)
class Drawn:
    """A panel and its picture: a `data:` address."""

    panel: Panel
    picture: str


def panels_of(view: CaseView, predictions: Sequence[str] = ("Prediction",)) -> list[Panel]:
    """Reference, predictions and their differences on the plane of acquisition, then the differences on the
    others.

    One prediction's difference is called so; of several each is called after its prediction.
    """
    main, *across = view.planes
    one = len(predictions) == 1
    panels = [Panel("Reference", main, 0)]
    panels += [Panel(name, main, place) for place, name in enumerate(predictions, start=1)]
    for place, name in enumerate(predictions, start=1):
        words = "Difference" if one else f"{name}: difference"
        panels.append(Panel(words, main, place, against=0))
        panels += [
            Panel(f"{words}, {PLANES[plane]}", plane, place, against=0) for plane in across if one or place < 3
        ]
    return panels


def drawn(view: CaseView, panel: Panel, place: Place, colours: Sequence[Colour]) -> Drawn:
    """The panel through `place`; `colours` are the organs', in the order of their names."""
    size = panel_shape(*_plane(view, panel.plane))
    labels = _cut(view.maps[panel.show], panel.plane, place, size)
    grey = None if view.grey is None else _plane_of(view.grey, panel.plane, place)
    canvas = _canvas(grey, size)
    if panel.against is None:
        picture = painted(canvas, _last(labels) if view.bits else labels, dict(enumerate(colours, start=1)))
    else:
        reference = _cut(view.maps[panel.against], panel.plane, place, size)
        both = [
            each if panel.only is None else view.has(each, panel.only).view(np.uint8)
            for each in (reference, labels)
        ]
        kind, own = _difference(*both)
        inside = both[0] > 0
        canvas[edges_of(inside) & inside] = OUTLINE
        picture = painted(canvas, kind, own)
    if len(view.planes) > 1:
        _tick(picture, view, panel.plane, place)
    return Drawn(panel, _address(picture))


def colours_of(labels: Mapping[int, str]) -> list[Colour]:
    """The organs' colours, in the order of their names."""
    return [organ_of(name).colour for name in labels.values()]


def panel_shape(shape: Sequence[int], spacing: Sequence[float], pixels: int = _PANEL_PIXELS) -> tuple[int, int]:
    """The size in square pixels, `pixels` along its longer side, of a slice of `shape` and `spacing`."""
    height, width = (length * size for length, size in zip(shape, spacing, strict=True))
    scale = pixels / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _plane(view: CaseView, plane: int) -> tuple[list[int], list[float]]:
    others = [axis for axis in range(3) if axis != plane]
    return [view.shape[axis] for axis in others], [view.spacing_mm[axis] for axis in others]


def _plane_of(volume: NDArray[Any], plane: int, place: Place) -> NDArray[Any]:
    """The plane through a place as it is looked at: the head is up where the plane is not axial."""
    cut: NDArray[Any] = volume.take(place[plane], axis=plane)
    return cut if plane == 0 else cut[::-1]


def _cut(volume: LabelMap, plane: int, place: Place, size: tuple[int, int]) -> LabelMap:
    """The plane in square pixels, each from the voxel it lies in."""
    labels = _plane_of(volume, plane, place)
    rows, columns = (np.arange(many) * length // many for many, length in zip(size, labels.shape, strict=True))
    cut: LabelMap = labels[np.ix_(rows, columns)]
    return cut


def _canvas(grey: NDArray[np.uint8] | None, size: tuple[int, int]) -> Rgb:
    if grey is None:
        return np.full((*size, 3), BACKGROUND)
    resized = Image.fromarray(np.ascontiguousarray(grey)).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.repeat(np.asarray(resized, np.float64)[..., None], 3, axis=2)


def _last(bits: LabelMap) -> LabelMap:
    """The number of the last region of each pixel, from 1; 0 where none is."""
    return np.frexp(bits.astype(np.float64))[1].astype(np.uint8)


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
    share = np.where(labels > 0, np.where(edges_of(labels), 1.0, FILL), 0.0)[..., None]
    return np.rint((1 - share) * canvas + share * flat).astype(np.uint8)


def edges_of(labels: LabelMap | Mask) -> Mask:
    """Pixels with a neighbour of another value; the rim of the picture is none."""
    around = np.pad(labels, 1, mode="edge")
    above, below, left, right = around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]
    edge: Mask = (above != labels) | (below != labels) | (left != labels) | (right != labels)
    return edge


def _tick(picture: NDArray[np.uint8], view: CaseView, plane: int, place: Place) -> None:
    """Mark at the rim where the planes of the other two axes cut this one."""
    down, right = [axis for axis in range(3) if axis != plane]
    share = [(place[axis] + 0.5) / view.shape[axis] for axis in (down, right)]
    share[0] = share[0] if plane == 0 else 1 - share[0]
    row, column = (
        min(length - 1, int(part * length)) for part, length in zip(share, picture.shape, strict=False)
    )
    picture[row, :_TICK_PIXELS] = picture[row, -_TICK_PIXELS:] = TICK
    picture[:_TICK_PIXELS, column] = picture[-_TICK_PIXELS:, column] = TICK


def _address(picture: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    # An octree is ten times as fast as a median cut, and as good at these few colours.
    Image.fromarray(picture).quantize(_PALETTE, Image.Quantize.FASTOCTREE).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
