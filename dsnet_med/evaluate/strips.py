"""Small distributions beside each other: a dot per case on one axis that fits the values of all rows.

An axis begins and ends at round numbers around most values; what lies so far beyond that nothing else could be
read is a triangle at its end. Places are pixels of a drawing of 180 by 30.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, log10
from statistics import median
from typing import Any

from dsnet_med.evaluate.charts import Scale

_LEFT, _RIGHT = 12.0, 168.0
_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
_LABELS = 5


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, in the values' own unit; `ticks` are round numbers, the ends among them."""

    low: float
    high: float
    ticks: tuple[float, ...]
    scaled: Callable[[float], float]

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one; what lies beyond is at the end."""
        low, high = self.scaled(self.low), self.scaled(self.high)
        return min(max((self.scaled(value) - low) / (high - low), 0.0), 1.0)

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return round(_LEFT + (_RIGHT - _LEFT) * self.share(value), 1)

    def beyond(self, value: float) -> int:
        """-1 left of the axis, 1 right of it, 0 on it."""
        return (value > self.high) - (value < self.low)

    @property
    def labels(self) -> list[dict[str, Any]]:
        """The numbers to write at ticks: the ends, and as many between as there is room for."""
        step = -(-(len(self.ticks) - 1) // (_LABELS - 1)) or 1
        chosen = dict.fromkeys([*self.ticks[:-1:step], self.ticks[-1]])
        kept: list[float] = []
        for tick in chosen:
            if kept and self.x(tick) - self.x(kept[-1]) < 24:
                if tick != self.ticks[-1]:
                    continue
                if len(kept) > 1:
                    kept.pop()
            kept.append(tick)
        return [{"x": self.x(tick), "words": f"{tick:g}"} for tick in kept]


def share_axis(values: Sequence[float], *, whole: bool = False) -> Axis:
    """For values from 0 to 1; `whole`: for all of them, however far some lie."""
    known = [value for value in values if not isnan(value)] or [0.0, 1.0]
    most = Scale.around(known) if whole else Scale.of_most(known)
    low, high = max(0.0, most.low), min(1.0, most.high)
    wide = Scale(low, high) if high - low > 0.02 else Scale(max(0.0, high - 0.02), high)
    step = next(
        each for each in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25) if (wide.high - wide.low) <= 4 * each
    )
    first, last = int(wide.low / step + 1e-9), int(-(-wide.high // step) + 1e-9)
    ticks = tuple(round(place * step, 6) for place in range(first, max(last, first + 1) + 1))
    ticks = tuple(tick for tick in ticks if tick <= 1.0)
    return Axis(ticks[0], ticks[-1], ticks, lambda value: value)


def distance_axis(values: Sequence[float], *, whole: bool = False) -> Axis:
    """The same for distances from 0, on a scale of log(1 + distance)."""

    def scaled(value: float) -> float:
        return log10(1 + value)

    known = [scaled(value) for value in values if not isnan(value)] or [0.0, 1.0]
    most = Scale.around(known) if whole else Scale.of_most(known)
    ladder = [0.0, 0.5, *(step * 10.0**power for power in range(6) for step in _STEPS)]
    low = max(each for each in ladder if scaled(each) <= max(0.0, most.low) + 1e-9)
    high = min(each for each in ladder if scaled(each) >= most.high - 1e-9 and each > low)
    ticks = tuple(each for each in ladder if low <= each <= high)
    if len(ticks) > 6:  # decades and their halves do
        few = (0.0, *(step * 10.0**power for power in range(6) for step in (1.0, 2.0, 5.0)))
        ticks = tuple(each for each in ticks if each in few or each in (low, high))
    return Axis(low, high, ticks, scaled)


def strip(values: Sequence[float], axis: Axis, *, zero_is_bad: bool = False) -> dict[str, Any] | None:
    """Where dots, triangles and lines of one row lie; None without a counted value."""
    counted = [value for value in values if not isnan(value)]
    if not counted:
        return None
    low, high, middle = min(counted), max(counted), median(counted)
    cases = "1 case" if len(counted) == 1 else f"{len(counted)} cases"
    return {
        "words": f"{cases}, {low:.3g} to {high:.3g}, median {middle:.3g}",
        "ticks": [axis.x(tick) for tick in axis.ticks],
        "dots": [
            {"x": axis.x(value), "side": axis.beyond(value), "bad": zero_is_bad and value == 0}
            for value in counted
        ],
        "median": axis.x(middle),
    }
