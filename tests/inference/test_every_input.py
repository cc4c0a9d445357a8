"""Every real file ends in a mask on its exact grid, or in one line; docs/inputs.md says which."""

import re
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tiny

from dsnet_med.inference.segment import Choice, segment_cases
from dsnet_med.inference.sources import Source, find_sources

FOLDERS = ("dicom", "nifti_hard")
DOCS = Path(__file__).parents[2] / "docs" / "inputs.md"


@pytest.fixture(scope="module")
def sources(shared: Path) -> list[Source]:
    return find_sources([shared / "data" / name for name in FOLDERS])


@pytest.fixture(scope="module")
def outcomes(sources: list[Source], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | Path]:
    """For each source the mask, or the reason why there is none."""
    out = tmp_path_factory.mktemp("masks")
    results = segment_cases(tiny.predictor(), sources, out)
    return {result.case: result.error or out / f"{result.case}.nii.gz" for result in results}


def test_every_file_is_in_a_case(sources: list[Source], shared: Path) -> None:
    """What is passed over is no volume: licences, pictures, tables, a part of a pair."""
    taken = {file for source in sources for file in source.files}
    left = {
        file.suffix or file.name
        for name in FOLDERS
        for file in (shared / "data" / name).rglob("*")
        if file.is_file() and file not in taken
    }
    assert left == {"COPYING", "LICENSE", ".bval", ".bvec", ".jpg", ".png", ".txt"}
    assert len(sources) == 85


def _grid(source: Source) -> tuple[tuple[int, ...], np.ndarray] | None:
    """Shape and affine by nibabel or SimpleITK; None for DICOM, whose grid tests/dicom checks."""
    if source.kind == "dicom":
        return None
    if source.where.name.endswith((".nrrd", ".mha")):
        image = sitk.ReadImage(str(source.where))
        to_ras = np.diag((-1.0, -1, 1, 1))
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        return image.GetSize(), to_ras @ affine
    loaded = nib.load(source.where)
    return loaded.shape[:3], loaded.affine


def test_masks_lie_on_the_exact_grid(sources: list[Source], outcomes: dict[str, str | Path]) -> None:
    checked = 0
    for source in sources:
        outcome, grid = outcomes[source.case], _grid_or_none(source, outcomes)
        if grid is None:
            continue
        mask = nib.load(outcome)
        assert mask.shape == grid[0], source
        np.testing.assert_allclose(mask.affine, grid[1], atol=1e-5, err_msg=source.case)
        if source.where.suffix in (".gz", ".nii"):
            header = nib.load(source.where).header
            for code in ("sform_code", "qform_code"):
                assert mask.header[code] == header[code]
        checked += 1
    assert checked == 38


def _grid_or_none(source: Source, outcomes: dict[str, str | Path]) -> tuple[tuple[int, ...], np.ndarray] | None:
    return _grid(source) if isinstance(outcomes[source.case], Path) else None


def _rows(sources: list[Source], outcomes: dict[str, str | Path], data: Path) -> Iterator[str]:
    for source in sorted(sources, key=lambda source: source.where):
        outcome = outcomes[source.case]
        where = source.where.relative_to(data).as_posix()
        text = "a mask" if isinstance(outcome, Path) else outcome.replace(str(data) + "/", "")
        reason = text.removeprefix(f"{where}: ").removeprefix(f"{where}/").replace("|", "/")
        yield f"| {where} | {reason} |"


def test_the_table_in_the_docs(sources: list[Source], outcomes: dict[str, str | Path], shared: Path) -> None:
    table = re.search(r"<!-- every input -->\n(.*)<!-- end -->", DOCS.read_text(encoding="utf-8"), re.S)
    assert table
    shown = table[1].strip().splitlines()[2:]
    wanted = list(_rows(sources, outcomes, shared / "data"))
    assert shown == wanted, "\n".join(wanted)


_PAIRS = [
    "ge/anatomical/001",
    "generic/anatomical/001",
    "generic/anatomical/002_non_isotropic",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
    "hyperfine/anatomical/001",
    "siemens/anatomical/001",
    "ge/dti/001",
    "ge/dti/002",
    "ge/fmri/001",
    "siemens/dti_classic/001",
    "siemens/fmri_classic/001",
]


_HERE = {"ge/dti/002", "ge/fmri/001", "generic/anatomical/002_non_isotropic", "hyperfine/anatomical/001"}


@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param(name, form, marks=[] if name in _HERE and form == "" else pytest.mark.shared)
        for name in _PAIRS
        for form in ("", "_reoriented")
    ],
)
def test_a_series_and_its_conversion_give_one_mask(name: str, form: str, volumes: Path) -> None:
    folder = volumes / "dicom" / "dicom2nifti"
    converted = folder / f"{name}_ground_truth{form}.nii.gz"
    index = 1 if len(nib.load(converted).shape) > 3 else None
    predictor = tiny.predictor()
    from_dicom = predictor.predict(folder / name, volume_index=index)
    from_nifti = predictor.predict(converted, volume_index=index)
    assert len(np.unique(from_nifti)) > 1
    places = np.indices(from_nifti.shape).reshape(3, -1)
    world = from_nifti.affine[:3, :3] @ places + from_nifti.affine[:3, 3:]
    back = np.linalg.inv(from_dicom.affine)
    there = back[:3, :3] @ world + back[:3, 3:]
    nearest = np.rint(there).astype(int)
    assert np.abs(there - nearest).max() < 0.05  # voxel centres on voxel centres
    np.testing.assert_array_equal(from_dicom.voxels[tuple(nearest)], from_nifti.voxels.reshape(-1))


def test_the_volumes_of_a_series_by_index(volumes: Path, tmp_path: Path) -> None:
    folder = volumes / "dicom" / "dicom2nifti" / "ge" / "dti" / "002"
    predictor = tiny.predictor()
    masks = []
    for index in range(4):
        sources = find_sources([folder])
        out = tmp_path / str(index)
        results = list(segment_cases(predictor, sources, out, choice=Choice(volume_index=index)))
        assert [result.error for result in results] == [None]
        masks.append(nib.load(out / "002.nii.gz"))
    assert {mask.shape for mask in masks} == {(64, 64, 4)}
    assert (np.asanyarray(masks[0].dataobj) != np.asanyarray(masks[1].dataobj)).any()
