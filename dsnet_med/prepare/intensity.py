"""From raw intensities to the numbers that a network sees: a window for CT, unit variance for MR.

Both are one straight line between two clipping values, `(clip(v, low, high) - low) * slope`, so the darkest
voxel is exactly 0: the value that padding and rotation fill with. Stores and inference share this file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, PlainSerializer

from dsnet_med.errors import InputError, shown, unknown

_RULES = {"window": (-1e9, 1e9, "intensities"), "unit_variance": (0, 100, "percentiles from 0 to 100")}
_OLD_NAMES = {"zscore": "unit_variance"}  # in recipes, stores and runs of before: it never took the mean away
_CHUNK = 1 << 20
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Scaling:
    """One volume's line from raw intensity to network input: clip to [low, high], subtract low, times slope."""

    low: float
    high: float
    slope: float

    def apply(self, voxels: NDArray[Any]) -> NDArray[np.float32]:
        """`voxels` of any shape and real type, as float32 of the same shape; the input stays as it is."""
        with np.errstate(over="ignore"):  # what is beyond float32 is clipped
            scaled = voxels.astype(np.float32)
        np.clip(scaled, np.float32(self.low), np.float32(self.high), out=scaled)
        scaled -= np.float32(self.low)
        scaled *= np.float32(self.slope)
        return scaled


@dataclass(frozen=True)
class Intensity:
    """A rule that gives each volume its Scaling.

    `window`: low and high are intensities (Hounsfield units for CT); the result lies in [0, 1].
    `unit_variance`: low and high are percentiles of the volume to clip at; the result has standard deviation 1
    and minimum 0. Percentiles are voxel values (next lower, next higher), not interpolated, so that integers
    stay integers. A constant volume gives zeros.
    """

    kind: str
    low: float
    high: float

    def fit(self, voxels: NDArray[Any]) -> Scaling:
        """The Scaling of a volume of any shape with at least one voxel.

        Raises InputError for values that float32 cannot hold.
        """
        if self.kind == "window":
            return Scaling(self.low, self.high, 1.0 / (self.high - self.low))
        low = float(np.percentile(voxels, self.low, method="lower"))
        high = float(np.percentile(voxels, self.high, method="higher"))
        if max(-low, high, high - low) > _LARGEST:
            raise InputError(f"its values are too large: {low:.3g} to {high:.3g}; export it again")
        deviation = _clipped_deviation(voxels, low, high)
        slope = 1.0 / deviation if deviation > 0 else 0.0
        if slope > _LARGEST:
            raise InputError(f"its values are too small: {low:.3g} to {high:.3g}; export it again")
        return Scaling(low, high, slope)

    def as_dict(self) -> dict[str, list[float]]:
        """The form that recipes and manifests write: `{"window": [-125, 275]}`."""
        return {self.kind: [self.low, self.high]}

    @classmethod
    def from_dict(cls, rule: Any) -> "Intensity":
        """The inverse of `as_dict`. Raises InputError."""
        if not isinstance(rule, Mapping) or len(rule) != 1:
            wanted = " or ".join(f"{{{kind}: [low, high]}}" for kind in _RULES)
            raise InputError(f"intensity: got {shown(rule)}, wanted {wanted}")
        ((written, bounds),) = rule.items()
        kind = _OLD_NAMES.get(written, written)
        if kind not in _RULES:
            raise unknown("intensity rule", str(kind), _RULES)
        lowest, highest, unit = _RULES[kind]
        pair = bounds if isinstance(bounds, list | tuple) else ()
        numbers = [float(b) for b in pair if isinstance(b, int | float) and not isinstance(b, bool)]
        if not len(pair) == len(numbers) == 2 or not lowest <= numbers[0] < numbers[1] <= highest:
            raise InputError(
                f"intensity: {kind} got {shown(bounds)}, wanted two rising numbers [low, high], {unit}"
            )
        return cls(kind, *numbers)


def _rule(written: Any) -> Intensity:
    return written if isinstance(written, Intensity) else Intensity.from_dict(written)


# An Intensity as recipes and manifests hold it.
IntensityRule = Annotated[Intensity, BeforeValidator(_rule), PlainSerializer(Intensity.as_dict)]


def _clipped_deviation(voxels: NDArray[Any], low: float, high: float) -> float:
    """Population standard deviation of the clipped volume, without numpy's float64 copy of all of it."""
    mean = sum(float(chunk.sum()) for chunk in _clipped_chunks(voxels, low, high)) / voxels.size
    squares = sum(float(np.square(chunk - mean).sum()) for chunk in _clipped_chunks(voxels, low, high))
    return float(np.sqrt(squares / voxels.size))


def _clipped_chunks(voxels: NDArray[Any], low: float, high: float) -> Iterator[NDArray[np.float64]]:
    flat = voxels.ravel(order="K")
    for start in range(0, flat.size, _CHUNK):
        yield np.clip(flat[start : start + _CHUNK].astype(np.float64), low, high)
