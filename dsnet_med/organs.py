"""How a class is called, coded and coloured everywhere, as configs/organs.yaml says."""

import colorsys
import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from dsnet_med import resources

Code = tuple[str, str, str]  # value, scheme, meaning
_SCHEME = "SCT"


@dataclass(frozen=True)
class Organ:
    """A class of a recipe: a label, SNOMED CT codes and a colour (red, green, blue; 0 to 255)."""

    name: str
    label: str
    category: Code
    type: Code
    modifier: Code | None
    colour: tuple[int, int, int]
    side: str | None = None  # of the patient, "left" or "right", of organs whose name does not say it
    is_anatomy: bool = False  # nothing that is there by disease


def organ_of(name: str) -> Organ:
    """The organ that a class name such as `left_kidney` stands for.

    A name that configs/organs.yaml does not hold is coded as tissue; its label is the name in words
    and its colour follows from the name alone, so that it is the same on every machine.
    """
    plain = "_".join(name.lower().split())
    table = _table()
    row = table["organs"].get(plain)
    if row is None:
        words = " ".join(name.replace("_", " ").split())
        label = words[:1].upper() + words[1:]
        return Organ(
            name, label, _code("categories", "tissue"), _code("types", "tissue"), None, _colour_of(plain)
        )
    red, green, blue = row["colour"]
    modifier = _code("modifiers", row["modifier"]) if "modifier" in row else None
    category, kind = _code("categories", row["category"]), _code("types", row["type"])
    anatomy = row["category"] == "anatomy"
    return Organ(name, row["label"], category, kind, modifier, (red, green, blue), row.get("side"), anatomy)


@cache
def _table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = yaml.load(
        (resources.configs() / "organs.yaml").read_text(encoding="utf-8"),
        Loader=yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader,  # noqa: S506 -- both are safe
    )
    return table


def _code(group: str, key: str) -> Code:
    row = _table()[group][key]
    return row["code"], _SCHEME, row["meaning"]


def _colour_of(name: str) -> tuple[int, int, int]:
    """A colour from the name's hash: any hue, strong and bright enough to be seen on grey."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    hue = int.from_bytes(digest[:4]) / 2**32
    saturation, value = 0.55 + 0.35 * digest[4] / 255, 0.75 + 0.25 * digest[5] / 255
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue
