"""A segmentation shows each class where it lies in the source, names it, and is the same file every time."""

import time
import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom._standard_utils import check_required_attributes, get_iod_module_map
from made import as_words
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage
from seg_source import PLACES, SHAPE, TO_RAS, change, multi_frame, pixels, single_frames, volume

from dsnet_med.dicom.read import read_series
from dsnet_med.dicom.segmentation import write_segmentation
from dsnet_med.dicom.series import find_series
from dsnet_med.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of the odd sources made here

NAMES = ("background", "liver", "left_kidney", "hip_left")
NET = ("DS-TransUNet", "0.3")
PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
STUDY = ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName")


def random_labels(slices: int = SHAPE[2]) -> np.ndarray:
    """Every class in every slice, but for the second, which is empty, and the third, which lacks class 3."""
    labels = np.random.default_rng(7).integers(0, len(NAMES), (*SHAPE[:2], slices)).astype(np.uint8)
    labels[:, :, 1:2] = 0
    labels[:, :, 2:3][labels[:, :, 2:3] == 3] = 0
    return labels


def written(tmp_path: Path, labels, source, names=NAMES, algorithm=NET, file="seg.dcm") -> Path:
    write_segmentation(tmp_path / file, labels, source, names, algorithm)
    return tmp_path / file


def refused(tmp_path: Path, labels, source, match: str, **arguments) -> None:
    with pytest.raises(InputError, match=match) as caught:
        written(tmp_path, labels, source, **arguments)
    assert "\n" not in str(caught.value)
    assert not [file for file in tmp_path.iterdir() if "seg.dcm" in file.name]


def read_back(file: Path, source) -> np.ndarray:
    """The label map as a reader of the standard sees it, after every frame was found at its slice's place."""
    seg = pydicom.dcmread(file)
    masks = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    measures, directions = shared.PixelMeasuresSequence[0], shared.PlaneOrientationSequence[0]
    row, column = np.reshape(directions.ImageOrientationPatient, (2, 3)).astype(float)
    in_plane = np.stack([row * measures.PixelSpacing[1], column * measures.PixelSpacing[0]], axis=1)
    np.testing.assert_allclose(in_plane, (TO_RAS @ source.affine)[:3, :2], atol=1e-4)
    uids = [(pydicom.dcmread(place.file).SOPInstanceUID, place.frame) for place in source.slices]
    labels = np.zeros(source.shape, np.uint8)
    for mask, frame in zip(masks, seg.PerFrameFunctionalGroupsSequence, strict=True):
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        k = uids.index((image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")))
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(position, (TO_RAS @ source.affine @ (0, 0, k, 1))[:3], atol=1e-3)
        segment = shared if "SegmentIdentificationSequence" in shared else frame
        number = segment.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert not labels[:, :, k][mask.T == 1].any()
        labels[:, :, k][mask.T == 1] = number
    return labels


# ---------------------------------------------------------------- where voxels lie


@pytest.mark.parametrize("place", PLACES)
def test_every_voxel_is_at_its_place_in_its_image(tmp_path, place):
    source, labels = single_frames(tmp_path / "ct", PLACES[place]), random_labels()
    file = written(tmp_path, labels, source)
    np.testing.assert_array_equal(read_back(file, source), labels)


@pytest.mark.parametrize("place", PLACES)
def test_highdicom_finds_the_labels_of_each_image(tmp_path, place):
    source, labels = single_frames(tmp_path / "ct", PLACES[place]), random_labels()
    seg = hd.seg.segread(written(tmp_path, labels, source))
    uids = [pydicom.dcmread(one.file).SOPInstanceUID for one in source.slices]
    found = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(found, labels.transpose(2, 1, 0))


@pytest.mark.parametrize("place", [place for place in PLACES if place != "tilted gantry"])
def test_highdicom_puts_the_volume_where_the_source_is(tmp_path, place):
    """highdicom makes up volumes of slices that do not lean, and counts slices in a direction of its own."""
    source, labels = single_frames(tmp_path / "ct", PLACES[place]), random_labels()
    found = hd.seg.segread(written(tmp_path, labels, source)).get_volume(combine_segments=True)
    to_source = np.linalg.inv(TO_RAS @ source.affine) @ found.affine
    np.testing.assert_allclose(to_source, np.rint(to_source), atol=1e-4)
    for index in np.ndindex(found.shape):
        x, y, z, _ = np.rint(to_source @ (*index, 1)).astype(int)
        assert found.array[index] == labels[x, y, z]
    assert found.array.size == labels.size


@pytest.mark.parametrize("place", ["axial", "coronal", "oblique", "reversed slices"])
def test_itk_reads_the_same_volume(tmp_path, place):
    source = single_frames(tmp_path / "ct", PLACES[place])
    labels = np.minimum(random_labels(), 1)
    labels[0, 0, :] = 1  # a frame of every slice, so that ITK knows where each is
    labels[-2:, -1, :] = 0  # GDCM loses the last bits of a file of 210, which fill no byte
    image = sitk.ReadImage(written(tmp_path, labels, source, NAMES[:2]))
    for index in np.ndindex(*SHAPE):
        point = TO_RAS @ source.affine @ (*index, 1)
        assert (image[image.TransformPhysicalPointToIndex(point[:3])] > 0) == labels[index]


def test_a_single_slice(tmp_path):
    source, labels = single_frames(tmp_path / "ct", PLACES["oblique"], 1), random_labels(1)
    np.testing.assert_array_equal(read_back(written(tmp_path, labels, source), source), labels)


@pytest.mark.parametrize("place", ["axial", "oblique", "tilted gantry"])
def test_the_frames_of_a_multi_frame_file_are_pointed_at_one_by_one(tmp_path, place):
    source, labels = multi_frame(tmp_path / "mf.dcm", PLACES[place], (3, 0, 4, 1, 2)), random_labels()
    file = written(tmp_path, labels, source)
    np.testing.assert_array_equal(read_back(file, source), labels)
    measures = pydicom.dcmread(file).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SpacingBetweenSlices, measures.SliceThickness) == (3, 2)


def test_of_several_volumes_in_one_file_the_right_one_is_pointed_at(tmp_path):
    """Frames 1, 3, 5, ... are one time, 2, 4, 6, ... another at the same places."""
    every = multi_frame(tmp_path / "mf.dcm", PLACES["axial"], [k for k in range(5) for _ in range(2)])
    assert [place.frame for place in every.slices] == [2, 4, 6, 8, 10]
    np.testing.assert_array_equal(read_back(written(tmp_path, random_labels(), every), every), random_labels())


def test_a_volume_of_several_multi_frame_files(tmp_path):
    first = multi_frame(tmp_path / "a.dcm", PLACES["coronal"], (2, 0, 4), "1.2.3.4.1")
    second = multi_frame(tmp_path / "b.dcm", PLACES["coronal"], (1, 3), "1.2.3.4.2")
    slices = [first.slices[0], second.slices[0], first.slices[1], second.slices[1], first.slices[2]]
    source = volume(tmp_path, slices, PLACES["coronal"])
    file = written(tmp_path, random_labels(), source)
    np.testing.assert_array_equal(read_back(file, source), random_labels())
    named = pydicom.dcmread(file).ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert [one.ReferencedSOPInstanceUID for one in named] == ["1.2.3.4.1", "1.2.3.4.2"]


def test_the_spacing_is_that_of_the_positions_whatever_headers_say(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["tilted gantry"])
    change(source, lambda image, k: setattr(image, "SpacingBetweenSlices", "-1.5"))
    seg = pydicom.dcmread(written(tmp_path, random_labels(), source))
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SpacingBetweenSlices, measures.SliceThickness) == (3, 2)


def test_directions_that_differ_in_the_last_digit_are_one_direction(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    change(source, lambda image, k: setattr(image, "ImageOrientationPatient", [1, k * 1e-6, 0, 0, 1, 0]))
    np.testing.assert_array_equal(
        read_back(written(tmp_path, random_labels(), source), source), random_labels()
    )


@pytest.mark.parametrize(
    "folder",
    ["dcmqi_ct_seg/23x38x3/image", "dcmqi_ct_seg/23x38x3/multiframe", "torchio_ct17"],
)
def test_series_of_scanners(tmp_path, volumes, folder):
    (series,) = find_series(list((volumes / "dicom" / folder).glob("*.dcm")))
    source = read_series(series)
    labels = (np.random.default_rng(3).integers(0, 8, source.shape) % 4).astype(np.uint8)
    file = written(tmp_path, labels, source)
    np.testing.assert_array_equal(read_back(file, source), labels)
    found = hd.seg.segread(file).get_volume(combine_segments=True)
    to_source = np.linalg.inv(TO_RAS @ source.affine) @ found.affine
    np.testing.assert_allclose(to_source, np.rint(to_source), atol=1e-3)


# ---------------------------------------------------------------- what classes are called


def test_segments_are_the_classes_with_their_codes_and_colours(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    seg = hd.seg.segread(written(tmp_path, random_labels(), source))
    assert seg.SegmentationType == "BINARY"
    assert seg.segment_numbers == [1, 2, 3]
    liver, kidney, hip = (seg.get_segment_description(number) for number in (1, 2, 3))
    assert [one.segment_label for one in (liver, kidney, hip)] == ["Liver", "Left kidney", "Hip left"]
    assert liver.segmented_property_type == pydicom.sr.codedict.codes.SCT.Liver
    assert kidney.segmented_property_category == pydicom.sr.codedict.codes.SCT.AnatomicalStructure
    assert hip.segmented_property_type == pydicom.sr.codedict.codes.SCT.Tissue
    (side,) = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert (side.CodeValue, side.CodingSchemeDesignator, side.CodeMeaning) == ("7771000", "SCT", "Left")
    assert "SegmentedPropertyTypeModifierCodeSequence" not in liver.SegmentedPropertyTypeCodeSequence[0]
    colour = hd.color.CIELabColor.from_dicom_value(kidney.RecommendedDisplayCIELabValue).to_rgb()
    np.testing.assert_allclose(colour, (66, 165, 245), atol=1)
    assert len({one.tracking_uid for one in (liver, kidney, hip)}) == 3


def test_who_made_it(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    seg = hd.seg.segread(written(tmp_path, random_labels(), source))
    for number in (1, 2, 3):
        segment = seg.get_segment_description(number)
        assert segment.algorithm_type == hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
        (algorithm,) = segment.algorithm_identification
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == NET
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert (seg.Manufacturer, seg.ManufacturerModelName) == ("dsnet-med", "DS-TransUNet")
    assert (seg.SeriesDescription, seg.ContentLabel) == ("Segmentation by DS-TransUNet", "SEGMENTATION")
    assert (seg.SeriesNumber, seg.InstanceNumber, seg.Modality) == (1004, 1, "SEG")


@pytest.mark.parametrize(("number", "wanted"), [(None, 1000), (-3, 1000), (2**31 - 1, 1000), (0, 1000)])
def test_odd_series_numbers(tmp_path, number, wanted):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    change(source, lambda image, k: setattr(image, "SeriesNumber", number))
    assert pydicom.dcmread(written(tmp_path, random_labels(), source)).SeriesNumber == wanted


def test_names_that_dicom_could_not_hold_are_cut_to_what_it_can(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    names = ("background", "a\\b", "", "Schlüsselbein " * 9)
    seg = pydicom.dcmread(written(tmp_path, random_labels(), source, names, ("net\n" * 40, "ü")))
    labels = [segment.SegmentLabel for segment in seg.SegmentSequence]
    assert labels[:2] == ["A/b", "Class 2"]
    assert labels[2].startswith("Schlüsselbein Schl")
    assert max(map(len, labels)) <= 64
    assert len(seg.SeriesDescription) <= 64
    refused(tmp_path / "ct", random_labels(), source, "wanted a name and a version", algorithm=("net", " "))


# ---------------------------------------------------------------- classes that are absent


def test_a_class_without_voxels_is_described_and_has_no_frames(tmp_path):
    source, labels = single_frames(tmp_path / "ct", PLACES["axial"]), random_labels()
    labels[labels == 2] = 0
    file = written(tmp_path, labels, source)
    seg = hd.seg.segread(file)
    assert seg.segment_numbers == [1, 2, 3]
    np.testing.assert_array_equal(read_back(file, source), labels)
    uids = [pydicom.dcmread(one.file).SOPInstanceUID for one in source.slices]
    empty = seg.get_pixels_by_source_instance(uids, segment_numbers=[2], assert_missing_frames_are_empty=True)
    assert not empty.any()


@pytest.mark.parametrize("kind", ["files", "frames"])
def test_a_map_of_background_alone_has_one_empty_frame_per_class(tmp_path, kind):
    if kind == "files":
        source = single_frames(tmp_path / "ct", PLACES["oblique"])
    else:
        source = multi_frame(tmp_path / "mf.dcm", PLACES["oblique"], (3, 0, 4, 1, 2))
    file = written(tmp_path, np.zeros(SHAPE, np.uint8), source)
    seg = hd.seg.segread(file)
    assert (seg.NumberOfFrames, seg.segment_numbers) == (3, [1, 2, 3])
    assert not read_back(file, source).any()
    named = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert len(named) == (5 if kind == "files" else 1)


# ---------------------------------------------------------------- the same bytes


def test_the_same_labels_give_the_same_bytes(tmp_path):
    source, labels = single_frames(tmp_path / "ct", PLACES["oblique"]), random_labels()
    first = written(tmp_path, labels, source, file="1.dcm").read_bytes()
    time.sleep(1.1)  # times in DICOM are whole seconds
    assert written(tmp_path, labels, source, file="2.dcm").read_bytes() == first
    wide = np.asfortranarray(labels.astype(np.uint32))
    assert written(tmp_path, wide, source, list(NAMES), file="3.dcm").read_bytes() == first


def test_whatever_differs_gives_an_identity_of_its_own(tmp_path):
    source, labels = single_frames(tmp_path / "ct", PLACES["axial"]), random_labels()
    other = labels.copy()
    other[-1, -1, -1] ^= 1
    segs = [
        pydicom.dcmread(written(tmp_path, labels, source)),
        pydicom.dcmread(written(tmp_path, other, source)),
        pydicom.dcmread(written(tmp_path, labels, source, ("background", "liver", "left_kidney", "spleen"))),
        pydicom.dcmread(written(tmp_path, labels, source, algorithm=("DS-TransUNet", "0.4"))),
    ]
    change(source, lambda image, k: setattr(image, "SOPInstanceUID", f"1.2.3.5.{k}"))
    segs.append(pydicom.dcmread(written(tmp_path, labels, source)))
    change(source, lambda image, k: setattr(image, "SeriesInstanceUID", "1.2.3.6"))
    segs.append(pydicom.dcmread(written(tmp_path, labels, source)))
    uids = [
        {
            seg.SOPInstanceUID,
            seg.SeriesInstanceUID,
            seg.DimensionOrganizationSequence[0].DimensionOrganizationUID,
            *(segment.TrackingUID for segment in seg.SegmentSequence),
        }
        for seg in segs
    ]
    assert len(set.union(*uids)) == len(segs) * 6
    assert all(UID(uid).is_valid for uid in set.union(*uids))


@pytest.mark.parametrize(
    ("dates", "wanted"),
    [
        ({"ContentDate": "20060204", "ContentTime": "120000"}, ("20060204", "120000")),
        ({}, ("20060203", "101500")),
        ({"SeriesDate": "ANON", "SeriesTime": ""}, ("20060203", "101112")),
        ({"SeriesDate": "", "StudyTime": "none"}, ("20060203", "000000")),
        ({"SeriesDate": None, "StudyDate": ""}, ("19700101", "000000")),
    ],
)
def test_dates_are_the_source_s_own(tmp_path, dates, wanted):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    change(source, lambda image, k: [setattr(image, keyword, value) for keyword, value in dates.items()])
    seg = pydicom.dcmread(written(tmp_path, random_labels(), source))
    assert (seg.ContentDate, seg.ContentTime) == wanted
    assert "InstanceCreationDate" not in seg


# ---------------------------------------------------------------- what the source says and lacks


def test_patient_and_study_are_those_of_the_source(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    image = pydicom.dcmread(source.slices[0].file)
    seg = pydicom.dcmread(written(tmp_path, random_labels(), source))
    for keyword in (*PATIENT, *STUDY, "StudyInstanceUID", "FrameOfReferenceUID", "PatientAge"):
        assert seg[keyword].value == image[keyword].value, keyword
    assert str(seg.PatientName) == "Müller^Jörg"


def test_names_and_codes_in_japanese_are_kept(tmp_path):
    def japanese(image: pydicom.FileDataset, k: int) -> None:
        image.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        image.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
        procedure = Dataset()
        procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "1", "99A", "腹部"
        image.ProcedureCodeSequence = [procedure]

    source = single_frames(tmp_path / "ct", PLACES["axial"])
    change(source, japanese)
    seg = pydicom.dcmread(written(tmp_path, random_labels(), source))
    assert seg.PatientName == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert seg.ProcedureCodeSequence[0].CodeMeaning == "腹部"


def anonymise(image: pydicom.FileDataset, k: int) -> None:
    """Leave nothing but what an image needs to be one, and its place."""
    kept = """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality Rows
        Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation
        ImageOrientationPatient ImagePositionPatient PixelSpacing PixelData"""
    for element in image:
        if element.keyword not in kept.split():
            del image[element.tag]


def test_an_anonymised_source_leaves_empty_what_must_be_there(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    change(source, anonymise)
    file = written(tmp_path, random_labels(), source)
    np.testing.assert_array_equal(read_back(file, source), random_labels())
    seg = pydicom.dcmread(file)
    assert not any(seg[keyword].value for keyword in (*PATIENT, *STUDY))
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 3


@pytest.mark.parametrize("source_is", ["whole", "anonymised"])
def test_every_attribute_that_dicom_requires_is_there(tmp_path, source_is):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    if source_is == "anonymised":
        change(source, anonymise)
    seg = pydicom.dcmread(written(tmp_path, random_labels(), source))
    modules = [module["key"] for module in get_iod_module_map()["segmentation"] if module["usage"] == "M"]
    assert len(modules) > 8
    for module in modules:
        check_required_attributes(seg, module=module, recursive=not module.endswith("functional-groups"))


def test_values_that_dicom_does_not_know_are_left_out(tmp_path):
    odd = {"PatientSex": "MALE", "PatientBirthDate": "ANON", "StudyDate": "unknown", "StudyTime": "noon"}
    source = single_frames(tmp_path / "ct", PLACES["axial"])

    def spell(image: pydicom.FileDataset, k: int) -> None:
        for keyword, value in odd.items():
            image[keyword] = pydicom.DataElement(keyword, "LO", value)
        image.private_block(0x0011, "Scanner", create=True).add_new(0x01, "LO", "abcdef")

    change(source, spell)
    for place in source.slices:  # six bytes are no number of eight, which pydicom would not write
        private, content = b"\x11\x00\x01\x10", place.file.read_bytes()
        place.file.write_bytes(content.replace(private + b"LO", private + b"FD"))
    with pytest.raises(pydicom.errors.BytesLengthException):
        pydicom.dcmread(source.slices[0].file)[0x0011, 0x1001]
    seg = pydicom.dcmread(written(tmp_path, random_labels(), source))
    assert not any(seg[keyword].value for keyword in odd)
    assert seg.PatientID == "P-17"


@pytest.mark.parametrize(
    "keyword", ["FrameOfReferenceUID", "StudyInstanceUID", "SOPInstanceUID", "SeriesInstanceUID", "SOPClassUID"]
)
def test_a_source_that_lacks_what_must_be_repeated_is_refused(tmp_path, keyword):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    change(source, lambda image, k: k == 3 and delattr(image, keyword))
    refused(tmp_path, random_labels(), source, f"{source.slices[3].file.name}: has no {keyword}")


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_source_of_several_is_refused(tmp_path, keyword):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    change(source, lambda image, k: setattr(image, keyword, f"1.9.{k // 4}"))
    refused(tmp_path, random_labels(), source, rf"differ in {keyword} \(1\.9\.0, 1\.9\.1\)")


def test_images_that_cannot_be_told_apart_are_refused(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    change(source, lambda image, k: setattr(image, "SOPInstanceUID", "1.2.3.4.5"))
    refused(tmp_path, random_labels(), source, "several of its images have one SOPInstanceUID")


def test_a_kind_of_image_that_dicom_does_not_know_is_refused_in_one_line(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    change(source, lambda image, k: setattr(image, "SOPClassUID", "1.2.840.99999.1"))
    refused(tmp_path, random_labels(), source, "cannot be the source of a DICOM segmentation")


def test_a_source_that_is_gone_is_refused(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    source.slices[2].file.unlink()
    refused(tmp_path, random_labels(), source, source.slices[2].file.name)


# ---------------------------------------------------------------- labels, files, silence


def test_labels_that_do_not_fit_are_refused(tmp_path):
    source, labels = single_frames(tmp_path / "ct", PLACES["axial"]), random_labels()
    refused(tmp_path, labels[:, :, :4], source, r"shape \(7, 6, 4\) for a series of shape \(7, 6, 5\)")
    refused(tmp_path, labels.astype(np.int16), source, "type int16, wanted unsigned integers")
    refused(tmp_path, labels, source, "holds class 3, and there are names for 0 to 2", names=NAMES[:3])
    refused(tmp_path, labels, source, "wanted background and one more", names=NAMES[:1])


def test_class_ids_above_a_byte(tmp_path):
    source, labels = single_frames(tmp_path / "ct", PLACES["axial"]), random_labels().astype(np.uint16)
    labels[labels == 3] = 299
    seg = pydicom.dcmread(written(tmp_path, labels, source, [f"class_{number}" for number in range(300)]))
    numbers = {
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for frame in seg.PerFrameFunctionalGroupsSequence
    }
    assert numbers == {1, 2, 299}


def test_a_file_that_is_there_stays_when_writing_fails(tmp_path, mounted):
    source, disk = single_frames(tmp_path / "ct", PLACES["axial"]), mounted("size=64k")
    file = written(disk, random_labels(), source)
    before = file.read_bytes()
    (disk / "rest").write_bytes(bytes((64 << 10) - len(before) - 8192))
    with pytest.raises(InputError, match="no space left"):
        written(disk, random_labels(), source)
    assert file.read_bytes() == before
    assert sorted(one.name for one in disk.iterdir()) == ["rest", "seg.dcm"]


def test_nothing_is_said_on_the_way(tmp_path, capfd, caplog):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    change(source, lambda image, k: setattr(image, "PatientName", "no caret"))  # highdicom warns of it
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        written(tmp_path, random_labels(), source)
        written(tmp_path, np.zeros(SHAPE, np.uint8), source)
    assert (caught, caplog.records, capfd.readouterr()) == ([], [], ("", ""))
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientName == "no caret"


@pytest.mark.parametrize("groups", ["PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"])
@pytest.mark.parametrize(
    "kind", [CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage]
)
def test_empty_functional_groups_of_single_frames(tmp_path, groups, kind):
    """Left over by converters: the images say themselves where they lie."""
    source, labels = single_frames(tmp_path / "ct", PLACES["oblique"]), random_labels()

    def leave(image: pydicom.FileDataset, k: int) -> None:
        setattr(image, groups, [])
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = kind

    change(source, leave)
    series = find_series([place.file for place in source.slices])
    read = read_series(series[0])
    seg = pydicom.dcmread(written(tmp_path, labels, read))
    named = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert len(named) == 5
    uids = {pydicom.dcmread(place.file).SOPInstanceUID for place in source.slices}
    frames = seg.PerFrameFunctionalGroupsSequence
    assert {
        f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID for f in frames
    } <= uids
    assert len(frames) == len({(k, c) for k in range(5) for c in np.unique(labels[:, :, k]) if c})


def test_words_for_numbers_in_the_source(tmp_path):
    source, labels = single_frames(tmp_path / "ct", PLACES["axial"]), random_labels()
    files = [place.file for place in source.slices]
    for tag, kind in (((0x20, 0x11), "IS"), ((0x18, 0x50), "DS"), ((0x10, 0x1030), "DS"), ((0x20, 0x13), "IS")):
        as_words(files, tag, kind, b"REMOVED ")
    file = written(tmp_path, labels, source)
    np.testing.assert_array_equal(read_back(file, source), labels)
    assert pydicom.dcmread(file).SeriesNumber == 1000


def test_sources_are_read_and_left_as_they_are(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    before = [place.file.read_bytes() for place in source.slices]
    written(tmp_path, random_labels(), source)
    assert [place.file.read_bytes() for place in source.slices] == before
    assert pixels() in before[0]
    assert CTImageStorage.encode() in before[0]
