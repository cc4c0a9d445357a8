"""The segments of a file as the classes that are scored: by their names, or by their values where it has none.

A file whose segments overlap has several layers of class ids. Each class lies in one of them.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from dsnet_med.errors import InputError, first_of
from dsnet_med.evaluate.arrays import LabelMap
from dsnet_med.evaluate.classes import Classes, Part
from dsnet_med.evaluate.labels import Labels
from dsnet_med.organs import organ_of
from dsnet_med.segmentations import Layered, Segment
from dsnet_med.volumes import Volume

LabelValues = Mapping[int, int]


def classes_of(given: Layered, labels: Labels, values: LabelValues | None) -> tuple[Classes, tuple[str, ...]]:
    """The classes of a file, and what a reader has to know of them.

    Segments that are called as labels are count by their names. Where there is such a one, others count by
    their values if no other segment has the value and none is called as its label, else they are left out. A
    file without such names counts by its values, those of `values` (None: they are classes already). Where
    regions are scored, segments are called as classes, or some as regions: then all count as regions, by their
    names alone. Raises InputError for two segments of one class, for values that nothing names, and for
    segments that overlap and have no such names.
    """
    names, as_regions = _vocabulary(given, labels)
    named = {segment: found for segment in given.segments if (found := label_called(segment.name, names))}
    if not named:
        if len(given.layers) > 1:
            called = first_of(segment.name for segment in given.segments)
            raise InputError(
                f"{given.volume.path}: its segments overlap, so their names have to tell what they are, and "
                f"none of {called} is one of the labels, {first_of(labels.names.values())}"
            )
        voxels = mapped(given.volume, values)
        return Classes((voxels,), {}), _by_value(
            {s: s.value for s in given.segments if s.value in names}, names
        )
    _require_one_each(given, named, names)
    counts = Counter(segment.value for segment in given.segments)
    own = {
        segment: segment.value if values is None else values.get(segment.value, 0) for segment in given.segments
    }
    by_value = {
        segment: found
        for segment, found in own.items()
        if not as_regions
        and segment not in named
        and counts[segment.value] == 1
        and found in names
        and found not in named.values()
    }
    classes = named | by_value
    layers = tuple(_translated(given, index, classes) for index in range(len(given.layers)))
    left_out = [segment.name for segment in given.segments if segment not in classes]
    notes = (f"left out, for no label is called so: {first_of(left_out)}",) if left_out else ()
    parts: dict[int, tuple[Part, ...]] = {
        found: ((segment.layer, frozenset([found])),) for segment, found in classes.items()
    }
    return Classes(layers, parts, True, as_regions), (*_by_value(by_value, names), *notes)


def _vocabulary(given: Layered, labels: Labels) -> tuple[Mapping[int, str], bool]:
    """What a file's segments are called: names of what is scored, or of the classes beneath regions."""
    if not labels.regions:
        return labels.names, False
    as_regions = any(
        label_called(segment.name, labels.names) and not label_called(segment.name, labels.classes)
        for segment in given.segments
    )
    return (labels.names if as_regions else labels.values), as_regions


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
