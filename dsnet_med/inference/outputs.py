"""The files of one case: what is written, and how a later run knows that they are finished.

`CASE.json`, the sidecar, names input, models and settings, and the hash of every other file of the case. All
are made in a folder beside and then moved into place, the sidecar first. So a file that no sidecar vouches for
is somebody's work and never replaced unasked, and a sidecar whose files are missing is a case to be done.
Nothing in the files depends on the time: the same run on the same machine writes the same bytes.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib

import dsnet_med
from dsnet_med.dicom.read import DicomVolume
from dsnet_med.errors import InputError, unknown
from dsnet_med.evaluate.pairing import REGRIDDED
from dsnet_med.files import output_error, sha256, staging, write_json
from dsnet_med.inference.mask import Mask, labels_of
from dsnet_med.inference.measures import measures
from dsnet_med.inference.predictor import Predictor
from dsnet_med.inference.preview import write_preview
from dsnet_med.inference.probabilities import write_probabilities
from dsnet_med.inference.regrid import regridded
from dsnet_med.inference.run_facts import run_facts
from dsnet_med.inference.sidecar import (
    ENDINGS,
    FORMATS,
    PREVIEW,
    PROBABILITIES,
    SIDECAR,
    is_as_written,
    read_sidecar,
)
from dsnet_med.inference.sources import Source
from dsnet_med.volumes import Grid, write_labels

NEEDS_DICOM = "is no DICOM series, and a DICOM segmentation has to point at one; use --format nifti"
_HELP = "choose another --out, or replace it with --overwrite"
_OTHERS = {
    "case": "of another case",
    "labels": "with other labels",
    "input": "of another input",
    "model": "by another model",
    "settings": "with other settings",
}
Identity = dict[str, Any]


@dataclass(frozen=True)
class Outputs:
    """What to write of every case. Raises InputError for a format that does not exist."""

    formats: tuple[str, ...] = ("nifti",)
    probabilities: bool = False
    statistics: bool = False
    preview: bool = False
    overwrite: bool = False
    regrid: bool = False

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in FORMATS:
                raise unknown("format", name, FORMATS)
        if not self.formats:
            raise InputError(f"got no format; wanted one or more of {', '.join(FORMATS)}")

    @property
    def more_than_dicom(self) -> bool:
        """Whether a mask is written that needs no DICOM series."""
        return "nifti" in self.formats or self.regrid

    @property
    def endings(self) -> list[str]:
        """The endings of the files of a case, without its sidecar; masks last."""
        extras = [PROBABILITIES] * self.probabilities + [PREVIEW] * self.preview + [REGRIDDED] * self.regrid
        return extras + [FORMATS[name] for name in FORMATS if name in self.formats]


def identity(source: Source, predictor: Predictor, settings: dict[str, Any]) -> Identity:
    """What makes one result another: the input's content, the models and the settings.

    The hash of an input is that of its file, as `sha256sum` prints it; of several files that of each by name.
    """
    digests = {file.name: sha256(file) for file in source.files}
    return {
        "case": source.case,
        "labels": labels_of(predictor.class_names),
        "input": {
            "files": len(source.files),
            "sha256": digests if len(source.files) > 1 else digests[source.files[0].name],
        },
        "model": list(predictor.fingerprints),
        "settings": settings,
    }


def _differences(sidecar: dict[str, Any], wanted: Identity) -> list[str]:
    """The parts of an identity that a sidecar has otherwise."""
    return [name for name, value in wanted.items() if not _agrees(name, sidecar.get(name), value)]


def _agrees(name: str, held: Any, value: Any) -> bool:
    """Whether a sidecar holds this value; of an input the contents count, not the files' names."""
    if name != "input" or not isinstance(held, dict):
        return bool(held == value)
    digests = _digests(value["sha256"])
    # Those written before the hash of a file was its own hold one of the files' hashes.
    together = hashlib.sha256("".join(digests).encode()).hexdigest()
    return _digests(held.get("sha256")) in (digests, [together])


def _digests(digests: Any) -> list[Any]:
    return list(digests.values()) if isinstance(digests, dict) else [digests]


def is_finished(out: Path, wanted: Identity, outputs: Outputs) -> bool:
    """Whether all files of a case are there, as they were written.

    Raises InputError for files that were not written here, were changed since, or are those of another model,
    another input or other settings.
    """
    case = str(wanted["case"])
    present = [ending for ending in ENDINGS if os.path.lexists(out / f"{case}{ending}")]
    sidecar = read_sidecar(out, case)
    if sidecar is None:
        for ending in [SIDECAR, *present]:
            if os.path.lexists(out / f"{case}{ending}") and ending in (SIDECAR, *outputs.endings):
                raise _refused(out / f"{case}{ending}", "and was not written by infer")
        return False
    if other := _differences(sidecar, wanted):
        if there := [ending for ending in present if ending in (*sidecar["files"], *outputs.endings)]:
            raise _refused(out / f"{case}{there[0]}", _OTHERS[other[0]])
        return False
    for ending in present:
        if ending in outputs.endings and not is_as_written(out, case, ending, sidecar):
            raise _refused(out / f"{case}{ending}", "and was changed since, or not written by infer")
    complete = all(ending in present for ending in outputs.endings)
    return complete and (not outputs.statistics or "statistics" in sidecar)


def _refused(path: Path, why: str) -> InputError:
    return InputError(f"{path} is there already, {why}; {_HELP}")


def write_case(out: Path, wanted: Identity, mask: Mask, predictor: Predictor, outputs: Outputs) -> str | None:
    """Make the files of one case and move them into `out`, the sidecar first. Raises InputError.

    Where only the DICOM segmentation is impossible, the others are there and the result says why. Of earlier
    files those of the same identity stay and are vouched for; those of another one, if they are as they were
    written, go.
    """
    case = str(wanted["case"])
    with staging(out) as made:
        failed = _make(made, case, mask, predictor, outputs)
        endings = [ending for ending in outputs.endings if failed is None or ending != FORMATS["dicom-seg"]]
        earlier = read_sidecar(out, case) or {"files": {}}
        same = not _differences(earlier, wanted)
        files = {ending: sha256(made / f"{case}{ending}") for ending in endings}
        vouched = {
            ending: digest
            for ending, digest in earlier["files"].items()
            if is_as_written(out, case, ending, earlier)
        }
        sidecar = wanted | _found(mask, outputs, predictor)
        if same and "statistics" in earlier:
            sidecar.setdefault("statistics", earlier["statistics"])
        all_files = {**vouched, **files} if same else files
        sidecar["files"] = {ending: all_files[ending] for ending in ENDINGS if ending in all_files}
        write_json(made / f"{case}{SIDECAR}", sidecar)
        try:
            for ending in () if same else vouched:  # first, so that no old file lies beside a new sidecar
                (out / f"{case}{ending}").unlink(missing_ok=True)
            for ending in (SIDECAR, *endings):
                (made / f"{case}{ending}").replace(out / f"{case}{ending}")
        except OSError as error:
            raise output_error(out / case, error) from error
    return failed


def _make(made: Path, case: str, mask: Mask, predictor: Predictor, outputs: Outputs) -> str | None:
    """Why there is no DICOM segmentation beside the others."""
    if outputs.probabilities and mask.probabilities is not None:
        path = made / f"{case}{PROBABILITIES}"
        write_probabilities(path, mask.probabilities, mask.class_names, mask.affine)
    if outputs.preview:
        scaling = predictor.models[0].intensity.fit(mask.source.voxels)
        write_preview(made / f"{case}{PREVIEW}", mask, predictor.slice_axis, scaling)
    if "nifti" in outputs.formats:
        write_labels(made / f"{case}{FORMATS['nifti']}", mask.voxels, mask.source)
    if outputs.regrid:
        voxels, affine = regridded(mask.voxels, mask.affine)
        x, y, z = voxels.shape
        place = made / f"{case}{REGRIDDED}"
        write_labels(place, voxels, Grid(place, (x, y, z), affine, None))
    if "dicom-seg" in outputs.formats:
        try:
            _write_dicom(made / f"{case}{FORMATS['dicom-seg']}", mask, predictor)
        except InputError as error:
            if not outputs.more_than_dicom:
                raise
            return f"{error} (no DICOM segmentation; the other files of the case are written)"
    return None


def _write_dicom(path: Path, mask: Mask, predictor: Predictor) -> None:
    from dsnet_med.dicom.segmentation import write_segmentation  # noqa: PLC0415 -- highdicom takes time to load

    if not isinstance(mask.source, DicomVolume):
        raise InputError(f"{mask.source.path}: {NEEDS_DICOM}")
    algorithm = (predictor.title, dsnet_med.__version__)
    write_segmentation(path, mask.voxels, mask.source, mask.class_names, algorithm)


def _found(mask: Mask, outputs: Outputs, predictor: Predictor) -> dict[str, Any]:
    """What the sidecar says beside the identity."""
    found: dict[str, Any] = {
        "name": mask.source.path.resolve().name,
        "grid": {
            "shape": list(mask.shape),
            "spacing_mm": [round(size, 6) for size in mask.source.spacing_mm],
            "orientation": "".join(nib.aff2axcodes(mask.affine)),
        },
        "notes": list(mask.notes),
        "run": run_facts(predictor.title, predictor.facts),
        "version": dsnet_med.__version__,
    }
    if outputs.statistics:
        source = mask.source
        found["statistics"] = measures(mask.voxels, source.voxels, source.voxel_mm3, mask.class_names)
    return found
