"""Decoding in a process of its own: pixels as pydicom has them, and files that bring decoders down."""

import os
import signal
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from made import images, multi_frame, write
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import iter_pixels, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dsnet_med.dicom import decoding
from dsnet_med.dicom.codestream import Image, checked, unpacked
from dsnet_med.dicom.read import read_series
from dsnet_med.dicom.series import find_series
from dsnet_med.errors import InputError
from dsnet_med.processes import lives

DATA = Path(__file__).parent / "codestreams"
SHAPE = (40, 32)
STREAMS = {  # file, transfer syntax, bits
    "jpeg": (JPEGBaseline8Bit, 8),
    "lossless": (JPEGLosslessSV1, 12),
    "jpegls": (JPEGLSLossless, 12),
    "j2k": (JPEG2000Lossless, 12),
    "rle": (RLELossless, 12),
}


def stream(name):
    return (DATA / name).read_bytes()


def slices(name, change=lambda code: code, **attributes):
    """Three slices of one codestream, the second one changed."""
    syntax, bits = STREAMS[name]
    dtype = np.uint8 if bits == 8 else np.uint16
    made = images(
        3, shape=SHAPE, dtype=dtype, RescaleIntercept=0, BitsStored=bits, HighBit=bits - 1, **attributes
    )
    for index, one in enumerate(made):
        one.PixelData = encapsulate([change(stream(name)) if index == 1 else stream(name)])
        one["PixelData"].VR = "OB"
        one.file_meta.TransferSyntaxUID = syntax
    return made


def volume(folder):
    [series] = find_series(sorted(folder.iterdir()))
    return read_series(series)


def refusal(folder, made):
    write(folder, made)
    with pytest.raises(InputError) as caught:
        volume(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- good files


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("name", STREAMS)
def test_pixels_are_those_of_pydicom(tmp_path, name, signed):
    files = write(tmp_path, slices(name, PixelRepresentation=signed))
    theirs = [pixel_array(file, raw=True) for file in files]  # iter_pixels fails for signed JPEG-LS
    assert theirs[0].any()
    assert np.array_equal(volume(tmp_path).voxels, np.stack(theirs).transpose(2, 1, 0))


def test_frames_in_any_order(tmp_path):
    """Two volumes in one file, their frames by turns."""
    made = images(4, shape=SHAPE, seed=3)
    for one in made:
        one.compress(RLELossless)
    content = multi_frame(made)
    codes = [next(generate_frames(one.PixelData, number_of_frames=1)) for one in made]
    content.PixelData = encapsulate(codes)
    [file] = write(tmp_path, [content])
    image = Image(RLELossless, *SHAPE, 16, 16, 0, "MONOCHROME2")
    read = decoding.images_of(pydicom.dcmread(file), image, 4, [2, 0])
    theirs = list(iter_pixels(pydicom.dcmread(file), indices=[2, 0], raw=True))
    assert np.array_equal(read, theirs)


# ---------------------------------------------------------------- damaged ones


def before_frame(code):
    at = code.find(b"\xff\xc0")
    return code[:at] + b"\x11" + code[at:]


def precision(code):
    at = code.find(b"\xff\xc0")
    return code[: at + 4] + b"\x6d" + code[at + 5 :]


def broken_table(code):
    at = code.find(b"\xff\xdb")
    return code[:at] + b"\x7f" + code[at + 1 :]


def named(marker, rows):
    def change(code):
        at = code.find(marker) + 5
        return code[:at] + struct.pack(">HH", rows, rows) + code[at + 4 :]

    return change


def named_2000(size):
    return lambda code: code[:8] + struct.pack(">II", size, size) + code[16:]


def no_scan(code):
    """GDCM aborts where the header of the scan names a table that is not there."""
    at = code.find(b"\xff\xda")
    return code[: at + 2] + b"\xff\xff" + code[at + 4 :]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("jpeg", before_frame, "a byte that is no marker"),
        ("jpeg", precision, "names 109 bits per value, BitsAllocated 8"),
        ("jpeg", broken_table, "a byte that is no marker"),
        ("jpeg", no_scan, "damaged or cut short"),
        ("jpeg", named(b"\xff\xc0", 65500), "names 65500 x 65500 pixels, Rows and Columns 40 x 32"),
        ("jpeg", named(b"\xff\xc0", 0), "names 0 x 0 pixels"),
        ("lossless", named(b"\xff\xc3", 20000), "names 20000 x 20000 pixels"),
        ("jpegls", named(b"\xff\xf7", 65500), "names 65500 x 65500 pixels"),
        ("j2k", named_2000(20000), "names 625 x 500 tiles"),
        ("j2k", named_2000(64), "names 64 x 64 pixels"),
        ("j2k", lambda code: code[:24] + bytes(4) + code[28:], "size segment is damaged"),
        ("rle", lambda code: struct.pack("<I", 3) + code[4:], "it has 3 segments, wanted 2"),
        ("rle", lambda code: code[:8] + b"\xff\xff\xff\xff" + code[12:], "points outside the frame"),
        ("rle", lambda code: code[:30], "cut short"),
    ],
)
def test_a_frame_that_its_header_does_not_fit(tmp_path, name, change, words):
    line = refusal(tmp_path / "bad", slices(name, change))
    assert words in line
    assert "IM002: its pixels" in line
    write(tmp_path / "good", slices(name))
    assert volume(tmp_path / "good").shape == (32, 40, 3)


def test_rle_stops_where_the_picture_is_full():
    code = struct.pack("<16I", 2, 64, 64 + (8 << 20), *[0] * 13) + b"\x81\x00" * (8 << 20)
    image = Image(RLELossless, *SHAPE, 16, 16, 0, "MONOCHROME2")
    tracemalloc.start()
    try:
        assert unpacked(code, image) == bytes(2 * image.pixels)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_a_deflated_file_that_unpacks_to_a_thousand_times_as_much(tmp_path):
    made = images(2, shape=SHAPE)
    for one in made:
        one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    files = write(tmp_path, made)
    content = files[1].read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    inner = zlib.decompress(content[start:], -zlib.MAX_WBITS) + bytes(160 << 20)
    packing = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    files[1].write_bytes(content[:start] + packing.compress(inner) + packing.flush())
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="IM002: not a readable DICOM file"):
            volume(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()


def test_a_header_of_too_many_items(tmp_path, monkeypatch):
    monkeypatch.setattr("dsnet_med.dicom.header._MOST_READS", 10_000)
    file = write(tmp_path, images(2))[1]
    content = file.read_bytes()
    at = content.index(b"\x20\x00\x0e\x00UI")  # SeriesInstanceUID
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 20_000 + b"\xfe\xff\xdd\xe0\0\0\0\0"
    file.write_bytes(content[:at] + b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + items + content[at:])
    with pytest.raises(
        InputError, match=r"IM002: not a readable DICOM file \(its header has too many elements"
    ):
        volume(tmp_path)


def test_texts_of_a_header_move_no_cursor(tmp_path):
    made = images(2, SeriesDescription="\x1b[2Jevil", Modality="SEG")
    for one in made:
        one.SeriesInstanceUID = "1.2.3"
    assert "\x1b" not in refusal(tmp_path, made)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("NumberOfFrames", "-2000000000", "has NumberOfFrames -2000000000, wanted 1 to"),
        ("NumberOfFrames", "0", "has NumberOfFrames 0, wanted 1 to"),
        ("BitsStored", 0, "has BitsStored 0, wanted 1 to BitsAllocated 16"),
        ("BitsStored", 17, "has BitsStored 17, wanted 1 to BitsAllocated 16"),
        ("PixelRepresentation", 7, "has PixelRepresentation 7, wanted 0 to 1"),
        ("Rows", 0, "has Rows 0, wanted 1 to 65535"),
        ("PixelSpacing", [1e-9, 1e-9], "has pixels 1e-09 and 1e-09 mm apart, wanted 1e-05 to 1e+04"),
        ("ImagePositionPatient", [0, 0, 1e30], "1e+30 mm from the origin, wanted at most 1e+07"),
    ],
)
def test_numbers_have_bounds(tmp_path, name, value, words):
    assert words in refusal(tmp_path, images(2, **{name: value}))


def test_a_volume_larger_than_the_memory(tmp_path):
    made = images(2)
    for one in made:
        one.Rows, one.Columns = 65000, 65000
    line = refusal(tmp_path, made)
    assert "damaged or cut short" in line or "GB of memory" in line


# ---------------------------------------------------------------- the process


def processes():
    return [decoder.process for decoder in decoding._DECODERS.every if decoder.process is not None]


def test_the_processes_stay_and_others_follow_after_their_end(tmp_path):
    write(tmp_path, slices("jpeg"))
    first = volume(tmp_path)
    before = processes()
    assert 1 <= len(before) <= 2
    volume(tmp_path)
    assert processes()[: len(before)] == before
    for process in before:
        os.kill(process.pid, signal.SIGKILL)
    assert np.array_equal(volume(tmp_path).voxels, first.voxels)
    assert not any(lives(process.pid) for process in before if process not in processes())
    assert any(process not in before for process in processes())


def test_many_threads_get_their_own_pixels(tmp_path):
    write(tmp_path / "a", slices("jpegls"))
    write(tmp_path / "b", slices("lossless", lambda code: code))
    wanted = {name: volume(tmp_path / name).voxels for name in "ab"}
    with ThreadPoolExecutor(6) as pool:
        for name, read in zip(
            "ab" * 12, pool.map(lambda name: volume(tmp_path / name), "ab" * 12), strict=True
        ):
            assert np.array_equal(read.voxels, wanted[name])


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os; os.abort()", "its decoder crashed"),
        ("import sys; sys.stdout.write('x' * 100)", "its decoder crashed"),
        ("import time; time.sleep(100)", "its decoder came to no end in 0 seconds"),
    ],
)
def test_a_decoder_that_fails_is_one_line(tmp_path, monkeypatch, program, words):
    script = tmp_path / "program.py"
    script.write_text(program)
    write(tmp_path / "series", slices("jpeg"))
    decoding._DECODERS.close()
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "_PROGRAM", script)
        patched.setattr(decoding, "_SECONDS", 0.3)
        with pytest.raises(InputError, match=words):
            volume(tmp_path / "series")
    decoding._DECODERS.close()
    volume(tmp_path / "series")


def test_a_refused_frame_leaves_the_decoder_as_it_was():
    """A codestream that is cut short, then a whole one in the same process."""
    image = Image(JPEGLSLossless, *SHAPE, 16, 12, 0, "MONOCHROME2")
    code = stream("jpegls")
    claim = checked(code, image)
    with decoding._DECODERS.free() as decoder:
        with pytest.raises(ValueError, match=r"\w"):
            decoder.decode(code[:60], image, claim)
        assert len(decoder.decode(code, image, claim)) == 2 * image.pixels


def test_what_nothing_decodes_is_not_called_damaged(tmp_path):
    made = slices("jpeg")
    for one in made:
        one.file_meta.TransferSyntaxUID = JPEGExtended12Bit
        one.BitsAllocated, one.BitsStored, one.HighBit = 16, 12, 11
    line = refusal(tmp_path, made)
    assert "of a kind that nothing installed decodes" in line


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_its_own(tmp_path):
    write(tmp_path, slices("jpeg"))
    volume(tmp_path)
    parents = processes()
    assert parents
    child = os.fork()
    if not child:
        ended = 1
        try:
            volume(tmp_path)
            own = {process.pid for process in processes()}
            ended = int(not own or bool(own & {process.pid for process in parents}))
            decoding._DECODERS.close()
        finally:
            os._exit(ended)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(process.poll() is None for process in parents)
    volume(tmp_path)
