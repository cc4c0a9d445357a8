"""Does the label map contradict anatomy? A mirrored header or exchanged labels show in where organs lie.

Only relations that hold in almost every patient are looked at, with a margin. A brain under an abdomen's model
contradicts them too, more often than a header does, and so does situs inversus: these are warnings and never
change a mask.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.organs import organ_of
from dsnet_med.prepare.labels import centroids_mm, wrong_sides

_OTHER_KIND = "this may be another kind of image than the network was trained on"
_MARGIN_MM = 15.0
_ENOUGH_PER_AXIS = 100  # voxels for a centroid to within a few millimetres
_ABOVE = (("liver", "right_kidney"), ("spleen", "left_kidney"), ("liver", "bladder"), ("spleen", "bladder"))
_BEFORE = (("liver", "right_kidney"), ("stomach", "left_kidney"), ("stomach", "aorta"))


def contradictions(
    ids: NDArray[np.unsignedinteger[Any]], affine: NDArray[np.float64], class_names: Sequence[str]
) -> list[str]:
    """One line for each way in which class ids (X, Y, Z) contradict anatomy.

    `affine` (4, 4) leads to RAS+ millimetres.
    """
    by_name = {name: class_id for class_id, name in enumerate(class_names) if class_id}
    if not ids.any():
        return ["no organ was found; is this the kind of image that the network was trained on?"]
    steps = [max(1, length // _ENOUGH_PER_AXIS) for length in ids.shape]
    ids, affine = ids[:: steps[0], :: steps[1], :: steps[2]], affine @ np.diag((*steps, 1))
    left = {name: by_name[name] for name in by_name if _side(name) == "left"}
    right = {name: by_name[name] for name in by_name if _side(name) == "right"}
    return [*_swapped(*wrong_sides(ids, affine, left, right)), *_displaced(ids, affine, by_name)]


def _swapped(wrong: Sequence[tuple[str, str, float]], pairs: int) -> list[str]:
    if not wrong:
        return []
    first, second, distance = wrong[0]
    line = f"{_OTHER_KIND}: {first} lies {distance:.0f} mm to the right of {second}"
    if len(wrong) == 1:
        return [f"{line}; one pair of organs of {pairs} is weak evidence that left and right are swapped"]
    cause = "the affine or the axes are flipped" if len(wrong) * 2 > pairs else "labels are exchanged"
    return [f"{line}; or left and right are swapped, in {len(wrong)} of {pairs} pairs of organs: {cause}"]


def _side(name: str) -> str | None:
    """The side of the patient that an organ lies on: by its name, or by what is known of it."""
    first = name.split("_", maxsplit=1)[0]
    return first if first in ("left", "right") else organ_of(name).side


def _displaced(
    ids: NDArray[np.unsignedinteger[Any]], affine: NDArray[np.float64], by_name: dict[str, int]
) -> list[str]:
    looked_at = {name for pair in (*_ABOVE, *_BEFORE) for name in pair} & by_name.keys()
    centres = centroids_mm(ids, affine, {name: by_name[name] for name in sorted(looked_at)})
    lines = []
    for pairs, axis, way in ((_ABOVE, 2, "below"), (_BEFORE, 1, "behind")):
        for a, b in pairs:
            if a in centres and b in centres and (d := centres[b][axis] - centres[a][axis]) > _MARGIN_MM:
                lines.append(
                    f"{_OTHER_KIND}: {a} lies {d:.0f} mm {way} {b}; or the affine is flipped, or labels swapped"
                )
    return lines
