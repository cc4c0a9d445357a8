"""Where one network's masks of a case differ from another's: voxels counted, so that counts of cases add up.

The two are the plain network (its plug-ins replaced by the identity) and the corrected one (as it is, or with
its plug-ins shuffled). A voxel is `changed` where they disagree about any organ, `wrong` where the plain
network disagrees with the reference about any, `fixed` where it was wrong and the corrected one is right,
`broken` where it was right and the corrected one is wrong. So organs that overlap need nothing of their own.

Distances are exact, in mm, from a voxel's centre to the nearest border voxel of any organ in the reference
(in the intact mask without one); a border voxel has a face neighbour outside its organ, as in
evaluate/mask_scores.py. They are needed up to 16 mm only, so they are taken of slabs with 16 mm on either
side: memory does not grow with the volume, beyond a byte or two for each of its voxels.

Background far from everything would drown any share. So but for `border`, whose last bin is all the rest of
the volume, voxels are counted that lie within 16 mm of a border, or that are changed or wrong. `border` and
`strength` split them by distance and by how far the correction moved the plain network: the change in its
probability of what it decided there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.evaluate.arrays import LabelMap, Mask
from dsnet_med.evaluate.classes import Classes
from dsnet_med.evaluate.voxel_spacing import VoxelSpacing

BORDERS_MM = (1.0, 2.0, 4.0, 8.0, 16.0)  # each bin's upper end, which belongs to it; the last bin has none
STRENGTHS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0)  # each bin's lower end belongs to it, and 1 to the last
BORDERS = ("0-1", "1-2", "2-4", "4-8", "8-16", "16-")
STRENGTH_BINS = tuple(f"{low:g}-{high:g}" for low, high in pairwise(STRENGTHS))
INSIDE, OUTSIDE, BORDER, STRENGTH, COUNTED = "inside", "outside", "border", "strength", "counted"
SHUFFLED = "shuffled"

_FAR = len(BORDERS_MM)
_ROUNDING = 1e-6  # headers keep seven digits: a voxel exactly at a bin's end must not fall beyond it
_SLAB_VOXELS = 1 << 22
_MOST_BITS = 16

Bins = NDArray[np.uint8]


@dataclass(frozen=True)
class Count:
    """A row of where.csv: of one case, the voxels of one bin of one part; None where there is no reference.

    `network` says which one is compared with the plain one: intact, or shuffled in one of its draws. The parts
    `inside` and `outside` are of one organ each, which `bin` names: its voxels and those beside it, `changed`
    where its own mask did.
    """

    run: str
    network: str
    draw: int
    case: str
    part: str
    bin: str
    voxel_ml: float
    voxels: int
    changed: int
    wrong: int | None
    wrong_changed: int | None
    fixed: int | None
    broken: int | None


@dataclass(frozen=True)
class Encoding:
    """Organs as whole numbers: two voxels have the same one where they lie in the same organs.

    `members` (codes, organs) says which organs a code means; `bits`: the n-th organ is the n-th bit.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    bits: bool

    @classmethod
    def of(cls, labels: Mapping[int, str], every: Sequence[Classes]) -> "Encoding":
        """For the labels (value -> name) of these masks. Raises InputError for too many that may overlap."""
        bits = any(len(each.layers) > 1 or each.parts for each in every)
        if bits and len(labels) > _MOST_BITS:
            raise InputError(f"got {len(labels)} organs that may overlap, wanted at most {_MOST_BITS} to count")
        return cls(tuple(labels.values()), tuple(labels), bits)

    @property
    def members(self) -> NDArray[np.bool_]:
        organs = len(self.values)
        if self.bits:
            return (np.arange(1 << organs)[:, None] >> np.arange(organs) & 1).astype(bool)
        return np.eye(organs + 1, dtype=bool)[:, 1:]

    def codes(self, masks: Classes) -> LabelMap:
        """The code of every voxel; what no label names is background."""
        if self.bits:
            return masks.bits(self.values)
        layer = masks.layers[0]
        dtype: type[np.unsignedinteger[Any]] = np.uint8 if len(self.values) < 256 else np.uint16
        table = np.zeros(1 + max(int(layer.max(initial=0)), *self.values, 0), dtype)
        table[list(self.values)] = np.arange(1, 1 + len(self.values))
        found: LabelMap = table[layer]
        return found

    def borders(self, codes: LabelMap) -> Mask:
        """The voxels with a face neighbour outside an organ of theirs; beyond the array all is outside."""
        edge = np.zeros(codes.shape, bool)
        for axis in (axis for axis in range(codes.ndim) if codes.shape[axis] > 1):
            here, there, border = (np.moveaxis(each, axis, 0) for each in (codes, codes, edge))
            border[:-1] |= self._leaves(here[:-1], there[1:])
            border[1:] |= self._leaves(here[1:], there[:-1])
            border[0] |= here[0] > 0
            border[-1] |= here[-1] > 0
        return edge

    def _leaves(self, here: LabelMap, there: LabelMap) -> Mask:
        if self.bits:
            return np.asarray((here & ~there) > 0)
        return np.asarray((here > 0) & (here != there))


def border_bins(border: Mask, spacing: VoxelSpacing) -> Bins:
    """For each voxel of a volume (X, Y, Z) the place in BORDERS of its distance to the nearest border."""
    bins = np.full(border.shape, _FAR, np.uint8)
    box = _box(border, spacing)
    if box is None:
        return bins
    inner, within = border[box], bins[box]
    halo = _reach(spacing)[0]
    for slab in _slabs(inner.shape, 2 * halo):
        low, high = max(slab.start - halo, 0), slab.stop + halo
        part = inner[low:high]
        if part.any():
            distances = _distances(part, slice(slab.start - low, slab.stop - low), spacing)
            edges = np.array(BORDERS_MM) * (1 + _ROUNDING)
            within[slab] = np.searchsorted(edges, distances)
    return bins


def count_case(
    identity: tuple[str, str, int, str],
    encoding: Encoding,
    voxel_ml: float,
    maps: "Maps",
    strength: NDArray[np.floating] | None,
) -> list[Count]:
    """The rows of one case for one pair of networks; `identity` is (run, network, draw, case).

    `strength` (X, Y, Z) is the change in the plain network's probability of what it decided, of either sign.
    """
    table = np.zeros((len(BORDERS), 2, len(STRENGTH_BINS), 8), np.int64)
    organs = np.zeros((2, len(encoding.values)), np.int64)
    members = encoding.members
    for slab in _slabs(maps.plain.shape, 0):
        plain, corrected, organ = maps.plain[slab], maps.corrected[slab], maps.organs[slab]
        changed = plain != corrected
        wrong, left_wrong = (
            (plain != organ, corrected != organ) if maps.reference else (np.zeros_like(changed),) * 2
        )
        near = (maps.border_bins[slab] < _FAR) | changed | wrong
        place = np.zeros(plain.shape, np.uint8) if strength is None else _strength_bins(strength[slab])
        joint = maps.border_bins[slab].astype(np.uint16)
        for size, part in ((2, near), (len(STRENGTH_BINS), place), (2, changed), (2, wrong), (2, left_wrong)):
            joint = joint * np.uint16(size) + part
        table += np.bincount(joint.ravel(), minlength=table.size).reshape(table.shape)
        organs += _changed_organs(plain[changed], corrected[changed], organ[changed], members)
    rows = [
        _row(identity, BORDER, name, voxel_ml, table[place], known=maps.reference)
        for place, name in enumerate(BORDERS)
    ]
    counted = table[:, 1]
    if strength is not None:
        rows += [
            _row(identity, STRENGTH, name, voxel_ml, counted[:, place], known=maps.reference)
            for place, name in enumerate(STRENGTH_BINS)
        ]
    rows.append(_row(identity, COUNTED, "", voxel_ml, counted, known=maps.reference))
    sizes = np.bincount(maps.organs.ravel(), minlength=len(members)) @ members
    for name, size, (inside, outside) in zip(encoding.names, sizes.tolist(), organs.T.tolist(), strict=True):
        for part, many, moved in ((INSIDE, size, inside), (OUTSIDE, maps.organs.size - size, outside)):
            rows.append(Count(*identity, part, name, voxel_ml, many, moved, None, None, None, None))
    return rows


@dataclass(frozen=True)
class Maps:
    """The codes of a case (X, Y, Z) in the plain network, the corrected one and the reference (`organs`).

    Without a `reference`, `organs` is the intact mask, and nothing is known to be wrong.
    """

    plain: LabelMap
    corrected: LabelMap
    organs: LabelMap
    reference: bool
    border_bins: Bins


def _changed_organs(
    plain: LabelMap, corrected: LabelMap, organs: LabelMap, members: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """For each organ, how many of these voxels changed its mask inside it and outside: (2, organs)."""
    codes = len(members)
    triples, many = np.unique((plain.astype(np.int64) * codes + corrected) * codes + organs, return_counts=True)
    moved = members[triples // codes**2] ^ members[triples // codes % codes]
    inside = members[triples % codes]
    return np.stack([many @ (moved & inside), many @ (moved & ~inside)])


def _row(
    identity: tuple[str, str, int, str],
    part: str,
    name: str,
    voxel_ml: float,
    table: NDArray[np.int64],
    *,
    known: bool,
) -> Count:
    """Of a table (..., 8) of voxels by changed, wrong and left wrong, the second and third its lower bits."""
    by_code = table.reshape(-1, 2, 2, 2).sum(axis=0)
    errors = (by_code[:, 1].sum(), by_code[1, 1].sum(), by_code[1, 1, 0], by_code[1, 0, 1])
    told = [int(each) if known else None for each in errors]
    return Count(*identity, part, name, voxel_ml, int(by_code.sum()), int(by_code[1].sum()), *told)


def _strength_bins(strength: NDArray[np.floating]) -> Bins:
    size = np.abs(np.nan_to_num(strength.astype(np.float32)))  # NaN: where the network was not asked
    inner = np.array(STRENGTHS[1:-1], np.float32)
    return np.searchsorted(inner, size, side="right").astype(np.uint8)


def _distances(border: Mask, rows: slice, spacing: VoxelSpacing) -> NDArray[np.floating]:
    """From each voxel of these rows of a slab to its nearest border voxel, in mm."""
    if spacing.sizes is not None:
        from scipy.ndimage import distance_transform_edt  # noqa: PLC0415 -- takes half a second to load

        found: NDArray[np.float64] = distance_transform_edt(~border, sampling=spacing.sizes)[rows]
        return found
    here = np.argwhere(np.ones_like(border[rows])).astype(np.int32)
    here[:, 0] += rows.start
    return spacing.nearest(here, np.argwhere(border).astype(np.int32)).reshape(border[rows].shape)


def _reach(spacing: VoxelSpacing) -> list[int]:
    """Along each axis, how many voxels at most lie within the last border bin's end."""
    planes_mm = 1 / np.linalg.norm(np.linalg.inv(spacing.steps), axis=1)
    return [ceil(BORDERS_MM[-1] * (1 + _ROUNDING) / step) for step in planes_mm]


def _box(border: Mask, spacing: VoxelSpacing) -> tuple[slice, ...] | None:
    """Around all voxels that a border voxel can be near to; None where there is none."""
    found = []
    for axis, reach in enumerate(_reach(spacing)):
        places = np.flatnonzero(border.any(axis=tuple(other for other in range(border.ndim) if other != axis)))
        if not len(places):
            return None
        found.append(slice(max(int(places[0]) - reach, 0), int(places[-1]) + reach + 1))
    return tuple(found)


def _slabs(shape: Sequence[int], halo: int) -> Iterator[slice]:
    """Parts along the first axis, of not much more than a fixed number of voxels each, halo included."""
    rows = max(_SLAB_VOXELS // max(int(np.prod(shape[1:])), 1) - halo, halo // 2, 1)
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))
