"""curves.png: loss, learning rate and validation scores of a run by iteration, drawn from metrics.jsonl."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import floor, log10
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dsnet_med.evaluate.overlay import Colour, organ_colour
from dsnet_med.files import written_whole

_SCALE = 2  # drawn so much larger, then made smaller: smooth lines
_WIDTH, _PANEL, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 260, 84, 24, 40, 34
_INK, _SOFT, _GRID, _PAPER = (34, 40, 49), (110, 118, 129), (228, 231, 235), (255, 255, 255)
_BLUE = (31, 111, 235)
_ROW = 20  # of the legend

Points = list[tuple[int, float]]


@dataclass
class Panel:
    """Curves under one title; `top` and `bottom` are those of the axis where the numbers do not say it."""

    title: str
    curves: dict[str, Points] = field(default_factory=dict)
    colours: dict[str, Colour] = field(default_factory=dict)
    bottom: float | None = None
    top: float | None = None


def draw_curves(metrics: Path, path: Path) -> None:
    """Draw what the lines of `metrics` say to the PNG file `path`; nothing where there are none."""
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()] if metrics.is_file() else []
    panels = [panel for panel in _panels(lines) if any(panel.curves.values())]
    if not panels:
        return
    last = max(1, *(line["iteration"] for line in lines))
    legends = [_legend(panel) for panel in panels]
    heights = [_PANEL + _ROW * (len(legend) + bool(legend)) for legend in legends]
    sheet = Image.new("RGB", (_WIDTH * _SCALE, sum(heights) * _SCALE), _PAPER)
    draw, y = ImageDraw.Draw(sheet), 0
    for panel, legend, height in zip(panels, legends, heights, strict=True):
        _draw_panel(draw, panel, legend, y, last)
        y += height
    with written_whole(path) as temporary:
        sheet.resize((_WIDTH, y), Image.Resampling.BOX).save(temporary, "PNG")


def _panels(lines: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Loss, learning rate and the validation's scores, whose organs have the colours of the report."""
    loss = Panel("training loss, by iteration", _curves(lines, ["loss"]), {"loss": _BLUE})
    rate = Panel("learning rate", _curves(lines, ["learning_rate"]), {"learning_rate": _BLUE}, bottom=0.0)
    names = dict.fromkeys(name for line in lines for name in line if name.startswith("val_"))
    curves = {name.removeprefix("val_"): points for name, points in _curves(lines, names).items()}
    organs = {name.partition("/")[2]: points for name, points in curves.items() if "/" in name}
    whole = {name: points for name, points in curves.items() if "/" not in name}
    colours = {
        name: organ_colour(place) for place, name in enumerate([*organs, *(whole if not organs else ())])
    }
    found = {name: points for name, points in (organs | whole).items() if points}
    scores = Panel("validation", found, {**dict.fromkeys(whole, _INK), **colours}, bottom=0.0)
    if all(value <= 1 for points in scores.curves.values() for _, value in points):
        scores.top = 1.0
    return [loss, rate, scores]


def _curves(lines: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, Points]:
    """The points of each of `names` that the lines have; a mapping gives a curve name/key for each key."""
    curves: dict[str, Points] = {}
    wanted = list(names)
    for line in lines:
        for name in wanted:
            value = line.get(name)
            parts = value if isinstance(value, Mapping) else {"": value}
            for key, number in parts.items() if name in line else ():
                points = curves.setdefault(f"{name}/{key}" if key else name, [])
                if number is not None:
                    points.append((line["iteration"], number))
    return curves


def _draw_panel(
    draw: ImageDraw.ImageDraw, panel: Panel, legend: Sequence[Sequence[tuple[int, str]]], y: int, last: int
) -> None:
    left, right, top, bottom = _LEFT, _WIDTH - _RIGHT, y + _TOP, y + _PANEL - _BOTTOM
    low, high, step = _axis(panel)
    across = _scale(0, last, left, right)
    up = _scale(low, high, bottom, top)
    _text(draw, (left, y + 12), panel.title, colour=_INK, size=15)
    for number in _ticks(low, high, step):
        _line(draw, [(left, up(number)), (right, up(number))], _GRID, 1)
        _text(draw, (left - 8, up(number)), _number(number, step), anchor="rm")
    across_step = _step(last, 8, whole=True)
    for number in _ticks(0, last, across_step):
        _line(draw, [(across(number), bottom), (across(number), bottom + 4)], _SOFT, 1)
        _text(draw, (across(number), bottom + 8), f"{round(number):,}".replace(",", " "), anchor="ma")
    _line(draw, [(left, bottom), (right, bottom)], _SOFT, 1)
    for name, points in panel.curves.items():
        places = [(across(iteration), up(value)) for iteration, value in points]
        whole = panel.colours[name] == _INK
        _line(draw, places, panel.colours[name], 3 if whole else 2)
        for place in places if len(places) <= 30 else []:
            _dot(draw, place, panel.colours[name], 3.5 if whole else 2.5)
    for row, items in enumerate(legend):
        height = y + _PANEL + row * _ROW + _ROW // 4
        for x, name in items:
            _line(draw, [(x, height), (x + 16, height)], panel.colours[name], 4)
            _text(draw, (x + 22, height), name.replace("_", " "), colour=_INK, anchor="lm")


def _legend(panel: Panel) -> list[list[tuple[int, str]]]:
    """The names of the curves in rows, each with its place across; none for a single curve."""
    rows: list[list[tuple[int, str]]] = []
    x = _WIDTH
    for name in panel.curves if len(panel.curves) > 1 else ():
        width = 40 + round(_font(12).getlength(name) / _SCALE)
        if x + width > _WIDTH - _RIGHT:
            rows.append([])
            x = _LEFT
        rows[-1].append((x, name))
        x += width
    return rows


def _axis(panel: Panel) -> tuple[float, float, float]:
    """The lowest and highest number of an axis, and the step of its marks."""
    numbers = [value for points in panel.curves.values() for _, value in points]
    low = min(numbers) if panel.bottom is None else min(panel.bottom, *numbers)
    high = max(numbers) if panel.top is None else panel.top
    if high <= low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    step = _step(high - low, 5)
    return floor(low / step + 1e-9) * step, -floor(-high / step + 1e-9) * step, step


def _step(span: float, marks: int, *, whole: bool = False) -> float:
    """1, 2 or 5 times a power of ten, so that about `marks` of them make the span."""
    least = span / marks
    power = 10.0 ** floor(log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)
    return max(1.0, step) if whole else step


def _ticks(low: float, high: float, step: float) -> list[float]:
    first = -floor(-low / step + 1e-9)
    return [(first + k) * step for k in range(floor(high / step + 1e-9) - first + 1)]


def _number(value: float, step: float) -> str:
    if step < 1e-3 or step >= 1e5:
        return f"{value:.1e}" if value else "0"
    return f"{value:.{max(0, -floor(log10(step) + 1e-9))}f}"


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _line(
    draw: ImageDraw.ImageDraw, places: Sequence[tuple[float, float]], colour: Colour, width: float
) -> None:
    if len(places) > 1:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in places]
        draw.line(scaled, fill=colour, width=round(width * _SCALE), joint="curve")


def _dot(draw: ImageDraw.ImageDraw, place: tuple[float, float], colour: Colour, radius: float) -> None:
    draw.circle((place[0] * _SCALE, place[1] * _SCALE), radius * _SCALE, fill=colour)


def _text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    *,
    colour: Colour = _SOFT,
    size: int = 12,
    anchor: str = "la",
) -> None:
    scaled = (place[0] * _SCALE, place[1] * _SCALE)
    draw.text(scaled, text, fill=colour, font=_font(size), anchor=anchor)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _SCALE)
