"""What the data doctor reports, and the checks on a set of cases as a whole."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from dsnet_med.errors import first_of
from dsnet_med.prepare.doctor_compare import suspicions
from dsnet_med.prepare.doctor_portrait import Portrait
from dsnet_med.prepare.splits import SeededSplit, meant

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that looks wrong. `case` is empty where it concerns the whole set.

    `kind` is one of: pair, unreadable, geometry, slices, label values, empty label, missing class, intensity,
    sides, fit, exchanged, specks, duplicate, overlap, split; source, for what only the source's names and lists
    show; and for stores: failed, damaged, label counts, leftover.
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
    portrait: Portrait | None = None


def examine_set(members: Iterable[Member]) -> Iterator[Finding]:
    """Duplicates, subjects or volumes in two splits, what is unlike the rest, and splits that lack cases."""
    known = list(members)
    yield from _divided_subjects(known)
    yield from _duplicates(known)
    portraits = {member.case: member.portrait for member in known if member.portrait is not None}
    subjects = {member.case: member.subject for member in known}
    contents = {member.case: member.content for member in known}
    for case, kind, message in suspicions(portraits, subjects, contents):
        yield Finding("warning", case, kind, message)
    found = {member.split for member in known}
    if not found:  # every case failed, which says more
        return
    if found <= {"extra"}:
        yield Finding("warning", "", "split", "no case belongs to train, val or test")
        return
    for split in ("train", "test"):
        if split not in found:
            yield Finding("warning", "", "split", f"no case belongs to {split}")


def examine_split_list(
    splits: Mapping[str, str] | SeededSplit,
    subjects: Mapping[str, str],
    unlabelled: Collection[str],
    *,
    published: bool,
) -> Iterator[Finding]:
    """Whether a split list and the subjects of a source name each other.

    A name that matches nothing beside a subject that it most likely means is an error: the subject would
    quietly be `extra`. Without such a subject the data may just not be there, which is worth a warning.
    `subjects` have their splits; those in `unlabelled` are extra whatever a list says.
    """
    if isinstance(splits, SeededSplit):
        return
    absent = [name for name in splits if name not in subjects and name not in unlabelled]
    unlisted = sorted(subject for subject in subjects if subject not in splits)
    means = {name: subject for name in absent if (subject := meant(name, unlisted))}
    if means:
        todo = "rename the files" if published else "correct the list"
        pairs = [f"'{name}' (did you mean '{subject}'?)" for name, subject in means.items()]
        message = f"the split list names {first_of(pairs)}, which the source does not hold; {todo}"
        yield Finding("error", "", "source", message)
    absent = [name for name in absent if name not in means]
    unlisted = [subject for subject in unlisted if subject not in means.values()]
    if absent:
        message = f"{len(absent)} of the {len(splits)} subjects of the split list are not in the source: "
        yield Finding("warning", "", "source", message + first_of(absent))
    if unlisted:
        message = f"the split list does not name {first_of(unlisted)}: extra, neither trained nor tested on"
        yield Finding("warning", "", "source", message)
    kept_out = [subject for subject in sorted(unlabelled) if splits.get(subject, "extra") != "extra"]
    if kept_out:
        message = f"the split list names {first_of(kept_out)}, which come without labels: extra"
        yield Finding("warning", "", "source", message)


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
