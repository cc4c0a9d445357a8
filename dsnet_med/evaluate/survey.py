"""What the three passes over label maps take and give, whichever form of them runs (passes.py)."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dsnet_med.evaluate.inputs import LabelMap, Mask

Places = NDArray[np.int32]
Distances = NDArray[np.float64]
Spacing = tuple[float, float, float]


class Survey(NamedTuple):
    """What one pass over two label maps counts.

    `voxels` (labels, 3): of each label in the reference, in the prediction and in both; row 0 means nothing.
    `differing`: for each axis, how many voxels differ at each of its indices. `extents` (I, J, 2): from where
    to where along K labels may lie in either map.
    """

    voxels: NDArray[np.int64]
    differing: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
    extents: NDArray[np.int32]


class Passes(Protocol):
    """What both forms offer."""

    def survey(self, reference: LabelMap, prediction: LabelMap) -> Survey:
        """Count both maps, of one shape and type."""

    def borders(
        self, volume: LabelMap, rooms: NDArray[np.int64], extents: NDArray[np.int32], planar: bool
    ) -> list[Places]:
        """The border voxels of each label.

        `rooms` (labels) says how many voxels each label has; labels with 0 are passed over. In a `planar` map
        neighbours along I do not count.
        """

    def nearest(self, points: Places, targets: Places, spacing: Spacing) -> Distances:
        """For each of `points` the exact distance to the nearest of `targets`, in the unit of `spacing`.

        There is at least one of each.
        """


def plane_border(labels: LabelMap) -> Mask:
    """The pixels of a plane (J, K) at its edge, or with a neighbour of another value."""
    edge = np.ones(labels.shape, bool)
    core = labels[1:-1, 1:-1]
    edge[1:-1, 1:-1] = (
        (labels[:-2, 1:-1] != core)
        | (labels[2:, 1:-1] != core)
        | (labels[1:-1, :-2] != core)
        | (labels[1:-1, 2:] != core)
    )
    return edge
