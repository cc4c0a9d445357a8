"""The data doctor's comparison of cases: what looks unlike the rest, or too much like another one.

All of it is suspicion, so each is a warning with its numbers.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import first_of
from dsnet_med.prepare.doctor_portrait import Portrait

# Of 186 sound cases no label has borders more than 0.96 times as steep in any mirrored order.
_STEEPER = 1.1
# Standard deviations (by the median deviation) off the median: no hippocampus of 160 is so far off, half are
# with the label of the next, and phantoms always. 0.93 is where the labels of other cases lie.
_DEVIATIONS, _SPREAD_AT_LEAST, _LOOSE = 5.5, 0.032, 0.93
_CASES_AT_LEAST = 4
# 0.99 and more for noise or another scale, at most 0.88 for two phases of one heart, 0.6 for two patients.
_ALIKE = 0.93
# Least spread of a class's place: mm, mm, mm, logarithm of the volume, intensity.
_SPREADS = np.array([3.0, 3.0, 3.0, 0.2, 0.05])
_ODD, _BETTER = 9.0, 4.0

Portraits = Mapping[str, Portrait]


def suspicions(
    portraits: Portraits, subjects: Mapping[str, str], contents: Mapping[str, str | None]
) -> Iterator[tuple[str, str, str]]:
    """What is suspicious: case, kind and message. `subjects` and `contents` are each case's, as in Member."""
    for case, portrait in portraits.items():
        yield from _own(case, portrait)
    yield from _loose(portraits)
    yield from _exchanged(portraits)
    yield from _same_labels(portraits, contents)
    yield from _near_duplicates(portraits, subjects, contents)


def _own(case: str, portrait: Portrait) -> Iterator[tuple[str, str, str]]:
    if _is_mirrored(portrait) and portrait.mirrored:
        order, gain = portrait.mirrored
        message = (
            f"the label map fits its image better with its {order} mirrored (edges {gain:.2f} times as steep)"
        )
        yield case, "fit", message
    if portrait.specks:
        pieces = first_of(f"{name} ({count})" for name, count in portrait.specks.items())
        yield case, "specks", f"small pieces far from the rest of their organ: {pieces}"


def _is_mirrored(portrait: Portrait) -> bool:
    return portrait.mirrored is not None and portrait.mirrored[1] > _STEEPER


def _loose(portraits: Portraits) -> Iterator[tuple[str, str, str]]:
    """Label maps whose borders hardly lie on edges of their image, much less than those of the other cases."""
    known = {case: p.looseness for case, p in portraits.items() if p.looseness is not None}
    values = np.array(list(known.values()))
    limit, usual = _LOOSE, ""
    if len(values) >= _CASES_AT_LEAST:
        median = float(np.median(values))
        spread = max(_SPREAD_AT_LEAST, 1.4826 * float(np.median(np.abs(values - median))))
        limit = min(limit, median + _DEVIATIONS * spread)
        usual = f"; the others' median is {median:.2f}"
    for case, value in known.items():
        if value > limit and not _is_mirrored(portraits[case]):
            message = (
                "the label map hardly follows its image and may belong to another case "
                f"(edges under its borders, moved or mirrored over as they are: {value:.2f}{usual})"
            )
            yield case, "fit", message


def _exchanged(portraits: Portraits) -> Iterator[tuple[str, str, str]]:
    """Two classes of a case, each of which has the place, size and brightness that is usually the other's."""
    names = sorted({name for portrait in portraits.values() for name in portrait.places})
    usual: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    for name in names:
        rows = np.array([p.places[name] for p in portraits.values() if name in p.places])
        if len(rows) >= _CASES_AT_LEAST:
            median = np.median(rows, axis=0)
            usual[name] = median, np.maximum(_SPREADS, 1.4826 * np.median(np.abs(rows - median), axis=0))
    for case, portrait in portraits.items():
        if _is_mirrored(portrait):  # which puts every class elsewhere
            continue
        odd = {}
        for one, other in itertools.combinations([name for name in names if name in usual], 2):
            if one in portrait.places and other in portrait.places:
                a, b = portrait.places[one], portrait.places[other]
                as_named = _distance(a, usual[one]) + _distance(b, usual[other])
                exchanged = _distance(a, usual[other]) + _distance(b, usual[one])
                if as_named > _ODD and as_named > _BETTER * exchanged:
                    odd[one, other] = as_named / exchanged
        if odd:
            one, other = max(odd, key=lambda pair: odd[pair])
            message = (
                f"{one} and {other} look exchanged: each is where, and like what, the other is in most cases"
            )
            yield case, "exchanged", message


def _distance(place: Sequence[float], usual: tuple[NDArray[Any], NDArray[Any]]) -> float:
    """The mean square of the deviations, in spreads."""
    return float(np.mean(((np.asarray(place) - usual[0]) / usual[1]) ** 2))


def _same_labels(portraits: Portraits, contents: Mapping[str, str | None]) -> Iterator[tuple[str, str, str]]:
    alike = defaultdict(list)
    for case, portrait in portraits.items():
        if portrait.labels:
            alike[portrait.labels].append(case)
    for cases in alike.values():
        if len({contents[case] for case in cases}) > 1:
            yield cases[0], "fit", f"one label map under different images: {first_of(cases)}"


def _near_duplicates(
    portraits: Portraits, subjects: Mapping[str, str], contents: Mapping[str, str | None]
) -> Iterator[tuple[str, str, str]]:
    """Images of two subjects that agree in their details, noise and another intensity scale apart."""
    of_shape = defaultdict(list)
    for case, portrait in portraits.items():
        of_shape[portrait.shape].append(case)
    for cases in of_shape.values():
        details = np.array([portraits[case].detail for case in cases], np.float32)
        for index, case in enumerate(cases[:-1]):
            likeness = details[index + 1 :] @ details[index]
            for other, value in zip(cases[index + 1 :], likeness, strict=True):
                same = subjects[case] == subjects[other] or contents[case] == contents[other]
                if value > _ALIKE and not same:
                    message = (
                        f"nearly the same image as {other} (correlation of details {value:.3f}): "
                        "keep one of two copies, and give two scans of one patient one subject"
                    )
                    yield case, "duplicate", message
