"""One upload segmented, by the same steps as `infer`: source, volume, mask, files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dsnet_med.errors import InputError
from dsnet_med.inference import Predictor
from dsnet_med.inference.outputs import NEEDS_DICOM, Outputs, write_case
from dsnet_med.inference.sidecar import FORMATS
from dsnet_med.inference.sources import load
from dsnet_med.server.content import source_in
from dsnet_med.server.limits import Limits

_CASE = "mask"
Format = Literal["nifti", "dicom-seg"]
MEDIA_TYPES: dict[Format, str] = {"nifti": "application/gzip", "dicom-seg": "application/dicom"}


@dataclass(frozen=True)
class Wanted:
    """What a client asks for: the format of the mask, and which volume of several."""

    format: Format = "nifti"
    volume_index: int | None = None
    series: str | None = None


@dataclass(frozen=True)
class Answer:
    """A mask on disk, and what is doubtful about it."""

    path: Path
    notes: tuple[str, ...]


def segmented(
    predictor: Predictor, upload: Path, wanted: Wanted, limits: Limits, go_on: Callable[[], None]
) -> Answer:
    """The mask of an uploaded file, written beside it. `go_on` is asked between steps and may raise.

    Raises Refused and InputError, which names the server's paths.
    """
    go_on()
    source = source_in(upload, limits)
    if wanted.format == "dicom-seg" and source.kind != "dicom":
        raise InputError(f"{source.where}: {NEEDS_DICOM}")
    volume = load(source, wanted.volume_index, wanted.series)
    go_on()
    mask = predictor.segment(volume)
    go_on()
    out = upload.with_name("out")
    write_case(out, {"case": _CASE, "labels": {}}, mask, predictor, Outputs((wanted.format,)))
    return Answer(out / f"{_CASE}{FORMATS[wanted.format]}", (*mask.notes, *mask.notices))
