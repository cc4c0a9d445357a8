"""Which series a folder holds, which of them is taken, and why some can be no volume."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from made import images, multi_frame, write
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence

from dsnet_med.dicom.series import Series, choose, find_series, is_dicom
from dsnet_med.errors import InputError
from dsnet_med.inference.sources import find_sources


def series(number: int | None, images: int, **more) -> Series:
    plain = Series(f"1.2.{number}.{images}", number, f"S{number}", "CT", (Path("f/a"),), images, None)
    return replace(plain, **more)


def test_dicom_by_content(tmp_path):
    [file] = write(tmp_path, images(1))
    assert is_dicom(file)
    (tmp_path / "short.dcm").write_bytes(b"DICM")
    for other in (tmp_path / "short.dcm", tmp_path, tmp_path / "absent", Path("a\0b")):
        assert not is_dicom(other)


def test_series_of_one_folder(tmp_path):
    thick = write(tmp_path / "a", images(3))
    thin = write(tmp_path / "b", images(7, SeriesNumber=2, SeriesDescription=" thin  one "))
    frames = write(tmp_path / "c", [multi_frame(images(4, SeriesNumber=9))])
    found = find_series([*reversed(thick), *thin, *frames])
    assert [(one.number, one.description, one.images) for one in found] == [
        (2, "thin one", 7),
        (4, "ABD", 3),
        (9, "ABD", 4),
    ]
    assert found[1].files == tuple(sorted(thick))
    assert [one.modality for one in found] == ["CT", "CT", "MR"]
    assert all(one.reason is None and not one.localizer for one in found)


def test_copies_count_once(tmp_path):
    made = images(3)
    found = find_series(write(tmp_path, [*made, made[1]]))
    assert (found[0].images, len(found[0].files)) == (3, 4)


def test_headers_of_500_files_are_quick(tmp_path):
    [file] = write(tmp_path, images(1))
    started = time.perf_counter()
    find_series([file] * 500)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"Modality": "SEG"}, "is a segmentation (SEG), wanted an image series"),
        ({"Modality": "RTSTRUCT", "Rows": None}, "is a set of contours (RTSTRUCT)"),
        ({"Modality": "SR", "Rows": None}, "is a report (SR)"),
        ({"Modality": "PR", "Rows": None}, "is a presentation state (PR)"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.9.1.1", "Rows": None}, "holds no image (12-lead ECG"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "is in colour (RGB)"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "is in colour (PALETTE COLOR)"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "inverted grey values (MONOCHROME1)"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "dcm2niix"),
        ({"ImagePositionPatient": None}, "does not say where in the patient it lies"),
        ({"ImageOrientationPatient": None}, "does not say how it lies"),
        ({"PixelSpacing": None}, "does not say how large its pixels are"),
        ({"NumberOfFrames": 4}, "files of 4 frames without a position for each"),
        ({"BitsAllocated": 1}, "holds 1 bits per pixel"),
    ],
)
def test_what_can_be_no_volume(tmp_path, spoil, words):
    [found] = find_series(write(tmp_path, images(2, **spoil)))
    assert words in found.reason
    with pytest.raises(InputError, match="series number 4 'ABD'") as caught:
        choose([found], None, tmp_path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_a_table_of_values_is_refused(tmp_path):
    made = images(1)
    made[0].ModalityLUTSequence = Sequence([made[0][:0x00080008]])
    [found] = find_series(write(tmp_path, made))
    assert "Modality LUT" in found.reason


def test_one_unfit_file_among_others_is_named(tmp_path):
    made = images(3)
    made[1].PhotometricInterpretation = "MONOCHROME1"
    [found] = find_series(write(tmp_path, made))
    assert found.reason.startswith("has 1 unfit of 3 files, IM002 has inverted grey values")


@pytest.mark.parametrize("name", ["SOPClassUID", "Rows"])
def test_damaged_headers_name_the_file(tmp_path, name):
    files = write(tmp_path, images(3))
    made = images(1, **{name: None}) if name != "SOPClassUID" else images(1)
    [bad] = write(tmp_path / "bad", made)
    if name == "SOPClassUID":
        bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(InputError) as caught:
        find_series([*files, bad])
    assert str(bad) in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's own, which are the host's to show
def test_any_cut_of_a_header_is_one_line(tmp_path, capfd):
    """However short the file: an InputError that names it, or a series that is read no further here."""
    [file] = write(tmp_path, images(1))
    whole = file.read_bytes()
    for size in range(132, len(whole), 7):
        file.write_bytes(whole[:size])
        try:
            find_series([file])
        except InputError as error:
            assert str(file) in str(error)
            assert "\n" not in str(error)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------- choosing


def test_the_only_series_is_no_choice():
    one = series(4, 60)
    assert choose([one], None, Path("f")) == (one, None)


@pytest.mark.parametrize(
    ("known", "taken", "rule"),
    [
        ([series(1, 3), series(2, 60)], 1, "the one with the most images"),
        ([series(5, 60), series(2, 60)], 1, "the first of those with the most images"),
        ([series(None, 60), series(7, 60)], 1, "the first of those with the most images"),
        ([series(1, 300, localizer=True), series(2, 60)], 1, "the only one that is no localizer"),
        (
            [series(1, 300, localizer=True), series(2, 60), series(3, 61)],
            2,
            "the one with the most images",
        ),
        ([series(1, 300, reason="is a report (SR)"), series(2, 60)], 1, "the only one that can be a volume"),
    ],
)
def test_of_several(known, taken, rule):
    one, line = choose(known, None, Path("f"))
    assert one is known[taken]
    assert f"took series {one.label} of {len(known)}, {rule}; " in line
    assert "--series" in line
    assert all(other.label in line for other in known)
    assert "\n" not in line


def test_by_number_or_uid():
    known = [series(4, 60), series(5, 3), replace(series(5, 9), uid="1.2.9")]
    assert choose(known, "4", Path("f")) == (known[0], None)
    assert choose(known, " 1.2.9 ", Path("f")) == (known[2], None)
    with pytest.raises(InputError, match=r"2 series have the number 5; give one of their UIDs.*UID 1\.2\.9"):
        choose(known, "5", Path("f"))
    for wrong in ("6", "1.2", "ABD", ""):
        with pytest.raises(InputError, match=r"known: number 4 'S4' \(60 images\); number 5") as caught:
            choose(known, wrong, Path("f"))
        assert f"f: has no series '{wrong}'" in str(caught.value)


def test_nothing_to_choose():
    known = [series(1, 1, reason="is a report (SR)"), series(2, 9, reason="is in colour (RGB)")]
    with pytest.raises(InputError, match=r"none of its 2 series .*'S1' \(1 image\) is a report.*; .*in colour"):
        choose(known, None, Path("f"))
    with pytest.raises(InputError, match="is a report"):
        choose(known, "1", Path("f"))
    with pytest.raises(InputError, match="holds no DICOM series"):
        choose([], None, Path("f"))


def test_real_localizer_and_segmentations(shared):
    """Three segmentations beside each other, as dcmqi's examples hold them."""
    folder = shared / "data" / "dicom" / "dcmqi_ct_seg"
    found = find_series(sorted(folder.glob("*.dcm")))
    assert [(one.number, one.images) for one in found] == [(1, 3), (100, 7), (300, 2)]
    with pytest.raises(InputError, match=r"none of its 3 series can be a volume: .*\(SEG\)"):
        choose(found, None, folder)


def test_a_dicomdir_is_no_image(tmp_path):
    disc = FileSet()
    for each in images(2):
        each.PatientID, each.StudyID, each.StudyDate, each.StudyTime = "p", "1", "20200101", "120000"
        each.StudyInstanceUID = "1.2.3"
        disc.add(each)
    disc.write(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.name == "DICOMDIR" for path in files) == [False, False, True]
    for path in files:
        assert is_dicom(path) == (path.name != "DICOMDIR")
    assert [source.kind for source in find_sources([tmp_path])] == ["dicom"]
