"""NRRD and MetaImage: the same voxels in the same place as NIfTI; one clear line for what cannot be read."""

import locale
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from dsnet_med import volumes_itk
from dsnet_med.errors import InputError
from dsnet_med.find import case_name, is_volume
from dsnet_med.volumes import (
    files_of,
    read_grid,
    read_image,
    read_labels,
    require_same_grid,
)

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
        assert theirs.notes == ()
    grid = read_grid(other)
    assert grid.shape == theirs.shape
    np.testing.assert_array_equal(grid.affine, theirs.affine)


def test_real_segmentations(volumes):
    """Exports of 3D Slicer and dcmqi: whole numbers, in a place; overlapping segments are refused."""
    files = sorted((volumes / "dicom" / "dcmqi_ct_seg").glob("*.nrrd"))
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
        with pytest.raises(InputError, match=r"not a readable|cut short|is NRRD, wanted MetaImage"):
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


# ---------------------------------------------------------------- units, spaces and the host's locale

VOXELS = np.arange(24, dtype="<i2").reshape(2, 3, 4).T
PLACE = ("space: left-posterior-superior", "space directions: (2,0,0) (0,3,0) (0,0,4)", "space origin: (1,2,3)")


def nrrd(path: Path, *lines: str, place: tuple[str, ...] = PLACE, kinds: str = "domain domain domain") -> Path:
    head = ("NRRD0005", "type: int16", "dimension: 3", "sizes: 4 3 2", f"kinds: {kinds}", "endian: little")
    content = "\n".join((*head, *place, *lines, "encoding: raw")).encode() + b"\n\n"
    path.write_bytes(content + VOXELS.tobytes(order="F"))
    return path


TURN = "TransformMatrix = 1 0 0 0 1 0 0 0 1"


def meta(
    path: Path, *lines: str, place: tuple[str, ...] = (TURN, "ElementSpacing = 2 3 4", "Offset = 1 2 3")
) -> Path:
    head = ("ObjectType = Image", "NDims = 3", "BinaryDataByteOrderMSB = False", *place, *lines)
    content = "\n".join((*head, "DimSize = 4 3 2", "ElementType = MET_SHORT", "ElementDataFile = LOCAL"))
    path.write_bytes(content.encode() + b"\n" + VOXELS.tobytes(order="F"))
    return path


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        ('space units: "um" "um" "um"', "um"),
        ('Space Units: "mm" "mm" "cm"', "cm"),
        ('spaceunits: "microns" "microns" "microns"', "microns"),
        ('space units: "m" "m" "m"', "m"),
        ('space units: "" "" "pixel"', "pixel"),
        ("DistanceUnits = um", "um"),
        ("DistanceUnits = cm", "cm"),
        ("DistanceUnits: UM", "um"),
    ],
)
def test_other_units_than_millimetres_are_refused(tmp_path, line, unit):
    made = meta(tmp_path / "a.mha", line) if "Distance" in line else nrrd(tmp_path / "a.nrrd", line)
    for read in (read_image, read_labels, read_grid):
        with pytest.raises(InputError, match=f"counts in '{unit}', wanted millimetres"):
            read(made)


@pytest.mark.parametrize("unit", ["um", "cm"])
def test_units_of_axes_are_units_too(tmp_path, unit):
    plain = ("spacings: 2 3 4", f'units: "{unit}" "{unit}" "{unit}"')
    with pytest.raises(InputError, match=f"counts in '{unit}'"):
        read_image(nrrd(tmp_path / "a.nrrd", place=plain))


@pytest.mark.parametrize("line", ['space units: "mm" "mm" "mm"', 'space units: "" "" ""', ""])
def test_millimetres_said_or_not(tmp_path, line):
    volume = read_image(nrrd(tmp_path / "a.nrrd", *filter(None, [line])))
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    np.testing.assert_array_equal(volume.affine, [[-2, 0, 0, -1], [0, -3, 0, -2], [0, 0, 4, 3], [0, 0, 0, 1]])
    assert volume.notes == ()
    assert read_image(meta(tmp_path / "a.mha", "DistanceUnits = mm")).notes == ()
    assert read_image(meta(tmp_path / "b.mha", "DistanceUnits = ?")).notes == ()


@pytest.mark.parametrize(("said", "noted"), [(False, True), (True, False)])
def test_micrometres_that_no_header_names(tmp_path, said, noted):
    place = ("space: LPS", "space directions: (60,0,0) (0,60,0) (0,0,60)", "space origin: (1,2,3)")
    line = 'space units: "mm" "mm" "mm"' if said else 'space units: "" "" ""'
    made = nrrd(tmp_path / "a.nrrd", line, place=place)
    assert ("millimetres is a guess" in " ".join(read_image(made).notes)) == noted
    made = meta(tmp_path / "a.mha", *["DistanceUnits = mm"] * said, place=(TURN, "ElementSpacing = 60 60 60"))
    assert ("millimetres is a guess" in " ".join(read_image(made).notes)) == noted


DIRECTIONS, ORIGIN = PLACE[1:]


@pytest.mark.parametrize(
    ("place", "note"),
    [
        (("spacings: 2 3 4",), "names no space"),
        (("space dimension: 3", DIRECTIONS, ORIGIN), "of 3 dimensions, names no side"),
        (("space: 3D-right-handed", DIRECTIONS, ORIGIN), "names no side"),
        (("space: 3D-left-handed", DIRECTIONS, ORIGIN), "names no side"),
        (("space: scanner-xyz", DIRECTIONS, ORIGIN), "scanner-xyz, names no side"),
        (("space: RAS", DIRECTIONS, ORIGIN), None),
        (("space: Left-Anterior-Superior", DIRECTIONS, ORIGIN), None),
    ],
)
def test_spaces_that_name_no_side_are_a_guess(tmp_path, place, note):
    notes = read_image(nrrd(tmp_path / "a.nrrd", place=place)).notes
    assert notes == () if note is None else note in notes[0] and "left and right are a guess" in notes[0]


def test_the_reason_that_itk_gives_is_in_the_line(tmp_path):
    with pytest.raises(
        InputError, match=r"not a readable volume \(ReadImageInformation: Error interpreting nrrd"
    ):
        read_image(nrrd(tmp_path / "a.nrrd", place=("space: LPS", "spacings: 2 3 4")))


LPS, SIZES, OFFSET = PLACE[0], "ElementSpacing = 2 3 4", "Offset = 1 2 3"


@pytest.mark.parametrize(
    ("kind", "place", "lacks"),
    [
        ("mha", (TURN, SIZES, OFFSET), ()),
        ("mha", (TURN, "ElementSize = 2 3 4", "Position = 1 2 3"), ()),
        ("mha", (TURN, "ElementSpacing: 2 3 4", "Origin: 1 2 3"), ()),
        ("mha", (SIZES, OFFSET), ("directions",)),
        ("mha", (TURN, OFFSET), ("spacing",)),
        ("mha", (TURN, SIZES), ("origin",)),
        ("mha", (), ("directions", "spacing", "origin")),
        ("mha", (TURN, "ElementSpacinh = 2 3 4", OFFSET), ("spacing",)),
        ("mha", (TURN, "elementspacing = 2 3 4", OFFSET), ("spacing",)),  # which ITK does not know
        ("mha", (TURN, SIZES, "offset = 1 2 3"), ("origin",)),
        ("mha", ("transformmatrix = 0 1 0 1 0 0 0 0 1", SIZES, OFFSET), ("directions",)),
        ("nrrd", PLACE, ()),
        ("nrrd", (LPS, "SpaceDirections: (2,0,0) (0,3,0) (0,0,4)", "Space Origin: (1,2,3)"), ()),
        ("nrrd", (LPS, ORIGIN), ("spacing",)),
        ("nrrd", (LPS, DIRECTIONS), ("origin",)),
        ("nrrd", (LPS, "space directions: none none none", ORIGIN), ("spacing",)),
        ("nrrd", (LPS, "space directions := (2,0,0) (0,3,0) (0,0,4)", ORIGIN), ("spacing",)),
        ("nrrd", (LPS, DIRECTIONS, "space origin: (nan,nan,nan)"), ("origin",)),
        ("nrrd", ("spacings: 2 nan 4", "axis mins: 1 2 3"), ("space", "spacing")),
        ("nrrd", ("axis mins: 0 0 0", "axis maxs: 8 9 8"), ("space", "spacing")),
        ("nrrd", ("thicknesses: 2 3 4",), ("space", "spacing", "origin")),
    ],
)
def test_what_a_header_does_not_state_is_noted_and_refused_where_it_is_required(kind, place, lacks, tmp_path):
    """ITK fills it in without a word: names in other letters, words and NaN are no values to it either."""
    volume = read_image((meta if kind == "mha" else nrrd)(tmp_path / f"a.{kind}", place=place))
    assert [
        note.split("gives no ")[-1].split("names no ")[-1].split(":")[0].split()[0] for note in volume.unstated
    ] == list(lacks)
    assert volume.notes == volume.unstated
    if not lacks:
        volume.require_geometry()
        return
    with pytest.raises(
        InputError, match=r"a guess.*correct the header, or leave out --require-geometry"
    ) as caught:
        volume.require_geometry()
    assert str(caught.value).startswith(str(tmp_path / f"a.{kind}"))


@pytest.mark.parametrize(
    ("space", "read"), [("RAST", False), ("right-anterior-superior-time", False), ("LPST", True)]
)
def test_spaces_with_time_are_not_turned_by_itk(tmp_path, space, read):
    """ITK takes all of them for left-posterior-superior."""
    head = (
        f"NRRD0005\ntype: int16\ndimension: 4\nspace: {space}\nsizes: 4 3 2 1\nendian: little\nencoding: raw\n"
    )
    place = "space directions: (2,0,0,0) (0,3,0,0) (0,0,4,0) (0,0,0,1)\nspace origin: (1,2,3,0)\n\n"
    (tmp_path / "a.nrrd").write_bytes((head + place).encode() + VOXELS.tobytes(order="F"))
    if read:
        assert read_image(tmp_path / "a.nrrd", 0).affine[0, 3] == -1
        return
    with pytest.raises(InputError, match="has an axis of time"):
        read_image(tmp_path / "a.nrrd", 0)


def test_a_scale_that_itk_does_not_apply_is_refused(tmp_path):
    lines = ("ElementToIntensityFunctionSlope = 2", "ElementToIntensityFunctionOffset = 0")
    with pytest.raises(InputError, match="scales its voxels by 2 and 0, which is not applied"):
        read_image(meta(tmp_path / "a.mha", *lines))
    lines = ("ElementToIntensityFunctionSlope = 1", "ElementToIntensityFunctionOffset = 0")
    np.testing.assert_array_equal(read_image(meta(tmp_path / "b.mha", *lines)).voxels, VOXELS)


@pytest.fixture
def decimal_comma(tmp_path, monkeypatch) -> Iterator[bool]:
    """A locale with a decimal comma set by the host program; false where this machine has none."""
    if shutil.which("localedef"):
        monkeypatch.setenv("LOCPATH", str(tmp_path))
        subprocess.run(
            ["localedef", "-f", "UTF-8", "-i", "de_DE", tmp_path / "de_DE.UTF-8"],
            check=False,
            capture_output=True,
        )
    before = locale.setlocale(locale.LC_NUMERIC)
    for name in ("de_DE.UTF-8", "de_DE", "fr_FR.UTF-8", "German"):
        try:
            locale.setlocale(locale.LC_NUMERIC, name)
        except locale.Error:
            continue
        yield True
        break
    else:
        yield False
    locale.setlocale(locale.LC_NUMERIC, before)


def test_a_decimal_comma_of_the_host_changes_nothing(tmp_path, decimal_comma):
    point = (PLACE[0], "space directions: (2.25,0,0) (0,3.5,0) (0,0,4.75)", "space origin: (1.5,2.5,3.5)")
    text = tmp_path / "text.nrrd"
    text.write_text(
        "NRRD0005\ntype: float\ndimension: 3\nsizes: 2 1 1\n"
        + "\n".join(point)
        + "\nencoding: text\n\n1.5 2.5\n"
    )
    files = (
        nrrd(tmp_path / "a.nrrd", place=point),
        meta(tmp_path / "a.mha", place=(TURN, "ElementSpacing = 2.25 3.5 4.75", "Offset = 1.5 2.5 3.5")),
        text,
    )
    wanted = [[-2.25, 0, 0, -1.5], [0, -3.5, 0, -2.5], [0, 0, 4.75, 3.5], [0, 0, 0, 1]]
    for file in files:
        np.testing.assert_array_equal(read_image(file).affine, wanted)
        np.testing.assert_array_equal(read_grid(file).affine, wanted)
    assert read_image(text).voxels.ravel().tolist() == [1.5, 2.5]
    assert locale.localeconv()["decimal_point"] == ("," if decimal_comma else ".")


@pytest.mark.parametrize("shown", [True, False])
def test_itk_warns_afterwards_as_before(tmp_path, shown):
    """After an error too."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    try:
        with pytest.raises(InputError), volumes_itk.reading(tmp_path):
            assert not sitk.ProcessObject.GetGlobalWarningDisplay()
            raise RuntimeError("reader")
        assert sitk.ProcessObject.GetGlobalWarningDisplay() == shown
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


@pytest.mark.parametrize("name", ["A.NRRD", "A.MHA", "a.Nhdr"])
def test_endings_in_capitals(tmp_path, name):
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.T), str(tmp_path / name.lower()))
    (tmp_path / name.lower()).rename(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name).voxels, VOXELS)
