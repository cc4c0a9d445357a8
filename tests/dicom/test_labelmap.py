"""A DICOM label map holds the same voxels, names and colours as the binary segmentation beside it."""

import highdicom as hd
import numpy as np
import pydicom
import pytest
from seg_source import PLACES, single_frames
from test_segmentation import NAMES, NET, random_labels

from dsnet_med.dicom.segmentation import write_segmentation

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.mark.parametrize("place", ["oblique", "tilted gantry"])
def test_highdicom_reads_the_same_labels(tmp_path, place):
    source, labels = single_frames(tmp_path / "ct", PLACES[place]), random_labels()
    for file, kind in (("seg.dcm", "BINARY"), ("map.dcm", "LABELMAP"), ("again.dcm", "LABELMAP")):
        write_segmentation(tmp_path / file, labels, source, NAMES, NET, kind=kind)
    binary, found = (hd.seg.segread(tmp_path / file) for file in ("seg.dcm", "map.dcm"))
    assert (found.SegmentationType, found.SOPClassUID) == ("LABELMAP", "1.2.840.10008.5.1.4.1.1.66.7")
    assert found.SOPInstanceUID != binary.SOPInstanceUID
    assert found.SeriesInstanceUID != binary.SeriesInstanceUID
    uids = [pydicom.dcmread(one.file).SOPInstanceUID for one in source.slices]
    voxels = found.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(voxels, labels.transpose(2, 1, 0))

    def told(segments):
        """Of all but the background, which a label map describes as segment 0."""
        return [
            (each.SegmentNumber, each.SegmentLabel, each.RecommendedDisplayCIELabValue)
            for each in segments
            if each.SegmentNumber
        ]

    assert told(found.SegmentSequence) == told(binary.SegmentSequence)
    assert (tmp_path / "map.dcm").read_bytes() == (tmp_path / "again.dcm").read_bytes()


def test_a_map_of_background_alone(tmp_path):
    source = single_frames(tmp_path / "ct", PLACES["axial"])
    write_segmentation(
        tmp_path / "map.dcm", np.zeros(source.shape, np.uint8), source, NAMES, NET, kind="LABELMAP"
    )
    assert not pydicom.dcmread(tmp_path / "map.dcm").pixel_array.any()
