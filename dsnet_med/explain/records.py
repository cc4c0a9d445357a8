"""What one part of `explain` hands to another: scores of interventions, and the masks of one case."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsnet_med.evaluate.classes import Classes

INTACT, EVERY = "intact", "all"  # the kind of the network as it is; the plug-in's name where all are meant
KINDS = ("identity", "mean", "other", "shuffled")


@dataclass(frozen=True)
class Score:
    """One label of one case under one intervention (`kind`) on one plug-in (or all): a row of scores.csv.

    `dice` and `hd95_mm` are against the reference, under `strict`; `agreement` is the Dice of the mask with
    the intact network's, `changed_ml` the volume in which the two differ, `size_ml` that of the reference, or
    of the intact mask where there is none. NaN where it is not counted.
    """

    run: str
    plugin: str
    kind: str
    draw: int
    case: str
    label: str
    dice: float
    hd95_mm: float
    agreement: float
    changed_ml: float
    size_ml: float


@dataclass(frozen=True)
class CaseMasks:
    """One case: its reference, where there is one, and what the intact network makes of it.

    Regions are classes here, and voxels that the reference ignores are background in all masks. `affine` (4, 4)
    leads to RAS+ millimetres.
    """

    run: str
    case: str
    labels: Mapping[int, str]
    affine: NDArray[np.float64]
    reference: Classes | None
    intact: Classes


@dataclass(frozen=True)
class Altered:
    """What the network makes of a case when a plug-in is replaced.

    `strength` (X, Y, Z), float16, is how much of the plain network's certainty the plug-in takes: p0 - p of
    what the network with the identity decides at the voxel, from -1 to 1. p is the intact network's probability
    where `kind` is identity, that of the altered one elsewhere.
    """

    plugin: str
    kind: str
    draw: int
    mask: Classes
    strength: NDArray[np.float16]
