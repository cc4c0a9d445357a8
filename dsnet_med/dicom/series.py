"""Which DICOM series the files of a folder make up, and which of them to take."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsnet_med.dicom.boundary import header, reading
from dsnet_med.dicom.unusable import reason_against
from dsnet_med.errors import InputError, one_line

_START = 512
_DIRECTORY = b"UI\x14\x001.2.840.10008.1.3.10"  # the class of a DICOMDIR, beside the images on most media


@dataclass(frozen=True)
class Series:
    """What the headers of one series in one folder say.

    `images` counts frames, `reason` is why it can be no volume, None where it may be one.
    """

    uid: str
    number: int | None
    description: str
    modality: str
    files: tuple[Path, ...]
    images: int
    reason: str | None
    localizer: bool = False

    @property
    def label(self) -> str:
        """How messages name it: "number 4 'ABD 5mm' (60 images)"."""
        name = f"UID {self.uid}" if self.number is None else f"number {self.number}"
        described = f" '{self.description}'" if self.description else ""
        return f"{name}{described} ({self.images} image{'' if self.images == 1 else 's'})"


@dataclass(frozen=True)
class _Head:
    """What one file's header says of its series and of itself."""

    file: Path
    series: str
    instance: str
    number: int | None
    description: str
    modality: str
    frames: int
    localizer: bool
    reason: str | None


def is_dicom(path: Path) -> bool:
    """Whether the content is a DICOM object's, whatever the name; a DICOMDIR is none. Never raises."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_START)
    except (OSError, ValueError):
        return False
    return start[128:132] == b"DICM" and _DIRECTORY not in start


def find_series(files: Sequence[Path]) -> list[Series]:
    """The series that these DICOM files make up, by number and UID; only headers are read.

    Raises InputError, naming the file, for one whose header is damaged.
    """
    found: dict[str, list[_Head]] = defaultdict(list)
    for file in sorted(files):
        head = _head(file)
        found[head.series].append(head)
    return sorted((_series(heads) for heads in found.values()), key=_by_number)


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
        reasons = "; ".join(f"{one.label} {one.reason}" for one in series)
        raise InputError(f"{where}: none of its {len(series)} series can be a volume: {reasons}")
    others = "; ".join(one.label for one in series if one is not usable[0])
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
    fits = fits or [one for one in series if one.number is not None and str(one.number) == wanted]
    if len(fits) == 1:
        return fits[0]
    if fits:
        known = "; ".join(f"{one.label}, UID {one.uid}" for one in fits)
        raise InputError(
            f"{where}: {len(fits)} series have the number {wanted}; give one of their UIDs: {known}"
        )
    known = "; ".join(one.label for one in series)
    raise InputError(f"{where}: has no series '{wanted}'; known: {known}")


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


def _head(file: Path) -> _Head:
    with reading(file):
        found = header(file)
        if not found.get("SeriesInstanceUID") or not found.get("SOPClassUID"):
            raise InputError(f"{file}: its header names no series or no kind; fetch the file again")
        number = found.get("SeriesNumber")
        return _Head(
            file=file,
            series=str(found.SeriesInstanceUID),
            instance=f"{found.get('SOPInstanceUID') or file} {found.get('InstanceNumber')}",
            number=None if number is None else int(number),
            description=one_line(str(found.get("SeriesDescription") or "")),
            modality=str(found.get("Modality") or ""),
            frames=max(1, int(found.get("NumberOfFrames") or 1)),
            localizer="LOCALIZER" in (found.get("ImageType") or ()),
            reason=reason_against(file, found),
        )


def _series(heads: Sequence[_Head]) -> Series:
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
    )
