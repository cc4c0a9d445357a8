"""What a reader of masks or scores has to know of the runs behind them."""

from collections.abc import Mapping, Sequence
from typing import Any

_NAMES = ("recipe", "seed", "iterations", "width", "parameters", "select_on", "device")
_TITLE, _SELECTED = "method", "selected at iteration"
FACTS = {_TITLE, *_NAMES, _SELECTED}


def run_facts(title: str, summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the summaries of one or several runs agree on, and all values in words where they do not.

    `title` is that of the method; without any summary the result is empty.
    """
    if not any(summaries):
        return {}
    facts = {name: agreed([summary.get(name) for summary in summaries]) for name in _NAMES}
    selected = agreed([_selected(summary.get("best")) for summary in summaries])
    return {_TITLE: title, **facts, _SELECTED: selected}


def _selected(best: Any) -> Any:
    return best.get("iteration") if isinstance(best, dict) else None


def agreed(values: Sequence[Any]) -> Any:
    """The one value, or all different ones in words."""
    different = list(dict.fromkeys(map(str, values)))
    return values[0] if len(different) == 1 else ", ".join(different)
