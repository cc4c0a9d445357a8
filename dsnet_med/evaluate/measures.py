"""The measures that scores are made of: their columns, units, and which way is better.

A column `dice`, `hd95_mm`, `assd_mm`, `nsd` or `hd95_voxels` holds values under `strict`;
`<measure>_<protocol>` the same under another protocol (protocols.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from dsnet_med.errors import unknown
from dsnet_med.evaluate.protocols import PROTOCOLS, STRICT


@dataclass(frozen=True)
class Measure:
    """One column of scores. `most` is the largest value that there can be, None where there is no such."""

    key: str
    name: str
    protocol: str
    title: str
    unit: str
    higher_is_better: bool
    digits: int
    most: float | None

    @property
    def label(self) -> str:
        """What tells it from others: `dice strict`."""
        return f"{self.name} {self.protocol}"

    def words(self, value: float, sign: str = "") -> str:
        """A value with its unit: `0.9123 Dice`, `2.31 mm HD95`."""
        return self._named(self.rounded(value, sign))

    def margin_words(self, margin: float) -> str:
        """The margin of indifference as it was given: `0.01 Dice`."""
        return self._named(f"{margin:g}")

    def rounded(self, value: float, sign: str = "") -> str:
        """A value in as many digits as it is shown with; nothing has no sign."""
        number = f"{value:{sign}.{self.digits}f}"
        return number if float(number) else number.lstrip("+-")

    def _named(self, number: str) -> str:
        return " ".join(filter(None, (number, self.unit, self.title)))


# name: title, unit, whether higher is better, digits, the largest value
_KINDS: dict[str, tuple[str, str, bool, int, float | None]] = {
    "dice": ("Dice", "", True, 4, 1.0),
    "hd95_mm": ("HD95", "mm", False, 2, None),
    "hd95_voxels": ("HD95", "voxels", False, 2, None),
    "assd_mm": ("ASSD", "mm", False, 2, None),
    "nsd": ("NSD", "", True, 4, 1.0),
}


def _measures() -> Iterable[Measure]:
    for protocol in PROTOCOLS:
        for name, (title, unit, higher, digits, most) in _KINDS.items():
            own = protocol == STRICT.name
            key, words = (name, title) if own else (f"{name}_{protocol}", f"{title} ({protocol})")
            yield Measure(key, name, protocol, words, unit, higher, digits, most)


MEASURES = {measure.key: measure for measure in _measures()}


def find_measure(key: str) -> Measure:
    """The measure of a column. Raises InputError."""
    if key not in MEASURES:
        raise unknown("measure", key, MEASURES)
    return MEASURES[key]
