"""Small distributions as inline SVG: one dot per case, a line at the median."""

from collections.abc import Sequence
from math import isnan, log10
from statistics import median

_WIDTH, _HEIGHT, _MARGIN = 180, 30, 7


def dice_strip(values: Sequence[float]) -> str:
    """Dice values on a scale from 0 to 1; zeros stand out."""
    return _strip(values, [value for value in values if not isnan(value)], (0, 0.5, 1), bad_is_low=True)


def distance_strip(values: Sequence[float], longest: float) -> str:
    """Distances on a scale that grows with log(1 + distance), so that one far value leaves the others apart."""
    end = max(log10(1 + longest), 1.0)
    places = [log10(1 + value) / end for value in values if not isnan(value)]
    ticks = [log10(1 + tick) / end for tick in (0, 1, 10, 100, 1000) if log10(1 + tick) <= end]
    return _strip(values, places, ticks, bad_is_low=False)


def _strip(
    values: Sequence[float], places: Sequence[float], ticks: Sequence[float], *, bad_is_low: bool
) -> str:
    if not places:
        return ""
    axis = f'<line class="tick" x1="{_x(0)}" x2="{_x(1)}" y1="{_HEIGHT / 2}" y2="{_HEIGHT / 2}"/>'
    lines = axis + "".join(
        f'<line class="tick" x1="{_x(t)}" x2="{_x(t)}" y1="3" y2="{_HEIGHT - 3}"/>' for t in ticks
    )
    dots = "".join(_dot(place, number, bad_is_low) for number, place in enumerate(places))
    middle = _x(median(places))
    mark = f'<line class="median" x1="{middle}" x2="{middle}" y1="4" y2="{_HEIGHT - 4}"/>'
    counted = [value for value in values if not isnan(value)]
    words = f"{len(counted)} cases, {min(counted):.3g} to {max(counted):.3g}, median {median(counted):.3g}"
    return (
        f'<svg class="strip" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{words}">'
        f"<title>{words}</title>{lines}{dots}{mark}</svg>"
    )


def _dot(place: float, number: int, bad_is_low: bool) -> str:
    # A fixed up-and-down keeps equal values apart.
    y = _HEIGHT / 2 + (-5, 0, 5, -2.5, 2.5)[number % 5]
    kind = "dot bad" if bad_is_low and place == 0 else "dot"
    return f'<circle class="{kind}" cx="{_x(place)}" cy="{y:g}" r="3.2"/>'


def _x(place: float) -> str:
    return f"{_MARGIN + min(max(place, 0), 1) * (_WIDTH - 2 * _MARGIN):.1f}"
