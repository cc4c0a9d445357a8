"""The data doctor's checks on one case: its voxel sizes, its intensities, its label map."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.geometry import cut_across
from dsnet_med.prepare.findings import Finding, Severity
from dsnet_med.prepare.labels import class_counts, class_ids, class_table, value_counts, wrong_sides
from dsnet_med.prepare.recipe import Recipe
from dsnet_med.volumes import Volume

_AIR_AT_MOST_HU, _BONE_AT_LEAST_HU = -200, 200
_LOWEST_HU, _HIGHEST_HU = -1100, 4000
_SHARE_BELOW, _SHARE_ABOVE = 0.01, 0.001
_FINEST_MM, _COARSEST_MM = 0.2, 20.0


def volume_findings(
    recipe: Recipe, case: str, images: Sequence[Volume], label: Volume | None
) -> Iterator[Finding]:
    """What looks wrong in the volumes of a case: images of its channels, its label map, or none of these."""
    for image, name, rule in zip(images, recipe.channels, recipe.intensities, strict=False):
        several = len(images) > 1
        modality = "MR" if several and rule.kind != "window" else recipe.modality
        for severity, message in _odd_intensities(image.voxels, modality):
            yield Finding(severity, case, "intensity", f"channel '{name}': {message}" if several else message)
    for path, note in dict.fromkeys((image.path, note) for image in images for note in image.notes):
        yield Finding("warning", case, "geometry", f"{path}: {note}")
    for one, other in itertools.combinations(range(len(images)), 2):
        if np.array_equal(images[one].voxels, images[other].voxels):
            names = f"'{recipe.channels[one]}' and '{recipe.channels[other]}'"
            yield Finding("warning", case, "duplicate", f"the channels {names} hold the same voxels")
    for image in images[:1]:
        if spacing := _odd_spacing(image.spacing_mm):
            yield Finding("warning", case, "geometry", spacing)
        if across := cut_across(image.affine, recipe.slice_axis):
            yield Finding("warning", case, "slices", across)
    if label is not None:
        for note in label.unstated:
            yield Finding("warning", case, "geometry", f"{label.path}: {note}")
        yield from _odd_classes(recipe, case, label)


def _odd_intensities(voxels: NDArray[Any], modality: str) -> Iterator[tuple[Severity, str]]:
    """What is odd about an image's intensities; for `CT` these should be Hounsfield units."""
    low, high = float(voxels.min()), float(voxels.max())
    if low == high:
        yield "error", f"every voxel of the image is {low:g}"
        return
    if modality != "CT":
        return
    if reason := odd_range_of_ct(low, high):
        yield "error", f"implausible for CT: intensities run from {low:g} to {high:g}, {reason}"
    below = np.count_nonzero(voxels < _LOWEST_HU) / voxels.size
    above = np.count_nonzero(voxels > _HIGHEST_HU) / voxels.size
    if below > _SHARE_BELOW:
        yield "warning", f"implausible for CT: {below:.1%} of the voxels lie below {_LOWEST_HU} HU (padding?)"
    if above > _SHARE_ABOVE:
        yield "warning", f"implausible for CT: {above:.1%} of the voxels lie above {_HIGHEST_HU} HU"


def odd_range_of_ct(low: float, high: float) -> str | None:
    """What the range of a volume's intensities says against Hounsfield units, or None."""
    if low >= 0 and high <= 1:
        return "which looks normalised; wanted Hounsfield units"
    if low >= 0 and high <= 255:
        return "which looks windowed to 8 bits; wanted Hounsfield units"
    if low >= 0:
        return "which looks offset by some 1024; subtract it to get Hounsfield units"
    if low > _AIR_AT_MOST_HU:
        return "but air is about -1000 HU; looks already windowed"
    if high < _BONE_AT_LEAST_HU:
        return "but bone is 300 HU and more; looks already windowed, or is no CT"
    return None


def _odd_spacing(spacing_mm: Sequence[float]) -> str | None:
    """What is odd about voxel sizes for a scan of a patient, or None."""
    if min(spacing_mm) >= _FINEST_MM and max(spacing_mm) <= _COARSEST_MM:
        return None
    sizes = " x ".join(f"{size:.3g}" for size in spacing_mm)
    return f"voxels of {sizes} mm, of scans {_FINEST_MM} to {_COARSEST_MM:g} mm: is the header in millimetres?"


def _odd_classes(recipe: Recipe, case: str, label: Volume) -> Iterator[Finding]:
    """What is odd about the values of a label map and about where the classes lie."""
    values = value_counts(label.voxels)
    try:
        counts = class_counts(recipe, values)
    except InputError as error:
        yield Finding("error", case, "label values", str(error))
        counts = class_counts(recipe, {raw: n for raw, n in values.items() if raw in recipe.label_map})
    missing = [name for name in recipe.classes[1:] if not counts[name]]
    if len(missing) == len(recipe.classes) - 1:
        if not recipe.allow_empty:
            message = (
                "the label map is all background; correct it, exclude the case, or keep such cases "
                "with 'allow_empty: true' in the recipe"
            )
            yield Finding("error", case, "empty label", message)
        return
    if missing:
        yield Finding("warning", case, "missing class", f"the label map holds no {', '.join(missing)}")
    left, right = ({name: recipe.classes.index(name) for name in names} for names in recipe.sides.values())
    if not left or not right:
        return
    stored = class_table(recipe, label.voxels.dtype)[label.voxels]
    classes = class_ids(stored, recipe.regions if recipe.overlapping else ())
    wrong, pairs = wrong_sides(classes, label.affine, left, right)
    if wrong:
        first, second, distance = wrong[0]
        cause = "the affine or the axes are flipped" if len(wrong) * 2 > pairs else "labels are exchanged"
        message = (
            f"left and right look swapped: {first} lies {distance:.0f} mm to the right of {second} "
            f"({len(wrong)} of {pairs} pairs of organs; most likely {cause})"
        )
        yield Finding("error", case, "sides", message)
