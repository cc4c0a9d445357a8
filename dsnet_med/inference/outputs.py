"""The files of one case: masks, probabilities, a picture, and the sidecar that vouches for them.

All are made in a folder beside and then moved into place, the sidecar first: a sidecar whose files are missing
is a case to be done. Nothing in the files depends on the time: the same run on the same machine writes the same
bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import dsnet_med
from dsnet_med.errors import InputError, unknown
from dsnet_med.evaluate.pairing import REGRIDDED
from dsnet_med.extras import needed_for
from dsnet_med.files import output_error, sha256, staging, synchronise, write_json
from dsnet_med.inference.mask import Mask
from dsnet_med.inference.output_folder import run_facts
from dsnet_med.inference.predictor import Predictor
from dsnet_med.inference.preview import write_preview
from dsnet_med.inference.probabilities import write_probabilities
from dsnet_med.inference.regrid import regridded
from dsnet_med.inference.sidecar import (
    ENDINGS,
    PREVIEW,
    PROBABILITIES,
    SIDECAR,
    Identity,
    differences,
    read_sidecar,
    vouched,
)
from dsnet_med.inference.sidecar import FORMATS as FORMATS  # noqa: PLC0414 -- for those who offer them
from dsnet_med.inference.slicer import write_seg_nrrd
from dsnet_med.seal import sealed
from dsnet_med.volumes import Grid, Volume, write_labels

NEEDS_DICOM = "is no DICOM series, and a DICOM segmentation has to point at one; use --format nifti"
OF_SERIES = ("dicom-seg", "dicom-labelmap", "rtstruct")
_CALLED = {
    "seg.nrrd": "segmentation of 3D Slicer",
    "dicom-seg": "DICOM segmentation",
    "dicom-labelmap": "DICOM label map",
    "rtstruct": "structure set",
}
ITK_SNAP = "itk-snap"  # no form of a mask, but a file for all masks of a folder


@dataclass(frozen=True)
class Outputs:
    """What to write of every case. Raises InputError for a format that does not exist."""

    formats: tuple[str, ...] = ("nifti",)  # of FORMATS, and "itk-snap"
    probabilities: bool = False
    statistics: bool = False
    preview: bool = False
    overwrite: bool = False
    regrid: bool = False

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in (*FORMATS, ITK_SNAP):
                raise unknown("format", name, (*FORMATS, ITK_SNAP))
        if not self.formats:
            raise InputError(f"got no format; wanted one or more of {', '.join((*FORMATS, ITK_SNAP))}")
        if self.label_file and "nifti" not in self.formats:
            raise InputError(f"--format {ITK_SNAP} names the labels of NIfTI masks; give nifti,{ITK_SNAP}")
        for name in set(self.formats) & set(OF_SERIES):
            with needed_for(f"--format {name}"):
                import highdicom  # noqa: F401, PLC0415 -- an extra, and takes time to load

    @property
    def more_than_dicom(self) -> bool:
        """Whether a mask is written that needs no DICOM series."""
        return self.regrid or any(name in FORMATS and name not in OF_SERIES for name in self.formats)

    @property
    def label_file(self) -> bool:
        """Whether a file tells ITK-SNAP what the labels are called."""
        return ITK_SNAP in self.formats

    @property
    def dispensable(self) -> list[str]:
        """The endings of masks without which a case is written all the same, where they are impossible."""
        others = [FORMATS[name] for name in FORMATS if name in self.formats and name != "nifti"]
        return others if "nifti" in self.formats or self.regrid else []

    @property
    def endings(self) -> list[str]:
        """The endings of the files of a case, without its sidecar; masks last."""
        extras = [PROBABILITIES] * self.probabilities + [PREVIEW] * self.preview + [REGRIDDED] * self.regrid
        return extras + [FORMATS[name] for name in FORMATS if name in self.formats]


def write_case(out: Path, wanted: Identity, mask: Mask, predictor: Predictor, outputs: Outputs) -> str | None:
    """Make the files of one case and move them into `out`, the sidecar first. Raises InputError.

    Where only other formats than NIfTI are impossible, the rest is there and the result says why. Of earlier
    files those of the same identity stay and are vouched for; those of another one, if they are as they were
    written, go.
    """
    case = str(wanted["case"])
    with staging(out) as made:
        failed = _make(made, case, mask, predictor, outputs)
        endings = [ending for ending in outputs.endings if ending not in failed]
        earlier = read_sidecar(out, case) or {"files": {}}
        old = vouched(out, case, earlier)
        sidecar = wanted | _facts(mask, outputs, predictor)
        files = {ending: sha256(made / f"{case}{ending}") for ending in endings}
        if same := not differences(earlier, wanted):
            files = old | files
            if "statistics" in earlier:
                sidecar.setdefault("statistics", earlier["statistics"])
        sidecar["files"] = {ending: files[ending] for ending in ENDINGS if ending in files}
        write_json(made / f"{case}{SIDECAR}", sealed(sidecar))
        try:
            for ending in (SIDECAR, *endings):
                synchronise(made / f"{case}{ending}")
            for ending in () if same else old:  # first, so that no old file lies beside a new sidecar
                (out / f"{case}{ending}").unlink(missing_ok=True)
            for ending in (SIDECAR, *endings):
                (made / f"{case}{ending}").replace(out / f"{case}{ending}")
            synchronise(out)
        except OSError as error:
            raise output_error(out / case, error) from error
    return _told(failed, mask.source.path)


def _told(failed: Mapping[str, InputError], source: Path) -> str | None:
    """One line on what could not be written."""
    if not failed:
        return None
    names = " and ".join(_CALLED[name] for name, ending in FORMATS.items() if ending in failed)
    reasons = dict.fromkeys(str(error).removeprefix(f"{source}: ") for error in failed.values())
    return f"{source}: {'; '.join(reasons)} (no {names}; the other files of the case are written)"


def _make(made: Path, case: str, mask: Mask, predictor: Predictor, outputs: Outputs) -> dict[str, InputError]:
    """Make all files; why there is none of an ending that is dispensable."""
    if mask.probabilities is not None:
        path = made / f"{case}{PROBABILITIES}"
        write_probabilities(path, mask.probabilities, mask.output_names or mask.class_names, mask.affine)
    if outputs.preview:
        scaling = predictor.models[0].intensities[0].fit(mask.source.voxels)
        write_preview(made / f"{case}{PREVIEW}", mask, predictor.slice_axis, scaling)
    if "nifti" in outputs.formats:
        write_labels(made / f"{case}{FORMATS['nifti']}", mask.voxels, mask.source)
    if outputs.regrid:
        voxels, affine = regridded(mask.voxels, mask.affine)
        x, y, z = voxels.shape
        place = made / f"{case}{REGRIDDED}"
        write_labels(place, voxels, Grid(place, (x, y, z), affine, None))
    failed = {}
    for name in (name for name in FORMATS if name in outputs.formats and name != "nifti"):
        ending = FORMATS[name]
        try:
            _write(name, made / f"{case}{ending}", mask, predictor)
        except InputError as error:
            if ending not in outputs.dispensable:
                raise
            failed[ending] = error
    return failed


def _write(name: str, path: Path, mask: Mask, predictor: Predictor) -> None:
    """The mask in one of the formats but NIfTI. Raises InputError."""
    segments, names = mask.segments()
    if name == "seg.nrrd":
        write_seg_nrrd(path, segments, mask.source, names)
        return
    from dsnet_med.dicom.read import DicomVolume  # noqa: PLC0415 -- an extra

    if not isinstance(mask.source, DicomVolume):
        raise InputError(f"{mask.source.path}: {NEEDS_DICOM}")
    algorithm = (predictor.title, dsnet_med.__version__)
    if name == "rtstruct":
        from dsnet_med.dicom.structures import write_structures  # noqa: PLC0415

        write_structures(path, segments, mask.source, names, algorithm)
        return
    from dsnet_med.dicom.segmentation import write_segmentation  # noqa: PLC0415 -- highdicom takes time to load

    kind: Literal["BINARY", "LABELMAP"] = "LABELMAP" if name == "dicom-labelmap" else "BINARY"
    if kind == "LABELMAP" and mask.bits is None:  # which holds regions that lie in one another as classes do
        segments, names = mask.voxels, mask.class_names
    write_segmentation(path, segments, mask.source, names, algorithm, kind=kind)


def _facts(mask: Mask, outputs: Outputs, predictor: Predictor) -> dict[str, Any]:
    """What the sidecar says beside the identity."""
    facts: dict[str, Any] = {
        "name": mask.source.path.resolve().name,
        "grid": {
            "shape": list(mask.shape),
            "spacing_mm": [round(size, 6) for size in mask.source.spacing_mm],
            "orientation": "".join(nib.aff2axcodes(mask.affine)),
        },
        "notes": list(mask.notes),
        "unstated": list(mask.source.unstated),
        "run": run_facts(predictor.title, predictor.facts),
        "version": dsnet_med.__version__,
    }
    if outputs.statistics:
        parts = None if mask.bits is None else [mask.region(region) for region in mask.regions]
        facts["statistics"] = statistics(mask.voxels, mask.source, mask.class_names, parts)
    return facts


def statistics(
    ids: NDArray[np.unsignedinteger[Any]],
    image: Volume,
    class_names: Sequence[str],
    parts: Sequence[NDArray[np.bool_]] | None = None,
) -> Mapping[str, Mapping[str, float | int | None]]:
    """For each organ of class ids (X, Y, Z) on `image`: voxels, volume_ml, and mean_intensity.

    The last is in the image's units (HU in CT), None where the organ was not found. Of organs that overlap the
    masks are `parts`.
    """
    organs = np.arange(1, len(class_names))
    if parts is None:
        counts = np.bincount(ids.ravel(order="K"), minlength=len(class_names))[1:]
        sums = ndimage.sum_labels(image.voxels, ids, organs)
    else:
        counts = np.array([np.count_nonzero(part) for part in parts])
        sums = np.array([image.voxels[part].sum(dtype=np.float64) for part in parts])
    return {
        name: {
            "voxels": int(count),
            "volume_ml": round(int(count) * image.voxel_mm3 / 1000, 4),
            "mean_intensity": round(float(total) / int(count), 3) if count else None,
        }
        for name, count, total in zip(class_names[1:], counts, sums, strict=True)
    }
