"""Where everything lies in the pictures of a trial's report; templates/charts.html draws it as SVG.

Horizontal places are per cent of the drawing's width, so that one drawing fits a phone and a laptop without its
text and dots being stretched; vertical places are pixels. Nothing is told by colour alone: shapes, dashes and
numbers tell it too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, inf, isfinite, log10
from statistics import fmean, median_low
from typing import Any

from dsnet_med.evaluate.measures import MEASURES, Measure
from dsnet_med.evaluate.pages import rendered

Points = Sequence[tuple[float, float]]
Curves = Mapping[str, Mapping[str, Points]]

SYMBOLS = {"better": "▲", "worse": "▼", "equivalent": "=", "undecided": "?", "no verdict": "–"}
COSTS = {
    "parameters": "Parameters",
    "macs": "Multiply-accumulates of a slice",
    "seconds_per_step": "Seconds a training step",
    "ms_per_slice": "Milliseconds a slice",
    "peak_memory_bytes": "Peak memory, bytes",
}

_EDGE = 3.0  # per cent of the width left free on either side, where dots at the ends need it
_MARGINS = 12.0  # a forest plot goes so many margins far, or farther: then the margin can still be seen
_FAR = 4.0  # so many times as far from the middle as three quarters of the arms: an arrow at the edge
_CURVE_POINTS = 120
_SVG_NAME = 30  # letters of an arm's name that fit its column in forest.svg


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, both finite, `low` below `high`."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float], room: float = 0.0) -> "Scale":
        """From the smallest to the largest of the values and `room` of their range more at either end."""
        known = [value for value in values if isfinite(value)] or [0.0]
        low, high = min(known), max(known)
        spare = (high - low) * room or (abs(low) * 0.1 or 1.0) * (high == low)
        return cls(low - spare, high + spare)

    @classmethod
    def of_most(cls, values: Iterable[float], room: float = 0.0) -> "Scale":
        """As `around`, but without those that lie so far from the others that nothing else could be read."""
        known = sorted(values)
        middle = median_low(known)
        reach = _FAR * _of_most(sorted(abs(value - middle) for value in known)) or inf
        return cls.around((value for value in known if abs(value - middle) <= reach), room)

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one; what lies beyond is at the end."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def at(self, value: float) -> float:
        """Per cent of the drawing's width."""
        return round(_EDGE + (100 - 2 * _EDGE) * self.share(value), 2)

    def beyond(self, value: float) -> int:
        """-1 below the axis, 1 above it, 0 on it."""
        reach = 1e-9 * (self.high - self.low)
        return (value > self.high + reach) - (value < self.low - reach)

    def ticks(self, about: int = 4) -> list[float]:
        """Round numbers on the axis: `about` so many steps of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / about
        power = 10.0 ** floor(log10(rough))
        step = power * next(each for each in (1, 2, 5, 10) if each * power >= rough * 0.999)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [place * step for place in range(first, last + 1)]


def forest(results: Mapping[str, Any]) -> dict[str, Any]:
    """Every arm's difference from the baseline: interval, mean, and a dot for every seed; the best arms first.

    Arms that no value was found for have a row without marks. Placebos come last.
    """
    measure = primary_measure(results)
    rows = [_contrast(each, bool(results["arms"][each["arm"]].get("placebo"))) for each in results["contrasts"]]
    sign = -1 if measure.higher_is_better else 1
    rows.sort(key=lambda row: (row["placebo"], row["difference"] is None, sign * (row["difference"] or 0)))
    return _laid_out(rows, results["margin"], measure, results["baseline"])


def placebo_forest(results: Mapping[str, Any]) -> dict[str, Any]:
    """Every arm's difference from its best placebo, as `forest` has them from the baseline."""
    rows = [_contrast(each, placebo=False) for each in results["placebo"]]
    return _laid_out(rows, results["margin"], primary_measure(results), "the best placebo")


def forest_svg(results: Mapping[str, Any]) -> str:
    """The forest plot as a file of its own, on white, 920 pixels wide, for a README or a paper's draft."""
    drawn = forest(results)
    for row in drawn["rows"]:
        name, _, place = row["arm"].partition("@")
        row["lines"] = [_shortened(name), _shortened(f"@{place}") if place else ""]
    text: str = rendered("forest.svg", forest=drawn, primary=results["primary"])
    return text


def curve_panels(curves: Curves, baseline: str) -> dict[str, Any]:
    """A panel for each arm: its seeds, their mean, and the baseline's mean, all on the same axes."""
    known = {
        arm: {seed: kept for seed, points in sorted(own.items()) if (kept := _finite(points))}
        for arm, own in curves.items()
    }
    every = [point for own in known.values() for points in own.values() for point in points]
    if not every:
        return {}
    x = Scale.around((0.0, *(point[0] for point in every)))
    # The first quarter of training, where all curves rise from nothing, may leave the panel below.
    y = Scale.around((value for step, value in every if step >= x.high / 4), 0.05)
    means = {arm: _mean_curve(list(own.values())) for arm, own in known.items()}
    panels = [
        {
            "arm": arm,
            "seeds": [_path(points, x, y) for points in own.values()],
            "mean": _path(means[arm], x, y),
            "baseline": _path(means.get(baseline, []), x, y) if arm != baseline else "",
            "last": means[arm][-1][1] if means[arm] else None,
            "count": len(own),
        }
        for arm, own in known.items()
        if own
    ]
    vertical = [{"y": round(100 * (1 - y.share(tick)), 1), "words": f"{tick:g}"} for tick in rounded(y.ticks())]
    return {"panels": panels, "y_ticks": vertical, "x_ticks": axis(x, 4, compact)}


def cost_panels(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each cost that was measured: every arm's mean score against it, those on the Pareto front marked.

    Arms are numbered in the order of results["arms"], as `arm_numbers` does.
    """
    numbers, panels = arm_numbers(results), []
    for cost, words in COSTS.items():
        known = {
            name: (float(arm["cost"][cost]), arm)
            for name, arm in results["arms"].items()
            if (arm.get("cost") or {}).get(cost) is not None and arm["mean"] is not None
        }
        if len(known) > 1:
            front = set((results.get("pareto") or {}).get(cost, ()))
            panels.append({"cost": cost, "words": words} | _scattered(known, front, numbers))
    return panels


def arm_numbers(results: Mapping[str, Any]) -> dict[str, int]:
    """The number by which an arm is called where there is no room for its name."""
    return {name: place for place, name in enumerate(results["arms"], start=1)}


def primary_measure(results: Mapping[str, Any]) -> Measure:
    """The measure by which a trial judges."""
    name, protocol = results["primary"]["measure"], results["primary"]["protocol"]
    return next(each for each in MEASURES.values() if (each.name, each.protocol) == (name, protocol))


def title_of(measure: Measure) -> str:
    """`Dice`, or `HD95, mm`."""
    return ", ".join(filter(None, (measure.title, measure.unit)))


def compact(value: float) -> str:
    """Three digits and a letter for the thousands: 33.2M, 1.5k, 0.513."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _contrast(contrast: Mapping[str, Any], placebo: bool) -> dict[str, Any]:
    seeds = contrast.get("seed_differences") or {}
    return {
        "arm": contrast["arm"],
        "placebo": placebo,
        "difference": contrast["difference"],
        "ci95": contrast["ci95"],
        "verdict": contrast["verdict"],
        "symbol": SYMBOLS.get(contrast["verdict"], "–"),
        "seeds": {seed: value for seed, value in seeds.items() if value is not None},
    }


def _laid_out(rows: list[dict[str, Any]], margin: float, measure: Measure, baseline: str) -> dict[str, Any]:
    scale = forest_scale(rows, margin)
    rows = [row | marks(row, scale) for row in rows]
    low, high = scale.at(-margin), scale.at(margin)
    ahead, behind = ("arm better", f"{baseline} better")
    return {
        "rows": rows,
        "margin": {"value": margin, "x": low, "width": round(high - low, 2), "end": high},
        "zero": scale.at(0),
        "ticks": axis(scale, 4, lambda value: f"{value:+g}" if value else "0"),
        "left": behind if measure.higher_is_better else ahead,
        "right": ahead if measure.higher_is_better else behind,
        "clipped": any(row["arrows"] for row in rows),
        "digits": measure.digits,
        "measure": title_of(measure),
        "baseline": baseline,
    }


def forest_scale(rows: Sequence[Mapping[str, Any]], margin: float) -> Scale:
    """Holds zero, the margin and every arm but those that lie so far off that nothing else could be read."""
    values = [[*(row["ci95"] or ()), *row["seeds"].values(), row["difference"]] for row in rows]
    values = [[value for value in own if value is not None] for own in values]
    reaches = sorted(max(map(abs, own)) for own in values if own)
    limit = max(_MARGINS * margin, _FAR * _of_most(reaches)) or inf
    inside = [value for own in values for value in own if abs(value) <= limit]
    return Scale.around((0.0, -1.5 * margin, 1.5 * margin, *inside))


def _of_most(ordered: Sequence[float]) -> float:
    """The value that three quarters of them do not exceed; 0 of none."""
    return ordered[3 * (len(ordered) - 1) // 4] if ordered else 0.0


def marks(row: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    """Bar, diamond and dots of one row; arrows stand at the ends for what lies beyond the axis."""
    ends, mean = row["ci95"] or (), row["difference"]
    dots = [
        {"seed": seed, "x": scale.at(value), "side": scale.beyond(value)}
        for seed, value in row["seeds"].items()
    ]
    sides = {scale.beyond(value) for value in (*ends, *(() if mean is None else (mean,)))} - {0}
    far = [(side, 13) for side in sorted(sides)] + [(dot["side"], 28) for dot in dots if dot["side"]]
    return {
        "bar": [scale.at(end) for end in ends] if abs(sum(map(scale.beyond, ends))) < 2 else [],
        "mean": None if mean is None or scale.beyond(mean) else scale.at(mean),
        "dots": [dot for dot in dots if not dot["side"]],
        "arrows": [
            {"x": scale.at(scale.low if side < 0 else scale.high), "y": y, "turn": 180 if side < 0 else 0}
            for side, y in far
        ],
    }


def axis(scale: Scale, about: int, words: Any) -> list[dict[str, Any]]:
    """The axis' round numbers: where they lie, and what `words` makes of each."""
    return [{"x": scale.at(tick), "words": words(tick)} for tick in rounded(scale.ticks(about))]


def rounded(ticks: Sequence[float]) -> list[float]:
    """Without the binary dust of their multiplication."""
    return [float(f"{tick:.10g}") + 0.0 for tick in ticks]


def _shortened(text: str) -> str:
    """The beginning and the end of a name that is too long; the end is what tells plug-ins apart."""
    return text if len(text) <= _SVG_NAME else f"{text[: _SVG_NAME // 3]}…{text[1 - 2 * _SVG_NAME // 3 :]}"


def _finite(points: Points) -> list[tuple[float, float]]:
    """By iteration, those that have a value; no more than a screen can show."""
    kept = sorted((x, y) for x, y in points if y is not None and isfinite(y))
    step = ceil(len(kept) / _CURVE_POINTS) or 1
    return kept[-1::-step][::-1]


def _mean_curve(curves: Sequence[Points]) -> list[tuple[float, float]]:
    """The mean over the curves at the iterations that all of them have."""
    tables = [dict(points) for points in curves]
    common = set.intersection(*map(set, tables)) if tables else set()
    return [(x, fmean(table[x] for table in tables)) for x in sorted(common)]


def _path(points: Points, x: Scale, y: Scale) -> str:
    """An SVG path in a square of 100 by 100."""
    places = [f"{x.at(a):g} {100 * (y.high - b) / (y.high - y.low):.1f}" for a, b in points]
    return "M" + "L".join(places if len(places) != 1 else places * 2) if places else ""


def _scattered(
    known: Mapping[str, tuple[float, Mapping[str, Any]]], front: set[str], numbers: Mapping[str, int]
) -> dict[str, Any]:
    """Dots with their numbers beside them; a line of steps joins the front."""
    x = Scale.of_most([cost for cost, _ in known.values()], 0.06)
    y = Scale.of_most([arm["mean"] for _, arm in known.values()], 0.12)
    height = 200.0
    dots = [
        {
            "arm": name,
            "number": numbers[name],
            "front": name in front,
            "x": x.at(cost),
            "y": round(height * (1 - y.share(arm["mean"])), 1),
            "arrow": _off(x.beyond(cost), y.beyond(arm["mean"])),
        }
        for name, (cost, arm) in known.items()
    ]
    _label(dots)
    best = sorted((dot for dot in dots if dot["front"]), key=lambda dot: (dot["x"], dot["y"]))
    lines = [(a["x"], a["y"], b["x"], a["y"]) for a, b in pairwise(best)]
    lines += [(b["x"], a["y"], b["x"], b["y"]) for a, b in pairwise(best)]
    vertical = [
        {"y": round(height * (1 - y.share(tick)), 1), "words": f"{tick:g}"} for tick in rounded(y.ticks())
    ]
    clipped = any(dot["arrow"] for dot in dots)
    return {"dots": dots, "front": lines, "clipped": clipped, "height": height} | {
        "x_ticks": axis(x, 4, compact),
        "y_ticks": vertical,
    }


def _off(right: int, up: int) -> dict[str, int] | None:
    """The arrow of a dot beyond the axes, turned by so many degrees from pointing right; None on them."""
    turns = {
        (1, 0): 0,
        (1, -1): 45,
        (0, -1): 90,
        (-1, -1): 135,
        (-1, 0): 180,
        (-1, 1): 225,
        (0, 1): 270,
        (1, 1): 315,
    }
    return {"turn": turns[right, up]} if right or up else None


def _label(dots: list[dict[str, Any]]) -> None:
    """Give every dot a place for its number, beside it, that no dot and no other number takes."""
    width = 3.2  # pixels of one per cent of a panel on a phone
    taken = [(dot["x"] * width, dot["y"]) for dot in dots]
    beside = [(11, 0), (-11, 0), (0, -13), (0, 13), (10, -12), (10, 12), (-10, -12), (-10, 12)]
    beside += [(2 * dx, 2 * dy) for dx, dy in beside]
    for dot in dots:
        x, y = dot["x"] * width, dot["y"]
        free = (
            (dx, dy)
            for dx, dy in beside
            if all(abs(x + dx - a) > 11 or abs(y + dy - b) > 11 for a, b in taken)
            and 5 < x + dx < 100 * width - 5
        )
        dot["dx"], dot["dy"] = next(free, beside[0])
        taken.append((x + dot["dx"], y + dot["dy"]))
