"""Sources that are channels of one case, as that case."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from dsnet_med.errors import InputError, SeveralVolumesError, first_of
from dsnet_med.inference.channel_names import grouped, place_of
from dsnet_med.inference.source import Source, own_name
from dsnet_med.volumes import read_grid


def of_parts(case: str, parts: Sequence[Source], channels: Sequence[str]) -> Source:
    """The case of parts that were given for the channels, in their order; without a name, by theirs.

    It is refused where their number is another, and where the name of one says another channel.
    """
    told = [place_of(part.case, channels) for part in parts]
    cases = {place[0] for place in told if place}
    if not case:
        case = (
            cases.pop() if len(cases) == 1 and None not in told else _in_common([part.case for part in parts])
        )
    whole = _joined(case or own_name(parts[0].where.absolute().parent), parts)
    if whole.refused:
        return whole
    if len(parts) != len(channels):
        count = f"{len(parts)} files for {len(channels)} channels"
        return replace(whole, refused=f"{parts[0].where}: got {count}; wanted {first_of(channels)}")
    for index, (part, place) in enumerate(zip(parts, told, strict=True)):
        if place and place[1] != index and place[1] < len(channels):
            stands = f"is called {channels[place[1]]} and stands for {channels[index]}"
            return replace(whole, refused=f"{part.where}: {stands}; wanted {first_of(channels)}, in this order")
    return whole


def by_channel(sources: Sequence[Source], channels: Sequence[str]) -> list[Source]:
    """The sources, those whose names say that they are channels of one case as that case.

    A case is refused that has not every channel once.
    """
    if len(channels) == 1:
        return list(sources)
    loose = [source for source in sources if not source.parts and not _has_several(source)]
    found = list(sources)
    for group in grouped([_name(source, channels) for source in loose], channels):
        members = sorted((channel, index) for index, channel in group.members)
        parts = [loose[index] for _, index in members]
        whole = _joined(group.case, parts)
        if told := _wrong([channel for channel, _ in members], channels):
            whole = replace(whole, refused=f"{parts[0].where}: case {group.case} {told}")
        found[found.index(parts[0])] = whole
        found = [source for source in found if source not in parts]
    return found


def _name(source: Source, channels: Sequence[str]) -> str:
    """The name that tells a case and a channel: that of a file `t1.nii` has its folder's before it."""
    place = place_of(source.case, channels)
    if place is None or place[0]:
        return source.case
    return f"{own_name(source.where.absolute().parent)}_{source.case}"


def _joined(case: str, parts: Sequence[Source]) -> Source:
    files = tuple(file for part in parts for file in part.files)
    refused = next((part.refused for part in parts if part.refused), None)
    kind: Literal["file", "dicom"] = "dicom" if all(part.kind == "dicom" for part in parts) else "file"
    return Source(case, kind, files, parts[0].where, refused, tuple(parts))


def _in_common(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    count = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:count].rstrip("_. -")


def _has_several(source: Source) -> bool:
    """Whether a file holds several volumes, whatever its name says."""
    try:
        if source.kind == "file" and source.refused is None:
            read_grid(source.where)
    except SeveralVolumesError:
        return True
    except InputError:  # which reading it will raise
        return False
    return False


def _wrong(told: Sequence[int], channels: Sequence[str]) -> str | None:
    """What is wrong with a case that has these channels, if something is."""
    wanted = f"wanted each once: {first_of(channels)}"
    if beyond := [f"{channel:04d}" for channel in told if channel >= len(channels)]:
        return f"has a channel {first_of(beyond)}, {wanted}"
    if lacking := [name for index, name in enumerate(channels) if index not in told]:
        return f"lacks {first_of(lacking)}, {wanted}"
    if twice := [name for index, name in enumerate(channels) if list(told).count(index) > 1]:
        return f"has two files for {first_of(twice)}, {wanted}"
    return None
