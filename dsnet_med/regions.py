"""Regions: structures that may lie in one another or overlap, as sets of the label values that make them.

A tumour's core lies in the whole tumour: as classes of one label map the two exclude each other, as regions
they do not. A network for regions has one output each, decided on its own; `label_map` writes their masks into
one label map and `region_masks` reads a label map's masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, first_of, printable, shown, unknown

CODES = 256  # how many values a stored label may have
IGNORED = 255  # the stored label of what neither trains nor scores, in data that have such voxels
MAX_STRUCTURES = 8  # that share a stored label, a bit each
_KEYS = {"of", "value"}
_WANTED = "wanted a list of classes, or {of: [classes], value: number}"


@dataclass(frozen=True)
class Region:
    """A structure: `codes` are the stored label values that make it, `value` is what a label map has there."""

    name: str
    codes: tuple[int, ...]
    value: int


def code_table(regions: Sequence[Region]) -> NDArray[np.bool_]:
    """Which stored label value lies in which region: (R, 256), to be indexed with labels."""
    table = np.zeros((len(regions), CODES), np.bool_)
    for row, region in zip(table, regions, strict=True):
        row[list(region.codes)] = True
    return table


def region_masks(labels: NDArray[Any], regions: Sequence[Region]) -> NDArray[np.bool_]:
    """The mask of every region, (R, *shape), of stored labels of any shape and whole-numbered type.

    A value that no region has, the ignored one among them, lies in none.
    """
    masks = np.empty((len(regions), *labels.shape), np.bool_)
    for mask, row, region in zip(masks, code_table(regions), regions, strict=True):
        if labels.dtype == np.uint8:
            np.take(row, labels, out=mask, mode="clip")
        else:
            mask[...] = np.isin(labels, region.codes)
    return masks


def label_map(masks: NDArray[np.bool_], regions: Sequence[Region]) -> NDArray[np.uint8 | np.uint16]:
    """The masks (R, *shape) of `regions` as one label map: written in their order, a later one over an earlier.

    uint8, or uint16 where a value needs it; 0 where no region is.
    """
    largest = max((region.value for region in regions), default=0)
    written: NDArray[np.uint8 | np.uint16] = np.zeros(
        masks.shape[1:], np.uint8 if largest < CODES else np.uint16
    )
    for mask, region in zip(masks, regions, strict=True):
        written[mask] = region.value
    return written


def of_structures(names: Sequence[str]) -> tuple[Region, ...]:
    """The regions of structures that overlap freely: a stored label holds the i-th as its i-th bit.

    Raises InputError for more than MAX_STRUCTURES.
    """
    if len(names) > MAX_STRUCTURES:
        raise InputError(
            f"overlapping: got {len(names)} structures, wanted at most {MAX_STRUCTURES}, which share a label"
        )
    combinations = range(1 << len(names))
    return tuple(
        Region(name, tuple(code for code in combinations if code >> bit & 1), bit + 1)
        for bit, name in enumerate(names)
    )


def as_dict(regions: Sequence[Region]) -> dict[str, dict[str, Any]]:
    """The form that configurations and manifests write: `{name: {of: [codes], value: value}}`, in order."""
    return {region.name: {"of": list(region.codes), "value": region.value} for region in regions}


def parse(written: Any, classes: Sequence[str] | None = None) -> tuple[Region, ...]:
    """The inverse of `as_dict`; also of `{name: [codes]}`, where the values follow from the codes.

    With `classes`, the names of the label values and 0 the background, codes may be given as names and must be
    among them. A region without a value is written as the one class that is in it and in no later region.
    Raises InputError, of one line.
    """
    if not isinstance(written, Mapping):
        raise InputError(f"regions: got {shown(written)}, wanted {{name: [classes], ...}}")
    codes = {str(name): _codes(str(name), of, classes) for name, of in written.items()}
    regions: list[Region] = []
    for place, (name, own) in enumerate(codes.items()):
        later = {code for each in list(codes.values())[place + 1 :] for code in each}
        given = written[name].get("value") if isinstance(written[name], Mapping) else None
        regions.append(Region(name, own, _value(name, own, later, given)))
    values = [region.value for region in regions]
    if twice := [region.name for region in regions if values.count(region.value) > 1]:
        raise InputError(
            f"regions: {first_of(twice)} are written with the same value; give each a `value` of its own"
        )
    return tuple(regions)


def _codes(name: str, written: Any, classes: Sequence[str] | None) -> tuple[int, ...]:
    """The label values of the region `name`, rising."""
    if not name.strip():
        raise InputError(f"regions: got the name {shown(name)}, wanted a word")
    of = written
    if isinstance(written, Mapping):
        if strange := next((str(key) for key in written if key not in _KEYS), None):
            raise unknown(f"key in regions#{name}", strange, sorted(_KEYS))
        of = written.get("of")
    if not isinstance(of, list | tuple) or not of:
        raise InputError(f"regions#{name}: got {shown(of)}, {_WANTED}")
    return tuple(sorted({_code(name, each, classes) for each in of}))


def _code(name: str, written: Any, classes: Sequence[str] | None) -> int:
    known = list(classes or ())
    if isinstance(written, str) and classes is not None:
        if written not in known[1:]:
            raise unknown(f"class in regions#{name}", written, known[1:])
        return known.index(written)
    highest = len(known) - 1 if classes is not None else CODES - 1
    if type(written) is not int or not 0 < written <= highest:
        raise InputError(
            f"regions#{name}: got the class {shown(written)}, wanted whole numbers from 1 to {highest}"
        )
    return written


def _value(name: str, own: tuple[int, ...], later: set[int], given: Any) -> int:
    """The value that the region is written with."""
    if given is not None:
        if type(given) is not int or not 0 < given < 1 << 16:
            raise InputError(f"regions#{name}: got value {shown(given)}, wanted a whole number from 1 to 65535")
        return given
    alone = [code for code in own if code not in later]
    if len(alone) != 1:
        held = "no class" if not alone else f"the classes {', '.join(map(str, alone))}"
        raise InputError(
            f"regions: {printable(name)} has {held} that no later region has, wanted one to write it with; "
            "change the order, or give it a `value`"
        )
    return alone[0]
