"""What the data doctor keeps of a case to judge its label map by its image, and the case by the others.

**Looseness**: how steep the image is where the label's borders would be if they were moved by three voxels or
mirrored, over how steep it is where they are. Of a label that fits, well below 1; of one that belongs
elsewhere, about 1. Over 160 hippocampi: 0.64 +- 0.05, at most 0.89; with the label of the next case mostly 0.93
and more.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

_BINS = 24
_BORDERS_AT_LEAST, _BORDERS_AT_MOST = 200, 100_000
_MOVED_VOXELS = 3
_SATURATED = 0.5  # of the labelled voxels clipped: nothing is left to fit to
_SPECK_SHARE, _SPECK_GAP_MM, _SPECK_GAP_VOXELS, _POINTS = 0.01, 15.0, 2.5, 20_000
_AXES = ("slices", "rows", "columns")

Image = NDArray[np.float32]
Classes = NDArray[np.uint8]


@dataclass(frozen=True)
class CaseFingerprint:
    """A case in a few kilobytes; of one that cannot be read there is only who it is.

    `content` is a digest of its image's voxels, `label_digest` one of its class map; `detail` is the image in
    at most 24^3 blocks less their surroundings, of length 1; `organs` gives each class its centre in mm from
    that of all (slice, row, column), the logarithm of its volume in mm3, and its mean intensity; `looseness` is
    None where nothing can be said; `mirrored` says which order of the label fits better than its own, and how
    much steeper its borders are then; `specks` counts far small pieces of a class; `contrasts` gives each of
    several channels how bright every class is in it, in standard deviations of the box that holds all classes.
    """

    case: str
    subject: str
    split: str
    content: str | None = None
    shape: tuple[int, ...] = ()
    detail: NDArray[np.float16] | None = None
    label_digest: str = ""
    organs: dict[str, tuple[float, ...]] = field(default_factory=dict)
    looseness: float | None = None
    mirrored: tuple[str, float] | None = None
    specks: dict[str, int] = field(default_factory=dict)
    contrasts: dict[str, dict[str, float]] = field(default_factory=dict)

    def with_features(
        self, image: Image, classes: Classes | None, spacing_mm: Sequence[float], names: Sequence[str]
    ) -> "CaseFingerprint":
        """This one with what a normalised image and its class map, both (D, H, W), spacing alike, tell."""
        seen = replace(self, shape=image.shape, detail=_detail(image))
        if classes is None or not classes.any():
            return seen
        looseness, mirrored = _fit(image, classes)
        spacing = np.asarray(spacing_mm)
        return replace(
            seen,
            label_digest=hashlib.blake2b(np.ascontiguousarray(classes).data, digest_size=16).hexdigest(),
            organs=_organs(image, classes, spacing, names),
            looseness=looseness,
            mirrored=mirrored,
            specks=_specks(classes, spacing, names),
        )

    def with_contrasts(
        self,
        channels: Sequence[str],
        images: Sequence[NDArray[Any]],
        classes: Classes | None,
        names: Sequence[str],
    ) -> "CaseFingerprint":
        """This one with what images (D, H, W) of several channels and the class map, shaped alike, tell."""
        if len(channels) < 2 or classes is None or not classes.any():
            return self
        (box,) = ndimage.find_objects((classes > 0).astype(np.uint8))
        labels = classes[box]
        present = [class_id for class_id in range(1, len(names)) if (labels == class_id).any()]
        contrasts: dict[str, dict[str, float]] = {}
        for channel, image in zip(channels, images, strict=True):
            part = np.asarray(image[box], np.float64)
            deviation = float(part.std()) or 1.0
            means = ndimage.mean(part, labels, present)
            contrasts[channel] = {
                names[class_id]: float((mean - part.mean()) / deviation)
                for class_id, mean in zip(present, means, strict=True)
            }
        return replace(self, contrasts=contrasts)


def content_digest(*channels: NDArray[Any]) -> str:
    """A digest of the intensities (D, H, W) of every channel as float32, whatever their type."""
    made = hashlib.blake2b(repr(channels[0].shape).encode(), digest_size=16)
    for plane in itertools.chain.from_iterable(channels):
        # Adding 0 makes -0.0 and 0.0 one.
        made.update((np.ascontiguousarray(plane, "<f4") + np.float32(0)).data)
    return made.hexdigest()


def _detail(image: Image) -> NDArray[np.float16]:
    """Block means take noise away, and their surroundings the anatomy that all cases share."""
    blocks: NDArray[Any] = image
    for axis, size in enumerate(image.shape):
        starts = np.unique(np.linspace(0, size, min(_BINS, size) + 1).astype(int))[:-1]
        widths = np.diff(np.append(starts, size)).reshape([-1 if other == axis else 1 for other in range(3)])
        blocks = np.add.reduceat(blocks, starts, axis=axis) / widths
    fine = blocks - ndimage.uniform_filter(blocks, 3)
    fine -= fine.mean()
    length = float(np.linalg.norm(fine))
    detail: NDArray[np.float16] = (fine / length if length else fine).ravel().astype(np.float16)
    return detail


def _fit(image: Image, classes: Classes) -> tuple[float | None, tuple[str, float] | None]:
    """Looseness, and the mirrored order of the label whose borders lie on steeper edges than its own."""
    before, after = _borders(classes)
    labelled = image[classes > 0]
    saturated = float(np.mean((labelled <= image.min()) | (labelled >= image.max())))
    if len(before) < _BORDERS_AT_LEAST or saturated > _SATURATED:
        return None, None
    last = np.array(image.shape) - 1
    own = _steepness(image, before, after)
    if own == 0:
        return None, None
    moved = []
    for axis, way in itertools.product(range(3), (-_MOVED_VOXELS, _MOVED_VOXELS)):
        step = np.where(np.arange(3) == axis, way, 0)
        inside = ((before + step >= 0) & (after + step <= last)).all(axis=1)
        if inside.any():
            moved.append(_steepness(image, before[inside] + step, after[inside] + step))
    mirrors = {}
    for flips in itertools.product((False, True), repeat=3):
        order = " and ".join(name for name, flip in zip(_AXES, flips, strict=True) if flip)
        mirrors[order] = (
            _steepness(image, *(np.where(flips, last - side, side) for side in (before, after))) / own
        )
    best = max(mirrors, key=lambda order: mirrors[order])
    mirrored = (best, mirrors[best]) if best else None
    elsewhere = [*(steep / own for steep in moved), *(gain for order, gain in mirrors.items() if order)]
    return float(np.mean(elsewhere)), mirrored


def _borders(classes: Classes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of neighbouring voxels (N, 3) of two classes, thinned out where there are very many."""
    before, after = [], []
    for axis in range(3):
        first = np.moveaxis(classes, axis, 0)
        differ = np.moveaxis(first[:-1] != first[1:], 0, axis)
        places = np.argwhere(differ)
        before.append(places)
        after.append(places + (np.arange(3) == axis))
    pairs = np.concatenate(before), np.concatenate(after)
    thin = 1 + len(pairs[0]) // _BORDERS_AT_MOST
    return pairs[0][::thin], pairs[1][::thin]


def _steepness(image: Image, before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    return float(np.abs(image[tuple(before.T)] - image[tuple(after.T)]).mean())


def _organs(
    image: Image, classes: Classes, spacing: NDArray[np.float64], names: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    centres, volumes, means = {}, {}, {}
    for class_id, box in enumerate(ndimage.find_objects(classes, max_label=len(names) - 1), start=1):
        if box is None:
            continue
        mask = classes[box] == class_id
        corner = np.array([side.start for side in box])
        centres[names[class_id]] = (np.argwhere(mask).mean(axis=0) + corner) * spacing
        volumes[names[class_id]] = np.count_nonzero(mask)
        means[names[class_id]] = float(image[box][mask].mean())
    middle = np.mean(list(centres.values()), axis=0)
    voxel = float(np.prod(spacing))
    return {
        name: (*(float(mm) for mm in centre - middle), float(np.log(volumes[name] * voxel)), means[name])
        for name, centre in centres.items()
    }


def _specks(classes: Classes, spacing: NDArray[np.float64], names: Sequence[str]) -> dict[str, int]:
    """How many pieces of a class are below 1 % of it and lie 15 mm and 2.5 voxels from its large pieces."""
    found = {}
    for class_id, box in enumerate(ndimage.find_objects(classes, max_label=len(names) - 1), start=1):
        if box is None:
            continue
        pieces, count = ndimage.label(classes[box] == class_id, np.ones((3, 3, 3)))
        if count < 2:
            continue
        sizes = np.bincount(pieces.ravel())[1:]
        small = np.flatnonzero(sizes < _SPECK_SHARE * sizes.sum()) + 1
        if not len(small) or len(small) == count:
            continue
        large = np.argwhere((pieces > 0) & ~np.isin(pieces, small))
        tree = cKDTree(large[:: 1 + len(large) // _POINTS] * spacing)
        centres = np.array(ndimage.center_of_mass(pieces > 0, pieces, small)) * spacing
        far = int((tree.query(centres)[0] >= max(_SPECK_GAP_MM, _SPECK_GAP_VOXELS * spacing.max())).sum())
        if far:
            found[names[class_id]] = far
    return found
