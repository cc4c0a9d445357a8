"""What the header of one DICOM file says of its series and of itself."""

from dataclasses import dataclass
from pathlib import Path

from dsnet_med.dicom.boundary import header, reading
from dsnet_med.errors import one_line

Grid = tuple[object, ...]


@dataclass(frozen=True)
class Head:
    """`series` is empty where anonymising has taken it; `grid` is what the images of one stack share, None for
    what has no place of its own."""

    file: Path
    series: str
    instance: str
    number: int | None
    description: str
    modality: str
    patient: str
    frames: int
    localizer: bool
    reason: str | None
    grid: Grid | None


def head_of(file: Path) -> Head:
    """Raises InputError, naming the file, for a header that is damaged."""
    from dsnet_med.dicom.frames import identity  # noqa: PLC0415 -- pydicom takes long to load
    from dsnet_med.dicom.unusable import reason_against  # noqa: PLC0415
    from dsnet_med.dicom.values import numbers, phrase, text, values, whole  # noqa: PLC0415

    with reading(file):
        found = header(file)
        directions = numbers(values(found, "ImageOrientationPatient"))
        spacing = numbers(values(found, "PixelSpacing"))
        reason = reason_against(file, found)
        grid: Grid | None = None
        if directions and spacing and reason is None:
            size = whole(found, "Rows"), whole(found, "Columns")
            grid = (*size, *(round(one, 3) + 0.0 for one in (*directions, *spacing)))
        return Head(
            file=file,
            series=text(found, "SeriesInstanceUID"),
            instance=f"{identity(found) or file} {text(found, 'InstanceNumber')}",
            number=whole(found, "SeriesNumber"),
            description=one_line(phrase(found, "SeriesDescription")),
            modality=text(found, "Modality"),
            patient=text(found, "PatientID"),
            frames=max(1, whole(found, "NumberOfFrames") or 1),
            localizer="LOCALIZER" in values(found, "ImageType"),
            reason=reason,
            grid=grid,
        )
