"""What a run is called: as its row, unless its settings have made another network of it."""

from collections.abc import Iterator, Mapping
from typing import Any

UNKNOWN = "unknown: the network was replaced"
NONE = ("none", "-")  # a row's plug-in and its place
_PART_OF = {"backbone": "backbone", "plugin": "backbone", "place": "backbone", "head": "head"}


def card_of(card: Mapping[str, Any], row: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a run whose composed configuration is `run`, where `row` is that of its method alone.

    `changes` says what differs in the network. The counts of the row do not hold then, and are left out.
    """
    changes, width = sorted(set(_different(row["network_def"], run["network_def"]))), run.get("width", 1.0)
    if "" in changes or run["network"] != row["network"]:
        return _words(card) | dict.fromkeys(("paper", *_PART_OF), UNKNOWN) | _replaced(card, run)
    notes = [f"width {width}"] * (width != 1) + [f"{', '.join(changes)} changed"] * bool(changes)
    if not notes:
        return dict(card)
    parts = {change.partition(".")[0] for change in changes}
    touched = (name for name, part in _PART_OF.items() if part in parts and card[name] not in NONE)
    other = {name: f"{card[name]} (changed)" for name in touched}
    if "backbone.name" in changes:
        other["backbone"] = str(run["network_def"]["backbone"]["name"])
        notes = [each.replace("backbone.name", f"backbone.name {other['backbone']}") for each in notes]
    return _words(card) | other | {"changes": ", ".join(notes)}


def titled(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card whose title says what was changed."""
    changes = f" ({card['changes']})" if "changes" in card else ""
    return {**card, "title": card["title"] + changes}


def _replaced(card: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, str]:
    found = next((each for each in (run["network"], run["network_def"]) if isinstance(each, Mapping)), {})
    name = str(found.get("_target_", "another network")).rpartition(".")[2]
    return {"id": f"{card['id']}-replaced", "title": name, "changes": f"in place of {card['title']}"}


def _words(card: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in card.items() if isinstance(value, str)}


def _different(row: Any, run: Any, name: str = "") -> Iterator[str]:
    """The names of the parts that differ, backbone.layers; the empty one where nothing is left of the row."""
    parts = isinstance(row, Mapping) and isinstance(run, Mapping)
    if parts and row.get("_target_") == run.get("_target_"):
        for key in {*row, *run}:
            yield from _different(row.get(key), run.get(key), f"{name}.{key}".lstrip("."))
    elif row != run:
        yield name
