"""Where everything lies in the drawings of `explain`'s report; templates/explain.html draws them as SVG.

As in evaluate/charts.py: horizontal places are per cent of the drawing's width, vertical ones pixels, and
nothing is told by colour alone.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from math import floor, isfinite, log10
from typing import Any

from dsnet_med.evaluate.charts import Scale, axis, compact, forest_scale, marks, rounded

HEIGHT = 150.0  # pixels, of the plots with two axes
_LEFT = 11.0  # per cent of their width, for the numbers of the vertical axis
_WIDE = 20.0  # largest over smallest size from which the axis of sizes is logarithmic
_POINTS = 800  # in one scatter plot


def effects_forest(
    rows: Sequence[Mapping[str, Any]], zero: float, left: str, right: str
) -> dict[str, Any] | None:
    """A forest plot of rows with `difference` and `ci95`, in groups by `group`; None where nothing counts.

    Differences are from `zero`, which the numbers at the axis are written with.
    """
    known = [{**row, "seeds": {}} for row in rows]
    if not any(row["difference"] is not None for row in known):
        return None
    scale = forest_scale(known, 0.0)
    drawn: list[dict[str, Any]] = [row | marks(row, scale) for row in known]
    return {
        "groups": [(name, list(own)) for name, own in groupby(drawn, key=lambda row: row["group"])],
        "margin": {"width": 0},
        "zero": scale.at(0),
        "ticks": axis(scale, 4, lambda value: f"{zero + value:g}" if zero else _signed(value)),
        "left": left,
        "right": right,
        "clipped": any(row["arrows"] for row in drawn),
    }


def profile(name: str, gate: Mapping[str, Any]) -> dict[str, Any] | None:
    """Channel means in order of size, with their spread over the images; None where the gate has no channels,
    and of attention, whose mean is the same in every channel.

    Paths lie in a square of 100 by 100. The value at which nothing changes, 1 of what is called gate and 0 of
    what is called added, is shown if it is near.
    """
    means = [value for value in gate.get("profile") or () if value is not None]
    if not means or gate.get("kind") == "attention":
        return None
    spread = [value or 0.0 for value in gate.get("profile_sd") or ()] or [0.0] * len(means)
    upper, lower = ([m + sign * s for m, s in zip(means, spread, strict=False)] for sign in (1, -1))
    y = Scale.around((*upper, *lower), 0.05)
    reach = y.high - y.low
    neutral = {"gate": 1.0, "added": 0.0}.get(name.partition("_")[0])
    if neutral is not None and y.low - reach <= neutral <= y.high + reach:
        y = Scale.around((y.low, y.high, neutral), 0.02)
    else:
        neutral = None
    places = [100 * at / max(1, len(means) - 1) for at in range(len(means))]
    line, above, below = (
        [f"{x:.4g} {100 * (1 - y.share(value)):.1f}" for x, value in zip(places, values, strict=False)]
        for values in (means, upper, lower)
    )
    return {
        "line": "M" + "L".join(line if len(line) > 1 else line * 2),
        "band": "M" + "L".join((*above, *reversed(below))) + "Z",
        "neutral": None if neutral is None else round(100 * (1 - y.share(neutral)), 1),
        "ticks": [(round(100 * (1 - y.share(tick)), 1), f"{tick:.3g}") for tick in rounded(y.ticks(3))],
        "count": len(means),
        "words": f"from {compact(means[0])} to {compact(means[-1])} over {len(means)} channels",
    }


def size_scatter(points: Sequence[Sequence[Any]]) -> dict[str, Any] | None:
    """Points (ml, difference, case, label): size to the right, difference of Dice upwards; None of none."""
    known = [point for point in points if point[0] is not None and point[1] is not None and point[0] > 0]
    if not known:
        return None
    kept = known[:: -(-len(known) // _POINTS)]
    sizes = [float(point[0]) for point in kept]
    wide = max(sizes) > _WIDE * min(sizes)
    to_axis: Callable[[float], float] = log10 if wide else float
    x = Scale.around(map(to_axis, sizes), 0.04)
    y = Scale.around((0.0, *(float(point[1]) for point in kept)), 0.06)
    ticks = _decades(x) if wide else [(_right(x.at(tick)), f"{tick:g}") for tick in rounded(x.ticks(4))]
    return {
        "dots": [
            {
                "x": _right(x.at(to_axis(float(ml)))),
                "y": _up(y, difference),
                "words": f"{case}, {label}: {compact(ml)} ml, {difference:+.4f}",
            }
            for ml, difference, case, label, *_ in kept
        ],
        "zero": _up(y, 0.0),
        "x_ticks": ticks,
        "y_ticks": [(_up(y, tick), _signed(tick)) for tick in rounded(y.ticks(4))],
        "dropped": len(known) - len(kept),
    }


def border_bars(bins: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A bar for each bin of distances: the share that is changed, and the one that shuffles change."""
    values = [each.get(name) for each in bins for name in ("changed_share", "null_share")]
    largest = max((value for value in values if value is not None), default=0.0) or 1.0
    return [
        {
            "words": span(each["from"], each.get("to"), "mm"),
            "share": each.get("changed_share"),
            "null": each.get("null_share"),
            "width": _width(each.get("changed_share"), largest),
            "null_at": _width(each.get("null_share"), largest),
        }
        for each in bins
    ]


def calibration_lines(bins: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Shares by bins of the correction's size, at even distances; None where no bin has any.

    `real` and `null` are lines of (x, y): what shuffles do beside what the plug-ins do.
    """
    lines = {}
    values = [each.get(name) for each in bins for name in ("error_share", "null_error_share")]
    values += [each.get(name) for each in bins for name in ("fixed_share", "null_fixed_share")]
    known = [value for value in values if value is not None]
    if not known:
        return None
    y = Scale.around((0.0, max(known)), 0.0) if max(known) else Scale(0.0, 1.0)
    step = 100 / len(bins)
    places = [_right(step * (at + 0.5)) for at in range(len(bins))]
    for name in ("error_share", "null_error_share", "fixed_share", "null_fixed_share"):
        own = [(x, each.get(name)) for x, each in zip(places, bins, strict=True)]
        lines[name] = [{"x": x, "y": _up(y, value), "value": value} for x, value in own if value is not None]
    edges = [each["from"] for each in bins] + [bins[-1]["to"]]
    return {
        "lines": lines,
        "x_ticks": [(_right(step * at), f"{edge:g}") for at, edge in enumerate(edges) if edge is not None],
        "y_ticks": [(_up(y, tick), f"{100 * tick:g} %") for tick in rounded(y.ticks(4))],
    }


def span(low: float, high: float | None, unit: str = "") -> str:
    """`2 to 4 mm`; `over 16 mm` where there is no upper end."""
    words = f"over {low:g} {unit}" if high is None else f"{low:g} to {high:g} {unit}"
    return words.strip()


def _signed(value: float) -> str:
    return f"{value:+g}" if value else "0"


def _up(y: Scale, value: float) -> float:
    return round(HEIGHT * (1 - y.share(value)), 1)


def _right(place: float) -> float:
    """Per cent of the width, where the numbers of the axis take the first."""
    return round(_LEFT + (100 - _LEFT - 2) * place / 100, 2)


def _width(share: float | None, largest: float) -> float | None:
    return None if share is None or not isfinite(share) else round(100 * share / largest, 2)


def _decades(x: Scale) -> list[tuple[float, str]]:
    """1, 2 and 5 times the powers of ten on a logarithmic axis; the powers alone where these are many."""
    spans = range(floor(x.low), floor(x.high) + 1)
    factors = (1, 2, 5) if x.high - x.low < 2.5 else (1,)
    values = [factor * 10.0**power for power in spans for factor in factors]
    return [(_right(x.at(log10(value))), f"{value:g}") for value in values if x.low <= log10(value) <= x.high]
