"""The files of one case: what is written, in which order, and how a later run knows that they are finished.

`CASE.json` comes first and names labels, input, model and settings; the masks come last. So a mask without its
JSON was not written here and is never replaced unasked, and a JSON without its masks is a case to be done.
Nothing in the files depends on the time or the machine: the same run writes the same bytes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib

import dsnet_med
from dsnet_med.dicom.read import DicomVolume
from dsnet_med.errors import InputError, unknown
from dsnet_med.files import sha256, write_json
from dsnet_med.inference.mask import Mask
from dsnet_med.inference.measures import measures
from dsnet_med.inference.predictor import Predictor
from dsnet_med.inference.preview import write_preview
from dsnet_med.inference.probabilities import write_probabilities
from dsnet_med.inference.sources import Source

FORMATS = {"nifti": ".nii.gz", "dicom-seg": ".dcm"}
NEEDS_DICOM = "is no DICOM series, and a DICOM segmentation has to point at one; use --format nifti"
_OTHERS = {
    "case": "of another case",
    "labels": "with other labels",
    "input": "of another input",
    "model": "by another model",
    "settings": "with other settings",
}
_PROBABILITIES, _PREVIEW, _SIDECAR = ".npz", ".png", ".json"


@dataclass(frozen=True)
class Outputs:
    """What to write of every case. Raises InputError for a format that does not exist."""

    formats: tuple[str, ...] = ("nifti",)
    probabilities: bool = False
    statistics: bool = False
    preview: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in FORMATS:
                raise unknown("format", name, FORMATS)
        if not self.formats:
            raise InputError(f"got no format; wanted one or more of {', '.join(FORMATS)}")

    @property
    def masks(self) -> list[str]:
        """The endings of the label maps."""
        return [FORMATS[name] for name in FORMATS if name in self.formats]

    @property
    def endings(self) -> list[str]:
        """The endings of all files of a case, in the order in which they are written."""
        extras = [_PROBABILITIES] * self.probabilities + [_PREVIEW] * self.preview
        return [_SIDECAR, *extras, *self.masks]


def identity(source: Source, predictor: Predictor, settings: dict[str, Any]) -> dict[str, Any]:
    """What makes one result another: the input's content, the models and the settings."""
    digest = hashlib.sha256()
    for file in source.files:
        digest.update(sha256(file).encode())
    return {
        "case": source.case,
        "labels": {str(class_id): name for class_id, name in enumerate(predictor.class_names)},
        "input": {"name": source.where.name, "files": len(source.files), "sha256": digest.hexdigest()},
        "model": {"title": predictor.title, "sha256": list(predictor.fingerprints)},
        "settings": settings,
    }


def is_finished(out: Path, wanted: dict[str, Any], outputs: Outputs) -> bool:
    """Whether all files of a case are there.

    Raises InputError for files that were not written here, or by another model, from another input or with
    other settings: they are somebody's work.
    """
    case = wanted["case"]
    sidecar = _read(out / f"{case}{_SIDECAR}")
    present = [ending for ending in outputs.endings if (out / f"{case}{ending}").is_file()]
    masks = [ending for ending in outputs.masks if ending in present]
    if sidecar is None:
        if masks:
            raise InputError(
                f"{out / (case + masks[0])} is there already and was not written by infer; choose another "
                "--out, or replace it with --overwrite"
            )
        return False
    if other := [name for name, value in wanted.items() if sidecar.get(name) != value]:
        if masks:
            raise InputError(
                f"{out / (case + masks[0])} is there already, {_OTHERS[other[0]]}; choose another --out, or "
                "replace it with --overwrite"
            )
        return False
    return present == outputs.endings and (not outputs.statistics or "statistics" in sidecar)


def remove(out: Path, case: str) -> None:
    """Remove all files of a case, so that no old mask is taken for a new one."""
    for ending in (*FORMATS.values(), _PROBABILITIES, _PREVIEW, _SIDECAR):
        (out / f"{case}{ending}").unlink(missing_ok=True)


def write_case(out: Path, facts: dict[str, Any], mask: Mask, predictor: Predictor, outputs: Outputs) -> None:
    """Write the files of one case, each whole or not at all. Raises InputError."""
    case = str(facts["case"])
    write_json(out / f"{case}{_SIDECAR}", facts | _found(mask, outputs))
    if outputs.probabilities and mask.probabilities is not None:
        write_probabilities(out / f"{case}{_PROBABILITIES}", mask.probabilities, mask.class_names, mask.affine)
    if outputs.preview:
        scaling = predictor.members[0].intensity.fit(mask.source.voxels)
        write_preview(out / f"{case}{_PREVIEW}", mask, predictor.slice_axis, scaling)
    if "nifti" in outputs.formats:
        mask.save(out / f"{case}{FORMATS['nifti']}")
    if "dicom-seg" in outputs.formats:
        _write_dicom(out / f"{case}{FORMATS['dicom-seg']}", mask, predictor)


def _write_dicom(path: Path, mask: Mask, predictor: Predictor) -> None:
    from dsnet_med.dicom.segmentation import write_segmentation  # noqa: PLC0415 -- highdicom takes time to load

    if not isinstance(mask.source, DicomVolume):
        raise InputError(f"{mask.source.path}: {NEEDS_DICOM}")
    algorithm = (predictor.title, dsnet_med.__version__)
    write_segmentation(path, mask.voxels, mask.source, mask.class_names, algorithm)


def _found(mask: Mask, outputs: Outputs) -> dict[str, Any]:
    """What the sidecar says of the result."""
    found: dict[str, Any] = {
        "grid": {
            "shape": list(mask.shape),
            "spacing_mm": [round(size, 6) for size in mask.source.spacing_mm],
            "orientation": "".join(nib.aff2axcodes(mask.affine)),
        },
        "notes": list(mask.notes),
        "version": dsnet_med.__version__,
    }
    if outputs.statistics:
        found["statistics"] = measures(
            mask.voxels, mask.source.voxels, mask.source.spacing_mm, mask.class_names
        )
    return found


def statistics_rows(out: Path, cases: Sequence[str]) -> list[list[Any]]:
    """The rows of statistics.csv for the finished cases, from their sidecars."""
    rows: list[list[Any]] = []
    for case in cases:
        sidecar = _read(out / f"{case}{_SIDECAR}") or {}
        for label, name in list(sidecar.get("labels", {}).items())[1:]:
            if organ := sidecar.get("statistics", {}).get(name):
                rows.append([case, label, name, *organ.values()])
    return rows


STATISTICS_HEAD = ["case", "label", "name", "voxels", "volume_ml", "mean_intensity"]


def _read(path: Path) -> dict[str, Any] | None:
    """A sidecar, or None where there is none that can be read."""
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return sidecar if isinstance(sidecar, dict) else None
