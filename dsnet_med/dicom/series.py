"""Which DICOM series the files of a folder make up, and which of them to take."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsnet_med.dicom.heads import Head, head_of
from dsnet_med.dicom.joining import A_FEW, is_torn, series_of
from dsnet_med.errors import InputError, one_line

_LISTED = 5  # series that a line names


@dataclass(frozen=True)
class Series:
    """What the headers of one series in one folder say.

    `images` counts frames, `reason` is why it can be no volume, None where it may be one. `aliases` are the
    UIDs and numbers of the pieces that it was put together from, of which `note` tells.
    """

    uid: str
    number: int | None
    description: str
    modality: str
    files: tuple[Path, ...]
    images: int
    reason: str | None
    localizer: bool = False
    aliases: frozenset[str] = frozenset()
    note: str | None = None

    @property
    def label(self) -> str:
        """How messages name it: "number 4 'ABD 5mm' (60 images)"."""
        name = f"UID {one_line(self.uid, 80)}" if self.uid else "without UID"
        if self.number is not None:
            name = f"number {self.number:.12g}"
        described = f" '{self.description}'" if self.description else ""
        return f"{name}{described} ({self.images} image{'' if self.images == 1 else 's'})"


def find_series(files: Sequence[Path]) -> list[Series]:
    """The series that these DICOM files make up, by number and UID; only headers are read.

    Raises InputError, naming the file, for one whose header is damaged.
    """
    heads = [head_of(file) for file in sorted(files)]
    return sorted((_series(part, note) for part, note in series_of(heads)), key=_by_number)


def over_folders(folders: Sequence[Sequence[Path]]) -> list[list[int]]:
    """Which of these folders, by their DICOM files, hold pieces of one stack: groups of their indices.

    Of most folders one header is read. Raises InputError as `find_series`.
    """
    firsts = [head_of(files[0]) for files in folders]
    by_name: dict[object, list[int]] = defaultdict(list)
    for index, head in enumerate(firsts):
        by_name[head.grid, head.modality, head.patient, head.number, head.description].append(index)
    groups = [group for group in by_name.values() if _is_torn(folders, group)]
    taken = {index for group in groups for index in group}
    single: dict[object, list[int]] = defaultdict(list)
    for index, head in enumerate(firsts):
        if index not in taken and len(folders[index]) == 1:
            single[head.grid, head.modality, head.patient].append(index)
    return groups + [group for group in single.values() if len(group) >= A_FEW and _is_torn(folders, group)]


def _is_torn(folders: Sequence[Sequence[Path]], group: Sequence[int]) -> bool:
    return len(group) > 1 and is_torn([[head_of(file) for file in folders[index]] for index in group])


def choose(series: Sequence[Series], wanted: str | None, where: Path) -> tuple[Series, str | None]:
    """The series whose number or UID is `wanted`; without one, the usable one with the most images.

    Localizers come last. The second result is one line that says what was taken from several and
    why, None where there was no choice. Raises InputError, listing what there is, where nothing fits
    or may be used.
    """
    if not series:
        raise InputError(f"{where}: holds no DICOM series")
    if wanted is not None:
        return require_usable(_named(series, wanted, where), where), None
    if len(series) == 1:
        return require_usable(series[0], where), None
    usable = sorted((one for one in series if one.reason is None), key=_by_size)
    if not usable:
        reasons = _listed([f"{one.label} {one.reason}" for one in series])
        raise InputError(f"{where}: none of its {len(series)} series can be a volume: {reasons}")
    others = _listed([one.label for one in series if one is not usable[0]])
    return usable[0], (
        f"took series {usable[0].label} of {len(series)}, {_rule(usable)}; "
        f"--series NUMBER or UID takes another: {others}"
    )


def require_usable(series: Series, where: Path) -> Series:
    """The series; InputError where it can be no volume."""
    if series.reason is not None:
        raise InputError(f"{where}: series {series.label} {series.reason}")
    return series


def _named(series: Sequence[Series], wanted: str, where: Path) -> Series:
    wanted = wanted.strip()
    fits = [one for one in series if one.uid == wanted]
    fits = fits or [one for one in series if wanted in one.aliases or wanted == str(one.number)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        known = _listed([f"{one.label}, UID {one_line(one.uid, 80)}" for one in fits])
        raise InputError(
            f"{where}: {len(fits)} series have the number {wanted}; give one of their UIDs: {known}"
        )
    known = _listed([one.label for one in series])
    raise InputError(f"{where}: has no series '{wanted}'; known: {known}")


def _listed(items: Sequence[str]) -> str:
    """Some of many, and how many more there are."""
    more = [f"and {len(items) - _LISTED} more"] if len(items) > _LISTED + 1 else []
    return "; ".join([*items[:_LISTED], *more] if more else items)


def _rule(usable: Sequence[Series]) -> str:
    """Why the first of these was taken."""
    if len(usable) == 1:
        return "the only one that can be a volume"
    first, second = usable[:2]
    if first.localizer != second.localizer:
        return "the only one that is no localizer"
    if first.images == second.images:
        return "the first of those with the most images"
    return "the one with the most images"


def _by_size(series: Series) -> tuple[bool, int, bool, int, str]:
    return series.localizer, -series.images, *_by_number(series)


def _by_number(series: Series) -> tuple[bool, int, str]:
    return series.number is None, series.number or 0, series.uid


def _series(heads: Sequence[Head], note: str | None) -> Series:
    """One series of its files' headers, in the order of their names; copies of an image count once."""
    first = heads[0]
    against = [head for head in heads if head.reason is not None]
    reason = against[0].reason if against else None
    if against and len(against) < len(heads):
        reason = f"has {len(against)} unfit of {len(heads)} files, {against[0].file.name} {reason}"
    return Series(
        uid=first.series,
        number=first.number,
        description=first.description,
        modality=first.modality,
        files=tuple(head.file for head in heads),
        images=sum({head.instance: head.frames for head in heads}.values()),
        reason=reason,
        localizer=all(head.localizer for head in heads),
        aliases=frozenset() if note is None else frozenset(_names(heads)),
        note=note,
    )


def _names(heads: Sequence[Head]) -> Iterator[str]:
    for head in heads:
        yield from (name for name in (head.series, str(head.number)) if name)
