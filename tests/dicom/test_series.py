"""Which series a folder holds, which of them is taken, and why some can be no volume."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import as_words, bare, hounsfield, images, multi_frame, write
from pydicom import dcmread
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dsnet_med.dicom.read import read_series
from dsnet_med.dicom.series import Series, choose, find_series
from dsnet_med.errors import InputError
from dsnet_med.inference.sources import find_sources
from dsnet_med.sniff import is_dicom, starts_dicom


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


def test_real_localizer_and_segmentations(volumes):
    """Three segmentations beside each other, as dcmqi's examples hold them."""
    folder = volumes / "dicom" / "dcmqi_ct_seg"
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


# ---------------------------------------------------------------- torn series


def named(made, name, value):
    """`made` with an attribute of each image from its index."""
    for k, one in enumerate(made):
        setattr(one, name, value(k))
    return made


def the_one(folder, count=12):
    """The series taken from a folder, and what is said of it."""
    taken, line = choose(
        find_series([file for file in sorted(folder.iterdir()) if is_dicom(file)]), None, folder
    )
    assert taken.images == count
    return taken, line


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            lambda k: f"1.2.{k}",
            "joined 12 series, 12 images that form one stack: .* gave each image a SeriesInst",
        ),
        (
            lambda k: f"1.2.{k // 4}",
            "joined 3 series, 12 images .* gave parts of it a SeriesInstanceUID of its own",
        ),
        (lambda k: f"1.2.{k // 5}", "joined 3 series, 12 images"),
        (lambda k: f"1.2.{k % 3}", "joined 3 series, 12 images"),
        (lambda k: f"1.2.{max(k - 8, 0)}", "joined 4 series, 12 images"),
        (lambda k: "", "its 12 images have no SeriesInstanceUID; they were taken as one series"),
        (lambda k: None, "its 12 images have no SeriesInstanceUID"),
        (
            lambda k: "1.2" if k < 5 else "",
            "joined 1 series and 7 images without one, 12 images that form one stack",
        ),
    ],
)
def test_pieces_of_a_stack_are_put_together(tmp_path, parts, words):
    """However many SeriesInstanceUIDs there are, beside a localizer and another series."""
    made = named(images(12), "SeriesInstanceUID", parts)
    values = hounsfield(made)
    write(tmp_path / "ct", made, reverse=True)
    for name, one in (
        (
            "scout",
            images(1, orientation=((1, 0, 0), (0, 0, -1)), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])[0],
        ),
        ("other", images(1, shape=(4, 4), SeriesNumber=9)[0]),
    ):
        write(tmp_path / name, [one])[0].rename(tmp_path / "ct" / name)
    taken, _ = the_one(tmp_path / "ct")
    volume = read_series(taken)
    assert np.array_equal(volume.voxels, values)
    assert re.search(words, volume.notes[0])
    assert choose(find_series(taken.files), "4", tmp_path)[0] == taken


def test_a_piece_is_known_by_its_uid(tmp_path):
    files = write(tmp_path, named(images(4), "SeriesInstanceUID", lambda k: f"1.2.{k}"))
    assert choose(find_series(files), "1.2.3", tmp_path)[0].images == 4


@pytest.mark.parametrize("name", ["SeriesNumber", "SeriesDescription", "PatientID"])
def test_pieces_whose_other_names_differ(tmp_path, name):
    made = named(named(images(6), "SeriesInstanceUID", lambda k: f"1.2.{k}"), name, lambda k: f"{k + 1}")
    write(tmp_path, made)
    taken, line = the_one(tmp_path, 6)
    assert line is None
    assert ("a PatientID" in taken.note) == (name == "PatientID")


def test_a_hole_in_a_torn_stack_is_seen(tmp_path):
    made = named(images(6), "SeriesInstanceUID", lambda k: f"1.2.{k}")
    del made[3]
    write(tmp_path, made)
    taken, _ = the_one(tmp_path, 5)
    with pytest.raises(
        InputError, match=r"the distance is 6 mm, mostly 3 mm|the distance is 6 mm, elsewhere 3 mm"
    ):
        read_series(taken)


def test_two_torn_phases_are_two_volumes(tmp_path):
    """One number for both: the volumes are counted; a number of its own for each: two series."""
    both = [*images(4), *named(images(4, seed=1), "InstanceNumber", lambda k: k + 9)]
    write(tmp_path / "one", named(both, "SeriesInstanceUID", lambda k: f"1.2.{k}"))
    taken, _ = the_one(tmp_path / "one", 8)
    with pytest.raises(InputError, match="holds 2 volumes of 4 slices"):
        read_series(taken)
    write(tmp_path / "few", named(both, "SeriesInstanceUID", lambda k: f"1.2.{k // 2}"))
    assert the_one(tmp_path / "few", 8)[0].note.startswith("joined 4 series")
    write(tmp_path / "two", named(both, "SeriesNumber", lambda k: 3 + k // 4))
    assert [one.images for one in find_series(sorted((tmp_path / "two").iterdir()))] == [4, 4]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},  # the same places: another reconstruction
        {"origin": (-20, 15, 101)},  # between them, but not halfway
        {"orientation": ((1, 0, 0), (0, 0, -1))},
        {"shape": (6, 9), "origin": (-20, 15, 112)},
        {"origin": (-20, 15, 112), "SeriesNumber": 5},  # a second slab, with a number of its own
        {"origin": (-20, 15, 112), "PatientID": "other"},
    ],
)
def test_whole_series_stay_apart(tmp_path, other):
    found = find_series([*write(tmp_path / "a", images(4)), *write(tmp_path / "b", images(4, **other))])
    assert [(one.images, one.note) for one in found] == [(4, None), (4, None)]


def test_a_nameless_file_does_not_block_a_series(tmp_path):
    for name, one in (
        ("report", images(1, Modality="SR", Rows=None, SeriesInstanceUID="")),
        ("picture", images(1, shape=(5, 5), SeriesInstanceUID=None)),
        ("kindless", images(1, Rows=None, SeriesInstanceUID="")),
    ):
        [file] = write(tmp_path / name, one)
        content = dcmread(file)
        content.SOPClassUID = content.SOPInstanceUID = ""
        del content.file_meta.MediaStorageSOPClassUID
        content.save_as(tmp_path / name / name)
    files = write(tmp_path, images(5))
    found = find_series([*files, *(tmp_path / name / name for name in ("report", "picture", "kindless"))])
    assert choose(found, None, tmp_path)[0].files == tuple(files)


@pytest.mark.parametrize("name", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", ["", None])
def test_identities_that_anonymising_took(tmp_path, name, value):
    made = images(5)
    wanted = hounsfield(made)
    files = write(tmp_path, made)
    for file in files:
        content = dcmread(file)
        if value is None:
            content.pop(name, None)
        else:
            setattr(content, name, value)
        content.save_as(file)
    assert np.array_equal(read_series(the_one(tmp_path, 5)[0]).voxels, wanted)


def test_lists_are_capped(tmp_path):
    known = [series(number, number) for number in range(1, 100)]
    assert choose(known, None, Path("f"))[1].endswith("number 5 'S5' (5 images); and 93 more")
    with pytest.raises(InputError, match="and 94 more") as caught:
        choose(known, "1000", Path("f"))
    assert len(str(caught.value)) < 400


# ---------------------------------------------------------------- words where numbers are optional


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        ((0x20, 0x11), "IS", b"REMOVED "),  # SeriesNumber
        ((0x20, 0x13), "IS", b"F "),  # InstanceNumber
        ((0x20, 0x12), "IS", b"ANON"),  # AcquisitionNumber
        ((0x20, 0x0100), "IS", b"none"),  # TemporalPositionIdentifier
        ((0x28, 0x08), "IS", b"REMOVED "),  # NumberOfFrames
        ((0x18, 0x50), "DS", b"thick "),  # SliceThickness
        ((0x18, 0x88), "DS", b"0,5 "),  # SpacingBetweenSlices
        ((0x18, 0x81), "DS", b"REMOVED "),  # EchoTime
        ((0x08, 0x22), "DA", b"REMOVED "),  # AcquisitionDate
        ((0x08, 0x32), "TM", b"noon"),  # AcquisitionTime
        ((0x10, 0x1010), "AS", b"old "),  # PatientAge
        ((0x10, 0x1030), "DS", b"a lot "),  # PatientWeight
        ((0x08, 0x103E), "LO", b"\xff\xfe\x1b$B"),  # SeriesDescription in no character set
        ((0x20, 0x32), "DS", b"-20.00000000000000000001\\15\\100 "),  # longer than a number may be
    ],
)
def test_words_in_optional_numbers_are_absent(tmp_path, tag, kind, value, recwarn, caplog):
    made = images(4) if tag != (0x20, 0x32) else images(1, SliceThickness=3)
    wanted = hounsfield(made)
    files = write(tmp_path, made)
    as_words(files, tag, kind, value)
    recwarn.clear()
    caplog.clear()
    volume = read_series(the_one(tmp_path, len(made))[0])
    assert np.array_equal(volume.voxels, wanted)
    assert (list(recwarn), caplog.records, volume.notes) == ([], [], ())


@pytest.mark.parametrize(
    ("tag", "kind", "value", "words"),
    [
        ((0x28, 0x10), "LO", b"REMOVED ", "has Rows REMOVED, wanted a whole number above 0"),
        ((0x28, 0x30), "DS", b"REMOVED ", "has PixelSpacing REMOVED, wanted 2 finite numbers"),
        ((0x20, 0x32), "DS", b"1\\x\\3 ", r"has ImagePositionPatient 1\\x\\3, wanted 3 finite numbers"),
        ((0x20, 0x37), "DS", b"REMOVED ", "has ImageOrientationPatient REMOVED, wanted 6 finite numbers"),
        ((0x28, 0x1053), "DS", b"REMOVED ", "has RescaleSlope REMOVED, wanted 1 finite numbers"),
        ((0x28, 0x1052), "DS", b"x ", "has RescaleIntercept x, wanted 1 finite numbers"),
    ],
)
def test_words_in_numbers_that_are_needed(tmp_path, tag, kind, value, words):
    files = write(tmp_path, images(3))
    as_words(files, tag, kind, value)
    with pytest.raises(InputError) as caught:
        for one in find_series(files):
            read_series(one)
    assert words.replace("\\\\", "\\") in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_frames_that_a_word_hides(tmp_path):
    """Two images in the pixels, and a word where their number is: not the first alone."""
    made = images(2)
    made[0].PixelData += made[1].PixelData
    files = write(tmp_path, made[:1])
    as_words(files, (0x28, 0x08), "IS", b"REMOVED ")
    as_words(files, (0x18, 0x50), "DS", b"3 ")
    with pytest.raises(InputError, match="has NumberOfFrames REMOVED, wanted a whole number"):
        read_series(find_series(files)[0])


# ---------------------------------------------------------------- files without preamble


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_files_without_preamble(tmp_path, syntax, suffix):
    made = images(5)
    wanted = hounsfield(made)
    for one in made:
        if syntax == ExplicitVRBigEndian:
            one["PixelData"].value = np.frombuffer(one.PixelData, "<u2").astype(">u2").tobytes()
        one.file_meta.TransferSyntaxUID = syntax
    files = []
    for file in write(tmp_path / "whole", made):
        bare(file)
        files.append(file.rename(tmp_path / f"{file.name}{suffix}"))
    assert all(is_dicom(file) for file in files)
    assert np.array_equal(read_series(find_series(files)[0]).voxels, wanted)
    assert [(one.kind, one.case) for one in find_sources([tmp_path])] == [("dicom", tmp_path.name)]


@given(st.binary(max_size=600))
def test_no_bytes_break_the_look_at_them(content):
    assert starts_dicom(content) in (True, False)


@pytest.mark.parametrize(
    "start", [b"\x5c\x01\0\0", b"\x1f\x8b\x08\0", b"NRRD0004\n", b"\x08\0", b"\x02\0\x08\0"]
)
def test_other_content_is_not_dicom(start):
    assert not starts_dicom(start.ljust(512, b"\0"))
    assert not starts_dicom(start.ljust(512, b"a"))
