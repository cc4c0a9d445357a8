"""From the headers of a folder to its series, also where anonymising has torn a series apart.

Some programs give every file, or every few, a SeriesInstanceUID of its own, or none. One such piece is no
volume: the pieces of a stack are put together again, and a note says so.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain

from dsnet_med.dicom.frames import frames_of
from dsnet_med.dicom.heads import Head
from dsnet_med.dicom.slice_stack import stack_of
from dsnet_med.errors import InputError

Part = list[Head]  # of one SeriesInstanceUID, or a file without one
A_FEW = 3  # single images of different numbers, from which on they may be the slices of a stack


def series_of(heads: Iterable[Head]) -> list[tuple[Part, str | None]]:
    """The heads of each series, with a note on those that were put together."""
    parts: dict[object, Part] = defaultdict(list)
    for head in heads:
        parts[head.series or head.file].append(head)
    alone = [part for part in parts.values() if not _can_be_joined(part)]
    alike: dict[object, list[Part]] = defaultdict(list)
    for part in parts.values():
        if _can_be_joined(part):
            first = part[0]
            alike[first.grid, first.modality, first.patient, first.number, first.description].append(part)
    groups = [group for pieces in alike.values() for group in _of_one_name(pieces)]
    groups = _of_many_names(groups)
    return [(part, None) for part in alone] + [(list(chain(*group)), _note(group)) for group in groups]


def is_torn(folders: Sequence[Sequence[Head]]) -> bool:
    """Whether the images of several folders are pieces of one stack, of which none holds every slice."""
    first = folders[0][0]
    parts = [[head for head in folder if _alike(head, first)] for folder in folders]
    return all(map(_can_be_joined, parts)) and max(map(_images, parts)) < _places(parts)


def _alike(a: Head, b: Head) -> bool:
    return (a.grid, a.modality, a.patient) == (b.grid, b.modality, b.patient)


def _can_be_joined(part: Part) -> bool:
    return bool(part) and all(head.grid is not None and not head.localizer for head in part)


def _of_one_name(parts: list[Part]) -> list[list[Part]]:
    """Pieces of one patient, number and description: all of them, else the single images among them."""
    if len(parts) == 1 or max(map(_images, parts)) < _places(parts):
        return [parts]
    single = [part for part in parts if _images(part) == 1]
    others = [[part] for part in parts if _images(part) > 1]
    return [*others, single] if single else others


def _of_many_names(groups: list[list[Part]]) -> list[list[Part]]:
    """Single images of one grid whose numbers differ, too: the slices of a stack lie at different places."""
    single: dict[object, list[Part]] = defaultdict(list)
    for group in groups:
        if len(group) == 1 and _images(group[0]) == 1:
            single[group[0][0].grid, group[0][0].modality].append(group[0])
    torn = [parts for parts in single.values() if len(parts) >= A_FEW and _places(parts) == len(parts)]
    joined = [id(part) for parts in torn for part in parts]
    return [group for group in groups if id(group[0]) not in joined] + torn


def _images(part: Part) -> int:
    return sum({head.instance: head.frames for head in part}.values())


def _places(parts: Sequence[Part]) -> int:
    """How many slices the pieces have together, 0 where they are no whole volumes."""
    try:
        frames = [frame for part in parts for head in part for frame in frames_of(head.file)]
        return len(stack_of(frames, "", 0).frames)
    except InputError:
        return 0


def _note(group: list[Part]) -> str | None:
    """What to know of a series that was put together."""
    nameless = sum(not part[0].series for part in group)
    images = sum(map(_images, group))
    if len(group) == 1:
        return None
    if nameless == len(group):
        return f"its {images} images have no SeriesInstanceUID; they were taken as one series"
    several = " and ".join(
        ["a SeriesInstanceUID"] + ["a PatientID"] * (len({part[0].patient for part in group}) > 1)
    )
    found = f"{len(group) - nameless} series" + (f" and {nameless} images without one" if nameless else "")
    return (
        f"joined {found}, {images} images that form one stack: something, such as anonymising, gave "
        f"{'each image' if images == len(group) else 'parts of it'} {several} of its own"
    )
