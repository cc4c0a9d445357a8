"""A thousand spoilt files: every one a clear error that names it, none a crash, none a silent number."""

import gzip
import io
import re
import struct
import zlib
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dsnet_med.errors import InputError
from dsnet_med.evaluate import assd, dice, hd95, nsd, score_case
from dsnet_med.evaluate.pairing import pair_folders
from dsnet_med.evaluate.score_folders import evaluate_pairs

FILES = 1000
NAMES = {1: "organ", 2: "speck"}
SHAPE, AFFINE = (9, 8, 5), np.diag((0.8, 0.9, 3.0, 1.0))
# Field of a NIfTI-1 header -> offset, format and values that no reader may accept for a label map of SHAPE.
FIELDS = {
    "sizeof_hdr": (0, "<i", (0, 347, -1, 2**30)),
    "dim[0]": (40, "<h", (0, 1, 2, 8, -3, 300)),
    "dim[1]": (42, "<h", (0, -9, 8, 10, 32767)),
    "dim[2]": (44, "<h", (0, -8, 7, 30000)),
    "dim[3]": (46, "<h", (0, -5, 4, 6, 32767)),
    "datatype": (70, "<h", (0, 1, 3, 32, 128, 1792, 2304, 9999, -2, 4, 8, 16, 64)),
    "vox_offset": (108, "<f", (-1.0, 1e9, float("nan"), float("inf"), 100.0, 3.0e38)),
    "scl_slope": (112, "<f", (0.5, -1.0, 1e20, 1e30)),
    "scl_inter": (116, "<f", (0.25, -1.0, 1e9, float("nan"), float("inf"))),
    "sform_code": (254, "<h", (0,)),
    "srow_x": (280, "<f", (float("nan"), float("inf"), 0.0, 1e30, -0.8, 0.9, 1e-9)),
    "srow_y": (300, "<f", (float("nan"), float("-inf"), 0.0, -1e30, 0.95)),
    "srow_z": (320, "<f", (float("nan"), 0.0, 3.01, -3.0)),
    "srow_z shift": (324, "<f", (float("nan"), float("inf"), 1.0, -7.0)),
    "magic": (344, "<4s", (b"\0\0\0\0", b"ni1\0", b"abcd")),
}
# A header with no sform: what is left of it says where the volume lies.
NO_SFORM = {"pixdim[1]": 80, "pixdim[2]": 84, "pixdim[3]": 88}


def volume():
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[2:6, 2:6, 1:4], voxels[7, 6, 2] = 1, 2
    return voxels


def plain(voxels, affine=AFFINE):
    """The bytes of an uncompressed NIfTI file."""
    stream = io.BytesIO()
    image = nib.Nifti1Image(voxels, affine)
    image.to_file_map({"image": nib.FileHolder(fileobj=stream), "header": nib.FileHolder(fileobj=stream)})
    return stream.getvalue()


def patched(content, offset, form, value):
    packed = struct.pack(form, value)
    return content[:offset] + packed + content[offset + len(packed) :]


def spoilt_header(rng):
    name = str(rng.choice(list(FIELDS)))
    offset, form, values = FIELDS[name]
    content = plain(volume())
    if name == "scl_inter":
        content = patched(content, 112, "<f", 1.0)
    return name, patched(content, offset, form, values[rng.integers(len(values))])


def spoilt_spacing(rng):
    name = str(rng.choice(list(NO_SFORM)))
    content = patched(patched(plain(volume()), 254, "<h", 0), 252, "<h", 0)
    value = (0.0, float("nan"), float("inf"), -1.0, 1e30, 1e-12)[rng.integers(6)]
    return name, patched(content, NO_SFORM[name], "<f", value)


def spoilt_values(rng):
    kinds = {
        "negative": (volume().astype(np.int16) - 1),
        "fractions": volume() * np.float32(0.3),
        "NaN": np.where(volume() == 2, np.nan, volume()).astype(np.float32),
        "infinite": np.where(volume() == 2, np.inf, volume()).astype(np.float64),
        "too large": volume().astype(np.int32) * 70000,
        "unknown": volume() * np.uint8(rng.integers(2, 100)),
        "complex": volume().astype(np.complex64),
        "colour": np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]),
        "4-D": np.stack([volume(), volume()], axis=3),
        "2-D": volume()[:, :, 2],
        "another shape": volume()[: -int(rng.integers(1, 8))],
    }
    name = str(rng.choice(list(kinds)))
    return name, plain(kinds[name])


def cut_short(rng):
    content = plain(volume())
    return "cut short", content[: rng.integers(0, len(content))]


def cut_short_gzip(rng):
    content = gzip.compress(plain(volume()), mtime=0)
    return "cut gzip", content[: rng.integers(0, len(content))]


def damaged_gzip(rng):
    whole = plain(volume())
    while True:
        content = bytearray(gzip.compress(whole, mtime=0))
        # The compressed voxels, the checksum and the length.
        content[rng.integers(10, len(content))] ^= 1 << rng.integers(8)
        try:
            if gzip.decompress(content) != whole:
                return "damaged gzip", bytes(content)
        except (OSError, EOFError, zlib.error):
            return "damaged gzip", bytes(content)
        # A bit that means nothing, between the last block and the checksum.


def bomb(rng):
    header = plain(np.zeros((2, 2, 2), np.uint8))[:352]
    for offset in (42, 44, 46):
        header = patched(header, offset, "<h", 32767)
    return "bomb", header + bytes(int(rng.integers(1, 4000)))


def other_formats(rng):
    picture = bytes.fromhex("89504e470d0a1a0a0000000d49484452")
    kinds = {
        "empty": b"",
        "text": b"case,label\n1,2\n" * int(rng.integers(1, 200)),
        "noise": rng.bytes(int(rng.integers(1, 4000))),
        "picture": picture + rng.bytes(300),
        "gzip of text": gzip.compress(b"text" * 200),
        "gzip in gzip": gzip.compress(gzip.compress(plain(volume()))),
        "NRRD": b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 9 8 5\nencoding: raw\n\n" + bytes(360),
    }
    name = str(rng.choice(list(kinds)))
    return name, kinds[name]


MAKERS = (
    spoilt_header,
    spoilt_spacing,
    spoilt_values,
    cut_short,
    cut_short_gzip,
    damaged_gzip,
    bomb,
    other_formats,
)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A folder of good files and one of spoilt ones, with what is wrong with each; half of them references."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("fuzz")
    spoilt, kinds = {}, Counter()
    for role in ("p", "r"):
        (folder / role).mkdir()
    for number in range(FILES):
        maker = MAKERS[number % len(MAKERS)]
        kind, content = maker(rng)
        compress = maker not in (cut_short_gzip, damaged_gzip) and rng.random() < 0.5
        gz = compress or maker in (cut_short_gzip, damaged_gzip)
        bad, good = ("p", "r") if rng.random() < 0.7 else ("r", "p")
        case = f"{number:04d}-{re.sub('[^a-zA-Z0-9]+', '-', kind)}"
        file = folder / bad / f"{case}.nii{'.gz' if gz else ''}"
        file.write_bytes(gzip.compress(content) if compress else content)
        (folder / good / f"{case}.nii").write_bytes(plain(volume()))
        spoilt[case] = file
        kinds[kind] += 1
    (folder / "p" / "good.nii").write_bytes(plain(volume()))
    (folder / "r" / "good.nii").write_bytes(plain(volume()))
    return folder, spoilt, kinds


def test_every_spoilt_file_is_a_clear_error(thousand):
    folder, spoilt, kinds = thousand
    assert len(spoilt) == FILES
    assert len(kinds) > 30
    pairs, missing, failures, *_ = pair_folders(folder / "p", folder / "r")
    assert (len(pairs), missing, failures) == (FILES + 1, {}, {})
    scores = {score.case: score for score in evaluate_pairs(pairs, NAMES, workers=2)}
    assert scores.keys() == {*spoilt, "good"}
    assert [row.dice for row in scores["good"].records()] == [1, 1]
    silent = [case for case in spoilt if scores[case].error is None]
    assert silent == []
    for case, file in spoilt.items():
        error = scores[case].error
        assert str(file) in error, (case, error)
        assert "\n" not in error
        assert len(error) < 700
        # An exception that nobody foresaw would carry its type.
        assert not re.search(r": \w+(Error|Exception|Warning): ", error), (case, error)
        assert scores[case].measures == ()


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_spoilt_nrrd_and_metaimage(tmp_path, suffix):
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(volume().T)
    image.SetSpacing((0.8, 0.9, 3.0))
    path = tmp_path / f"whole{suffix}"
    sitk.WriteImage(image, str(path))
    whole = path.read_bytes()
    header = whole.index(b"LOCAL\n") + 6 if suffix == ".mha" else whole.index(b"\n\n") + 2
    reference = tmp_path / "r" / "case.nrrd"
    reference.parent.mkdir()
    sitk.WriteImage(image, str(reference))
    for number in range(60):
        content = bytearray(whole)
        if number % 2:
            del content[rng.integers(0, len(content)) :]
        else:  # a byte of the header turned into another one
            content[rng.integers(0, header)] = int(rng.integers(32, 127))
        (tmp_path / "p").mkdir(exist_ok=True)
        file = tmp_path / "p" / f"case{suffix}"
        file.write_bytes(bytes(content))
        (score,) = evaluate_pairs(pair_folders(file, reference)[0], NAMES)
        if score.error is None:  # a comment or a field that says nothing of the voxels
            assert [row.dice for row in score.records()] == [1, 1], bytes(content[:header])
        else:
            assert str(file) in score.error
            assert not re.search(r": \w+(Error|Exception|Warning): ", score.error), score.error


JUNK = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.floats(),
    st.lists(st.floats(), max_size=4),
    hnp.arrays(st.sampled_from([np.float32, np.complex64, object, "U1"]), (2, 2, 2)),
    hnp.arrays(np.int16, (2, 2, 2), elements=st.integers(-9, -1)),
    hnp.arrays(np.int64, (2, 2), elements=st.integers(70000, 2**40)),
    hnp.arrays(np.uint8, st.sampled_from([(0, 2, 2), (2,), (), (2, 2, 2, 2)])),
)
SPACINGS = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.lists(st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1e200, 1e-200]), min_size=3),
)


@given(junk=JUNK)
@settings(max_examples=200)
def test_arrays_that_are_no_label_maps(junk):
    good = np.ones((2, 2, 2), np.uint8)
    for pair in ((junk, good), (good, junk), (junk, junk)):
        with pytest.raises(InputError):
            score_case(*pair, (1, 1, 1), {1: "organ"})
        with pytest.raises(InputError):
            dice(*pair)
        for measure in (hd95, assd, nsd):
            with pytest.raises(InputError):
                measure(*pair, (1, 1, 1))


@given(spacing=SPACINGS)
@settings(max_examples=100)
def test_spacings_that_are_none(spacing):
    good = np.ones((2, 2, 2), np.uint8)
    for measure in (hd95, assd, nsd):
        with pytest.raises(InputError, match="spacing_mm"):
            measure(good, good, spacing)
    with pytest.raises(InputError, match="spacing_mm"):
        score_case(good, good, spacing, {1: "organ"})
