"""Good NIfTI files read as nibabel reads them, bad ones are refused; masks are written in the input's grid."""

import bz2
import errno
import gzip
import hashlib
import lzma
import mmap
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dsnet_med import volumes as reading
from dsnet_med import volumes_itk, volumes_nifti
from dsnet_med.errors import InputError
from dsnet_med.find import case_name, is_nifti, is_volume
from dsnet_med.geometry import corner_voxels
from dsnet_med.volumes import (
    Grid,
    files_of,
    of_image,
    read_grid,
    read_image,
    read_labels,
    require_same_grid,
    write_labels,
)
from dsnet_med.volumes_nifti import header_on

SHAPE = (5, 4, 3)
HEADER_BYTES = 348


def oblique() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (11, -23, 5), degrees=True).as_matrix() @ np.diag(
        [0.7, 0.8, 3.0]
    )
    affine[:3, 3] = (-120.25, 33.5, 910.125)
    return affine


def image_of(voxels, affine=None, kind=nib.Nifti1Image, **header):
    image = kind(voxels, oblique() if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    return image


def saved(path: Path, image) -> Path:
    nib.save(image, path)
    return path


def ct(shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(-1024, 2000, shape).astype(np.int16)


def labels(shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 9, shape).astype(np.uint8)


@pytest.fixture
def good(tmp_path) -> Path:
    return saved(tmp_path / "good.nii.gz", image_of(ct()))


def patched(source: Path, name: str, *patches: tuple[int, bytes]) -> Path:
    """A copy of a gzip NIfTI file with some bytes of its header overwritten; gzip or plain by its new name."""
    content = bytearray(gzip.decompress(source.read_bytes()))
    for at, value in patches:
        content[at : at + len(value)] = value
    path = source.with_name(name)
    path.write_bytes(gzip.compress(bytes(content)) if name.endswith(".gz") else bytes(content))
    return path


def refused(read, path: Path, *words: str) -> str:
    """The one line that `read` refuses `path` with; it names the file and every one of `words`."""
    with pytest.raises(InputError) as caught:
        read(path)
    line = str(caught.value)
    assert line.startswith(str(path)), line
    assert "\n" not in line
    for word in words:
        assert word in line, line
    return line


# ---------------------------------------------------------------- reading what is sound


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<u2", "<i4", "<f4", ">f4", "<f8"])
def test_voxels_and_place_are_those_of_nibabel(tmp_path, suffix, kind, dtype):
    image = kind(ct().astype(dtype), oblique())
    if np.dtype(dtype).byteorder == ">":
        image = kind(ct().astype(dtype), None, image.header.as_byteswapped(">"))
        image.set_sform(oblique(), 1)
    path = saved(tmp_path / f"volume{suffix}", image)
    if np.dtype(dtype).byteorder == ">":
        assert nib.load(path).header.endianness == ">"
    volume = read_image(path)
    np.testing.assert_array_equal(volume.voxels, ct().astype(dtype))
    np.testing.assert_allclose(volume.affine, oblique(), atol=1e-4)
    assert volume.shape == SHAPE
    assert volume.voxels.dtype.isnative
    assert volume.voxels.dtype == np.dtype(dtype).newbyteorder("=")
    assert volume.spacing_mm == pytest.approx((0.7, 0.8, 3.0), rel=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_header_s_slope_and_intercept_are_applied(tmp_path, suffix):
    path = saved(tmp_path / f"scaled{suffix}", scaled())
    assert nib.load(path).dataobj.slope == 0.5
    np.testing.assert_array_equal(read_image(path).voxels, ct() * 0.5 - 100)


def test_voxels_behind_a_header_extension_are_found(tmp_path):
    image = image_of(ct())
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 500))
    path = saved(tmp_path / "extended.nii.gz", image)
    assert nib.load(path).dataobj.offset > 800
    np.testing.assert_array_equal(read_image(path).voxels, ct())


def test_trailing_axes_of_length_one_are_dropped(tmp_path):
    path = saved(tmp_path / "four.nii.gz", image_of(ct()[..., None, None]))
    np.testing.assert_array_equal(read_image(path).voxels, ct())
    assert read_grid(path).shape == SHAPE


def test_zero_padding_behind_the_gzip_stream_is_no_damage(good):
    good.write_bytes(good.read_bytes() + b"\0" * 512)
    np.testing.assert_array_equal(read_image(good).voxels, ct())


@pytest.mark.parametrize(
    ("most_read", "most_refused"), [(30, 3), pytest.param(300, 5, marks=pytest.mark.shared)]
)
def test_every_real_volume_reads_as_nibabel_reads_it(volumes, most_read, most_refused):
    """The fast gzip path against nibabel; 4-D and colour ones are refused."""
    read, refusals = 0, 0
    for path in sorted(volumes.rglob("*.nii*")):
        image = nib.load(path)
        expected = np.asarray(image.dataobj)
        squeezed = tuple(n for axis, n in enumerate(image.shape) if axis < 3 or n > 1)
        if len(squeezed) != 3 or expected.dtype.fields or not np.isfinite(expected).all():
            refused(read_image, path)
            refusals += 1
            continue
        volume = read_image(path)
        np.testing.assert_array_equal(volume.voxels, expected.reshape(volume.shape), err_msg=path.name)
        np.testing.assert_array_equal(volume.affine, image.affine)
        read += 1
    assert read > most_read
    assert refusals > most_refused


# ---------------------------------------------------------------- reading what is not


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_file_cut_anywhere_is_refused(tmp_path, suffix, scaled):
    image = image_of(ct((12, 11, 10)))
    if scaled:
        image.header.set_slope_inter(2, 1)
    content = saved(tmp_path / f"whole{suffix}", image).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cuts = {*range(0, 400, 7), *range(0, len(content), 97), *range(len(content) - 16, len(content))}
    for size in sorted(cuts):
        cut.write_bytes(content[:size])
        refused(read_image, cut)


def test_a_large_gzip_file_cut_in_its_checksum_is_refused(tmp_path):
    """Every voxel can be read, and yet the file is not what was written: only the last bytes tell."""
    image = image_of(ct((64, 64, 32)))
    image.header.set_slope_inter(2, 1)
    path = saved(tmp_path / "large.nii.gz", image)
    content = path.read_bytes()
    for size in range(len(content) - 8, len(content)):
        path.write_bytes(content[:size])
        refused(read_image, path, "damaged or cut short", "fetch the file again")


def test_a_flipped_bit_is_refused_or_harmless(good):
    """Some bits of a gzip stream carry nothing (a time, a name, an unused code); the others must be noticed."""
    content = good.read_bytes()
    harmless = 0
    for at in range(0, len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        good.write_bytes(bytes(damaged))
        try:
            volume = read_image(good)
        except InputError:
            continue
        np.testing.assert_array_equal(volume.voxels, ct())
        np.testing.assert_allclose(volume.affine, oblique(), atol=1e-4)
        harmless += 1
    assert harmless < len(content) / 10


@given(
    patches=st.lists(st.tuples(st.integers(0, HEADER_BYTES + 3), st.integers(0, 255)), min_size=1, max_size=6)
)
def test_a_damaged_header_gives_a_volume_or_one_line(tmp_path_factory, patches):
    folder = tmp_path_factory.mktemp("header")
    source = saved(folder / "source.nii.gz", image_of(ct()))
    path = patched(source, "damaged.nii.gz", *((at, bytes([value])) for at, value in patches))
    for read in (read_image, read_labels):
        try:
            volume = read(path)
        except InputError as error:
            assert "\n" not in str(error)
            continue
        assert volume.voxels.shape == volume.shape == read_grid(path).shape
        assert np.isfinite(volume.affine).all()


@pytest.mark.parametrize("name", ["notes.nii.gz", "notes.nii"])
@pytest.mark.parametrize("content", [b"patient;age\n1;63\n" * 40, bytes(2000), b"\x1f\x8b\x08\x00garbage"])
def test_what_is_no_nifti_file_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_grid, read_image, read_labels):
        refused(read, path, "not a readable NIfTI file", "export it again")


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    refused(read_image, tmp_path / "none.nii.gz", "no such file")
    refused(read_image, tmp_path, "no such file")


def test_another_format_is_named(volumes):
    refused(read_image, volumes / "nifti_hard/nibabel/test.mgz", "MGHImage", "wanted NIfTI")


def test_garbage_behind_the_gzip_stream_is_refused(good):
    good.write_bytes(good.read_bytes() + b"an upload went wrong")
    refused(read_image, good)


@pytest.mark.parametrize("shape", [(4, 4, 4, 2), (4, 4, 1, 2), (4, 4, 4, 1, 3)])
def test_other_than_three_axes_is_refused(tmp_path, shape):
    path = saved(tmp_path / "volume.nii.gz", image_of(np.zeros(shape, np.int16)))
    for read in (read_grid, read_image, read_labels):
        refused(read, path, f"is {len(shape)}-D", "split it first")


@pytest.mark.parametrize("slope", [0, 2])
@pytest.mark.parametrize("name", ["large.nii", "large.nii.gz"])
def test_fewer_voxels_than_the_header_promises_are_refused(good, name, slope):
    for side in (6, 32_767):
        size = struct.pack("<hhh", side, side, side)
        path = patched(good, name, (42, size), (112, struct.pack("<f", slope)))
        refused(read_image, path, "damaged or cut short")


def test_an_axis_without_length_is_named(good):
    refused(read_image, patched(good, "none.nii", (42, struct.pack("<h", 0))), "axis 1 the length 0", "dim[1]")
    refused(read_image, patched(good, "negative.nii.gz", (42, struct.pack("<h", -5))), "axis 1 the length -5")
    fourth = patched(good, "fourth.nii.gz", (40, struct.pack("<h", 4)), (48, struct.pack("<h", 0)))
    for read in (read_grid, read_image, lambda path: read_image(path, 0)):
        line = refused(read, fourth, "axis 4 the length 0", "correct dim[4]")
        assert "split" not in line


@pytest.mark.parametrize("name", ["flat.nii.gz", "flat.nii", "flat.nrrd", "flat.mha"])
def test_a_single_picture_is_not_to_be_split(tmp_path, name):
    if is_nifti(Path(name)):
        saved(tmp_path / name, image_of(np.zeros((6, 5), np.int16)))
    else:
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.int16)), str(tmp_path / name))
    for read in (read_grid, read_image, read_labels):
        line = refused(read, tmp_path / name, "is 2-D (6, 5)", "put its slices into one file")
        assert "split" not in line


# ---------------------------------------------------------------- what a file is, its bytes say


def nifti_bytes() -> bytes:
    return image_of(ct((24, 20, 16))).to_bytes()


@pytest.mark.parametrize(
    ("name", "pack", "note"),
    [
        ("a.nii", lambda b: b, ""),
        ("A.NII.GZ", gzip.compress, ""),
        ("a.Nii.Gz", gzip.compress, ""),
        ("a.nii.bz2", bz2.compress, ""),
        ("A.NII.BZ2", bz2.compress, ""),
        ("a.nii", gzip.compress, "is gzip-compressed although its name says that it is not compressed"),
        ("a.nii.gz", lambda b: b, "is not compressed although its name says that it is gzip-compressed"),
        ("a.nii.gz", bz2.compress, "is bzip2-compressed although its name says that it is gzip-compressed"),
        ("a.nii", bz2.compress, "is bzip2-compressed"),
        ("a.nrrd", lambda b: b, ""),  # as Mask.save once wrote it
        ("a.mha", gzip.compress, "is gzip-compressed"),
    ],
)
def test_content_decides_not_the_name(tmp_path, name, pack, note):
    path = tmp_path / name
    path.write_bytes(pack(nifti_bytes()))
    assert is_volume(path)
    assert case_name(path).lower() == "a"
    volume = read_image(path)
    np.testing.assert_array_equal(volume.voxels, ct((24, 20, 16)))
    assert read_grid(path).shape == (24, 20, 16)
    assert (note in volume.notes[0]) if note else volume.notes == ()
    path.write_bytes(pack(nifti_bytes())[:-9])
    refused(read_image, path, "damaged or cut short")


def dicom(uid: bytes) -> bytes:
    meta = b"\x02\x00\x02\x00UI" + struct.pack("<H", len(uid)) + uid
    return bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(meta)) + meta + bytes(900)


OTHERS = {
    "empty": (b"", ("(it is empty)", "fetch it again")),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", ("git lfs pull",)),
    "annex": (b"/annex/objects/MD5E-s1--00.nii.gz\n", ("git-annex pointer", "git annex get")),
    "annex link": (b"../../.git/annex/objects/x/y/z", ("git-annex pointer", "git annex get")),
    "login page": (
        b"\r\n<!DOCTYPE html>\n<html><head><title>Sign in</title>",
        ("a web page", "fetch it again"),
    ),
    "page": (b"\xef\xbb\xbf<HTML><body>404", ("a web page", "fetch it again")),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", ("is XML",)),
    "json": (b'{"message": "Not Found"}', ("is JSON",)),
    "zip": (b"PK\x03\x04" + bytes(600), ("a zip archive", "unpack it first")),
    "tar": (b"a.nii" + bytes(252) + b"ustar\x0000" + bytes(300), ("a tar archive", "unpack it first")),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(600), ("a 7z archive", "unpack it first")),
    "xz": (lzma.compress(bytes(600)), ("compressed with xz", "xz -d")),
    "zst": (b"\x28\xb5\x2f\xfd" + bytes(600), ("compressed with zstd", "zstd -d")),
    "dicomdir": (dicom(b"1.2.840.10008.1.3.10"), ("is a DICOMDIR", "give the folder of its images")),
    "dicom": (dicom(b"1.2.840.10008.5.1.4.1.1.2\0"), ("is DICOM", "its folder")),
    "nrrd": (b"NRRD0004\ntype: short\n" + bytes(600), ("is NRRD", "name it .nrrd")),
    "meta": (b"ObjectType = Image\nNDims = 3\n" + bytes(600), ("is MetaImage", "name it .mha")),
    "mgh": (struct.pack(">iiii", 1, 5, 4, 3) + bytes(600), ("is MGHImage", "convert it first")),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(600), ("is HDF5", "convert it first")),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(600), ("a PNG picture",)),
    "zeros": (bytes(2000), ("are zeros", "not finished")),
    "text": (b"x,y\n1,2\n" * 90, ("is text that begins 'x,y 1,2",)),
    "short": (b"\x5c\x01\x00\x00" + bytes(range(1, 99)), ("fewer than a header's",)),
}


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "A.HDR", "a.nii.gz in gzip"])
@pytest.mark.parametrize("other", OTHERS)
def test_the_line_names_what_the_file_is(tmp_path, other, name):
    content, words = OTHERS[other]
    path = tmp_path / name.removesuffix(" in gzip")
    path.write_bytes(gzip.compress(content) if name.endswith("in gzip") else content)
    for read in (read_grid, read_image, read_labels):
        refused(read, path, *words)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
@pytest.mark.parametrize("other", ["empty", "lfs", "login page", "zip", "dicom", "annex link", "xz"])
def test_the_line_names_what_the_file_is_under_other_names_too(tmp_path, other, name):
    content, words = OTHERS[other]
    (tmp_path / name).write_bytes(content)
    refused(read_image, tmp_path / name, *words)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mhd", "a.hdr"])
def test_a_link_that_leads_nowhere_is_one(tmp_path, name):
    (tmp_path / name).symlink_to("../.git/annex/objects/x")
    for read in (read_grid, read_image, read_labels):
        refused(
            read, tmp_path / name, "a link to ../.git/annex/objects/x, which is not there", "fetch the data"
        )


def test_a_pair_whose_voxels_are_a_link_that_leads_nowhere(tmp_path):
    nib.save(nib.Nifti1Pair(ct(), oblique()), tmp_path / "p.hdr")
    (tmp_path / "p.img").unlink()
    (tmp_path / "p.img").symlink_to("annex")
    with pytest.raises(InputError, match=r"p\.img: .*a link to annex"):
        read_image(tmp_path / "p.hdr")


@pytest.mark.parametrize(
    ("header", "voxels"),
    [
        ("p.hdr", "p.img"),
        ("p.hdr.gz", "p.img.gz"),
        ("P.HDR.GZ", "P.IMG.GZ"),
        ("p.hdr", "p.img.gz"),
        ("p.hdr.gz", "p.img"),
        ("p.hdr.bz2", "p.img.bz2"),
    ],
)
@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_a_pair_compressed_or_not_is_one_volume_by_either_name(tmp_path, header, voxels, kind):
    """The scaled one, too; nibabel has no one call for a pair in bytes."""
    pack = {".gz": gzip.compress, ".bz2": bz2.compress}
    for folder, slope in (("plain", None), ("scaled", (0.5, -100))):
        pair = kind(ct(), oblique())
        if slope:
            pair.header.set_slope_inter(*slope)
        place = tmp_path / folder
        place.mkdir()
        nib.save(pair, place / "q.hdr")
        for source, name in (("q.hdr", header), ("q.img", voxels)):
            content = (place / source).read_bytes()
            (place / source).unlink()
            (place / name).write_bytes(pack.get(Path(name).suffix.lower(), bytes)(content))
        for name in (header, voxels):
            volume = read_image(place / name)
            np.testing.assert_array_equal(volume.voxels, ct() * 0.5 - 100 if slope else ct())
            np.testing.assert_allclose(volume.affine, oblique(), atol=1e-4)
            assert volume.notes == ()
            assert files_of(place / name) == (place / header, place / voxels)
            assert case_name(place / name).lower() == "p"
            write_labels(place / "mask.nii.gz", labels(), volume)
            np.testing.assert_array_equal(nib.load(place / "mask.nii.gz").affine, volume.affine)
        assert is_volume(place / header)
        assert not is_volume(place / voxels)
        (place / voxels).unlink()
        refused(read_image, place / header, "are not there")


@pytest.mark.parametrize("name", ["p.img.gz", "p.img"])
def test_voxels_without_their_header(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(ct().tobytes()) if name.endswith("gz") else ct().tobytes())
    refused(read_image, tmp_path / name, "its header, p.hdr, is not there")


@pytest.mark.parametrize("name", ["p.hdr", "p.hdr.gz"])
def test_analyze_is_named_compressed_or_not(tmp_path, name):
    nib.save(nib.AnalyzeImage(ct(), np.eye(4)), tmp_path / name)
    for file in (name, name.replace("hdr", "img")):
        with pytest.raises(InputError, match=r"Analyze 7\.5, which does not tell left from right"):
            read_image(tmp_path / file)


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_colours_and_complex_numbers_are_refused(tmp_path, dtype):
    path = saved(tmp_path / "volume.nii.gz", image_of(np.zeros(SHAPE, dtype)))
    refused(read_image, path, "one number per voxel")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_with_voxels_that_are_no_numbers_are_refused(tmp_path, value):
    voxels = np.zeros(SHAPE, np.float32)
    voxels[1, 2, 0] = voxels[0, 0, 0] = value
    refused(read_image, saved(tmp_path / "image.nii.gz", image_of(voxels)), "2 voxels are NaN or infinite")


@pytest.mark.parametrize(
    ("affine", "word"),
    [
        (np.diag([0.0, 1, 1, 1]), "singular"),
        (np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
        (np.diag([1.0, 1, np.nan, 1]), "not finite"),
        (np.diag([1.0, 1, np.inf, 1]), "not finite"),
    ],
)
def test_an_affine_that_maps_no_volume_is_refused(good, affine, word):
    sform = np.asarray(affine[:3], "<f4").tobytes()
    path = patched(good, "bad.nii.gz", (252, struct.pack("<hh", 0, 2)), (280, sform))
    refused(read_image, path, word, "correct the header")
    refused(read_grid, path, word)


@pytest.mark.parametrize("qform_code", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_spacing_of_zero_is_refused_not_taken_for_one(good, axis, qform_code):
    codes = struct.pack("<hh", qform_code, 0)
    path = patched(good, "flat.nii.gz", (252, codes), (80 + 4 * axis, struct.pack("<f", 0)))
    refused(read_grid, path, "spacing of zero", "correct pixdim")


@pytest.mark.parametrize("name", ["early.nii", "early.nii.gz"])
@pytest.mark.parametrize(
    ("offset", "word"),
    [
        (0, "vox_offset"),
        (200, "byte 200"),
        (348, "vox_offset"),
        (-1, ""),
        (1e6, ""),
        (np.nan, ""),
        (np.inf, ""),
    ],
)
def test_voxels_that_begin_inside_the_header_or_nowhere_are_refused(good, name, offset, word):
    refused(read_image, patched(good, name, (108, struct.pack("<f", offset))), word)


def test_half_a_voxel_in_labels_is_refused(tmp_path):
    fractional = labels().astype(np.float32)
    assert read_labels(saved(tmp_path / "whole.nii.gz", image_of(fractional))).voxels.dtype == np.uint8
    fractional[0, 0, 0] = 1.5
    refused(read_labels, saved(tmp_path / "half.nii.gz", image_of(fractional)), "whole numbers")
    fractional[0, 0, 0] = np.nan
    refused(read_labels, saved(tmp_path / "nan.nii.gz", image_of(fractional)), "NaN")


@pytest.mark.parametrize("off", [1e-9, 1e-5, 9e-4])
@pytest.mark.parametrize("sign", [1, -1])
def test_labels_off_whole_numbers_by_rounding_are_rounded_with_a_note(tmp_path, off, sign):
    voxels = labels().astype(np.float64)
    voxels[1, 1, 1] = 3 + sign * off
    volume = read_labels(saved(tmp_path / "a.nii.gz", image_of(voxels)))
    assert volume.voxels.dtype == np.uint8
    assert volume.voxels[1, 1, 1] == 3
    assert f"up to {off:.1g}" in volume.notes[0]
    voxels[1, 1, 1] = 3 + sign * 2e-3
    refused(read_labels, saved(tmp_path / "b.nii.gz", image_of(voxels)), "fractions")


def test_labels_below_zero_or_above_uint16_are_refused(tmp_path):
    voxels = labels().astype(np.int32)
    voxels[0, 0, 0] = -1
    refused(read_labels, saved(tmp_path / "below.nii.gz", image_of(voxels)), "-1 to 8", "0 to 65535")
    voxels[0, 0, 0] = 70_000
    refused(read_labels, saved(tmp_path / "above.nii.gz", image_of(voxels)), "70000")
    voxels[0, 0, 0] = 281
    strays = read_labels(saved(tmp_path / "stray.nii.gz", image_of(voxels))).voxels
    assert strays.dtype == np.uint16
    assert strays.max() == 281


def test_two_grids_that_differ_are_refused_by_name(tmp_path):
    image = read_grid(saved(tmp_path / "image.nii.gz", image_of(ct())))
    require_same_grid(image, read_grid(saved(tmp_path / "label.nii.gz", image_of(labels()))))
    smaller = read_grid(saved(tmp_path / "smaller.nii.gz", image_of(labels((5, 4, 2)))))
    moved_affine = oblique()
    moved_affine[0, 3] += 0.5
    moved = read_grid(saved(tmp_path / "moved.nii.gz", image_of(labels(), moved_affine)))
    for other, words in ((smaller, ("(5, 4, 2)", "(5, 4, 3)")), (moved, ("affine",))):
        with pytest.raises(InputError) as caught:
            require_same_grid(image, other)
        for word in (other.path.name, "image.nii.gz", *words):
            assert word in str(caught.value)


@given(
    st.tuples(*[st.floats(0.03, 9)] * 3),
    st.tuples(*[st.integers(1, 600)] * 3),
    st.integers(0, 2),
    st.floats(0, 0.05),
)
def test_grids_are_alike_within_a_hundredth_of_their_own_voxel(spacing, shape, axis, part):
    """However large a voxel is: 0.013 mm of 0.7 mm are no rounding, nor are 0.3 micrometres of 30."""
    affine = oblique()
    affine[:3, :3] = affine[:3, :3] / (0.7, 0.8, 3.0) * spacing
    moved = affine.copy()
    moved[:3, 3] += part * affine[:3, axis]
    image, label = (Grid(Path(name), shape, place, None) for name, place in (("i", affine), ("l", moved)))
    if part < 0.0099:
        require_same_grid(image, label)
    elif part > 0.0101:
        with pytest.raises(InputError, match=f"up to {part * spacing[axis]:.3g} mm or {part:.2g} voxels away"):
            require_same_grid(image, label)


def test_a_mirrored_grid_is_told_from_its_image():
    mirrored = np.diag([-0.7, 0.7, 3.0, 1.0])
    image = Grid(Path("image.nii"), SHAPE, np.diag([0.7, 0.7, 3.0, 1.0]), None)
    with pytest.raises(InputError, match=r"up to 5\.6 mm or 8 voxels away, with its axes LAS instead of RAS"):
        require_same_grid(image, Grid(Path("label.nii"), SHAPE, mirrored, None))


def quaternion_of(squared: float, **forms) -> nib.Nifti1Image:
    """An image whose qform turns by 180 degrees, with a quaternion of another length."""
    image = nib.Nifti1Image(ct(), None)
    image.header["qform_code"], image.header["sform_code"] = 1, 0
    image.header["pixdim"][:4] = 1, 0.7, 0.8, 3.0
    image.header["quatern_c"] = np.sqrt(squared)
    for name, value in forms.items():
        image.header[name] = value
    return image


@pytest.mark.parametrize("excess", [3e-7, 1e-6, 1e-4])
def test_a_quaternion_too_long_by_rounding_is_read_as_itk_reads_it(tmp_path, excess):
    path = tmp_path / "a.nii"
    path.write_bytes(quaternion_of(1 + excess).to_bytes())
    volume = read_image(path)
    image = sitk.ReadImage(str(path))
    wanted = np.eye(4)
    wanted[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    wanted = np.diag([-1, -1, 1, 1]) @ wanted
    np.testing.assert_allclose(volume.affine, wanted, atol=1e-5)
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([-0.7, 0.8, -3.0]), atol=1e-5)
    assert ("longer than 1" in " ".join(volume.notes)) == (excess > 4e-7)
    write_labels(tmp_path / "mask.nii.gz", labels(), volume)
    np.testing.assert_allclose(nib.load(tmp_path / "mask.nii.gz").affine, wanted, atol=1e-5)


def test_a_quaternion_too_long_by_damage_is_refused(tmp_path):
    (tmp_path / "a.nii").write_bytes(quaternion_of(1.5).to_bytes())
    refused(read_image, tmp_path / "a.nii", "not a readable NIfTI file", "w2 should be positive")


def test_doubtful_forms_are_noted(tmp_path):
    def notes(image) -> str:
        (tmp_path / "a.nii").write_bytes(image.to_bytes())
        return " ".join(read_image(tmp_path / "a.nii").notes)

    image = image_of(ct())
    image.set_sform(oblique(), 1)
    image.set_qform(oblique(), 1)
    assert notes(image) == ""
    moved = oblique()
    moved[0, 3] += 0.75  # less than a millimetre, more than a voxel
    image.set_qform(moved, 1)
    assert "sform and qform disagree by up to 0.75 mm" in notes(image)
    image.header["quatern_b"] = 9
    assert "qform is damaged" in notes(image)
    image = image_of(ct())
    image.set_qform(oblique(), 1)
    content = bytearray(image.to_bytes())
    content[254:256] = struct.pack("<h", 77)
    (tmp_path / "a.nii").write_bytes(content)
    assert "sform_code 77 is none that NIfTI defines" in " ".join(read_image(tmp_path / "a.nii").notes)


@pytest.mark.parametrize(
    ("size", "unit", "noted"),
    [
        (0.7, 0, False),
        (0.7, 2, False),
        (7e-4, 0, True),
        (700, 0, True),
        (700, 5, True),
        (700, 2, False),
        (0.06, 0, False),
    ],
)
def test_voxels_without_a_unit_are_millimetres_with_a_note_where_that_is_odd(tmp_path, size, unit, noted):
    image = image_of(ct(), np.diag([size, size, size, 1]), xyzt_units=unit)
    notes = " ".join(read_image(saved(tmp_path / "a.nii", image)).notes)
    assert ("that they are millimetres is a guess" in notes) == noted


def held_by(voxels: np.ndarray) -> int:
    """The bytes that are kept in memory for an array, whichever array they belong to."""
    most = voxels.nbytes
    while (base := getattr(voxels, "base", None)) is not None:
        most = max(most, memoryview(base).nbytes)
        voxels = base
    return most


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nii.bz2", "a.nrrd", "a.mha", "vector.nrrd"])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_one_volume_of_many_is_all_that_is_kept(tmp_path, name, scale):
    many = np.random.default_rng(5).integers(0, 99, (6, 5, 4, 30)).astype(np.int16)
    if is_nifti(Path(name)):
        image = image_of(many)
        if scale:
            image.header.set_slope_inter(scale, 0)
        saved(tmp_path / name, image)
    elif scale is None:
        sitk.WriteImage(
            sitk.GetImageFromArray(
                many.T if "vector" not in name else many.transpose(2, 1, 0, 3), isVector="vector" in name
            ),
            str(tmp_path / name),
        )
    else:
        return
    for index in (0, 17, 29):
        volume = read_image(tmp_path / name, index)
        np.testing.assert_array_equal(volume.voxels, many[..., index] * (scale or 1))
        assert held_by(volume.voxels) <= many[..., 0].size * volume.voxels.dtype.itemsize


def test_one_volume_of_more_than_four_axes(tmp_path):
    many = np.random.default_rng(5).integers(0, 99, (4, 3, 2, 5, 3)).astype(np.int16)
    for name in ("a.nii", "a.nii.gz"):
        path = saved(tmp_path / name, image_of(many))
        for index in (0, 6, 14):
            wanted = many.reshape((4, 3, 2, 15), order="F")[..., index]
            np.testing.assert_array_equal(read_image(path, index).voxels, wanted)
            np.testing.assert_array_equal(of_image(path, nib.load(path), index).voxels, wanted)


# ---------------------------------------------------------------- writing


def nifti1(**header):
    return image_of(ct(), **header)


def qform_only():
    image = nifti1()
    image.set_qform(oblique(), 1)
    image.set_sform(None, 0)
    return image


def sform_only():
    image = nifti1()
    image.set_sform(oblique(), 2)
    image.set_qform(None, 0)
    return image


def two_forms():
    """A scanner qform and another, sheared sform, as registration tools leave them."""
    image = nifti1()
    image.set_qform(oblique(), 1)
    sheared = oblique()
    sheared[0, 1] += 0.05
    image.set_sform(sheared, 4)
    return image


def neither():
    image = nifti1()
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    return image


def scaled():
    """Stored values v that stand for 0.5 v - 100; nibabel writes the voxels as they are once a slope is set."""
    image = nifti1()
    image.header.set_slope_inter(0.5, -100)
    return image


def big_endian():
    image = nib.Nifti1Image(ct(), None, nifti1().header.as_byteswapped(">"))
    image.set_sform(oblique(), 1)
    return image


def extended():
    image = nifti1()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"scanner notes " * 40))
    return image


SOURCES = {
    "nifti1": nifti1,
    "nifti2": lambda: image_of(ct(), kind=nib.Nifti2Image),
    "qform only": qform_only,
    "sform only": sform_only,
    "two forms": two_forms,
    "no form": neither,
    "big-endian": big_endian,
    "scaled": scaled,
    "extension": extended,
    "units": lambda: nifti1(xyzt_units=10, descrip=b"portal venous phase", cal_max=400, cal_min=-100),
    "trailing axis": lambda: image_of(ct()[..., None]),
    "floats": lambda: image_of(ct().astype(np.float32)),
}
FORMS = ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d")
KEPT = (*FORMS, "qoffset_x", "qoffset_y", "qoffset_z", "xyzt_units")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("source", SOURCES)
def test_masks_are_written_in_the_exact_grid_of_their_image(tmp_path, source, suffix):
    path = saved(tmp_path / f"image{suffix}", SOURCES[source]())
    mask = tmp_path / "out" / "mask.nii.gz"
    write_labels(mask, labels(), read_grid(path))
    image, written = nib.load(path), nib.load(mask)
    np.testing.assert_array_equal(written.affine, image.affine)
    assert written.shape == image.shape[:3]
    assert type(written) is type(image)
    assert written.header.endianness == image.header.endianness
    for field in KEPT:
        np.testing.assert_array_equal(written.header[field], image.header[field], err_msg=field)
    np.testing.assert_array_equal(written.header["pixdim"][:4], image.header["pixdim"][:4])
    assert written.get_data_dtype() == np.uint8
    assert (written.dataobj.slope, written.dataobj.inter) == (1, 0)
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels())
    np.testing.assert_array_equal(read_labels(mask).voxels, labels())
    require_same_grid(read_grid(path), read_grid(mask))


PATIENT = b"patient 123"


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_masks_inherit_the_place_and_nothing_else(tmp_path, kind, endian):
    """Every field of the header that holds text holds the patient; every number that says no place is odd."""
    image = kind(ct(), None, kind.header_class(endianness=endian))
    image.set_sform(oblique(), 1)
    image.set_qform(oblique(), 1)
    header = image.header
    for field in header:
        if header[field].dtype.kind == "S" and field != "magic":
            header[field] = PATIENT[: header[field].dtype.itemsize]
    others = (
        "intent_p1",
        "intent_p2",
        "intent_p3",
        "cal_min",
        "cal_max",
        "slice_duration",
        "toffset",
        "slice_end",
    )
    for field in (*others, "intent_code", "slice_code", "dim_info"):
        header[field] = 3
    header["pixdim"][4:] = 3
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", PATIENT * 9))
    path = tmp_path / ("a.hdr" if "Pair" in kind.__name__ else "a.nii")
    nib.save(image, path)
    assert PATIENT in path.read_bytes()
    for source in (read_image(path), of_image(path, nib.load(path)), read_grid(path)):
        write_labels(tmp_path / "mask.nii", labels(), source)
        assert b"patient" not in (tmp_path / "mask.nii").read_bytes()
        written = nib.load(tmp_path / "mask.nii")
        fresh = type(written.header)()
        for field in (*others, "intent_code", "slice_code", "dim_info", "descrip", "aux_file", "intent_name"):
            np.testing.assert_array_equal(written.header[field], fresh[field], err_msg=field)
        assert len(written.header.extensions) == 0
        assert (written.header["pixdim"][4:] == 1).all()
        np.testing.assert_array_equal(written.affine, nib.load(path).affine)
        assert written.header.endianness == endian
        for field in KEPT:
            np.testing.assert_array_equal(written.header[field], nib.load(path).header[field], err_msg=field)


@pytest.mark.parametrize(
    "name",
    ["m.nrrd", "m.seg.nrrd", "m.mha", "m.dcm", "m", "m.hdr", "m.img", "m.nii.bz2", "m.mgz", "m.gz", "m.npy"],
)
def test_masks_are_not_written_under_the_name_of_another_format(tmp_path, name):
    grid = Grid(Path("x"), SHAPE, oblique(), None)
    refused(lambda path: write_labels(path, labels(), grid), tmp_path / name, "written as NIfTI", ".nii.gz")
    assert not list(tmp_path.iterdir())


@given(
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.sampled_from([5, 4]),
    st.sampled_from([(512, 512, 300), (9, 8, 7)]),
)
@example((0.0, 173.0, 179.0), 5, (512, 512, 300))
def test_rounded_direction_cosines_have_a_qform(angles, digits, shape):
    """As DICOM gives them, off by up to 5e-5: a quaternion comes within a tenth of a voxel of every corner.

    Near half a turn its single precision does not: there is the sform alone.
    """
    affine = np.eye(4)
    affine[:3, :3] = np.round(Rotation.from_euler("xyz", angles, degrees=True).as_matrix(), digits) * (
        0.7,
        0.8,
        3,
    )
    affine[:3, 3] = -120.25, 33.5, 910.125
    header = header_on(shape, affine, None)
    half_a_turn = Rotation.from_euler("xyz", angles, degrees=True).magnitude() > np.pi - 0.2
    assert header["qform_code"] == 1 or half_a_turn
    np.testing.assert_allclose(header.get_sform(), affine, atol=1e-4)
    assert header["qform_code"] == 0 or corner_voxels(shape, affine, header.get_qform()) <= 0.1


@pytest.mark.parametrize("degrees", [0.5, 5, -15])
def test_a_sheared_grid_has_no_qform(degrees):
    lean = np.deg2rad(degrees)
    affine = np.diag([0.7, 0.7, 5.0, 1.0])
    affine[1:3, 2] = 5 * np.sin(lean), 5 * np.cos(lean)
    header = header_on((512, 512, 30), affine, None)
    assert (header["qform_code"], header["sform_code"]) == (0, 1)
    np.testing.assert_allclose(header.get_sform(), affine, atol=1e-5)


def test_itk_opens_a_mask_on_rounded_direction_cosines(tmp_path):
    affine = np.eye(4)
    affine[:3, :3] = np.round(Rotation.from_euler("xyz", (11, -23, 5), degrees=True).as_matrix(), 4) * (
        0.7,
        0.8,
        3,
    )
    write_labels(tmp_path / "mask.nii.gz", labels(), Grid(Path("dicom"), SHAPE, affine, None))
    assert sitk.ReadImage(str(tmp_path / "mask.nii.gz")).GetSize() == SHAPE


def test_a_header_about_another_place_is_not_inherited(tmp_path):
    """An image held in memory whose header was changed after it was made."""
    image = image_of(ct())
    image.header["srow_x"] = 9
    write_labels(tmp_path / "mask.nii", labels(), of_image(Path("image"), image))
    np.testing.assert_allclose(nib.load(tmp_path / "mask.nii").affine, oblique(), atol=1e-4)


def test_simpleitk_sees_the_mask_where_it_sees_the_image(tmp_path):
    path = saved(tmp_path / "image.nii.gz", nifti1())
    write_labels(tmp_path / "mask.nii.gz", labels(), read_grid(path))
    image, mask = (sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("image", "mask"))
    for read in ("GetSize", "GetOrigin", "GetDirection", "GetSpacing"):
        assert getattr(mask, read)() == getattr(image, read)()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), labels().transpose())


def test_every_real_grid_comes_back(volumes, tmp_path):
    folders = ("cardiac_sunnybrook", "abdomen_ct_totalseg", "nifti_hard", "prostate_labels")
    written = 0
    for path in (file for folder in folders for file in sorted((volumes / folder).rglob("*.nii*"))):
        try:
            grid = read_grid(path)
        except InputError:
            continue
        mask = tmp_path / "mask.nii.gz"
        write_labels(mask, np.zeros(grid.shape, np.uint8), grid)
        back = nib.load(mask)
        np.testing.assert_array_equal(back.affine, grid.affine, err_msg=path.name)
        for field in ("qform_code", "sform_code", "xyzt_units"):
            assert back.header[field] == grid.header[field], path.name
        written += 1
    assert written > 25


@pytest.mark.parametrize(("highest", "dtype"), [(255, np.uint8), (256, np.uint16), (65_535, np.uint16)])
def test_the_smallest_sufficient_integer_type_is_written(tmp_path, highest, dtype):
    path = saved(tmp_path / "image.nii.gz", nifti1())
    voxels = np.full(SHAPE, highest, np.int64)
    write_labels(tmp_path / "mask.nii.gz", voxels, read_grid(path))
    assert nib.load(tmp_path / "mask.nii.gz").get_data_dtype() == dtype
    assert read_labels(tmp_path / "mask.nii.gz").voxels.max() == highest


@pytest.mark.parametrize("value", [-1, 65_536])
def test_values_that_no_label_map_holds_are_refused_not_wrapped(tmp_path, value):
    path = saved(tmp_path / "image.nii.gz", nifti1())
    with pytest.raises(ValueError, match="65535"):
        write_labels(tmp_path / "mask.nii.gz", np.full(SHAPE, value), read_grid(path))
    assert not (tmp_path / "mask.nii.gz").exists()


def test_a_mask_of_another_shape_is_refused(tmp_path):
    path = saved(tmp_path / "image.nii.gz", nifti1())
    with pytest.raises(ValueError, match=r"\(3, 4, 5\)"):
        write_labels(tmp_path / "mask.nii.gz", labels().transpose(), read_grid(path))


def test_names(tmp_path):
    assert is_nifti(Path("a.nii"))
    assert is_nifti(Path("a.b.nii.gz"))
    assert not is_nifti(Path("a.gz"))
    assert case_name(Path("folder/img0001.nii.gz")) == "img0001"
    assert case_name(Path("a.b.nii")) == "a.b"


# ---------------------------------------------------------------- read once, and hashed as it was read


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "name", ["a.nii", "a.nii.gz", "a.nii.bz2", "a.hdr", "a.mha", "a.mhd", "a.nrrd", "a.nhdr", "padded.nii.gz"]
)
def test_the_digests_of_a_volume_are_those_of_its_files(tmp_path, name):
    path = tmp_path / name
    if name.endswith(("mha", "mhd", "nrrd", "nhdr")):
        sitk.WriteImage(sitk.GetImageFromArray(ct()), str(path))
    elif name.endswith(".bz2"):
        plain = saved(tmp_path / "plain.nii", image_of(ct()))
        path.write_bytes(bz2.compress(plain.read_bytes()))
    else:
        saved(path, image_of(ct(), kind=nib.Nifti1Pair) if name == "a.hdr" else image_of(ct()))
    if name.startswith("padded"):
        path.write_bytes(path.read_bytes() + bytes(512))
    files = files_of(path)
    assert len(files) == (2 if name in ("a.hdr", "a.mhd", "a.nhdr") else 1)
    assert read_image(path, hashed=True).digests == {file: sha256(file) for file in files}
    assert read_labels(saved(tmp_path / "label.nii.gz", image_of(labels())), hashed=True).digests
    assert read_image(path).digests == {}


@pytest.mark.parametrize("name", ["four.nii", "four.nii.gz"])
def test_the_digest_of_one_of_several_volumes_is_that_of_the_file(tmp_path, name):
    path = saved(tmp_path / name, image_of(np.stack([ct(), ct() + 1], axis=3)))
    volume = read_image(path, 1, hashed=True)
    np.testing.assert_array_equal(volume.voxels, ct() + 1)
    assert volume.digests == {path: sha256(path)}


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_an_exchanged_file_has_the_digest_of_what_was_read(tmp_path, monkeypatch, name):
    """Exchanged between the look at its header and its voxels, by another of the same header."""
    path, other = saved(tmp_path / name, image_of(ct())), saved(tmp_path / f"other_{name}", image_of(ct() + 1))
    wanted, read = sha256(other), reading.read_voxels
    monkeypatch.setattr(reading, "read_voxels", lambda *a, **k: (other.replace(path), read(*a, **k))[1])
    volume = read_image(path, hashed=True)
    np.testing.assert_array_equal(volume.voxels, ct() + 1)
    assert volume.digests == {path: wanted}


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr"])
def test_a_file_whose_header_is_exchanged_while_it_is_read_is_refused(tmp_path, monkeypatch, name):
    kind = nib.Nifti1Pair if name == "a.hdr" else nib.Nifti1Image
    path = saved(tmp_path / name, image_of(ct(), kind=kind))
    other = saved(tmp_path / f"other_{name}", image_of(ct(), np.diag((2, 2, 2, 1)), kind=kind))
    read = reading.read_voxels
    monkeypatch.setattr(reading, "read_voxels", lambda *a, **k: (other.replace(path), read(*a, **k))[1])
    refused(read_image, path, "changed while it was read; run the same command again")


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd", "a.mhd"])
def test_what_itk_reads_is_the_same_before_and_after(tmp_path, monkeypatch, name):
    path, read = tmp_path / name, reading._read_itk
    sitk.WriteImage(sitk.GetImageFromArray(ct()), str(path))

    def exchanging(*arguments):
        volume = read(*arguments)
        sitk.WriteImage(sitk.GetImageFromArray(ct() + 1), str(path))
        return volume

    monkeypatch.setattr(reading, "_read_itk", exchanging)
    with pytest.raises(InputError, match="changed while it was read"):
        read_image(path, hashed=True)


# ---------------------------------------------------------------- want of means is no damage


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.ENOMEM, "not enough memory"),
        (errno.EMFILE, "too many files are open"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "the disk or network drive reports an error"),
        (errno.ESTALE, "the network drive has lost it"),
    ],
)
@pytest.mark.parametrize("at", ["first", "voxels"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_want_of_means_is_called_by_its_name(tmp_path, monkeypatch, number, word, at, name):
    path = tmp_path / name
    saved(path, image_of(ct()))
    opened = Path.open

    def wanting(self, mode="r", buffering=-1, *arguments, **options):
        if self == path and (at == "first" or buffering == 0):
            raise OSError(number, os.strerror(number))
        return opened(self, mode, buffering, *arguments, **options)

    monkeypatch.setattr(Path, "open", wanting)
    line = refused(read_image, path, word)
    assert "damaged" not in line
    assert "fetch" not in line
    assert "export" not in line


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("Failed to allocate memory for image.", "not enough memory"),
        ("File cannot be read: a.mha. Reason: Too many open files", "too many files are open"),
        ("File cannot be read: a.mha. Reason: Permission denied", "permission denied"),
    ],
)
def test_what_itk_says_of_want_of_means(tmp_path, said, word):
    with (
        pytest.raises(InputError, match=f"a.mha: cannot be read: {word}"),
        volumes_itk.reading(tmp_path / "a.mha"),
    ):
        raise RuntimeError(f"ITK ERROR: MetaImageIO(0x1): {said}")


def test_a_header_without_forms_and_sizes_says_so(tmp_path):
    image = image_of(ct(), np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    volume = read_image(saved(tmp_path / "a.nii", image))
    assert volume.unstated == volume.notes
    assert (
        "neither sform nor qform: left and right are a guess, and voxels of 1 mm may be one" in volume.notes[0]
    )
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[80:92] = struct.pack("<3f", 0.8, 0.8, 3)  # pixdim
    (tmp_path / "a.nii").write_bytes(content)
    assert read_image(tmp_path / "a.nii").notes == (
        "the header has neither sform nor qform: left and right are a guess",
    )
    with pytest.raises(InputError, match="--require-geometry"):
        volume.require_geometry()
    read_image(saved(tmp_path / "c.nii", image_of(ct()))).require_geometry()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_that_shrinks_while_it_is_read_is_cut_short(tmp_path, monkeypatch, name):
    """No file is mapped into memory, where reading what is gone would end the process."""
    path, fill = saved(tmp_path / name, image_of(ct((256, 256, 20)))), volumes_nifti.filled

    def shrinking(stream, into):
        if len(into) > HEADER_BYTES:
            os.truncate(path, 400)
        return fill(stream, into)

    monkeypatch.setattr(volumes_nifti, "filled", shrinking)
    refused(read_image, path, "damaged or cut short")
    whole = read_image(saved(tmp_path / "b.nii", image_of(ct()))).voxels
    assert not isinstance(whole, np.memmap)
    assert not isinstance(whole.base, mmap.mmap)
