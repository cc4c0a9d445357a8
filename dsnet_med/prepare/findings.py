"""What the data doctor reports."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that looks wrong. `case` is empty where it concerns the whole set.

    `kind` is one of: pair, unreadable, geometry, slices, label values, empty label, missing class, intensity,
    sides, fit, exchanged, specks, duplicate, overlap, split; source, for what only the source's names and lists
    show; and for stores: failed, damaged, leftover.
    """

    severity: Severity
    case: str
    kind: str
    message: str

    def __str__(self) -> str:
        place = f"{self.case}: " if self.case else ""
        return f"{self.severity}: {place}{self.message}"

    def within(self, source: Path) -> "Finding":
        """The same with its files named from `source` on."""
        return replace(self, message=self.message.replace(f"{source}{os.sep}", ""))


@dataclass(frozen=True)
class Examined:
    """One case that has been looked at, or, with an empty `case`, the set as a whole."""

    case: str
    findings: tuple[Finding, ...]
