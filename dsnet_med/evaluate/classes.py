"""What two files say of a case, as classes on one grid, and the measures of each.

Classes of one label map exclude each other. Regions do not, nor do segments that overlap: then as many classes
as exclude each other are measured together, in label maps of their own, cut to what is labelled.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsnet_med.errors import InputError, first_of
from dsnet_med.evaluate import arrays, backend
from dsnet_med.evaluate.arrays import LabelMap
from dsnet_med.evaluate.labels import Labels
from dsnet_med.evaluate.measurements import LabelMeasurement, measure_aligned, measure_case
from dsnet_med.evaluate.voxel_spacing import GridSpacing, VoxelSpacing
from dsnet_med.regions import Region

Part = tuple[int, frozenset[int]]  # a layer, and which of its values
Box = tuple[slice, ...]
_FEW = 6  # values that are compared one by one faster than looked up


@dataclass(frozen=True)
class Classes:
    """Label maps of one file, its layers, and which values in which of them make each class.

    A class that `parts` does not have is its own value in the first layer. `by_name`: its segments are called
    as classes are; `has_regions`: or as regions are, which its classes then are.
    """

    layers: tuple[LabelMap, ...]
    parts: Mapping[int, tuple[Part, ...]] = field(default_factory=dict)
    by_name: bool = False
    has_regions: bool = False

    def parts_of(self, label: int) -> tuple[Part, ...]:
        """Where a class lies."""
        return self.parts.get(label, ((0, frozenset([label])),))

    def mask(self, label: int) -> NDArray[np.bool_]:
        """The voxels of a class."""
        return _union(self.layers, self.parts_of(label))

    def label_map(self, labels: Sequence[int]) -> LabelMap:
        """A label map of classes that exclude each other."""
        dtype: type[np.unsignedinteger[Any]] = np.uint8 if max(labels) < 256 else np.uint16
        if len(labels) == 1:
            mask = self.mask(labels[0])
            return np.multiply(mask, labels[0], dtype=dtype) if labels[0] > 1 else mask.view(np.uint8)
        ((layer, _),) = self.parts_of(labels[0])
        voxels = self.layers[layer]
        table = np.zeros(1 + int(voxels.max(initial=0)), dtype)
        for label in labels:
            table[[value for value in self.parts_of(label)[0][1] if value < len(table)]] = label
        found: LabelMap = table[voxels]
        return found

    def without(self, voxels: NDArray[np.bool_]) -> "Classes":
        """The same with these voxels as background."""
        return replace(self, layers=tuple(np.where(voxels, 0, layer) for layer in self.layers))

    def as_regions(self, regions: Sequence[Region]) -> "Classes":
        """The same with the regions as classes, by their places from 1; each of the classes of its values."""
        found = {}
        for place, region in enumerate(regions, start=1):
            values: dict[int, set[int]] = {}
            for code in region.codes:
                for layer, own in self.parts_of(code):
                    values.setdefault(layer, set()).update(own)
            found[place] = tuple((layer, frozenset(own)) for layer, own in sorted(values.items()))
        return replace(self, parts=found, has_regions=True)

    def painted(self) -> LabelMap:
        """All in one map: of classes that overlap, the one of the last layer."""
        found = self.layers[0]
        for layer in self.layers[1:]:
            found = np.where(layer > 0, layer, found)
        return found

    def bits(self, labels: Sequence[int]) -> LabelMap:
        """All in one map, the n-th of the labels as the n-th bit of the voxels that it has. At most 16."""
        dtype: type[np.unsignedinteger[Any]] = np.uint8 if len(labels) <= 8 else np.uint16
        found: LabelMap = np.zeros_like(self.layers[0], dtype)
        for bit, label in enumerate(labels):
            found |= self.mask(label).astype(dtype) << dtype(bit)
        return found


def measured(
    reference: Classes,
    prediction: Classes,
    spacing_mm: GridSpacing,
    labels: Mapping[int, str],
    *,
    in_voxels: bool = False,
    nsd_tolerance_mm: float = 1.0,
    threads: int = 1,
) -> tuple[LabelMeasurement, ...]:
    """The measures of two files of one shape, in the order of the labels. Raises as `measure_case` does."""
    if all(len(each.layers) == 1 and not each.parts for each in (reference, prediction)):
        return measure_case(
            reference.layers[0],
            prediction.layers[0],
            spacing_mm,
            labels,
            in_voxels=in_voxels,
            nsd_tolerance_mm=nsd_tolerance_mm,
            threads=threads,
        ).measures
    given = VoxelSpacing.of(spacing_mm, reference.layers[0].ndim)
    diagonal = given.diagonal(reference.layers[0].shape)
    limit = arrays.tolerance(nsd_tolerance_mm)
    sides = [
        replace(each, layers=_cut(each.layers, box))
        for box in [_box([*reference.layers, *prediction.layers])]
        for each in (reference, prediction)
    ]

    def measure(own: Sequence[int]) -> tuple[LabelMeasurement, ...]:
        maps = arrays.aligned(*(side.label_map(own) for side in sides))
        names = {label: labels[label] for label in own}
        several = 1 if len(groups) > 1 else threads
        found = measure_aligned(maps, given, names, diagonal, limit, in_voxels=in_voxels, threads=several)
        return found.measures

    groups = exclusive(sides[0], sides[1], labels)
    with ThreadPoolExecutor(threads) as pool:
        every = list(pool.map(measure, groups) if threads > 1 else map(measure, groups))
    by_label = {each.label: each for own in every for each in own}
    return tuple(by_label[label] for label in labels)


def classes_of_arrays(
    reference: ArrayLike, prediction: ArrayLike, labels: Labels
) -> tuple[Classes, Classes, int]:
    """Two label maps as what is scored, and how many voxels the reference ignores. Raises InputError."""
    given = arrays.label_maps(reference, prediction)
    return scored(Classes((given[0],)), Classes((given[1],)), labels)


def scored(reference: Classes, prediction: Classes, labels: Labels) -> tuple[Classes, Classes, int]:
    """Both with regions as classes and without the voxels that the reference ignores, and how many those are.

    These are background in both: they count for nothing, and a surface that ends at them ends there in both.
    Raises InputError for values that nothing names.
    """
    count = 0
    if labels.ignored_value is not None and not reference.by_name:
        ignored = reference.mask(labels.ignored_value)
        count = int(np.count_nonzero(ignored))
    if count:
        reference, prediction = reference.without(ignored), prediction.without(ignored)
    if not labels.regions:
        return reference, prediction, count
    sides = []
    for role, side in (("reference", reference), ("prediction", prediction)):
        regions = labels.regions if role == "reference" else labels.written
        if not side.by_name:
            known = labels.values | {code: str(code) for region in regions for code in region.codes}
            _require_known(side.layers[0], known, role)
        sides.append(side if side.has_regions else side.as_regions(regions))
    return sides[0], sides[1], count


def _require_known(voxels: LabelMap, values: Mapping[int, str], role: str) -> None:
    maps = arrays.aligned(voxels, voxels)
    found = np.flatnonzero(backend.BACKEND.survey(maps.reference, maps.prediction).voxels[1:, 0]) + 1
    if strays := [int(value) for value in found if int(value) not in values]:
        raise InputError(
            f"{role} holds label {first_of(strays)}, which is none of {first_of(values, 20)}; "
            "name it in the labels or map it to 0"
        )


def exclusive(reference: Classes, prediction: Classes, labels: Iterable[int]) -> list[list[int]]:
    """The labels in groups in which no two have a voxel in common on either side."""
    groups: list[tuple[list[int], list[tuple[int, set[int]]]]] = []
    for label in labels:
        places = [side.parts_of(label) for side in (reference, prediction)]
        alone = [(parts[0][0], set(parts[0][1])) for parts in places if len(parts) == 1]
        fit = next((group for group in groups if _fits(group[1], alone)), None) if len(alone) == 2 else None
        if fit is None:
            groups.append(([label], alone if len(alone) == 2 else []))
            continue
        fit[0].append(label)
        for (_, taken), (_, own) in zip(fit[1], alone, strict=True):
            taken.update(own)
    return [own for own, _ in groups]


def _fits(taken: Sequence[tuple[int, set[int]]], own: Sequence[tuple[int, set[int]]]) -> bool:
    """Whether values lie in the layers of others and are none of them."""
    return bool(taken) and all(
        a == b and not used & values for (a, used), (b, values) in zip(taken, own, strict=True)
    )


def _union(layers: Sequence[LabelMap], parts: Sequence[Part]) -> NDArray[np.bool_]:
    found = np.zeros_like(layers[0], bool)
    for layer, values in parts:
        if len(values) > _FEW:
            found |= np.isin(layers[layer], sorted(values))
        else:
            for value in values:
                found |= layers[layer] == value
    return found


def _cut(layers: Sequence[LabelMap], box: Box) -> tuple[LabelMap, ...]:
    return tuple(layer[box] for layer in layers)


def _box(layers: Sequence[LabelMap]) -> Box:
    """Around everything that is labelled in any of the layers, at least one voxel."""
    low, high = np.array(layers[0].shape), np.zeros(layers[0].ndim, int)
    for layer in layers:
        maps = arrays.aligned(layer, layer)
        extents = backend.BACKEND.survey(maps.reference, maps.prediction).extents
        rows = np.argwhere(extents[..., 1])
        if not len(rows):
            continue
        first = [*rows.min(axis=0), extents[..., 0][extents[..., 1] > 0].min()]
        last = [*(rows.max(axis=0) + 1), extents[..., 1].max()]
        own = slice(1, None) if maps.planar else slice(None)
        for axis, a, b in zip(maps.axes, first[own], last[own], strict=True):
            low[axis], high[axis] = min(low[axis], a), max(high[axis], b)
    return tuple(slice(int(min(a, b)), int(max(b, 1))) for a, b in zip(low, high, strict=True))
