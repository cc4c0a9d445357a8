"""A structure set holds the voxels of each class for every kind of reader, names and colours them."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import seg_source
from matplotlib.path import Path as Outline
from scipy import ndimage
from seg_source import OBLIQUE, TO_RAS, multi_frame, placed, single_frames

from dsnet_med.dicom.structures import polygons, write_structures
from dsnet_med.errors import InputError
from dsnet_med.organs import organ_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

NAMES = ("background", "liver", "left_kidney", "hip_left")
NET = ("fcn_dsm", "0.3")


@pytest.fixture
def square(monkeypatch):
    """Series of 24 x 24 pixels of one size, in which rt-utils is right."""
    monkeypatch.setattr(seg_source, "SHAPE", (24, 24, 5))
    monkeypatch.setattr(seg_source, "SPACING", (0.75, 0.75, 3.0))
    return {
        "axial": placed((1, 0, 0), (0, 1, 0)),
        "oblique": placed(OBLIQUE[0], OBLIQUE[1]),
        "reversed slices": placed((1, 0, 0), (0, 1, 0), (0, 0, -3)),
        "seen from above": placed((-1, 0, 0), (0, 1, 0)),
    }


def blobs(shape=(24, 24, 5)) -> np.ndarray:
    """Classes 1 and 2 in parts and with holes, to the rim of the picture; single voxels; no class 3."""
    noise = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=shape), (1.5, 1.5, 0.6))
    labels = np.digitize(noise, [0.02, 0.12]).astype(np.uint8)
    labels[5:15, 5:15, 2] = 1
    labels[8:11, 8:11, 2], labels[9, 9, 2] = 0, 2
    return labels


def written(tmp_path: Path, labels, source, file="rt.dcm") -> Path:
    write_structures(tmp_path / file, labels, source, NAMES, NET)
    return tmp_path / file


def by_centres(file: Path, source) -> np.ndarray:
    """The label map as a reader makes it that asks for each voxel's centre whether an odd number of contours is
    around it, on the image that the contour names."""
    read = pydicom.dcmread(file)
    uids = [pydicom.dcmread(place.file).SOPInstanceUID for place in source.slices]
    columns, rows, _ = source.shape
    centres = np.stack(np.meshgrid(range(columns), range(rows), indexing="ij"), -1).reshape(-1, 2)
    labels, to_voxels = np.zeros(source.shape, np.uint8), np.linalg.inv(TO_RAS @ source.affine)
    for drawn in read.ROIContourSequence:
        odd = np.zeros(source.shape, bool)
        for contour in drawn.get("ContourSequence", ()):
            (image,) = contour.ContourImageSequence
            k = (
                uids.index(image.ReferencedSOPInstanceUID)
                if len(uids) == len(set(uids))
                else [place.frame for place in source.slices].index(image.ReferencedFrameNumber)
            )
            points = np.reshape(np.array(contour.ContourData, float), (-1, 3))
            assert len(points) == contour.NumberOfContourPoints
            voxels = (np.column_stack([points, np.ones(len(points))]) @ to_voxels.T)[:, :3]
            np.testing.assert_allclose(voxels[:, 2], k, atol=1e-3)
            odd[:, :, k] ^= Outline(voxels[:, :2]).contains_points(centres).reshape(columns, rows)
        assert not labels[odd].any()
        labels[odd] = drawn.ReferencedROINumber
    return labels


@pytest.mark.parametrize("place", ["oblique", "reversed slices", "tilted gantry"])
def test_the_centres_of_all_voxels_of_a_class_and_no_others_are_inside(tmp_path, square, place):
    lps = square.get(place, placed((1, 0, 0), (0, 1, 0), (0, 0.8, 3)))
    source, labels = single_frames(tmp_path / "ct", lps), blobs()
    np.testing.assert_array_equal(by_centres(written(tmp_path, labels, source), source), labels)


@pytest.mark.parametrize("place", ["axial", "oblique", "reversed slices", "seen from above"])
def test_rt_utils_reads_the_same_voxels(tmp_path, square, place):
    rt_utils = pytest.importorskip("rt_utils")
    lps = square[place]
    source, labels = single_frames(tmp_path / "ct", lps), blobs()
    read = rt_utils.RTStructBuilder.create_from(str(tmp_path / "ct"), str(written(tmp_path, labels, source)))
    assert read.get_roi_names() == ["Liver", "Left kidney", "Hip left"]
    normal = np.cross(lps[:3, 0], lps[:3, 1])
    along = np.argsort([normal @ (lps @ (0, 0, k, 1))[:3] for k in range(source.shape[2])])
    for number, name in enumerate(read.get_roi_names()[:2], start=1):
        mask = read.get_roi_mask_by_name(name).transpose(1, 0, 2)
        np.testing.assert_array_equal(mask, labels[:, :, along] == number)


def test_pixels_that_are_not_square_and_frames_of_one_file(tmp_path):
    source = multi_frame(tmp_path / "mf.dcm", placed(OBLIQUE[0], OBLIQUE[1]), (3, 0, 4, 1, 2))
    labels = np.random.default_rng(7).integers(0, 4, source.shape).astype(np.uint8)
    np.testing.assert_array_equal(by_centres(written(tmp_path, labels, source), source), labels)


def test_structures_are_the_classes_with_names_colours_and_codes(tmp_path, square):
    source = single_frames(tmp_path / "ct", square["axial"])
    read = pydicom.dcmread(written(tmp_path, blobs(), source))
    for number, (name, structure, drawn, observed) in enumerate(
        zip(
            NAMES[1:],
            read.StructureSetROISequence,
            read.ROIContourSequence,
            read.RTROIObservationsSequence,
            strict=True,
        ),
        start=1,
    ):
        organ = organ_of(name)
        assert (structure.ROINumber, structure.ROIName) == (number, organ.label)
        assert drawn.ROIDisplayColor == list(organ.colour)
        code = observed.RTROIIdentificationCodeSequence[0]
        assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == organ.type
        assert observed.RTROIInterpretedType == ("ORGAN" if number < 3 else "")
        assert ("ContourSequence" in drawn) == (number < 3)
    kidney = read.RTROIObservationsSequence[1].RTROIIdentificationCodeSequence[0]
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert (read.Modality, read.PatientID, read.StudyInstanceUID) == ("RTSTRUCT", "P-17", "1.2.3")
    series = (
        read.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    )
    assert (series.SeriesInstanceUID, len(series.ContourImageSequence)) == ("1.2.3.4", 5)


def test_the_same_labels_give_the_same_bytes_and_others_another_identity(tmp_path, square):
    source, labels = single_frames(tmp_path / "ct", square["axial"]), blobs()
    first, again = (written(tmp_path, labels, source, name) for name in ("a.dcm", "b.dcm"))
    assert first.read_bytes() == again.read_bytes()
    labels[0, 0, 0] = 3 - labels[0, 0, 0]
    other = pydicom.dcmread(written(tmp_path, labels, source, "c.dcm"))
    assert other.SOPInstanceUID != pydicom.dcmread(first).SOPInstanceUID


def test_a_source_that_cannot_be_pointed_at_is_refused_in_one_line(tmp_path, square):
    source = single_frames(tmp_path / "ct", square["axial"])
    seg_source.change(source, lambda image, k: delattr(image, "FrameOfReferenceUID"))
    with pytest.raises(InputError, match=r"has no FrameOfReferenceUID, which a DICOM segmentation must repeat"):
        written(tmp_path, blobs(), source)
    assert not (tmp_path / "rt.dcm").exists()


def test_outlines_turn_at_every_point():
    plane = np.zeros((9, 12), np.uint8)
    plane[2:7, 3:10] = 1
    ((number, points),) = polygons(plane)
    assert (number, len(points)) == (1, 8)  # a box without its corners
    np.testing.assert_allclose((points.min(0), points.max(0)), [(2.51, 1.51), (9.49, 6.49)])
