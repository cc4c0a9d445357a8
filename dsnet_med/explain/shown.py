"""Which slices of a case are shown, and the pictures of what the plug-ins compute on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.explain.attribution import attribute_organ
from dsnet_med.explain.pictures import common_limits, map_picture
from dsnet_med.explain.subject import Subject
from dsnet_med.geometry import SliceOrder
from dsnet_med.organs import organ_of
from dsnet_med.volumes import Volume

_APART = 0.1  # of the slices, between two that are shown
PICTURES = "pictures"


@dataclass(frozen=True)
class Shown:
    """A map of one plug-in on one slice of one case, with the slice and the labels on it; each (H, W)."""

    run: str
    case: str
    plugin: str
    gate: str
    slice: int
    image: NDArray[Any]
    map: NDArray[Any]
    labels: NDArray[Any]
    spacing_mm: tuple[float, float]


def slices_to_show(labels: NDArray[Any], count: int) -> list[int]:
    """The `count` slices of a stack (D, H, W) with the most labelled voxels that are not next to each other.

    Where nothing is labelled they are those nearest to the middle.
    """
    sizes = np.count_nonzero(labels, axis=(1, 2))
    if not sizes.any():
        sizes = -np.abs(np.arange(len(sizes)) - len(sizes) // 2)
    apart = max(1, round(_APART * len(sizes)))
    chosen: list[int] = []
    for index in np.argsort(-sizes, kind="stable").tolist():
        if len(chosen) < count and all(abs(index - other) >= apart for other in chosen):
            chosen.append(index)
    return sorted(chosen)


def write_pictures(folder: Path, shown: Sequence[Shown], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Write a picture of each map into `folder`/pictures; maps of one name have the same colours everywhere.

    The entries are those of explain.json, each with its run.
    """
    limits = {
        key: common_limits([each.map for each in shown if (each.plugin, each.gate) == key])
        for key in dict.fromkeys((each.plugin, each.gate) for each in shown)
    }
    colours = {number: organ_of(name).colour for number, name in names.items()}
    entries = []
    for number, each in enumerate(shown):
        file = f"{PICTURES}/{number:03d}.png"
        picture = map_picture(
            each.image,
            each.map,
            each.spacing_mm,
            each.labels,
            limits[each.plugin, each.gate],
            colours=colours,
        )
        (folder / PICTURES).mkdir(exist_ok=True)
        (folder / file).write_bytes(picture)
        entries.append(
            {
                "run": each.run,
                "file": file,
                "case": each.case,
                "plugin": each.plugin,
                "gate": each.gate,
                "slice": each.slice,
                "caption": "",
            }
        )
    return entries


def attributed(
    folder: Path, subject: Subject, channels: Sequence[Volume], ids: NDArray[Any], of: tuple[str, str, int]
) -> dict[str, Any]:
    """Grad-CAM and occlusion of an organ in a case, `of` (organ, case, its value in `ids`), as pictures.

    The entry is that of explain.json.
    """
    label, case, value = of
    found = attribute_organ(subject.predictor, channels, ids, value)
    entry: dict[str, Any] = {"label": label, "case": case, "slice": found.index, "layer": found.layer}
    entry |= {"note": found.note, "grad_cam": None, "occlusion": None}
    order = SliceOrder.of(channels[0].affine, subject.predictor.slice_axis)
    _, row, column = order.spacing_mm(channels[0].affine)
    for name, values in (("grad_cam", found.grad_cam), ("occlusion", found.occlusion)):
        if values is None or found.index is None:
            continue
        image, labels = (np.array(order.to_slices(each)[found.index]) for each in (channels[0].voxels, ids))
        file = f"{PICTURES}/{plain_name(subject.name)}_{name}.png"
        (folder / PICTURES).mkdir(exist_ok=True)
        outline = np.where(labels == value, labels, 0)
        (folder / file).write_bytes(map_picture(image, values, (row, column), outline))
        entry[name] = file
    return entry


def plain_name(text: str) -> str:
    """`text` with `-` for what no file's name should have."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)
