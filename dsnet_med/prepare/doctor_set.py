"""The data doctor's comparison of cases: splits that overlap, and what looks unlike the rest or too much alike.

Likeness is suspicion, so what is said of it is a warning with its numbers.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import first_of
from dsnet_med.prepare.findings import Finding
from dsnet_med.prepare.fingerprint import CaseFingerprint

# Of 186 sound cases no label has borders more than 0.96 times as steep in any mirrored order.
_STEEPER = 1.1
# Standard deviations (by the median deviation) off the median: no hippocampus of 160 is so far off, half are
# with the label of the next, and phantoms always. 0.93 is where the labels of other cases lie.
_DEVIATIONS, _SPREAD_AT_LEAST, _LOOSE = 5.5, 0.032, 0.93
_CASES_AT_LEAST = 4
# 0.99 and more for noise or another scale, at most 0.88 for two phases of one heart, 0.6 for two patients.
_ALIKE = 0.93
# Least spread of a class's brightness in a channel, in standard deviations.
_CONTRAST_SPREAD = 0.15
# Least spread of a class's place: mm, mm, mm, logarithm of the volume, intensity.
_SPREADS = np.array([3.0, 3.0, 3.0, 0.2, 0.05])
_ODD, _BETTER = 9.0, 4.0


def examine_set(cases: Iterable[CaseFingerprint]) -> Iterator[Finding]:
    """Duplicates, subjects or volumes in two splits, what is unlike the rest, and splits that lack cases."""
    known = list(cases)
    yield from _divided_subjects(known)
    yield from _duplicates(known)
    for case in known:
        yield from _own(case)
    yield from _loose(known)
    yield from _exchanged(known)
    yield from _exchanged_channels(known)
    yield from _same_labels(known)
    yield from _near_duplicates(known)
    yield from _lacking(known)


def _suspicion(case: CaseFingerprint, kind: str, message: str) -> Finding:
    return Finding("warning", case.case, kind, message)


def _divided_subjects(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    splits = defaultdict(set)
    for case in cases:
        splits[case.subject].add(case.split)
    for subject, own in sorted(splits.items()):
        if len(own) > 1:
            names = " and ".join(sorted(own))
            yield Finding("error", subject, "overlap", f"one subject in the splits {names}; keep it in one")


def _duplicates(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    """Cases whose images hold the same voxels."""
    alike = defaultdict(list)
    for case in cases:
        alike[case.content].append(case)
    for content, twins in alike.items():
        if content is None or len(twins) < 2:
            continue
        names = ", ".join(f"{twin.case} ({twin.split})" for twin in twins)
        kind, what = "duplicate", f"under {len(twins)} names"
        if len({twin.split for twin in twins}) > 1:
            kind, what = "overlap", "in several splits"
        yield Finding("error", twins[0].case, kind, f"one volume {what}: {names}; keep one of them")


def _lacking(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    found = {case.split for case in cases}
    if found == {"extra"}:
        yield Finding("warning", "", "split", "no case belongs to train, val or test")
    elif found:  # else every case failed, which says more
        for split in sorted({"train", "test"} - found, reverse=True):
            yield Finding("warning", "", "split", f"no case belongs to {split}")


def _own(case: CaseFingerprint) -> Iterator[Finding]:
    if case.mirrored and _is_mirrored(case):
        order, gain = case.mirrored
        message = (
            f"the label map fits its image better with its {order} mirrored (edges {gain:.2f} times as steep)"
        )
        yield _suspicion(case, "fit", message)
    if case.specks:
        pieces = first_of(f"{name} ({count})" for name, count in case.specks.items())
        yield _suspicion(case, "specks", f"small pieces far from the rest of their organ: {pieces}")


def _is_mirrored(case: CaseFingerprint) -> bool:
    return case.mirrored is not None and case.mirrored[1] > _STEEPER


def _loose(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    """Label maps whose borders hardly lie on edges of their image, much less than those of the other cases."""
    values = np.array([case.looseness for case in cases if case.looseness is not None])
    limit, usual = _LOOSE, ""
    if len(values) >= _CASES_AT_LEAST:
        median, spread = _median_and_spread(values)
        limit = min(limit, median + _DEVIATIONS * max(_SPREAD_AT_LEAST, spread))
        usual = f"; the others' median is {median:.2f}"
    for case in cases:
        if case.looseness is not None and case.looseness > limit and not _is_mirrored(case):
            message = (
                "the label map hardly follows its image and may belong to another case "
                f"(edges under its borders, moved or mirrored over as they are: {case.looseness:.2f}{usual})"
            )
            yield _suspicion(case, "fit", message)


def _median_and_spread(rows: NDArray[Any]) -> Any:
    """The median, and the median deviation as that of a normal distribution's standard deviation."""
    median = np.median(rows, axis=0)
    return median, 1.4826 * np.median(np.abs(rows - median), axis=0)


def _exchanged(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    """Two classes of a case, each of which has the place, size and brightness that is usually the other's."""
    of_organ = defaultdict(list)
    for case in cases:
        for name, numbers in case.organs.items():
            of_organ[name].append(numbers)
    usual = {
        name: _median_and_spread(np.array(rows))
        for name, rows in of_organ.items()
        if len(rows) >= _CASES_AT_LEAST
    }

    def distance(case: CaseFingerprint, name: str, other: str) -> float:
        """How far `name` is from where `other` usually is: the mean square of the deviations, in spreads."""
        median, spread = usual[other]
        return float(np.mean(((case.organs[name] - median) / np.maximum(_SPREADS, spread)) ** 2))

    for case in cases:
        if _is_mirrored(case):  # which puts every class elsewhere
            continue
        odd = {}
        for one, other in itertools.combinations(sorted(usual.keys() & case.organs.keys()), 2):
            as_named = distance(case, one, one) + distance(case, other, other)
            exchanged = distance(case, one, other) + distance(case, other, one)
            if as_named > _ODD and as_named > _BETTER * exchanged:
                odd[one, other] = as_named / exchanged
        if odd:
            one, other = max(odd, key=lambda pair: odd[pair])
            message = (
                f"{one} and {other} look exchanged: each is where, and like what, the other is in most cases"
            )
            yield _suspicion(case, "exchanged", message)


def _exchanged_channels(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    """Two channels of a case, in each of which the classes look as they usually look in the other."""
    of_place = defaultdict(list)
    for case in cases:
        for channel, contrasts in case.contrasts.items():
            for name, value in contrasts.items():
                of_place[channel, name].append(value)
    usual = {
        place: _median_and_spread(np.array(values))
        for place, values in of_place.items()
        if len(values) >= _CASES_AT_LEAST
    }

    def distance(case: CaseFingerprint, channel: str, other: str) -> float:
        """How far a channel is from what `other` usually is: the mean square of the deviations, in spreads."""
        squares = [
            ((value - usual[other, name][0]) / max(_CONTRAST_SPREAD, usual[other, name][1])) ** 2
            for name, value in case.contrasts[channel].items()
            if (other, name) in usual
        ]
        return float(np.mean(squares)) if squares else 0.0

    for case in cases:
        odd = {}
        for one, other in itertools.combinations(case.contrasts, 2):
            as_named = distance(case, one, one) + distance(case, other, other)
            exchanged = distance(case, one, other) + distance(case, other, one)
            if as_named > _ODD and as_named > _BETTER * exchanged:
                odd[one, other] = as_named / max(exchanged, 1e-9)
        if odd:
            one, other = max(odd, key=lambda pair: odd[pair])
            message = f"the channels {one} and {other} look exchanged: each looks like the other in most cases"
            yield _suspicion(case, "exchanged", message)


def _same_labels(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    alike = defaultdict(list)
    for case in cases:
        alike[case.label_digest].append(case)
    for label, twins in alike.items():
        if label and len({twin.content for twin in twins}) > 1:
            names = first_of(twin.case for twin in twins)
            yield _suspicion(twins[0], "fit", f"one label map under different images: {names}")


def _near_duplicates(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    """Images of two subjects that agree in their details, noise and another intensity scale apart."""
    of_shape = defaultdict(list)
    for case in cases:
        if case.detail is not None:
            of_shape[case.shape].append(case)
    for group in of_shape.values():
        details = np.array([case.detail for case in group], np.float32)
        for index, case in enumerate(group[:-1]):
            likeness = details[index + 1 :] @ details[index]
            for other, value in zip(group[index + 1 :], likeness, strict=True):
                same = case.subject == other.subject or case.content == other.content
                if value > _ALIKE and not same:
                    message = (
                        f"nearly the same image as {other.case} (correlation of details {value:.3f}): "
                        "keep one of two copies, and give two scans of one patient one subject"
                    )
                    yield _suspicion(case, "duplicate", message)
