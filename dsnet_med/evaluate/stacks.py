"""All slices of a case in a page, small: greys as sheets of JPEG, label maps exactly, for the page's script.

A page is one file that people mail: its stacks share a number of bytes, and a case that needs more is shown
with fewer pixels a slice, never with fewer slices.
"""

import base64
import io
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsnet_med.evaluate.case_view import CaseView

PAGE_MB = 16.0
_LARGEST, _SMALLEST = 288, 48  # pixels along a slice's longer side
_QUALITY = 72
_SHEET = 4096  # pixels of a sheet's side: what every browser decodes
_MOST_VOXELS = 24_000_000  # of one map: what a phone can hold


def stack_of(view: CaseView, most_bytes: float) -> dict[str, Any] | None:
    """What the page's script needs to show every slice of a view, in at most so many bytes of text.

    None where even its smallest form is larger, or where the labels do not fit a byte.
    """
    across = [axis for axis in range(3) if axis != view.plane]
    if view.maps[0].itemsize > 1 or most_bytes <= 0:
        return None
    longest = max(view.shape[axis] for axis in across)
    side = min(longest, _LARGEST)
    while True:
        shape = list(view.shape)
        for axis in across:
            shape[axis] = max(1, round(view.shape[axis] * side / longest))
        if np.prod(shape, dtype=np.int64) <= _MOST_VOXELS:
            packed = _packed(view, shape, across)
            size = size_of(packed)
            if size <= most_bytes:
                return packed
            too_large = size / most_bytes
        else:
            too_large = np.prod(shape, dtype=np.int64) / _MOST_VOXELS
        if side <= _SMALLEST:
            return None
        side = max(_SMALLEST, min(side - 1, int(0.97 * side / too_large**0.5)))


def size_of(stack: dict[str, Any]) -> int:
    """Bytes of text."""
    return len(stack["labels"]) + sum(map(len, stack["sheets"]))


def _packed(view: CaseView, shape: list[int], across: list[int]) -> dict[str, Any]:
    """`shape` and the axes in the order (Z, Y, X); voxels lie slice after slice along the plane's axis."""
    height, width = (shape[axis] for axis in across)
    rows, columns = (
        (np.arange(many) * 2 + 1) * view.shape[axis] // (2 * many)
        for many, axis in zip((height, width), across, strict=True)
    )
    maps = [np.moveaxis(each, view.plane, 0)[:, rows][:, :, columns] for each in view.maps]
    content = zlib.compress(b"".join(each.tobytes() for each in maps), 6)
    tile, many = (-(-height // 8) * 8, -(-width // 8) * 8), max(1, _SHEET // (-(-width // 8) * 8))
    sheets = [] if view.grey is None else _sheets(np.moveaxis(view.grey, view.plane, 0), (height, width), tile)
    return {
        "shape": shape,
        "full": list(view.shape),
        "start": list(view.start),
        "whole": list(view.whole),
        "plane": view.plane,
        "maps": len(maps),
        "bits": view.bits,
        "tile": list(tile),
        "columns": many,
        "rows": max(1, _SHEET // tile[0]),
        "labels": _address("application/octet-stream", content),
        "sheets": sheets,
    }


def _sheets(grey: NDArray[np.uint8], size: tuple[int, int], tile: tuple[int, int]) -> list[str]:
    """Slices (N, H, W) side by side and beneath each other, in tiles that JPEG's blocks of 8 do not
    straddle."""
    columns, rows = max(1, _SHEET // tile[1]), max(1, _SHEET // tile[0])
    sheets = []
    for first in range(0, len(grey), columns * rows):
        own = grey[first : first + columns * rows]
        used = (min(len(own), columns), -(-len(own) // columns))
        sheet = np.zeros((used[1] * tile[0], used[0] * tile[1]), np.uint8)
        for place, plane in enumerate(own):
            small = Image.fromarray(np.ascontiguousarray(plane)).resize(size[::-1], Image.Resampling.BOX)
            y, x = place // columns * tile[0], place % columns * tile[1]
            padding = ((0, tile[0] - size[0]), (0, tile[1] - size[1]))
            sheet[y : y + tile[0], x : x + tile[1]] = np.pad(np.asarray(small), padding, mode="edge")
        stream = io.BytesIO()
        Image.fromarray(sheet).save(stream, "JPEG", quality=_QUALITY, optimize=True)
        sheets.append(_address("image/jpeg", stream.getvalue()))
    return sheets


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")
