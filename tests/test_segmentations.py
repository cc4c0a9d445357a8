"""Segmentations of every kind are read to the same voxels on any grid that they fit: exactly, or not at all."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import seg_source
import SimpleITK as sitk
from scipy import ndimage
from seg_source import OBLIQUE, PLACES, single_frames

from dsnet_med.contours import filled
from dsnet_med.dicom.segmentation import write_segmentation
from dsnet_med.dicom.structures import polygons, write_structures
from dsnet_med.errors import InputError
from dsnet_med.inference.slicer import write_seg_nrrd
from dsnet_med.segmentations import names_in, read_pair
from dsnet_med.volumes import Grid, write_labels

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

NAMES = ("background", "liver", "left_kidney", "spleen")
ALGORITHM = ("fcn", "1")
FILES = ("a.dcm", "a.labelmap.dcm", "a.rtstruct.dcm")
DCMQI = Path("dicom/dcmqi_ct_seg")


def blobs(shape=seg_source.SHAPE) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=shape), 0.7)
    labels = np.digitize(noise, [0.05, 0.2, 0.35]).astype(np.uint8)
    labels[..., 1] = 0  # nothing is on one of its slices
    return labels


def written(folder: Path, source, labels) -> None:
    folder.mkdir(exist_ok=True)
    write_segmentation(folder / "a.dcm", labels, source, NAMES, ALGORITHM)
    write_segmentation(folder / "a.labelmap.dcm", labels, source, NAMES, ALGORITHM, kind="LABELMAP")
    write_structures(folder / "a.rtstruct.dcm", labels, source, NAMES, ALGORITHM)
    write_labels(folder / "a.nii.gz", labels, source)


def reoriented(folder: Path, codes: str) -> np.ndarray:
    """The NIfTI file in another order of axes, as other tools write it; its voxels."""
    image = nib.load(folder / "a.nii.gz")
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    )
    other = image.as_reoriented(turn)
    nib.save(other, folder / "other.nii.gz")
    return np.asarray(other.dataobj)


@pytest.mark.parametrize(
    ("place", "codes"), zip(PLACES, ["LPS", "SRA", "RAS", "SRA", "LAI", "PIR", "SRA"], strict=True)
)
def test_dicom_lies_on_the_grid_of_the_other_file(tmp_path, place, codes):
    source, labels = single_frames(tmp_path / "ct", PLACES[place]), blobs()
    written(tmp_path / "out", source, labels)
    wanted = reoriented(tmp_path / "out", codes)
    for file in FILES:
        reference, found = read_pair(tmp_path / "out" / "other.nii.gz", tmp_path / "out" / file)
        np.testing.assert_array_equal(found.volume.voxels, wanted)
        np.testing.assert_array_equal(found.volume.affine, reference.volume.affine)
        assert len(found.layers) == 1
        assert [segment[:2] for segment in found.segments] == [("Liver", 1), ("Left kidney", 2), ("Spleen", 3)]
        assert names_in(tmp_path / "out" / file) == ("Liver", "Left kidney", "Spleen")
        assert list(found.volume.digests) == [tmp_path / "out" / file]


@pytest.mark.parametrize("place", ["oblique", "tilted gantry"])
def test_dicom_alone_makes_a_grid_that_holds_both(tmp_path, place):
    source, labels = single_frames(tmp_path / "ct", PLACES[place]), blobs()
    labels[..., 4] = 0
    written(tmp_path / "out", source, labels)
    less = np.where(np.arange(5) >= 2, labels, 0).astype(np.uint8)
    write_segmentation(tmp_path / "less.dcm", less, source, NAMES, ALGORITHM)
    for file in FILES:
        one, other = read_pair(tmp_path / "less.dcm", tmp_path / "out" / file)
        assert one.volume.shape == (*labels.shape[:2], 4)  # slices 0 to 3
        step = np.linalg.solve(source.affine, one.volume.affine)
        assert np.allclose(np.abs(step[:3, :3]), np.eye(3), atol=1e-4)
        flip = slice(None, None, int(np.rint(step[2, 2])))
        np.testing.assert_array_equal(other.volume.voxels[..., flip], labels[..., :4])
        np.testing.assert_array_equal(one.volume.voxels[..., flip], less[..., :4])


def test_a_structure_set_needs_a_grid_that_holds_it(tmp_path):
    source, labels = single_frames(tmp_path / "ct", PLACES["axial"]), blobs()
    written(tmp_path / "out", source, labels)
    file = tmp_path / "out" / "a.rtstruct.dcm"
    with pytest.raises(InputError, match="has contours and no voxels; give a label map"):
        read_pair(file, file)
    image = nib.load(tmp_path / "out" / "a.nii.gz")
    nib.save(image.slicer[:, :, 2:], tmp_path / "less.nii.gz")
    with pytest.raises(InputError, match=r"contour of 'Liver' lies outside of the grid of .*less.nii.gz"):
        read_pair(tmp_path / "less.nii.gz", file)
    moved = image.affine + np.outer((0, 0, 1.4, 0), (0, 0, 0, 1))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), tmp_path / "moved.nii.gz")
    with pytest.raises(InputError, match=r"lies 0\.47 voxels off the slices of .*moved.nii.gz"):
        read_pair(tmp_path / "moved.nii.gz", file)
    with pytest.raises(InputError, match="its voxels lie between those of"):
        read_pair(tmp_path / "moved.nii.gz", tmp_path / "out" / "a.dcm")
    with pytest.raises(InputError, match=r"a.dcm: \d+ labelled voxels of one of its slices lie outside"):
        read_pair(tmp_path / "less.nii.gz", tmp_path / "out" / "a.dcm")


@pytest.mark.parametrize("numbers", [(0, 1, 2), (7, 70_000, 9)])
def test_structures_whose_numbers_are_no_values(tmp_path, numbers):
    source, labels = single_frames(tmp_path / "ct", PLACES["axial"]), blobs()
    written(tmp_path / "out", source, labels)
    content = pydicom.dcmread(tmp_path / "out" / "a.rtstruct.dcm")
    for number, one, other in zip(
        numbers, content.StructureSetROISequence, content.ROIContourSequence, strict=True
    ):
        one.ROINumber = other.ReferencedROINumber = number
    content.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "POINT"
    content.save_as(tmp_path / "b.dcm")
    _, found = read_pair(tmp_path / "out" / "a.nii.gz", tmp_path / "b.dcm")
    assert [segment[:2] for segment in found.segments] == [("Liver", 1), ("Left kidney", 2), ("Spleen", 3)]
    np.testing.assert_array_equal(found.volume.voxels == 2, labels == 2)
    assert np.count_nonzero(found.volume.voxels == 1) < np.count_nonzero(labels == 1)
    assert any("points and open contours are no part of a structure: Liver" in n for n in found.volume.notes)


def test_a_fractional_segmentation_counts_from_one_half_on(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    ones = np.ones(source.shape, np.uint8)
    write_segmentation(tmp_path / "a.dcm", ones, source, NAMES[:2], ALGORITHM)
    content = pydicom.dcmread(tmp_path / "a.dcm")
    content.SegmentationType, content.SegmentationFractionalType = "FRACTIONAL", "PROBABILITY"
    content.MaximumFractionalValue, content.BitsAllocated, content.BitsStored, content.HighBit = 255, 8, 8, 7
    values = np.random.default_rng(0).integers(0, 256, (6, 7)).astype(np.uint8)
    content.PixelData = values.tobytes() * 5
    content.save_as(tmp_path / "a.dcm")
    write_labels(tmp_path / "a.nii.gz", ones, source)
    _, found = read_pair(tmp_path / "a.nii.gz", tmp_path / "a.dcm")
    np.testing.assert_array_equal(found.volume.voxels, np.repeat(values.T[..., None] >= 128, 5, axis=2))
    assert found.volume.notes == ("is a fractional segmentation: voxels of at least one half count",)


def test_slices_without_a_contour_are_said(tmp_path):
    source, labels = single_frames(tmp_path / "ct", PLACES["axial"]), blobs()
    written(tmp_path / "out", source, labels)
    _, found = read_pair(tmp_path / "out" / "a.nii.gz", tmp_path / "out" / "a.rtstruct.dcm")
    assert any("has contours on 4 of the 5 slices that it spans" in note for note in found.volume.notes)


# ---------------------------------------------------------------- segmentations that others made


@pytest.mark.parametrize(
    ("file", "nrrd", "layers"),
    [
        ("liver.dcm", ["liver_seg.nrrd"], 1),
        ("23x38x3/seg/label.seg", ["23x38x3/nrrd/label.nrrd"], 1),
        ("partial_overlaps.dcm", [f"partial_overlaps-{n}.nrrd" for n in (1, 2, 3)], 3),
        ("sparse-labelmap-noppv.dcm", ["sparse_labelmap_noppv_seg.nrrd"], 1),
    ],
)
def test_segmentations_of_dcmqi(volumes, file, nrrd, layers):
    """Against the NRRD files that dcmqi made of them; those of one file overlap."""
    for each in nrrd:
        wanted, found = read_pair(volumes / DCMQI / each, volumes / DCMQI / file)
        assert len(found.layers) == layers
        np.testing.assert_allclose(found.volume.affine, wanted.volume.affine, atol=1e-6)
        for value in np.unique(wanted.volume.voxels[wanted.volume.voxels > 0]):
            (segment,) = [segment for segment in found.segments if segment.value == value]
            np.testing.assert_array_equal(found.layers[segment.layer] == value, wanted.volume.voxels == value)


def overlapping(path: Path, affine: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Two masks as Slicer writes segments that overlap: layers along a list axis, each with the value 1."""
    image = sitk.GetImageFromArray(np.stack([first, second], axis=-1).transpose(2, 1, 0, 3), isVector=True)
    lps = np.diag((-1, -1, 1, 1)) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    for place, name in enumerate(("Left kidney", "Liver")):
        for key, value in (("Name", name), ("LabelValue", "1"), ("Layer", str(place))):
            image.SetMetaData(f"Segment{place}_{key}", value)
    sitk.WriteImage(image, path)


def test_layers_of_slicer(tmp_path):
    affine = nib.affines.from_matvec(OBLIQUE @ np.diag((0.5, 0.75, 3)), (1, 2, 3))
    first = (blobs() > 0).astype(np.uint8)
    second = np.ones_like(first)
    overlapping(tmp_path / "a.seg.nrrd", affine, first, second)
    write_labels(tmp_path / "a.nii.gz", first, Grid(tmp_path, first.shape, affine, None))
    _, found = read_pair(tmp_path / "a.nii.gz", tmp_path / "a.seg.nrrd")
    np.testing.assert_allclose(found.volume.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(found.layers, [first, second])
    assert found.segments == (("Left kidney", 1, 0), ("Liver", 1, 1))


def test_what_slicer_cropped_lies_where_it_was(tmp_path):
    affine = nib.affines.from_matvec(np.diag((-0.5, 0.75, 3)), (1, 2, 3))
    labels = blobs((9, 8, 7))
    labels[:3], labels[:, :, 5:], labels[3, 3, 3] = 0, 0, 1
    write_labels(tmp_path / "a.nii.gz", labels, Grid(tmp_path, labels.shape, affine, None))
    inner = affine @ nib.affines.from_matvec(np.eye(3), (3, 0, 1))
    part = labels[3:, :, 1:6]
    write_seg_nrrd(tmp_path / "a.seg.nrrd", part, Grid(tmp_path, part.shape, inner, None), NAMES)
    _, found = read_pair(tmp_path / "a.nii.gz", tmp_path / "a.seg.nrrd")
    labels[..., 0] = 0
    np.testing.assert_array_equal(found.volume.voxels, labels)
    moved = inner @ nib.affines.from_matvec(np.eye(3), (0.4, 0, 0))
    write_seg_nrrd(tmp_path / "b.seg.nrrd", part, Grid(tmp_path, part.shape, moved, None), NAMES)
    _, found = read_pair(tmp_path / "a.nii.gz", tmp_path / "b.seg.nrrd")
    assert found.volume.shape == part.shape  # as it is: whether it may be resampled is the caller's to say


def test_files_that_are_damaged_are_refused_in_one_line(tmp_path):
    source, labels = single_frames(tmp_path / "ct", PLACES["axial"]), blobs()
    written(tmp_path / "out", source, labels)
    for file in FILES:
        content = (tmp_path / "out" / file).read_bytes()
        (tmp_path / file).write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=file) as caught:
            read_pair(tmp_path / "out" / "a.nii.gz", tmp_path / file)
        assert "\n" not in str(caught.value)
    for attribute in ("PerFrameFunctionalGroupsSequence", "SegmentSequence"):
        spoilt = pydicom.dcmread(tmp_path / "out" / "a.dcm")
        delattr(spoilt, attribute)
        spoilt.save_as(tmp_path / "spoilt.dcm")
        with pytest.raises(InputError, match=r"not a readable DICOM segmentation .*export it again"):
            read_pair(tmp_path / "out" / "a.nii.gz", tmp_path / "spoilt.dcm")


# ---------------------------------------------------------------- contours


def test_a_filled_outline_is_what_it_was_drawn_around():
    plane = blobs((31, 27, 5))[..., 2]
    for value in (1, 2, 3):
        inside = np.zeros(plane.shape, bool)
        for number, points in polygons(plane):
            if number == value:
                odd, rim = filled(points[:, ::-1], plane.shape)
                assert not rim.any()
                inside ^= odd
        np.testing.assert_array_equal(inside, plane == value)


def test_a_contour_through_the_centres_of_voxels_holds_them():
    """As OpenCV draws it; the slope of 45 degrees passes centres, too."""
    inside, rim = filled(np.array([(1.0, 1), (1, 5), (3, 5), (6, 2)]), (8, 7))
    wanted = np.zeros((8, 7), bool)
    for row, (first, last) in {1: (1, 5), 2: (2, 5), 3: (2, 5), 4: (2, 4), 5: (2, 3), 6: (2, 2)}.items():
        wanted[row, first : last + 1] = True
    wanted[2, 1] = wanted[3, 1] = False  # the edge from (6, 2) to (1, 1) passes to the right of their centres
    np.testing.assert_array_equal(inside | rim, wanted)


def test_an_outline_beyond_the_picture_is_cut():
    inside, rim = filled(np.array([(-2.5, -3.5), (-2.5, 9.5), (1.5, 9.5), (1.5, -3.5)]), (4, 5))
    np.testing.assert_array_equal(inside | rim, np.arange(4)[:, None] * np.ones(5) <= 1)
