"""Uploads made to reach other files, to fill memory or disk, or to keep the others out."""

import io
import os
import stat
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
from isal import igzip
from PIL import Image
from served import Served, error_of, gzipped, image, mask_of, nifti, serving, zipped

from dsnet_med.inference import Predictor

MB = 1 << 20


def entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    return made


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("../outside.nii.gz", 0),
        ("/outside.nii.gz", 0),
        ("a/../../outside.nii.gz", 0),
        ("..\\outside.nii.gz", 0),
        ("C:\\outside.nii.gz", 0),
        ("link", stat.S_IFLNK | 0o777),
    ],
)
def test_archives_that_reach_out(server: Served, name: str, mode: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.nii.gz", nifti())
        archive.writestr(entry(name, mode), nifti())
    error_of(server.raw(buffer.getvalue()), 400)
    folder = server.folder
    assert not list(folder.parent.glob("outside*"))
    assert not list(folder.glob("outside*"))


def test_files_are_for_the_server_alone(server: Served) -> None:
    folder = server.folder
    assert folder.parent == Path(tempfile.gettempdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the server that holds as many bytes as the volumes below."""
    path = tmp_path / "secret.raw"
    path.write_bytes(os.urandom(2 * 5 * 4 * 3))
    return path


def nrrd(last: str, voxels: bytes = bytes(120)) -> bytes:
    head = "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nencoding: raw\nendian: little\n"
    space = "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
    return (head + space + last + "\n").encode() + voxels


def metaimage(last: str, voxels: bytes = bytes(120)) -> bytes:
    head = "ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nElementType = MET_SHORT\n"
    return (head + last).encode() + voxels


LOCAL = "ElementDataFile = LOCAL\n"


def test_the_volumes_below_are_readable_when_they_hold_their_voxels(server: Served) -> None:
    mask_of(server.raw(nrrd("")))
    mask_of(server.raw(metaimage(LOCAL)))


@pytest.mark.parametrize(
    "line",
    [
        "data file: {}\n",
        "datafile: {}\n",
        "Data File: {}\n",
        "data file: LIST\n{}\n",
        "data file: {}%d 1 1 1\n",
        "# a\rdata file: {}\n",
    ],
)
def test_nrrd_headers_that_name_another_file(server: Served, secret: Path, line: str) -> None:
    assert "in another file" in error_of(server.raw(nrrd(line.format(secret))), 400)


@pytest.mark.parametrize(
    "text",
    [
        "ElementDataFile = {}\n",
        "ElementDataFile = LIST\n{}\n",
        "ElementDataFile: {}\n",
        "Comment = ElementDataFile = LOCAL\nElementDataFile = {}\n",
        "Comment = \n" + LOCAL + "ElementDataFile = {}\n",
        LOCAL + "ElementDataFile = {}\n",
        "ElementDataFile = LOCAL/../{}\n",
        "ElementDataFile = {} LOCAL\n",
    ],
)
def test_metaimage_headers_that_name_another_file(server: Served, secret: Path, text: str) -> None:
    error_of(server.raw(metaimage(text.format(secret))), 400)


@pytest.mark.parametrize(
    "line",
    [
        "NDims = -1\n",
        "NDims = 99\n",
        "NDims = 4294967296\n",
        "NDims = 12\nDimSize = 5 4 3 1 1 1 1 1 1 1 1 1\n",
        "Offset = 0 0\n",
        "Offset = 0 0 nan\n",
        "ID = 1\nID = 1\n",
        "Comment =\n",
        "HeaderSize = 7\n",
        "no field\n",
        "Name = \x01\n",
        "CompressedData = True\nCompressedDataSize = 99999999999\n",
    ],
)
def test_metaimage_headers_of_odd_forms(server: Served, line: str) -> None:
    """ITK writes beyond its memory for some; the server goes on, whatever becomes of the process that reads."""
    content = metaimage(line + LOCAL)
    if line.startswith("NDims"):
        content = content.replace(b"NDims = 3\n", b"").replace(b"DimSize = 5 4 3\n", b"", "DimSize" in line)
    answer = server.raw(content)
    if answer.status_code != 200:
        error_of(answer, 400)
    mask_of(server.raw(metaimage(LOCAL)))


@pytest.mark.parametrize(
    "content",
    [
        nrrd("").replace(b"5 4 3", b"60000 60000 60000"),
        metaimage(LOCAL).replace(b"5 4 3", b"60000 60000 60000"),
        metaimage(LOCAL).replace(b"5 4 3", b"1 1 5000"),
    ],
)
def test_voxels_named_in_text_headers(server: Served, content: bytes) -> None:
    assert "its header names" in error_of(server.raw(content), 413)


def bomb(start: bytes, zeros: int) -> bytes:
    """A gzip file that goes on with so many zeros, made without holding them."""
    buffer = io.BytesIO()
    with igzip.open(buffer, "wb", compresslevel=2) as stream:
        stream.write(start)
        for _ in range(zeros // MB):
            stream.write(bytes(MB))
    return buffer.getvalue()


def test_gzip_files_that_unpack_to_too_much(server: Served) -> None:
    process = psutil.Process()
    mask_of(server.raw(nifti()))
    before = process.memory_info().rss
    large = image().header.copy()
    large.set_data_shape((4000, 4000, 250))
    large["magic"], large["vox_offset"] = large.single_magic, 352
    content = bomb(large.binaryblock + bytes(4), 400 * MB)
    assert len(content) < MB
    error_of(server.raw(content), 413)
    error_of(server.raw(zipped({"a": content})), 413)
    extended = bytearray(nifti(suffix=".nii"))
    extended[108:112] = np.float32(4096).tobytes()
    extended[348:360] = bytes([1, 0, 0, 0]) + np.array([2**30 + 8, 4], np.int32).tobytes()
    for start in (nifti(suffix=".nii"), bytes(extended[:360])):  # one says that it is small
        assert server.raw(bomb(start, 400 * MB)).status_code in (200, 400, 413)
    assert process.memory_info().rss - before < 60 * MB


def test_zip_files_that_unpack_to_too_much(server: Served) -> None:
    assert "unpacks to more than 8 MB" in error_of(server.raw(zipped({"a": bytes(9 * MB)})), 413)
    halves = {"a": bytes(5 * MB), "b": bytes(5 * MB)}
    assert "unpacks to more than 8 MB" in error_of(server.raw(zipped(halves)), 413)
    lying = bytearray(zipped({"a": bytes(9 * MB)}))
    at = lying.rindex(b"PK\x01\x02") + 24
    lying[at : at + 4] = (1000).to_bytes(4, "little")
    error_of(server.raw(bytes(lying)), 400)


def dicom(**changes: object) -> bytes:
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = changes.pop("syntax", pydicom.uid.ExplicitVRLittleEndian)
    made.SOPClassUID, made.SOPInstanceUID = pydicom.uid.CTImageStorage, "1.2.3"
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = (
        made.SOPClassUID,
        "1.2.3",
    )
    made.SeriesInstanceUID, made.Modality = "1.2.3.4", "CT"
    made.Rows, made.Columns = 4, 4
    for name, value in changes.items():
        setattr(made, name, value)
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_dicom_that_asks_for_too_much(server: Served) -> None:
    error_of(server.raw(dicom()), 400)
    error_of(server.raw(dicom(Rows=60000, Columns=60000)), 413)
    error_of(server.raw(dicom(Rows=512, Columns=512, NumberOfFrames=4000)), 413)
    several = {str(k): dicom(Rows=1024, Columns=512) for k in range(3)}
    error_of(server.raw(zipped(several)), 413)
    negative = dicom(NumberOfFrames=-2_000_000_000)
    error_of(server.raw(zipped({"0": negative} | several)), 413)
    deflated = dicom(syntax=pydicom.uid.DeflatedExplicitVRLittleEndian, ImageComments="0" * (1 << 30))
    assert len(deflated) < 2 * MB
    error_of(server.raw(zipped({"a": dicom(), "b": deflated})), 400)


def test_volumes_beside_a_series(server: Served) -> None:
    assert "and 1 DICOM" in error_of(server.raw(zipped({"a": nifti(), "b": dicom()})), 400)


def test_random_bytes_and_random_changes(server: Served, tmp_path: Path) -> None:
    """Whatever is sent, the answer is one of those that are documented."""
    draw = np.random.default_rng(11)
    seeds = [nifti(suffix=".nii"), nifti(), nrrd(""), metaimage(LOCAL), zipped({"a": nifti()}), dicom()]
    for turn in range(180):
        content = bytearray(seeds[turn % len(seeds)])
        for _ in range(int(draw.integers(1, 6))):
            place = int(draw.integers(0, min(len(content), 400)))
            content[place : place + int(draw.integers(0, 3))] = draw.bytes(int(draw.integers(0, 3)))
        answer = server.raw(bytes(content))
        if answer.status_code != 200:
            assert answer.status_code in (400, 413, 415), answer.text
            error_of(answer, answer.status_code)
    mask_of(server.raw(nifti()))


def test_a_small_limit_holds_for_what_is_unpacked(predictor: Predictor) -> None:
    with serving(predictor, max_bytes=2000) as server:
        error_of(server.raw(gzipped(nifti(suffix=".nii", shape=(16, 16, 9)))), 413)


def test_a_file_that_ends_its_decoder(server: Served) -> None:
    """GDCM aborts its process for a marker that a byte has been put before: one line, and the next is read."""
    buffer = io.BytesIO()
    Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)).save(buffer, "JPEG")
    code = buffer.getvalue()
    at = code.find(b"\xff\xc0")
    code = code[:at] + b"\x11" + code[at:]
    slices = {}
    for index in range(3):
        slices[str(index)] = dicom(
            syntax=pydicom.uid.JPEGBaseline8Bit,
            SOPInstanceUID=f"1.2.{index}",
            Rows=64,
            Columns=64,
            BitsAllocated=8,
            BitsStored=8,
            HighBit=7,
            PixelRepresentation=0,
            SamplesPerPixel=1,
            PhotometricInterpretation="MONOCHROME2",
            PixelSpacing=[1, 1],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, 3 * index],
            PixelData=pydicom.encaps.encapsulate([code]),
        )
    assert "a byte that is no marker" in error_of(server.raw(zipped(slices)), 400)
    mask_of(server.raw(nifti()))
