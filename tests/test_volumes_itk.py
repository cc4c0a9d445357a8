"""NRRD and MetaImage: the same voxels in the same place as NIfTI; one clear line for what cannot be read."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from dsnet_med.errors import InputError
from dsnet_med.volumes import case_name, files_of, is_volume, read_image, read_labels, require_same_grid

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")


def oblique(tmp_path, dtype=np.uint8):
    """A label map on a tilted grid, as NIfTI and as what ITK makes of that file."""
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.8, 1.1, 3.0)
    affine[:3, 3] = 5, -40, 17
    voxels = np.random.default_rng(0).integers(0, 4, (5, 7, 3)).astype(dtype)
    path = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path, sitk.ReadImage(str(path))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_to_nifti(tmp_path, suffix, dtype):
    path, image = oblique(tmp_path, dtype)
    other = tmp_path / f"case{suffix}"
    sitk.WriteImage(image, str(other), useCompression=True)
    assert is_volume(other)
    assert case_name(other) == "case"
    for read in (read_labels, read_image):
        ours, theirs = read(path), read(other)
        assert ours.voxels.dtype == theirs.voxels.dtype
        assert np.array_equal(ours.voxels, theirs.voxels)
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)
        require_same_grid(ours, theirs)


def test_real_segmentations(shared):
    """Exports of 3D Slicer and dcmqi: whole numbers, in a place; overlapping segments are refused."""
    files = sorted((shared / "data" / "dicom" / "dcmqi_ct_seg").glob("*.nrrd"))
    assert len(files) == 11
    for file in files:
        volume = read_labels(file)
        image = sitk.ReadImage(str(file))
        assert volume.shape == image.GetSize()
        assert np.array_equal(volume.voxels, sitk.GetArrayFromImage(image).T)
        corner = [int(n) - 1 for n in volume.shape]
        lps = np.array(image.TransformIndexToPhysicalPoint(corner))
        np.testing.assert_allclose((volume.affine @ [*corner, 1])[:3], lps * (-1, -1, 1), atol=1e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_what_is_refused(tmp_path, suffix):
    path = tmp_path / f"case{suffix}"
    with pytest.raises(InputError, match="no such file"):
        read_labels(path)
    voxels = np.zeros((3, 4, 5), np.uint8)
    vector = sitk.GetImageFromArray(np.zeros((3, 4, 5, 2), np.uint8), isVector=True)
    fractions = sitk.GetImageFromArray(voxels + np.float32(0.5))
    negative = sitk.GetImageFromArray(voxels.astype(np.int16) - 1)
    for image, words in (
        (vector, "2 numbers per voxel"),
        (sitk.GetImageFromArray(voxels[0]), "2-D"),
        (fractions, "whole numbers"),
        (negative, "label values run from -1"),
    ):
        sitk.WriteImage(image, str(path))
        with pytest.raises(InputError, match=words) as caught:
            read_labels(path)
        assert str(path) in str(caught.value)
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(60, dtype=np.uint8).reshape(3, 4, 5)), str(path))
    whole = path.read_bytes()
    for content in (b"", b"NRRD", b"a text file", whole[: len(whole) // 3], whole[:-20]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"not a readable volume|cut short"):
            read_labels(path)


@pytest.mark.parametrize("axes", ["-1", "99", "1000000000", "0", "x", ""])
def test_an_odd_number_of_axes_never_reaches_itk(axes, tmp_path):
    """ITK would write beyond its memory."""
    head = f"ObjectType = Image\nNDims = {axes}\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
    (tmp_path / "a.mha").write_bytes(head.encode() + b"ElementDataFile = LOCAL\n" + bytes(8))
    with pytest.raises(InputError, match="wanted 3"):
        read_image(tmp_path / "a.mha")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.mhd", "ElementDataFile = a.raw"),
        ("a.mhd", "ElementDataFile\t= a.raw"),
        ("a.mhd", "ElementDataFile: a.raw"),
        ("a.mhd", "  ElementDataFile =a.raw\r"),
        ("a.nhdr", "data file: a.raw"),
        ("a.nhdr", "datafile:a.raw"),
        ("a.nhdr", "data file:=b.raw\ndata file: a.raw"),
        ("A.NHDR", "# a comment\n" * 9000 + "data file: a.raw"),
    ],
)
def test_voxels_in_a_file_of_their_own_belong_to_the_volume(name, line, tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(8))
    (tmp_path / name).write_text(f"{line}\n")
    assert files_of(tmp_path / name) == (tmp_path / name, tmp_path / "a.raw")
    (tmp_path / "a.raw").unlink()
    with pytest.raises(InputError, match="are not there"):
        files_of(tmp_path / name)


@pytest.mark.parametrize(("name", "line"), [("a.mha", "ElementDataFile = LOCAL"), ("a.nrrd", "encoding: raw")])
def test_volumes_of_one_file(name, line, tmp_path):
    (tmp_path / name).write_text(f"{line}\n")
    assert files_of(tmp_path / name) == (tmp_path / name,)


def test_voxels_in_many_files(tmp_path):
    (tmp_path / "a.nhdr").write_text("data file: slice%03d.raw 1 9 1\n")
    with pytest.raises(InputError, match="several files"):
        files_of(tmp_path / "a.nhdr")
