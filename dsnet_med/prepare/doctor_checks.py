"""The data doctor's checks on voxels: plausible CT numbers, left and right, a digest of the content."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dsnet_med.geometry import SliceOrder
from dsnet_med.prepare.doctor_findings import Severity

_AIR_AT_MOST_HU, _BONE_AT_LEAST_HU = -200, 200
_LOWEST_HU, _HIGHEST_HU = -1100, 4000
_SHARE_BELOW, _SHARE_ABOVE = 0.01, 0.001
_SIDE_MARGIN_MM = 15.0
_FINEST_MM, _COARSEST_MM = 0.2, 20.0


def content_digest(voxels: NDArray[Any], affine: NDArray[np.float64]) -> str:
    """A digest of the intensities (X, Y, Z) as float32, whatever the file's data type and axis order."""
    slices = SliceOrder.of(affine).to_slices(voxels)
    digest = hashlib.blake2b(repr(slices.shape).encode(), digest_size=16)
    for plane in slices:
        # Adding 0 makes -0.0 and 0.0 one.
        digest.update((np.ascontiguousarray(plane, "<f4") + np.float32(0)).data)
    return digest.hexdigest()


def odd_intensities(voxels: NDArray[Any], modality: str) -> Iterator[tuple[Severity, str]]:
    """What is odd about an image's intensities; for `CT` these should be Hounsfield units."""
    low, high = float(voxels.min()), float(voxels.max())
    if low == high:
        yield "error", f"every voxel of the image is {low:g}"
    elif modality == "CT":
        yield from _odd_range(low, high)
        yield from _odd_shares(voxels)


def odd_spacing(spacing_mm: Sequence[float]) -> str | None:
    """What is odd about voxel sizes for a scan of a patient, or None."""
    finest, coarsest = min(spacing_mm), max(spacing_mm)
    if finest >= _FINEST_MM and coarsest <= _COARSEST_MM:
        return None
    sizes = " x ".join(f"{size:.3g}" for size in spacing_mm)
    return f"voxels of {sizes} mm, of scans {_FINEST_MM} to {_COARSEST_MM:g} mm: is the header in millimetres?"


def _odd_range(low: float, high: float) -> Iterator[tuple[Severity, str]]:
    span = f"implausible for CT: intensities run from {low:g} to {high:g}"
    if low >= 0 and high <= 1:
        yield "error", f"{span}, which looks normalised; wanted Hounsfield units"
    elif low >= 0 and high <= 255:
        yield "error", f"{span}, which looks windowed to 8 bits; wanted Hounsfield units"
    elif low >= 0:
        yield "error", f"{span}, which looks offset by some 1024; subtract it to get Hounsfield units"
    elif low > _AIR_AT_MOST_HU:
        yield "error", f"{span}, but air is about -1000 HU; looks already windowed"
    elif high < _BONE_AT_LEAST_HU:
        yield "error", f"{span}, but bone is 300 HU and more; looks already windowed, or is no CT"


def _odd_shares(voxels: NDArray[Any]) -> Iterator[tuple[Severity, str]]:
    below = np.count_nonzero(voxels < _LOWEST_HU) / voxels.size
    above = np.count_nonzero(voxels > _HIGHEST_HU) / voxels.size
    if below > _SHARE_BELOW:
        yield "warning", f"implausible for CT: {below:.1%} of the voxels lie below {_LOWEST_HU} HU (padding?)"
    if above > _SHARE_ABOVE:
        yield "warning", f"implausible for CT: {above:.1%} of the voxels lie above {_HIGHEST_HU} HU"


def swapped_sides(
    classes: NDArray[np.unsignedinteger[Any]],
    affine: NDArray[np.float64],
    left: dict[str, int],
    right: dict[str, int],
) -> str | None:
    """What contradicts that the classes of `left` lie left of those of `right`, or None.

    `classes` (X, Y, Z) is a class map, `left` and `right` give each name its class id. A pair contradicts when
    its centroids, in RAS+ millimetres, lie the wrong way round by more than 15 mm.
    """
    wrong, pairs = wrong_sides(classes, affine, left, right)
    if not wrong:
        return None
    first, second, distance = wrong[0]
    cause = "the affine or the axes are flipped" if len(wrong) * 2 > pairs else "labels are exchanged"
    return (
        f"left and right look swapped: {first} lies {distance:.0f} mm to the right of {second} "
        f"({len(wrong)} of {pairs} pairs of organs; most likely {cause})"
    )


def wrong_sides(
    classes: NDArray[np.unsignedinteger[Any]],
    affine: NDArray[np.float64],
    left: dict[str, int],
    right: dict[str, int],
) -> tuple[list[tuple[str, str, float]], int]:
    """The pairs that contradict, as in `swapped_sides`, with their distances in mm, and how many there are.

    Two sides of one organ come first, then the largest distance.
    """
    centres = centroids_mm(classes, affine, {**left, **right})
    across = {name: centre[0] for name, centre in centres.items()}
    pairs = [(a, b, across[a] - across[b]) for a in left for b in right if a in across and b in across]
    wrong = [pair for pair in pairs if pair[2] > _SIDE_MARGIN_MM]
    return sorted(wrong, key=lambda pair: (_same_organ(*pair[:2]), pair[2]), reverse=True), len(pairs)


def _same_organ(left: str, right: str) -> bool:
    return left.replace("left", "") == right.replace("right", "")


def centroids_mm(
    classes: NDArray[np.unsignedinteger[Any]], affine: NDArray[np.float64], ids: dict[str, int]
) -> dict[str, tuple[float, ...]]:
    """The centroid (x, y, z) in RAS+ millimetres of each class of a map (X, Y, Z), of those that occur."""
    boxes = ndimage.find_objects(classes, max_label=max(ids.values(), default=0))
    centres = {}
    for name, class_id in ids.items():
        box = boxes[class_id - 1]
        if box is None:
            continue
        local = _centre(classes[box] == class_id)
        index = [offset + side.start for offset, side in zip(local, box, strict=True)]
        centres[name] = tuple(float(value) for value in affine[:3, :3] @ index + affine[:3, 3])
    return centres


def _centre(mask: NDArray[np.bool_]) -> list[float]:
    """The mean index of a mask's voxels along each axis, by sums over its planes."""
    centre = []
    for axis in range(mask.ndim):
        sums = np.count_nonzero(mask, axis=tuple(other for other in range(mask.ndim) if other != axis))
        centre.append(float(np.average(np.arange(len(sums)), weights=sums)))
    return centre
