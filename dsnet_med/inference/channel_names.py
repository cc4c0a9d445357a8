"""Which files are channels of one case, by their names: CASE_t1, t1_CASE, or CASE_0000 as nnU-Net has them."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Place = tuple[str, int]  # what the case is called, and which channel this is

_BETWEEN = "[_. -]"
_NUMBERED = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class Group:
    """Names that belong to one case: for each the place among all names, and the channel it is."""

    case: str
    members: tuple[tuple[int, int], ...]


def place_of(name: str, channels: Sequence[str]) -> Place | None:
    """The case (empty where nothing is left of the name) and the channel that a name tells, if it tells one."""
    return next(filter(None, (way(name, channels) for way in (_last, _first, _numbered))), None)


def grouped(names: Sequence[str], channels: Sequence[str]) -> list[Group]:
    """The groups that names make; a name that tells no channel is in none.

    A way to name channels is believed first where it gives every channel of a case once: `t1_0001` may be
    the second channel of the case `t1`, or the channel t1 of a case `0001`.
    """
    left, groups = list(range(len(names))), []
    for complete in (True, False):
        for way in (_last, _first, _numbered):
            for group in _by(way, [(index, names[index]) for index in left], channels):
                told = sorted(channel for _, channel in group.members)
                if not complete or told == list(range(len(channels))):
                    groups.append(group)
                    taken = {index for index, _ in group.members}
                    left = [index for index in left if index not in taken]
    return groups


def _by(
    way: Callable[[str, Sequence[str]], Place | None],
    names: Sequence[tuple[int, str]],
    channels: Sequence[str],
) -> list[Group]:
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, name in names:
        if place := way(name, channels):
            found[place[0]].append((index, place[1]))
    return [Group(case, tuple(members)) for case, members in found.items()]


def _last(name: str, channels: Sequence[str]) -> Place | None:
    """The channel at the end of a name, or all of it."""
    for index, channel in _longest_first(channels):
        if match := re.fullmatch(f"(?:(.+?){_BETWEEN}+)?{re.escape(channel)}", name, re.IGNORECASE):
            return match[1] or "", index
    return None


def _first(name: str, channels: Sequence[str]) -> Place | None:
    """The channel at the beginning, as the folder of all images of one channel has it."""
    for index, channel in _longest_first(channels):
        if match := re.fullmatch(f"{re.escape(channel)}{_BETWEEN}+(.+)", name, re.IGNORECASE):
            return match[1], index
    return None


def _numbered(name: str, _: Sequence[str]) -> Place | None:
    """nnU-Net's numbers, of four digits; one beyond the channels is told, too."""
    match = _NUMBERED.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def _longest_first(channels: Sequence[str]) -> list[tuple[int, str]]:
    return sorted(enumerate(channels), key=lambda each: -len(each[1]))
