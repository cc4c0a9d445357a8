"""Which slices of a case are shown, and the pictures of what the plug-ins compute on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.explain.pictures import common_limits, map_picture
from dsnet_med.organs import organ_of

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
    """The `count` slices of a stack (D, H, W) with the most labelled voxels that are not next to each other."""
    sizes = np.count_nonzero(labels, axis=(1, 2))
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
