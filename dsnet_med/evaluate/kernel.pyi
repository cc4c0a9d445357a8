from typing import Any

from numpy import float64, int32, int64
from numpy.typing import NDArray

def survey(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    counts: NDArray[int64],
    along_i: NDArray[int64],
    along_j: NDArray[int64],
    along_k: NDArray[int64],
    extents: NDArray[int32],
) -> None: ...
def borders(
    volume: NDArray[Any],
    extents: NDArray[int32],
    planar: bool,
    starts: NDArray[int64],
    ends: NDArray[int64],
    places: NDArray[int32],
) -> None: ...
def nearest(
    points: NDArray[int32],
    targets: NDArray[int32],
    spacing_mm: tuple[float, float, float],
    steps: NDArray[int32],
    lengths: NDArray[float64],
    distances: NDArray[float64],
) -> None: ...
