"""Pieces of HTML that the reports share; the style is in report.html beside this module."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from math import isnan
from string import Template
from typing import Any

from dsnet_med.evaluate.overlay import Colour


def page(*, title: str, subtitle: str, cards: str, sections: Sequence[str], footer: str) -> str:
    """A whole page, from plain words and the HTML of its cards and sections; empty sections are left out."""
    template = Template(files("dsnet_med.evaluate").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        cards=cards,
        sections="\n".join(part for part in sections if part),
        footer=escape(footer),
    )


def section(heading: str, hint: str, body: str) -> str:
    """A heading, a line of explanation, and HTML; nothing where there is no HTML."""
    words = f'<p class="hint">{escape(hint)}</p>' if hint else ""
    return f"<section><h2>{escape(heading)}</h2>{words}{body}</section>" if body else ""


def card(kind: str, value: str, unit: str, words: str) -> str:
    """One large number, with what it is beneath it."""
    return (
        f'<div class="card {kind}"><b>{value} <small>{unit}</small></b><span class="soft">{words}</span></div>'
    )


def table(head: str, rows: str, kind: str = "") -> str:
    """A table from the HTML of its rows; of the kind "sortable", a click on a heading sorts it."""
    return (
        f'<div class="card wide"><table class="{kind}"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    )


def legend(heading: str, colours: Mapping[str, Colour]) -> str:
    """What each colour stands for."""
    items = "".join(f"<span>{swatch(colour)}{escape(name)}</span>" for name, colour in colours.items())
    return f'<div class="legend"><b>{heading}</b>{items}</div>'


def swatch(colour: Colour) -> str:
    """A small square of a colour."""
    return f'<i class="swatch" style="background:rgb{colour}"></i>'


def number(value: float | None, digits: int) -> str:
    """The number, or a dash for none."""
    return "–" if value is None or isnan(value) else f"{value:.{digits}f}"


def interval(bounds: Sequence[float] | None, digits: int) -> str:
    """From one number to another; nothing for none."""
    return "" if bounds is None else f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"


def described(statistics: Mapping[str, Any], digits: int) -> str:
    """Mean and standard deviation, with the 95 % interval of the mean beneath."""
    if statistics["mean"] is None:
        return "–"
    beneath = interval(statistics["ci95"], digits) or ("one value" if statistics["n"] == 1 else "")
    return (
        f"{statistics['mean']:.{digits}f} ± {statistics['std']:.{digits}f}"
        f'<small title="median {statistics["median"]:.{digits}f}">{beneath}</small>'
    )


def data(value: float | None) -> str:
    """A value for sorting: empty for none."""
    return "" if value is None or isnan(value) else f"{value:.6g}"


def sortable_head(words: Iterable[str]) -> str:
    """The headings of a sortable table, plain words."""
    cells = "".join(f'<th scope="col"><button type="button">{escape(word)}</button></th>' for word in words)
    return f"<tr>{cells}</tr>"


def listed(items: Iterable[str]) -> str:
    """The HTML of some items as a list on a card; nothing for none."""
    entries = "".join(f"<li>{item}</li>" for item in items)
    return f'<div class="card"><ul class="reasons">{entries}</ul></div>' if entries else ""


def plural(count: int, noun: str) -> str:
    """3 cases, 1 case."""
    return f"{count} {noun_for(count, noun)}"


def noun_for(count: int, noun: str) -> str:
    """The noun in singular or plural."""
    return noun if count == 1 else f"{noun}s"
