"""DICOM series as volumes: voxels and places against ground truths and ITK; every kind of bad file."""

import io
import locale
import logging
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from made import as_words, hounsfield, images, multi_frame, oblique, write
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from dsnet_med.dicom.read import SourceSlice, read_series
from dsnet_med.dicom.series import find_series
from dsnet_med.errors import InputError
from dsnet_med.geometry import same_grid
from dsnet_med.sniff import is_dicom
from dsnet_med.volumes import Volume

VOLUMES = {  # folder in dicom2nifti, number of volumes in its one series
    "ge/anatomical/001": 1,
    "ge/dti/001": 2,
    "ge/dti/002": 4,
    "ge/fmri/001": 2,
    "generic/anatomical/001": 1,
    "generic/anatomical/002_non_isotropic": 1,
    "generic/compressed/001": 1,
    "generic/compressed_j2k/001": 1,
    "generic/compressed_jpeg/001": 1,
    "generic/compressed_jpegls/001": 1,
    "generic/compressed_rle/001": 1,
    "hyperfine/anatomical/001": 1,
    "siemens/anatomical/001": 1,
    "siemens/dti_classic/001": 2,
    "siemens/fmri_classic/001": 2,
}
REFUSED = {
    "ge/anatomical/001_single_slice": "single slice of unknown thickness",
    "generic/rgb/001": "is in colour",
}


IN_THE_CHECKOUT = {
    "ge/dti/002",
    "ge/fmri/001",
    "generic/anatomical/002_non_isotropic",
    "generic/rgb/001",
    "hyperfine/anatomical/001",
}


def in_the_checkout_or_shared(names):
    """The names as parameters of a test; those of further series run beside the shared folder."""
    return [name if name in IN_THE_CHECKOUT else pytest.param(name, marks=pytest.mark.shared) for name in names]


def read(folder: Path, index: int | None = None):
    [series] = find_series([file for file in sorted(folder.iterdir()) if is_dicom(file)])
    return read_series(series, index)


def refused(folder, made, *words, index=None):
    write(folder, made)
    with pytest.raises(InputError) as caught:
        read(folder, index)
    line = str(caught.value)
    assert all(word in line for word in words), line
    assert str(folder) in line
    assert "\n" not in line
    return line


# ---------------------------------------------------------------- real series


def require_equal(volume, voxels, affine):
    """The same values at the same places, whatever the order and direction of the other's axes."""
    exchange = np.linalg.inv(volume.affine) @ affine
    whole = np.rint(exchange)
    assert np.abs(whole[:3, :3]).sum() == 3
    ours = volume.affine @ whole
    size = np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(ours[:3, :3] / size, affine[:3, :3] / size, atol=1e-3)
    np.testing.assert_allclose(ours[:3, 3], affine[:3, 3], atol=5e-3)
    theirs = np.indices(voxels.shape).reshape(3, -1)
    at = (whole[:3, :3] @ theirs + whole[:3, 3:]).astype(int)
    assert voxels.size == volume.voxels.size
    np.testing.assert_allclose(volume.voxels[tuple(at)], voxels.ravel(), rtol=1e-6)


@pytest.mark.parametrize("name", in_the_checkout_or_shared(VOLUMES))
def test_ground_truth_of_dicom2nifti(volumes, name):
    folder, count = volumes / "dicom" / "dicom2nifti" / name, VOLUMES[name]
    truths = sorted(folder.parent.glob(f"{folder.name}_ground_truth*.nii.gz"))
    assert truths
    for truth in map(nib.load, truths):
        voxels = np.asanyarray(truth.dataobj).reshape(*truth.shape[:3], -1)
        assert voxels.shape[3] == count
        for k in range(count):
            require_equal(read(folder, k), voxels[..., k], truth.affine)
    if count > 1:
        with pytest.raises(InputError, match=f"holds {count} volumes of 4 slices each"):
            read(folder)


@pytest.mark.parametrize("name", in_the_checkout_or_shared(REFUSED))
def test_real_series_that_are_refused(volumes, name):
    with pytest.raises(InputError, match=REFUSED[name]):
        read(volumes / "dicom" / "dicom2nifti" / name)


def by_itk(folder: Path):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag((-1, -1, 1, 1)) @ affine


ONE_VOLUME = [name for name, count in VOLUMES.items() if count == 1 and "hyperfine" not in name]


@pytest.mark.parametrize(
    "name",
    [
        *in_the_checkout_or_shared(ONE_VOLUME),
        "../torchio_ct17",
        "../dcmqi_ct_seg/23x38x3/image",
        "../dcmqi_ct_seg/24x38x3/image",
        pytest.param("../dcmqi_ct_seg/ct-3slice", marks=pytest.mark.shared),
    ],
)
def test_equal_to_itk(volumes, name):
    folder = (volumes / "dicom" / "dicom2nifti" / name).resolve()
    volume, (voxels, affine) = read(folder), by_itk(folder)
    assert volume.shape == voxels.shape
    assert same_grid(volume.shape, volume.affine, voxels.shape, affine)
    np.testing.assert_allclose(volume.voxels, voxels, rtol=1e-6)


@pytest.mark.parametrize("name", ["23x38x3", "24x38x3"])
def test_multi_frame_is_equal_to_single_frames(volumes, name):
    folder = volumes / "dicom" / "dcmqi_ct_seg" / name
    one, many = read(folder / "multiframe"), read(folder / "image")
    assert np.array_equal(one.voxels, many.voxels)
    np.testing.assert_allclose(one.affine, many.affine, atol=1e-5)
    assert {source.file for source in one.slices} == {one.path}
    assert sorted(source.frame for source in one.slices) == [1, 2, 3]
    assert {source.frame for source in many.slices} == {None}


# ---------------------------------------------------------------- made series


def test_a_volume_of_single_frames(tmp_path):
    made = images(5, orientation=oblique(1))
    files = write(tmp_path, made, reverse=True)
    volume = read(tmp_path)
    assert isinstance(volume, Volume)
    assert (volume.path, volume.shape, volume.header, volume.notes) == (tmp_path, (8, 6, 5), None, ())
    assert np.array_equal(volume.voxels, hounsfield(made))
    assert (volume.voxels.dtype, volume.voxels.flags.f_contiguous) == (np.int16, True)
    assert volume.slices == tuple(SourceSlice(file, None) for file in files)
    voxels, affine = by_itk(tmp_path)
    assert np.array_equal(volume.voxels, voxels)
    assert same_grid(volume.shape, volume.affine, voxels.shape, affine)


@pytest.mark.parametrize("in_shared", [True, False])
@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_multi_frame(tmp_path, in_shared, syntax):
    """Frames in no order, each with its own slope and intercept."""
    made = images(5, orientation=oblique(2))
    for index, one in enumerate(made):
        one.RescaleSlope, one.RescaleIntercept = index + 1, -10 * index
    write(tmp_path / "single", made)
    whole = multi_frame([made[k] for k in (3, 0, 4, 1, 2)], in_shared)
    if syntax is not None:
        whole.compress(syntax)
    [file] = write(tmp_path / "multi", [whole])
    one, many = read(tmp_path / "multi"), read(tmp_path / "single")
    assert np.array_equal(one.voxels, many.voxels)
    assert np.array_equal(one.voxels, hounsfield(made))
    np.testing.assert_allclose(one.affine, many.affine)
    assert one.slices == tuple(SourceSlice(file, number) for number in (2, 4, 5, 1, 3))
    assert one.path == file


def test_a_multi_frame_file_of_several_volumes(tmp_path):
    first, second = images(3), images(3, seed=9)
    write(tmp_path, [multi_frame([first[0], second[0], first[1], second[1], first[2], second[2]])])
    for index, made in enumerate((first, second)):
        assert np.array_equal(read(tmp_path, index).voxels, hounsfield(made))
    with pytest.raises(InputError, match="holds 2 volumes of 3 slices each"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "wanted"),
    [
        (np.uint8, 1, 0, np.int16),
        (np.int16, 1, -1024, np.int16),
        (np.uint16, 20, 0, np.int32),
        (np.uint16, -1, 5, np.int16),
        (np.int32, 1, 100000, np.int32),
        (np.uint16, 10**7, 0, np.float32),
        (np.uint16, 0.5, 0, np.float32),
        (np.uint16, 1, 0.25, np.float32),
    ],
)
def test_rescaling(tmp_path, dtype, slope, intercept, wanted):
    made = images(3, dtype=dtype, RescaleSlope=slope, RescaleIntercept=intercept)
    write(tmp_path, made)
    volume = read(tmp_path)
    assert volume.voxels.dtype == wanted
    np.testing.assert_allclose(volume.voxels, hounsfield(made), rtol=1e-6)


def test_no_rescaling(tmp_path):
    made = images(3)
    values = hounsfield(made) + 1024
    for one in made:
        del one.RescaleSlope, one.RescaleIntercept
    write(tmp_path, made)
    assert np.array_equal(read(tmp_path).voxels, values)


def test_bits_that_are_not_stored_do_not_count(tmp_path):
    """12 signed bits in 16: the four above them may hold an overlay, and the sign is in bit 11."""
    made = images(2, BitsStored=12, HighBit=11, PixelRepresentation=1, RescaleIntercept=0)
    for one in made:
        one.PixelData = np.full((6, 8), 0x5FFF, np.uint16).tobytes()
    write(tmp_path, made)
    assert (read(tmp_path).voxels == -1).all()
    assert (by_itk(tmp_path)[0] == -1).all()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_transfer_syntaxes(tmp_path, syntax):
    made = images(4)
    wanted = hounsfield(made)
    for one in made:
        if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
            one.compress(syntax)
        one.file_meta.TransferSyntaxUID = syntax
    write(tmp_path, made)
    assert np.array_equal(read(tmp_path).voxels, wanted)


def test_jpeg_baseline(tmp_path):
    made = images(3, shape=(16, 16), dtype=np.uint8, LossyImageCompression="01", RescaleIntercept=0)
    for k, one in enumerate(made):
        content = io.BytesIO()
        Image.fromarray(np.full((16, 16), 40 * k + 10, np.uint8)).save(content, "JPEG")
        one.PixelData = encapsulate([content.getvalue()])
        one["PixelData"].VR = "OB"
        one.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    write(tmp_path, made)
    volume = read(tmp_path)
    assert volume.voxels[0, 0].tolist() == [10, 50, 90]
    assert volume.notes == ("3 of 3 slices were compressed with loss",)


def test_notes(tmp_path):
    made = images(4, step=(0, 0.8, 3))
    write(tmp_path, [*made, made[2]])
    volume = read(tmp_path)
    assert np.array_equal(volume.voxels, hounsfield(made))
    assert [note.split(":")[0].split(" of ")[0] for note in volume.notes] == ["gantry tilt", "left out 1 copy"]
    assert "14.9 degrees" in volume.notes[0]


def test_one_identity_for_all_images(tmp_path):
    """As careless anonymising leaves them: their places tell them apart."""
    made = images(4)
    for one in made:
        one.SOPInstanceUID = made[0].SOPInstanceUID
    write(tmp_path, made)
    assert np.array_equal(read(tmp_path).voxels, hounsfield(made))


def test_padding_stays(tmp_path):
    made = images(3, dtype=np.int16, PixelPaddingValue=-2000)
    made[0].PixelData = np.full((6, 8), -2000, np.int16).tobytes()
    write(tmp_path, made)
    assert (read(tmp_path).voxels[..., 0] == -3024).all()


# ---------------------------------------------------------------- what is refused


def test_a_copy_with_other_voxels(tmp_path):
    made = images(3)
    [other] = write(tmp_path / "other", [made[1]])
    other.write_bytes(other.read_bytes()[:-2] + b"\1\1")
    write(tmp_path, made)
    shutil.move(other, tmp_path / "IM009")
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(InputError, match=r"IM009: has the SOPInstanceUID of .*IM002 and other voxels"):
        read(tmp_path)


def test_unusable_series(tmp_path):
    refused(tmp_path, images(2, Modality="SEG"), "series number 4 'ABD' (2 images) is a segmentation (SEG)")


def test_bad_numbers(tmp_path):
    for folder, name, value in (("a", "PixelSpacing", [1]), ("b", "ImagePositionPatient", [1, 2])):
        refused(tmp_path / folder, images(2, **{name: value}) if folder == "a" else spoilt(name, value), name)
    refused(tmp_path / "c", images(2, RescaleSlope=0), "RescaleSlope 0")
    refused(tmp_path / "d", images(2, RescaleSlope="1e300"), "rescaled voxels are too large")
    file = write(tmp_path / "e", images(1))[0]
    file.write_bytes(file.read_bytes().replace(b"0.7\\0.9", b"0.7\\nan"))
    with pytest.raises(InputError, match="nan"):
        read(tmp_path / "e")
    file.write_bytes(file.read_bytes().replace(b"0.7\\nan", b"0.7\\a.b"))
    with pytest.raises(InputError, match=r"IM001 has PixelSpacing 0.7\\a.b, wanted 2 finite numbers"):
        read(tmp_path / "e")


def spoilt(name, value):
    made = images(2)
    setattr(made[1], name, value)
    return made


def test_frames_and_their_descriptions(tmp_path):
    whole = multi_frame(images(3))
    whole.NumberOfFrames = 4
    refused(tmp_path / "a", [whole], "names 4 frames and describes 3")
    whole = multi_frame(images(3))
    del whole.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    refused(tmp_path / "b", [whole], "frame 2 has no ImagePositionPatient")
    whole = multi_frame(images(3))
    whole.PixelData = whole.PixelData[:-50]
    refused(tmp_path / "c", [whole], "IM001", "damaged or cut short")


def test_what_pydicom_warns_of_may_be_fine(tmp_path, recwarn, caplog):
    """Bytes to spare after the pixels."""
    made = images(2)
    wanted = hounsfield(made)
    for one in made:
        one.PixelData += bytes(10)
    write(tmp_path, made)
    assert np.array_equal(read(tmp_path).voxels, wanted)
    assert not recwarn
    assert not caplog.records


def test_cut_within_the_frames_descriptions(tmp_path):
    whole = multi_frame(images(3))
    whole["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
    [file] = write(tmp_path, [whole])
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"\x00\x52\x30\x92") + 60])
    with pytest.raises(InputError, match="IM001: not a readable DICOM file"):
        read(tmp_path)


def test_no_pixels(tmp_path):
    made = images(3)
    del made[1].PixelData
    refused(tmp_path, made, "IM002: has no pixels (PixelData), or is cut short")


def test_floating_point_pixels(tmp_path):
    made = images(2, BitsAllocated=32)
    for one in made:
        del one.PixelData
        one.FloatPixelData = np.full((6, 8), np.nan, np.float32).tobytes()
    refused(tmp_path, made, "IM001: holds floating-point pixels")


@pytest.mark.parametrize("syntax", [HTJ2KLossless, MPEG4HP41])
def test_no_decoder(tmp_path, syntax):
    made = images(2)
    for one in made:
        one.PixelData = encapsulate([b"\0\1\2\3"])
        one["PixelData"].VR = "OB"
        one.file_meta.TransferSyntaxUID = syntax
    refused(tmp_path, made, "IM001", f"compressed as {syntax.name}, which nothing installed decodes")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGBaseline8Bit, RLELossless])
def test_damaged_stream(tmp_path, syntax):
    made = images(2)
    for one in made:
        one.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(40)])
        one["PixelData"].VR = "OB"
        one.file_meta.TransferSyntaxUID = syntax
    refused(tmp_path, made, "IM001", syntax.name, "are damaged or cut short", "decompress it first")


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's own, which are the host's to show
def test_any_cut_is_one_line(tmp_path, compress, capfd):
    """Wherever the second of three files ends: an InputError that names it."""
    made = images(3, seed=5)
    for one in made:
        if compress:
            one.compress(RLELossless)
    file = write(tmp_path, made)[1]
    whole = file.read_bytes()
    for size in [*range(132, len(whole) - 9, 11), len(whole) - 9]:
        file.write_bytes(whole[:size])
        with pytest.raises(InputError) as caught:
            read(tmp_path)
        assert file.name in str(caught.value) or "unfit" in str(caught.value), size
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_flipped_byte_is_a_volume_or_one_line(tmp_path, capfd):
    made = images(2)
    file = write(tmp_path, made)[1]
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(whole)
        for at in rng.integers(132, len(whole), 2):
            broken[at] = rng.integers(256)
        file.write_bytes(bytes(broken))
        try:
            for series in find_series(sorted(tmp_path.iterdir())):
                read_series(series, 0)
        except InputError as error:
            assert "\n" not in str(error)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------- the host


def host():
    """What of the process others rely on."""
    loggers = [logging.getLogger(name) for name in ("", "pydicom", "highdicom", "nibabel.global")]
    settings = pydicom.config.settings
    return (
        [(one.level, one.disabled, one.propagate, one.handlers[:], one.filters[:]) for one in loggers],
        warnings.filters[:],
        warnings.showwarning,
        settings.reading_validation_mode,
        settings.writing_validation_mode,
        locale.setlocale(locale.LC_ALL),
    )


def test_the_host_sees_no_change_at_any_moment(tmp_path):
    """Four threads read and one looks on."""
    write(tmp_path / "plain", images(12, PatientName="no caret"))
    write(tmp_path / "frames", [multi_frame(images(12))])
    as_words(sorted((tmp_path / "plain").iterdir()), (0x20, 0x13), "IS", b"F ")
    before, seen, done = host(), [], threading.Event()

    def look():
        while not done.is_set():
            seen.append(host())

    with ThreadPoolExecutor(5) as pool:
        looking = pool.submit(look)
        list(pool.map(read, [tmp_path / name for name in ("plain", "frames") * 6]))
        done.set()
        looking.result()
    assert len(seen) > 3
    assert all(one == before for one in [*seen, host()])
