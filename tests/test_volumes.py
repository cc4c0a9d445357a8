"""Good NIfTI files read as nibabel reads them, bad ones are refused; masks are written in the input's grid."""

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dsnet_med.errors import InputError
from dsnet_med.volumes import (
    case_name,
    is_nifti,
    read_grid,
    read_image,
    read_labels,
    require_same_grid,
    write_labels,
)

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


def test_every_real_volume_reads_as_nibabel_reads_it(shared):
    """The fast gzip path against nibabel on all files of the shared folder; 4-D and colour ones are refused."""
    read, refusals = 0, 0
    for path in sorted((shared / "data").rglob("*.nii*")):
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
    assert read > 300
    assert refusals > 5


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
@pytest.mark.parametrize("content", [b"", b"patient;age\n1;63\n" * 40, bytes(2000), b"\x1f\x8b\x08\x00garbage"])
def test_what_is_no_nifti_file_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_grid, read_image, read_labels):
        refused(read, path, "not a readable NIfTI file", "export it again")


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    refused(read_image, tmp_path / "none.nii.gz", "no such file")
    refused(read_image, tmp_path, "no such file")


def test_another_format_is_named(shared):
    refused(read_image, shared / "data/nifti_hard/nibabel/test.mgz", "MGHImage", "wanted NIfTI")


def test_garbage_behind_the_gzip_stream_is_refused(good):
    good.write_bytes(good.read_bytes() + b"an upload went wrong")
    refused(read_image, good)


@pytest.mark.parametrize("shape", [(4, 4, 4, 2), (4, 4, 1, 2), (4, 4), (4, 4, 4, 1, 3)])
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


def test_an_empty_volume_is_refused(tmp_path, good):
    refused(read_image, patched(good, "none.nii", (42, struct.pack("<h", 0))))
    refused(read_image, patched(good, "negative.nii.gz", (42, struct.pack("<h", -5))))


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
KEPT = (*FORMS, "qoffset_x", "qoffset_y", "qoffset_z", "xyzt_units", "descrip", "intent_code")


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


def test_simpleitk_sees_the_mask_where_it_sees_the_image(tmp_path):
    path = saved(tmp_path / "image.nii.gz", nifti1())
    write_labels(tmp_path / "mask.nii.gz", labels(), read_grid(path))
    image, mask = (sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("image", "mask"))
    for read in ("GetSize", "GetOrigin", "GetDirection", "GetSpacing"):
        assert getattr(mask, read)() == getattr(image, read)()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), labels().transpose())


def test_every_real_grid_comes_back(shared, tmp_path):
    folders = ("cardiac_sunnybrook", "abdomen_ct_totalseg", "nifti_hard", "prostate_labels")
    written = 0
    for path in (file for folder in folders for file in sorted((shared / "data" / folder).rglob("*.nii*"))):
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
