"""Where everything lies in a report's plots of pairs: Bland-Altman plots of volumes, and lines from one
prediction's scores to the next one's. Places are pixels; templates/parts.html draws them as SVG."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from dsnet_med.evaluate.agreement import Volumes
from dsnet_med.evaluate.charts import Scale
from dsnet_med.evaluate.strips import Axis, distance_axis, share_axis

_WIDTH, _HEIGHT = 280.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 18.0, 10.0, 24.0
_SHOWN = 16  # plots in a page
_LETTERS = 36  # of all names beneath a line plot


def bland_altman(
    volumes: Mapping[str, Volumes], agreed: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """For each organ its cases as dots, mean ml to the right, difference in ml upwards; with the mean
    difference and the limits of agreement. Organs of fewer than two cases have none; of many, those that
    disagree most have one."""
    some = {name: own for name, own in volumes.items() if len(own) > 1 and agreed[name]["n"]}
    if len(some) > _SHOWN:
        order = sorted(
            some, key=lambda name: -abs(agreed[name]["bias_ml"]) / (agreed[name]["reference_ml"] or 1)
        )
        some = {name: some[name] for name in some if name in order[:_SHOWN]}
    return {name: _of_volumes(own, agreed[name]) for name, own in some.items()}


def paired(
    values: Mapping[str, Sequence[float]], cases: Sequence[str], *, higher_is_better: bool
) -> dict[str, Any]:
    """A line per case through its values under each prediction, as far as all of them have one.

    A line is solid where the last is better than the first, dashed where it is worse.
    """
    names = list(values)
    rows = [
        row for row in zip(cases, *values.values(), strict=True) if not any(isnan(each) for each in row[1:])
    ]
    if not rows:
        return {}
    y = (share_axis if higher_is_better else distance_axis)(
        [value for row in rows for value in row[1:]], whole=True
    )
    step = (_WIDTH - _LEFT - 40 - _RIGHT) / max(1, len(names) - 1)
    places = [round(_LEFT + 20 + step * place, 1) for place in range(len(names))]
    lines = []
    for case, *own in rows:
        gain = (own[-1] - own[0]) * (1 if higher_is_better else -1)
        dots = [(x, _up(y, value)) for x, value in zip(places, own, strict=True)]
        lines.append(
            {
                "dots": dots,
                "kind": "gain" if gain > 0 else "loss" if gain < 0 else "same",
                "words": f"{case}: " + ", ".join(f"{value:.3g}" for value in own),
            }
        )
    counts = {kind: sum(line["kind"] == kind for line in lines) for kind in ("gain", "loss", "same")}
    short = _short(names)
    return {
        "lines": lines,
        "y_ticks": _apart([{"y": _up(y, tick), "words": f"{tick:g}"} for tick in y.ticks]),
        "columns": list(zip(places, short, names, strict=True)),
        "words": _counted(counts, names),
    }


def _short(names: Sequence[str]) -> list[str]:
    """The names without the end that all of them have, and no longer than there is room for."""
    most, end = _LETTERS // len(names), _common_end(names)
    cut = len(end) if all(len(name) > len(end) for name in names) else 0
    own = [name[: len(name) - cut].rstrip("-_ ") or name for name in names]
    own = own if len(set(own)) == len(own) else list(names)
    return [name if len(name) <= most else f"{name[: most - 1]}…" for name in own]


def _common_end(names: Sequence[str]) -> str:
    """The longest end that all of the names have."""
    first = names[0]
    return next(first[k:] for k in range(len(first) + 1) if all(name.endswith(first[k:]) for name in names))


def _counted(counts: Mapping[str, int], names: Sequence[str]) -> str:
    same = f", {counts['same']} equal" if counts["same"] else ""
    return f"{names[-1]} better in {counts['gain']}, worse in {counts['loss']}{same}"


def _of_volumes(volumes: Volumes, agreed: Mapping[str, Any]) -> dict[str, Any]:
    dots = [(case, (a + b) / 2, b - a) for case, a, b in volumes]
    limits = agreed["limits_ml"] or ()
    x = Scale.around([each[1] for each in dots], 0.06)
    y = Scale.around([0.0, *limits, *(each[2] for each in dots)], 0.06)
    return {
        "dots": [
            {
                "x": _right(x, mean),
                "y": _up(y, difference),
                "words": f"{case}: {mean:.4g} ml, {difference:+.3g} ml",
            }
            for case, mean, difference in dots
        ],
        "zero": _up(y, 0.0),
        "bias": _up(y, agreed["bias_ml"]),
        "limits": [_up(y, limit) for limit in limits],
        "x_ticks": [{"x": _right(x, tick), "words": f"{tick:g}"} for tick in _round(x.ticks(4))],
        "y_ticks": _ticks_up(y),
        "words": f"{len(dots)} cases, mean difference {agreed['bias_ml']:+.3g} ml",
    }


def _ticks_up(y: Scale) -> list[dict[str, Any]]:
    return [{"y": _up(y, tick), "words": f"{tick:g}"} for tick in _round(y.ticks(4))]


def _apart(ticks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the ticks, from the bottom, that leave room for their numbers."""
    kept: list[dict[str, Any]] = []
    for tick in ticks:
        if not kept or kept[-1]["y"] - tick["y"] >= 13:
            kept.append(tick)
    return kept


def _round(ticks: Sequence[float]) -> list[float]:
    return [float(f"{tick:.10g}") + 0.0 for tick in ticks]


def _right(x: Scale, value: float) -> float:
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * x.share(value), 1)


def _up(y: Scale | Axis, value: float) -> float:
    return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * y.share(value), 1)
