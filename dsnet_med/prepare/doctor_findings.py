"""What the data doctor reports, and the checks on a set of cases as a whole."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that looks wrong. `case` is empty where it concerns the whole set.

    `kind` is one of: pair, unreadable, geometry, label values, empty label, missing class, intensity, sides,
    duplicate, overlap, split; and for stores: failed, damaged, label counts, leftover.
    """

    severity: Severity
    case: str
    kind: str
    message: str

    def __str__(self) -> str:
        place = f"{self.case}: " if self.case else ""
        return f"{self.severity}: {place}{self.message}"


@dataclass(frozen=True)
class Examined:
    """One case that has been looked at, or, with an empty `case`, the set as a whole."""

    case: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Member:
    """What the checks on the whole set need to know of a case. `content` is a digest of its image's voxels."""

    case: str
    subject: str
    split: str
    content: str | None


def examine_set(members: Iterable[Member]) -> Iterator[Finding]:
    """Duplicate volumes, subjects or volumes in two splits, and splits that lack cases."""
    known = list(members)
    yield from _divided_subjects(known)
    yield from _duplicates(known)
    found = {member.split for member in known}
    if found <= {"extra"}:
        yield Finding("warning", "", "split", "no case belongs to train, val or test")
        return
    for split in ("train", "test"):
        if split not in found:
            yield Finding("warning", "", "split", f"no case belongs to {split}")


def _divided_subjects(members: list[Member]) -> Iterator[Finding]:
    splits = defaultdict(set)
    for member in members:
        splits[member.subject].add(member.split)
    for subject, own in sorted(splits.items()):
        if len(own) > 1:
            names = " and ".join(sorted(own))
            yield Finding("error", subject, "overlap", f"one subject in the splits {names}; keep it in one")


def _duplicates(members: list[Member]) -> Iterator[Finding]:
    """Cases whose images hold the same voxels."""
    alike = defaultdict(list)
    for member in members:
        if member.content is not None:
            alike[member.content].append(member)
    for twins in alike.values():
        if len(twins) < 2:
            continue
        cases = ", ".join(f"{twin.case} ({twin.split})" for twin in twins)
        if len({twin.split for twin in twins}) > 1:
            message = f"one volume in several splits: {cases}; keep one of them"
            yield Finding("error", twins[0].case, "overlap", message)
        else:
            message = f"one volume under {len(twins)} names: {cases}; keep one of them"
            yield Finding("error", twins[0].case, "duplicate", message)
