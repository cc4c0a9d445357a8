"""From raw intensities to the numbers that a network sees: a window for CT, unit variance or z-score for MR.

All are one straight line between two clipping values, `(clip(v, low, high) - centre) * slope`. Of a window and
of unit variance the centre is `low`, so that the darkest voxel is exactly 0, the value that padding and
rotation fill with; of a z-score it is the mean. Stores and inference share this file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, PlainSerializer

from dsnet_med.errors import InputError, shown, unknown

_PERCENTILES = (0, 100, "percentiles from 0 to 100")
_RULES = {"window": (-1e9, 1e9, "intensities"), "unit_variance": _PERCENTILES, "zscore": _PERCENTILES}
_ZSCORE_KEYS = ("clip", "foreground")
_CHUNK = 1 << 20
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Scaling:
    """One volume's line from raw intensity to network input: clip to [low, high], subtract centre, times slope.

    `centre` is `low` unless given. With `keep_zero` voxels that are 0 stay 0, whatever the line makes of it.
    """

    low: float
    high: float
    slope: float
    centre: float | None = None
    keep_zero: bool = False

    @property
    def origin(self) -> float:
        """The intensity that becomes 0."""
        return self.low if self.centre is None else self.centre

    def apply(self, voxels: NDArray[Any]) -> NDArray[np.float32]:
        """`voxels` of any shape and real type, as float32 of the same shape; the input stays as it is."""
        with np.errstate(over="ignore"):  # what is beyond float32 is clipped
            scaled = voxels.astype(np.float32)
        np.clip(scaled, np.float32(self.low), np.float32(self.high), out=scaled)
        scaled -= np.float32(self.origin)
        scaled *= np.float32(self.slope)
        if self.keep_zero:
            scaled[voxels == 0] = 0
        return scaled


@dataclass(frozen=True)
class Intensity:
    """A rule that gives each volume its Scaling.

    `window`: low and high are intensities (Hounsfield units for CT); the result lies in [0, 1].
    `unit_variance`: low and high are percentiles of the volume to clip at; the result has standard deviation 1
    and minimum 0.
    `zscore`: the same percentiles; the result has mean 0 and standard deviation 1. With `foreground` all that
    is of the voxels that are not 0 (of a brain without its skull), and the others stay 0.

    Percentiles are voxel values (next lower, next higher), not interpolated, so that integers stay integers. A
    constant volume gives zeros.
    """

    kind: str
    low: float
    high: float
    foreground: bool = False

    def fit(self, voxels: NDArray[Any]) -> Scaling:
        """The Scaling of a volume of any shape with at least one voxel.

        Raises InputError for values that float32 cannot hold.
        """
        if self.kind == "window":
            return Scaling(self.low, self.high, 1.0 / (self.high - self.low))
        fitted = voxels.ravel(order="K")
        if self.foreground:
            fitted = fitted[fitted != 0]
        if not fitted.size:  # nothing but zeros
            return Scaling(0.0, 0.0, 0.0, 0.0, keep_zero=True)
        low = float(np.percentile(fitted, self.low, method="lower"))
        high = float(np.percentile(fitted, self.high, method="higher"))
        if max(-low, high, high - low) > _LARGEST:
            raise InputError(f"its values are too large: {low:.3g} to {high:.3g}; export it again")
        mean, deviation = _clipped_moments(fitted, low, high)
        slope = 1.0 / deviation if deviation > 0 else 0.0
        if slope > _LARGEST:
            raise InputError(f"its values are too small: {low:.3g} to {high:.3g}; export it again")
        if self.kind == "unit_variance":
            return Scaling(low, high, slope)
        return Scaling(low, high, slope, mean, self.foreground)

    def as_dict(self) -> dict[str, Any]:
        """The form that configurations and manifests write: `{"window": [-125, 275]}`."""
        bounds = [self.low, self.high]
        if self.kind == "zscore":
            return {"zscore": {"clip": bounds, "foreground": self.foreground}}
        return {self.kind: bounds}

    @classmethod
    def from_dict(cls, rule: Any) -> "Intensity":
        """The inverse of `as_dict`. Raises InputError.

        In stores and runs of before, `{"zscore": [low, high]}` was unit variance, and is read as that.
        """
        if isinstance(rule, Mapping) and len(rule) == 1 and isinstance(rule.get("zscore"), list | tuple):
            rule = {"unit_variance": rule["zscore"]}
        return cls.from_recipe(rule)

    @classmethod
    def from_recipe(cls, rule: Any) -> "Intensity":
        """The rule as a recipe writes it, where `{"zscore": [low, high]}` is the z-score. Raises InputError."""
        if not isinstance(rule, Mapping) or len(rule) != 1:
            wanted = " or ".join(f"{{{kind}: [low, high]}}" for kind in _RULES)
            raise InputError(f"intensity: got {shown(rule)}, wanted {wanted}")
        ((kind, bounds),) = rule.items()
        if kind not in _RULES:
            raise unknown("intensity rule", str(kind), _RULES)
        foreground = False
        if kind == "zscore" and isinstance(bounds, Mapping):
            if strange := next((key for key in bounds if key not in _ZSCORE_KEYS), None):
                raise unknown("key in intensity zscore", str(strange), _ZSCORE_KEYS)
            foreground, bounds = bounds.get("foreground", False), bounds.get("clip", [0, 100])
            if not isinstance(foreground, bool):
                raise InputError(f"intensity: zscore got foreground: {shown(foreground)}, wanted true or false")
        lowest, highest, unit = _RULES[kind]
        pair = bounds if isinstance(bounds, list | tuple) else ()
        numbers = [float(b) for b in pair if isinstance(b, int | float) and not isinstance(b, bool)]
        if not len(pair) == len(numbers) == 2 or not lowest <= numbers[0] < numbers[1] <= highest:
            raise InputError(
                f"intensity: {kind} got {shown(bounds)}, wanted two rising numbers [low, high], {unit}"
            )
        return cls(kind, numbers[0], numbers[1], foreground)


def is_rule(written: Any) -> bool:
    """Whether something that a recipe says is one rule, and not a mapping of channels to rules."""
    return isinstance(written, Intensity) or (
        isinstance(written, Mapping) and len(written) == 1 and next(iter(written)) in _RULES
    )


def _rule(written: Any) -> Intensity:
    return written if isinstance(written, Intensity) else Intensity.from_dict(written)


# An Intensity as manifests hold it.
IntensityRule = Annotated[Intensity, BeforeValidator(_rule), PlainSerializer(Intensity.as_dict)]


def _clipped_moments(voxels: NDArray[Any], low: float, high: float) -> tuple[float, float]:
    """Mean and population standard deviation of the clipped volume, without a float64 copy of all of it."""
    mean = sum(float(chunk.sum()) for chunk in _clipped_chunks(voxels, low, high)) / voxels.size
    squares = sum(float(np.square(chunk - mean).sum()) for chunk in _clipped_chunks(voxels, low, high))
    return mean, float(np.sqrt(squares / voxels.size))


def _clipped_chunks(voxels: NDArray[Any], low: float, high: float) -> Iterator[NDArray[np.float64]]:
    flat = voxels.ravel(order="K")
    for start in range(0, flat.size, _CHUNK):
        yield np.clip(flat[start : start + _CHUNK].astype(np.float64), low, high)
