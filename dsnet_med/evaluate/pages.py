"""Pages and pictures from the templates in templates/, by jinja2; every text is escaped."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import isnan
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

import dsnet_med


def rendered(template: str, **content: Any) -> str:
    """The text of templates/`template`, filled with `content`; a page gets the version for its footer."""
    return environment().get_template(template).render(version=dsnet_med.__version__, **content)


@cache
def environment() -> Environment:
    """The templates, with the filters by which they write numbers: what has no value is a dash."""
    loaded = Environment(loader=PackageLoader("dsnet_med.evaluate"), autoescape=True)
    loaded.filters |= {"number": number, "interval": interval, "sort_key": sort_key, "combined": combined}
    loaded.filters |= {"breakable": breakable}
    return loaded


def combined(table: Mapping[str, Any], colours: Any) -> dict[str, Any]:
    """The table, with the organs' colours."""
    return {**table, "colours": colours}


def number(value: float | None, digits: int, sign: str = "") -> str:
    """`value` with so many decimals; `sign` "+" shows the sign of positive numbers too."""
    return "–" if value is None or isnan(value) else _decimal(value, digits, sign)


def interval(bounds: Sequence[float] | None, digits: int, sign: str = "") -> str:
    """Both ends of an interval; empty where there is none."""
    return "" if bounds is None else " to ".join(_decimal(bound, digits, sign) for bound in bounds)


def sort_key(value: float | None) -> str:
    """What the page's script sorts by; empty, which comes last, where there is no value."""
    return "" if value is None or isnan(value) else f"{value:.6g}"


def breakable(text: str) -> Markup:
    """A long name, escaped, that may break into lines after its signs."""
    parts: Iterable[str] = re.split(r"(?<=[+(_:./-])|(?<=[a-z])(?=[A-Z])", text)
    return Markup("<wbr>").join(escape(part) for part in parts)


def _decimal(value: float, digits: int, sign: str) -> str:
    text = f"{value:{sign}.{digits}f}"
    return text if float(text) else f"{0:.{digits}f}"  # zero has no sign
