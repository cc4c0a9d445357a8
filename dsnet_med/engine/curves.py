"""curves.png: loss, learning rate and validation scores of a run by iteration, drawn from metrics.jsonl."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsnet_med.files import written_whole
from dsnet_med.organs import organ_of

_FEW = 30  # points, which get a dot each

Curves = dict[str, list[tuple[int, float]]]


def draw_curves(metrics: Path, path: Path) -> None:
    """Draw what the lines of `metrics` say to the PNG file `path`; nothing where there are none."""
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()] if metrics.is_file() else []
    scores = dict.fromkeys(name for line in lines for name in line if name.startswith("val_"))
    panels = {
        "training loss": _curves(lines, ["loss"]),
        "learning rate": _curves(lines, ["learning_rate"]),
        "validation": {name.removeprefix("val_"): points for name, points in _curves(lines, scores).items()},
    }
    panels = {title: curves for title, curves in panels.items() if any(curves.values())}
    if not panels:
        return
    from matplotlib.figure import Figure  # noqa: PLC0415 -- takes half a second to import

    figure = Figure((10, 3 * len(panels)), dpi=100, layout="constrained")
    subplots = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, curves) in zip(subplots, panels.items(), strict=True):
        _draw(axes, title, curves)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png")


def _curves(lines: Iterable[Mapping[str, Any]], names: Iterable[str]) -> Curves:
    """The points of each of `names` that the lines have; a mapping gives a curve name/key for each key."""
    curves: Curves = {}
    wanted = list(names)
    for line in lines:
        for name in wanted:
            value = line.get(name)
            for key, number in (value if isinstance(value, Mapping) else {"": value}).items():
                points = curves.setdefault(f"{name}/{key}" if key else name, [])
                if number is not None:
                    points.append((line["iteration"], number))
    return curves


def _draw(axes: Any, title: str, curves: Curves) -> None:
    """One panel; the organs of a validation have the colours of the report, what is of all is black."""
    organs = [name for name in curves if "/" in name]
    for name in organs or curves:
        colour = [part / 255 for part in organ_of(name.rpartition("/")[2]).colour]
        _line(axes, name, curves[name], colour if len(curves) > 1 else "tab:blue")
    for name in curves.keys() - organs if organs else ():
        _line(axes, name, curves[name], "black")
    axes.set_title(title, loc="left")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if title != "training loss":
        axes.set_ylim(bottom=min(0.0, axes.dataLim.ymin))
    if title == "validation" and axes.dataLim.ymax <= 1:
        axes.set_ylim(top=1.0)
    if len(axes.lines) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=6, frameon=False)


def _line(axes: Any, name: str, points: Sequence[tuple[int, float]], colour: Any) -> None:
    marker = "o" if len(points) <= _FEW else None
    label = name.rpartition("/")[2].replace("_", " ")
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, markersize=4)
