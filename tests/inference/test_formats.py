"""The formats beside NIfTI hold the same voxels at the same places, with names and colours of the palette."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import seg_source
import SimpleITK as sitk
import tiny
from scipy.spatial.transform import Rotation

from dsnet_med.errors import InputError
from dsnet_med.inference.itk_snap import LABEL_FILE
from dsnet_med.inference.outputs import Outputs
from dsnet_med.inference.segment import segment_cases
from dsnet_med.inference.slicer import terminology, write_seg_nrrd
from dsnet_med.inference.sources import find_sources
from dsnet_med.organs import organ_of
from dsnet_med.volumes import Grid, read_labels, write_labels
from dsnet_med.volumes_itk import segments_of

ORGANS = ("background", "liver", "left_kidney", "my organ")
ALL = ("nifti", "seg.nrrd", "dicom-seg", "dicom-labelmap", "rtstruct", "itk-snap")


def _turned(*flips: float) -> np.ndarray:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", [11, -23, 5], degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag((0.7, 0.9, 3.1)) * flips
    affine[:3, 3] = (-12.3, 45.6, 1 / 3)
    return affine


GRIDS = {
    "axial": np.diag((0.8, 0.8, 3.0, 1.0)),
    "oblique": _turned(1, 1, 1),
    "flipped": _turned(-1, 1, -1),
}


def _labels(dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 3, (7, 6, 5)).astype(dtype)


def _written(path: Path, affine: np.ndarray, dtype: type = np.uint8) -> np.ndarray:
    labels = _labels(dtype)
    write_seg_nrrd(path, labels, Grid(path, labels.shape, affine, None), ORGANS)
    return labels


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_segmentation_of_slicer_lies_where_its_image_does(tmp_path: Path, grid: str, dtype: type) -> None:
    labels = _written(tmp_path / "a.seg.nrrd", GRIDS[grid], dtype)
    ours = read_labels(tmp_path / "a.seg.nrrd")
    np.testing.assert_array_equal(ours.voxels, labels)
    np.testing.assert_allclose(ours.affine, GRIDS[grid], atol=1e-12)
    assert ours.notes == ()
    write_labels(tmp_path / "a.nii.gz", labels, Grid(tmp_path, labels.shape, GRIDS[grid], None))
    one, other = (sitk.ReadImage(tmp_path / f"a{ending}") for ending in (".seg.nrrd", ".nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(one), sitk.GetArrayViewFromImage(other))
    for index in ((0, 0, 0), (6, 5, 4)):
        places = (image.TransformIndexToPhysicalPoint(index) for image in (one, other))
        np.testing.assert_allclose(next(places), next(places), atol=1e-4)


def test_a_segmentation_of_slicer_says_names_colours_and_terminology(tmp_path: Path) -> None:
    slicerio = pytest.importorskip("slicerio")
    labels = _written(tmp_path / "a.seg.nrrd", GRIDS["oblique"])
    read = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(read["voxels"], labels)
    np.testing.assert_allclose(read["ijkToLPS"], np.diag((-1, -1, 1, 1)) @ GRIDS["oblique"], atol=1e-12)
    for number, (segment, name) in enumerate(zip(read["segments"], ORGANS[1:], strict=True), start=1):
        organ = organ_of(name)
        assert (segment["labelValue"], segment["layer"], segment["name"]) == (number, 0, organ.label)
        np.testing.assert_allclose(np.multiply(segment["color"], 255), organ.colour, atol=0.01)
        assert segment["terminology"]["type"] == [organ.type[1], organ.type[0], organ.type[2]]
    kidney = read["segments"][1]["terminology"]
    assert kidney["category"] == ["SCT", "123037004", "Anatomical Structure"]
    assert kidney["typeModifier"] == ["SCT", "7771000", "Left"]
    assert read["segments"][0]["extent"] == [0, 6, 0, 5, 0, 4]
    assert read["segments"][2]["extent"] == [0, -1, 0, -1, 0, -1]  # without a voxel


def test_pynrrd_reads_the_same_voxels(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd")
    labels = _written(tmp_path / "a.seg.nrrd", GRIDS["flipped"], np.uint16)
    voxels, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(voxels, labels)
    np.testing.assert_array_equal(header["space origin"], GRIDS["flipped"][:3, 3] * (-1, -1, 1))
    assert header["Segment1_Tags"].endswith(f"TerminologyEntry:{terminology(organ_of('left_kidney'))}|")


def test_a_tilted_gantry_does_not_fit_slicer_s_form(tmp_path: Path) -> None:
    sheared = np.diag((1.0, 1.0, 3.0, 1.0))
    sheared[1, 2] = 0.8
    with pytest.raises(InputError, match=r"its axes are not at right angles .* use --format nifti"):
        _written(tmp_path / "a.seg.nrrd", sheared)


# ---------------------------------------------------------------- a case in all formats


def _run(source: Path, out: Path, *formats: str) -> list:
    predictor = tiny.predictor(class_names=(*ORGANS[:3], 'a "b"'))
    return list(segment_cases(predictor, find_sources([source]), out, Outputs(formats)))


def test_a_series_in_every_format(tmp_path: Path, volumes: Path) -> None:
    series = volumes / "dicom" / "torchio_ct17"
    (result,) = _run(series, tmp_path / "out", *ALL)
    assert result.error is None
    out, case = tmp_path / "out", result.case
    found = {path.name for path in out.iterdir()}
    endings = (".nii.gz", ".seg.nrrd", ".dcm", ".labelmap.dcm", ".rtstruct.dcm", ".json")
    assert found == {case + ending for ending in endings} | {"labels.json", "run.json", LABEL_FILE}
    assert set(json.loads((out / f"{case}.json").read_text())["files"]) == set(endings) - {".json"}
    mask = nib.load(out / f"{case}.nii.gz")
    np.testing.assert_array_equal(read_labels(out / f"{case}.seg.nrrd").voxels, mask.dataobj)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (again,) = _run(series, out, *ALL)
    assert again.kept
    (other,) = _run(series, tmp_path / "other", *ALL)
    assert other.written
    assert {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()} == before


def test_what_itk_snap_is_told(tmp_path: Path) -> None:
    (image,) = tiny.write_images(tmp_path / "in", "a")
    (result,) = _run(image, tmp_path / "out", "nifti", "itk-snap")
    assert result.error is None
    lines = (tmp_path / "out" / LABEL_FILE).read_text().splitlines()
    rows = [line.split(maxsplit=7) for line in lines if not line.startswith("#")]
    assert lines[1] == "# ITK-SnAP Label Description File"
    assert rows[0] == ["0", "0", "0", "0", "0", "0", "0", '"Clear Label"']
    assert rows[2] == ["2", *map(str, organ_of("left_kidney").colour), "1", "1", "1", '"Left kidney"']
    assert rows[3][-1] == "\"A 'b'\""
    (tmp_path / "out" / LABEL_FILE).write_text("mine\n")
    with pytest.raises(InputError, match=rf"{LABEL_FILE} is there already and names other labels or colours"):
        _run(image, tmp_path / "out", "nifti", "itk-snap")
    with pytest.raises(InputError, match="give nifti,itk-snap"):
        Outputs(("seg.nrrd", "itk-snap"))


def test_formats_of_a_series_are_refused_for_a_file_that_is_none(tmp_path: Path) -> None:
    (image,) = tiny.write_images(tmp_path / "in", "a")
    for formats in (("rtstruct",), ("dicom-labelmap", "dicom-seg")):
        (result,) = _run(image, tmp_path / "out", *formats)
        assert "is no DICOM series" in result.error
        assert not result.written
    (result,) = _run(image, tmp_path / "out", "seg.nrrd", "rtstruct")
    assert not result.written  # without NIfTI nothing is dispensable
    (result,) = _run(image, tmp_path / "out", "nifti", "seg.nrrd", "rtstruct", "dicom-seg")
    assert result.written
    assert result.error.endswith(
        "(no DICOM segmentation and structure set; the other files of the case are written)"
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("a.nii.gz", "a.seg.nrrd", "a.json", "labels.json", "run.json")
    }


def test_a_series_with_a_tilt_has_no_segmentation_of_slicer(tmp_path: Path) -> None:
    tilted = seg_source.single_frames(tmp_path / "ct", seg_source.PLACES["tilted gantry"])
    (result,) = _run(tilted.path, tmp_path / "out", "nifti", "seg.nrrd", "rtstruct")
    assert "not at right angles" in result.error
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".gz", ".json", ".dcm"}


def test_one_format_after_another_adds_to_the_case(tmp_path: Path) -> None:
    (image,) = tiny.write_images(tmp_path / "in", "a")
    for formats in (("nifti",), ("seg.nrrd",)):
        (result,) = _run(image, tmp_path / "out", *formats)
        assert result.written
    assert set(json.loads((tmp_path / "out" / "a.json").read_text())["files"]) == {".nii.gz", ".seg.nrrd"}


def test_a_mask_in_python_is_saved_for_slicer(tmp_path: Path) -> None:
    (image,) = tiny.write_images(tmp_path / "in", "a")
    mask = tiny.predictor().predict(image)
    mask.save(tmp_path / "a.seg.nrrd")
    mask.save(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.seg.nrrd").voxels, mask.voxels)
    assert segments_of(tmp_path / "a.seg.nrrd") == [(0, 1, "A"), (0, 2, "B"), (0, 3, "C")]
    with pytest.raises(InputError, match="give it a name that ends in"):
        mask.save(tmp_path / "a.nrrd")
