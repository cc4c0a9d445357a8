"""What goes in as a volume comes out as its mask, the same as from Python, whatever form it is sent in."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import made
import nibabel as nib
import numpy as np
import pydicom
import pytest
from served import CLASSES, Served, image, itk, mask_of, nifti, serving, zipped

import dsnet_med
from dsnet_med.inference import Predictor


def same(answer: nib.Nifti1Image, wanted: object, affine: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(answer.dataobj), np.asarray(wanted))
    np.testing.assert_array_equal(answer.affine, affine)


def content_of(suffix: str, folder: Path) -> bytes:
    return itk(folder / f"a{suffix}") if suffix in (".nrrd", ".mha") else nifti(2, suffix)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("packed", [False, True], ids=["bare", "zip"])
def test_a_mask_is_that_of_the_file(
    server: Served, predictor: Predictor, tmp_path: Path, suffix: str, packed: bool
) -> None:
    content = content_of(suffix, tmp_path)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    wanted = predictor.predict(path)
    assert len(np.unique(wanted)) == len(CLASSES)
    if packed:
        junk = {"__MACOSX/._a.nii.gz": b"\0\5\26\7 Mac", "read me.txt": b"no volume"}
        content = zipped({"deep/folder/x.bin": content} | junk)
    wanted.save(tmp_path / "wanted.nii.gz")
    for answer in (server.raw(content), server.form(content)):
        same(mask_of(answer), wanted, nib.load(tmp_path / "wanted.nii.gz").affine)
        assert answer.content == (tmp_path / "wanted.nii.gz").read_bytes()


def test_a_mask_has_the_header_of_its_image(server: Served) -> None:
    sent, got = image(2), mask_of(server.raw(nifti(2)))
    for field in ("sform_code", "qform_code", "pixdim", "dim"):
        np.testing.assert_array_equal(got.header[field], sent.header[field])
    assert got.get_data_dtype() == np.uint8


def test_the_headers_of_an_answer(server: Served) -> None:
    content = bytearray(nifti(2, ".nii"))
    content[252:256] = bytes(4)  # neither qform nor sform
    answer = server.raw(bytes(content))
    assert answer.headers["content-disposition"] == 'attachment; filename="mask.nii.gz"'
    assert json.loads(answer.headers["x-labels"]) == {str(k): name for k, name in enumerate(CLASSES)}
    assert answer.headers["x-labels"].isascii()
    notes = json.loads(answer.headers["x-notes"])
    assert any("neither sform nor qform" in note for note in notes)


def test_one_volume_of_several(server: Served, predictor: Predictor) -> None:
    content = nifti(3, shape=(12, 10, 5, 3))
    voxels = np.asarray(image(3, (12, 10, 5, 3)).dataobj)
    wanted = predictor.predict(voxels[..., 2], image(3).affine)
    same(mask_of(server.raw(content, volume_index=2)), wanted, image(3).affine)


def test_health(server: Served) -> None:
    health = server.client.get("/health").json()
    assert health["status"] == "ok"
    assert (health["model"], health["device"], health["queue"]) == ("Tiny", "cpu", 32)
    assert health["labels"] == {str(k): name for k, name in enumerate(CLASSES)}
    assert health["version"] == dsnet_med.__version__


# ---------------------------------------------------------------- real DICOM


@pytest.fixture
def series(volumes: Path) -> Path:
    return volumes / "dicom" / "torchio_ct17"


def series_zip(folder: Path) -> bytes:
    return zipped({f"patient/x/{k}.exe": f.read_bytes() for k, f in _files(folder)})


def _files(folder: Path) -> list[tuple[int, Path]]:
    return list(enumerate(sorted(folder.glob("*.dcm"))))


@pytest.fixture(scope="module")
def large_server(predictor: Predictor) -> Iterator[Served]:
    with serving(predictor) as server:
        yield server


def test_a_zipped_series(large_server: Served, predictor: Predictor, series: Path) -> None:
    wanted = predictor.predict(series)
    answer = large_server.form(series_zip(series))
    same(mask_of(answer), wanted, np.asarray(mask_of(answer).affine))
    np.testing.assert_allclose(mask_of(answer).affine, wanted.affine, atol=1e-4)
    large_server.require_empty()


def test_a_segmentation_of_slicer(server: Served, predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(nifti(2))
    predictor.predict(tmp_path / "a.nii.gz").save(tmp_path / "a.seg.nrrd")
    answer = server.raw(nifti(2), format="seg.nrrd")
    assert answer.headers["content-disposition"] == 'attachment; filename="mask.seg.nrrd"'
    assert answer.content == (tmp_path / "a.seg.nrrd").read_bytes()


def test_a_segmentation_object(large_server: Served, predictor: Predictor, series: Path) -> None:
    answer = large_server.raw(series_zip(series), format="dicom-seg")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom"
    assert answer.headers["content-disposition"] == 'attachment; filename="mask.dcm"'
    made = pydicom.dcmread(io.BytesIO(answer.content))
    assert made.Modality == "SEG"
    source = pydicom.dcmread(_files(series)[0][1])
    assert made.FrameOfReferenceUID == source.FrameOfReferenceUID
    wanted = predictor.predict(series)
    found = {int(one.SegmentNumber): one.SegmentLabel for one in made.SegmentSequence}
    assert {number: CLASSES[number] for number in found} == {k: name.lower() for k, name in found.items()}
    frames = [int(one.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
              for one in made.PerFrameFunctionalGroupsSequence]  # fmt: skip
    counts = {k: int(made.pixel_array[np.array(frames) == k].sum()) for k in found}
    assert counts == {k: int((np.asarray(wanted) == k).sum()) for k in found}


def test_a_series_by_its_number(large_server: Served, series: Path) -> None:
    number = pydicom.dcmread(_files(series)[0][1]).SeriesNumber
    assert large_server.raw(series_zip(series), series=str(number)).status_code == 200
    answer = large_server.raw(series_zip(series), series="77")
    assert answer.status_code == 400
    assert "has no series '77'" in answer.json()["error"]


def test_a_disc_with_its_directory(large_server: Served, predictor: Predictor, series: Path) -> None:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    directory = pydicom.Dataset()
    directory.file_meta = meta
    buffer = io.BytesIO()
    directory.save_as(buffer, enforce_file_format=True)
    members = {f"IM{k}": f.read_bytes() for k, f in _files(series)} | {"DICOMDIR": buffer.getvalue()}
    got = mask_of(large_server.raw(zipped(members)))
    np.testing.assert_array_equal(np.asarray(got.dataobj), np.asarray(predictor.predict(series)))


@pytest.mark.parametrize("form", ["torn", "nameless", "bare", "words"])
def test_series_that_anonymising_spoilt(form: str, server: Served, tmp_path: Path) -> None:
    """A SeriesInstanceUID for each or for none, no preamble, words for numbers: one mask of all slices."""
    slices = made.images(6)
    for k, one in enumerate(slices):
        one.SeriesInstanceUID = {"torn": f"1.2.{k}", "nameless": ""}.get(form, "1.2.3")
    files = made.write(tmp_path, slices)
    if form == "words":
        made.as_words(files, (0x20, 0x11), "IS", b"REMOVED ")
    if form == "bare":
        for file in files:
            made.bare(file)
    answer = server.raw(zipped({f"a/{file.name}": file.read_bytes() for file in files}))
    assert mask_of(answer).shape == (8, 6, 6)
    notes = json.loads(answer.headers.get("x-notes", "[]"))
    assert any("SeriesInstanceUID" in note for note in notes) == (form in ("torn", "nameless"))
    if form == "bare":
        single = made.images(1, SliceThickness=3)
        [file] = made.write(tmp_path / "one", single)
        made.bare(file)
        assert mask_of(server.raw(file.read_bytes())).shape == (8, 6, 1)
