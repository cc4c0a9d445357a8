"""The segments of a file as the classes that are scored: by their names, or by their values where it has none.

A file whose segments overlap has several layers of class ids. Each class lies in one of them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, first_of
from dsnet_med.evaluate.arrays import LabelMap
from dsnet_med.evaluate.measurements import LabelMeasurement, measure_case
from dsnet_med.evaluate.voxel_spacing import GridSpacing
from dsnet_med.organs import organ_of
from dsnet_med.segmentations import Layered, Segment
from dsnet_med.volumes import Volume

LabelValues = Mapping[int, int]


@dataclass(frozen=True)
class Classes:
    """Class ids (X, Y, Z) of one file: `layer_of` has the layer of each class, the first where it has none.

    `by_name`: its segments are called as classes are.
    """

    layers: tuple[LabelMap, ...]
    layer_of: Mapping[int, int] = field(default_factory=dict)
    by_name: bool = False

    @property
    def painted(self) -> LabelMap:
        """All in one map: of classes that overlap, the one of the last layer."""
        found = self.layers[0]
        for layer in self.layers[1:]:
            found = np.where(layer > 0, layer, found)
        return found

    def without(self, voxels: NDArray[np.bool_]) -> "Classes":
        """The same with these voxels as background."""
        return replace(self, layers=tuple(np.where(voxels, 0, layer) for layer in self.layers))

    def layer(self, label: int) -> int:
        """The layer that a class lies in."""
        return self.layer_of.get(label, 0)


def classes_of(
    given: Layered, labels: Mapping[int, str], values: LabelValues | None
) -> tuple[Classes, tuple[str, ...]]:
    """The classes of a file, and what a reader has to know of them.

    Segments that are called as labels are count by their names. Where there is such a one, others count by
    their values if no other segment has the value and none is called as its label, else they are left out. A
    file without such names counts by its values, those of `values` (None: they are classes already). Raises
    InputError for two segments of one class, for values that nothing names, and for segments that overlap and
    have no such names.
    """
    named = {segment: found for segment in given.segments if (found := label_called(segment.name, labels))}
    if not named:
        if len(given.layers) > 1:
            names = first_of(segment.name for segment in given.segments)
            raise InputError(
                f"{given.volume.path}: its segments overlap, so their names have to tell what they are, and "
                f"none of {names} is one of the labels, {first_of(labels.values())}"
            )
        voxels = mapped(given.volume, values)
        return Classes((voxels,), {}), _by_value(
            {s: s.value for s in given.segments if s.value in labels}, labels
        )
    _require_one_each(given, named, labels)
    counts = Counter(segment.value for segment in given.segments)
    own = {
        segment: segment.value if values is None else values.get(segment.value, 0) for segment in given.segments
    }
    by_value = {
        segment: found
        for segment, found in own.items()
        if segment not in named
        and counts[segment.value] == 1
        and found in labels
        and found not in named.values()
    }
    classes = named | by_value
    layers = tuple(_translated(given, index, classes) for index in range(len(given.layers)))
    left_out = [segment.name for segment in given.segments if segment not in classes]
    notes = (f"left out, for no label is called so: {first_of(left_out)}",) if left_out else ()
    layer_of = {found: segment.layer for segment, found in classes.items()}
    return Classes(layers, layer_of, True), (*_by_value(by_value, labels), *notes)


def mapped(volume: Volume, values: LabelValues | None) -> LabelMap:
    """The voxels of a label map with raw values replaced by classes. Raises InputError for unknown values."""
    voxels: LabelMap = volume.voxels
    if values is None:
        return voxels
    present = np.flatnonzero(np.bincount(voxels.ravel(order="K")))
    unknown = [int(value) for value in present if value not in values]
    if unknown:
        raise InputError(
            f"{volume.path}: label values {first_of(unknown)} are none of the "
            f"{len(values)} that the label map knows; add them to it or correct the file"
        )
    return _looked_up(voxels, {int(value): values[int(value)] for value in present})


def measured(
    reference: Classes,
    prediction: Classes,
    spacing_mm: GridSpacing,
    labels: Mapping[int, str],
    *,
    in_voxels: bool,
    nsd_tolerance_mm: float,
    threads: int,
) -> tuple[LabelMeasurement, ...]:
    """The measures of two files, in the order of the labels: of each class in the layers that it lies in."""

    def measure(a: LabelMap, b: LabelMap, names: Mapping[int, str]) -> tuple[LabelMeasurement, ...]:
        return measure_case(
            a, b, spacing_mm, names, in_voxels=in_voxels, nsd_tolerance_mm=nsd_tolerance_mm, threads=threads
        ).measures

    if len(reference.layers) == len(prediction.layers) == 1:
        return measure(reference.layers[0], prediction.layers[0], labels)
    places = {label: (reference.layer(label), prediction.layer(label)) for label in labels}
    found: dict[int, LabelMeasurement] = {}
    for place in sorted(set(places.values())):
        own = {label: name for label, name in labels.items() if places[label] == place}
        alone = {label: label for label in own}
        a, b = _looked_up(reference.layers[place[0]], alone), _looked_up(prediction.layers[place[1]], alone)
        found |= {each.label: each for each in measure(a, b, own)}
    return tuple(found[label] for label in labels)


def _translated(given: Layered, index: int, classes: Mapping[Segment, int]) -> LabelMap:
    table = {segment.value: found for segment, found in classes.items() if segment.layer == index}
    return _looked_up(given.layers[index], table)


def _looked_up(voxels: LabelMap, table: LabelValues) -> LabelMap:
    """The map with each value replaced; those that the table does not have become 0."""
    every = np.zeros(max(int(voxels.max(initial=0)), *table, 0) + 1, np.uint16)
    for value, found in table.items():
        every[value] = found
    return every.astype(np.uint8)[voxels] if every.max() <= 255 else every[voxels]


def label_called(name: str, labels: Mapping[int, str]) -> int | None:
    """The label that is called so: as the labels spell it, or as the files of `infer` do."""
    own = _plain(name)
    fits = [label for label, known in labels.items() if own == _plain(known)]
    fits = fits or [label for label, known in labels.items() if own == _plain(organ_of(known).label)]
    return fits[0] if len(fits) == 1 and own else None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _require_one_each(given: Layered, named: Mapping[Segment, int], labels: Mapping[int, str]) -> None:
    found: dict[int, Segment] = {}
    for segment, label in named.items():
        if (other := found.setdefault(label, segment)) is not segment:
            called = labels.get(segment.value, "nothing")
            raise InputError(
                f"{given.volume.path}: calls its value {segment.value} '{segment.name}', the labels call it "
                f"'{called}', and its value {other.value} '{other.name}', too; join or rename its segments"
            )


def _by_value(classes: Mapping[Segment, int], labels: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(
        f"calls its value {segment.value} '{segment.name}', scored as '{labels[found]}'"
        for segment, found in classes.items()
    )
