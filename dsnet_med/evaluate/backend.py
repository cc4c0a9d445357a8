"""The three passes behind every measure: what is counted, where the borders lie, how far they are apart.

Each is written twice: compiled (kernel.pyx), which is what runs, and in SciPy (backend_scipy.py), which the
first is tested against and which runs where there was no C compiler. The values are the same.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dsnet_med.evaluate.arrays import Distances, LabelMap, Spacing, Survey, VoxelIndices


class Backend(Protocol):
    """What both forms offer, for label maps (I, J, K) as `arrays.aligned` gives them."""

    def survey(self, reference: LabelMap, prediction: LabelMap) -> Survey:
        """Count both maps, of one shape and type."""

    def borders(
        self, volume: LabelMap, rooms: NDArray[np.int64], extents: NDArray[np.int32], planar: bool
    ) -> list[VoxelIndices]:
        """The border voxels of each label.

        `rooms` (labels) says how many voxels each label has; labels with 0 are passed over. In a `planar` map
        neighbours along I do not count.
        """

    def nearest(self, points: VoxelIndices, targets: VoxelIndices, spacing: Spacing) -> Distances:
        """For each of `points` the exact distance to the nearest of `targets`, in the unit of `spacing`.

        There is at least one of each.
        """


def choose() -> tuple[str, Backend]:
    """The compiled form, or SciPy's where there is none, and its name."""
    try:
        from dsnet_med.evaluate import backend_compiled  # noqa: PLC0415 -- absent without a C compiler
    except ImportError:
        from dsnet_med.evaluate import backend_scipy  # noqa: PLC0415 -- SciPy takes half a second to load

        return "scipy", backend_scipy
    return "compiled", backend_compiled


NAME, BACKEND = choose()
