"""Regions in every format, nested ones and those that overlap; DICOM series as channels."""

from pathlib import Path

import made
import nibabel as nib
import numpy as np
import pytest
import tiny
import torch
from torch import nn

from dsnet_med.errors import InputError
from dsnet_med.inference.channels import load_channels
from dsnet_med.inference.outputs import Outputs
from dsnet_med.inference.postprocess import PostProcess
from dsnet_med.inference.segment import Choice, segment_cases
from dsnet_med.inference.slice_model import SliceModel
from dsnet_med.inference.sources import find_sources
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.regions import of_structures, parse
from dsnet_med.segmentations import read_pair
from dsnet_med.volumes_itk import segments_of

CHANNELS = ("t1", "flair")
NAMES = ("background", "a", "b", "c")
NESTED = parse({"whole": {"of": [1, 2, 3], "value": 1}, "core": {"of": [2, 3], "value": 2}, "inner": [3]})
ALL = ("nifti", "seg.nrrd", "dicom-seg", "dicom-labelmap", "rtstruct")
WINDOW = Intensity.from_dict({"window": [-1024, 1024]})


class _Bands(nn.Module):
    """Three structures, each where the first channel lies in a band; the second channel shifts all of them."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = images[:, :1] + 0 * images[:, 1:]
        return torch.cat([first - 0.5, 0.6 - first, (first - 0.55).abs() * -1 + 0.2], 1)


def _predictor(overlapping: bool, **changes):
    regions = of_structures(NAMES[1:]) if overlapping else NESTED
    model = SliceModel(_Bands(), (16, 16), "window", (WINDOW, WINDOW), 2)
    return tiny.predictor(model, regions=regions, class_names=NAMES, channel_names=CHANNELS, **changes)


def _series(folder: Path) -> Path:
    """Two series of one place, called after their channels, and a third of another kind."""
    place = {"FrameOfReferenceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3.5"}
    for number, name in enumerate(("Ax T1 pre", "FLAIR", "dose report"), start=1):
        uid = {"SeriesInstanceUID": f"1.2.3.6.{number}", "SeriesNumber": number, "SeriesDescription": name}
        images = made.images(5, (16, 18))
        generator = np.random.default_rng(number)
        for each in images:
            pixels = np.frombuffer(each.PixelData, np.uint16 if each.PixelRepresentation == 0 else np.int16)
            each.PixelData = generator.integers(0, 2048, pixels.size).astype(pixels.dtype).tobytes()
            for key, value in (place | uid).items():
                setattr(each, key, value)
        made.write(folder / f"{number}", images)
    together = folder / "patient"
    together.mkdir()
    for file in sorted(folder.glob("[123]/*")):
        file.rename(together / f"{file.parent.name}_{file.name}")
    return together


def _written(tmp_path: Path, overlapping: bool, formats=ALL, series: str | None = None, **options):
    source = _series(tmp_path / "in")
    predictor, out = _predictor(overlapping), tmp_path / "out"
    sources = find_sources([source], channels=CHANNELS)
    choice = Choice(series=series)
    (result,) = segment_cases(predictor, sources, out, Outputs(formats, **options), choice)
    channels = load_channels(sources[0], CHANNELS, None, series)
    scores = _Bands()(
        torch.stack([torch.from_numpy(WINDOW.fit(v.voxels).apply(v.voxels)) for v in channels])[None]
    )
    return result, out, (scores[0] > 0).numpy()


def test_regions_that_overlap_are_whole_in_every_format_that_can(tmp_path):
    formats = tuple(name for name in ALL if name != "dicom-labelmap")
    result, out, masks = _written(tmp_path, True, formats, statistics=True)
    assert result.error is None and (masks.sum(0) > 1).any()
    labels = np.asanyarray(nib.load(out / "patient.nii.gz").dataobj)
    np.testing.assert_array_equal(labels, np.max(masks * np.array([1, 2, 3]).reshape(3, 1, 1, 1), axis=0))
    for ending in (".seg.nrrd", ".dcm"):
        _, read = read_pair(out / "patient.nii.gz", out / f"patient{ending}")
        assert [segment.name.casefold() for segment in read.segments] == ["a", "b", "c"]
        for segment, mask in zip(read.segments, masks, strict=True):
            np.testing.assert_array_equal(read.layers[segment.layer] == segment.value, mask)
    rows = (out / "statistics.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[3]) for row in rows] == [int(mask.sum()) for mask in masks]


def test_a_label_map_of_overlapping_regions_is_refused_by_name(tmp_path):
    result, out, _ = _written(tmp_path, True)
    assert "holds no segments that overlap" in result.error and result.written
    assert not (out / "patient.labelmap.dcm").exists() and (out / "patient.dcm").exists()
    with pytest.raises(InputError, match="a, b, c overlap, and post-processing"):
        _predictor(True, postprocess=PostProcess(keep_largest=("a",)))


def test_nested_regions_are_those_of_the_label_map(tmp_path):
    result, out, _ = _written(tmp_path, False)
    assert result.error is None
    labels = np.asanyarray(nib.load(out / "patient.nii.gz").dataobj)
    for ending in (".seg.nrrd", ".dcm"):
        _, read = read_pair(out / "patient.nii.gz", out / f"patient{ending}")
        assert [segment.name.casefold() for segment in read.segments] == ["whole", "core", "inner"]
        for segment, region in zip(read.segments, NESTED, strict=True):
            inside = np.isin(labels, region.codes)
            np.testing.assert_array_equal(read.layers[segment.layer] == segment.value, inside)
    _, read = read_pair(out / "patient.nii.gz", out / "patient.labelmap.dcm")
    np.testing.assert_array_equal(read.layers[0], labels)
    assert len(segments_of(out / "patient.seg.nrrd")) == 3


# ---------------------------------------------------------------- series as channels


def test_series_are_told_by_their_descriptions_or_numbers(tmp_path):
    (source,) = find_sources([_series(tmp_path)], channels=CHANNELS)
    named = load_channels(source, CHANNELS, hashed=True)
    numbered = load_channels(source, CHANNELS, None, "flair=2,t1=1")
    for one, other in zip(named, numbered, strict=True):
        np.testing.assert_array_equal(one.voxels, other.voxels)
    swapped = load_channels(source, CHANNELS, None, "2,1")
    np.testing.assert_array_equal(swapped[0].voxels, named[1].voxels)
    assert set(named[0].digests) == set(source.files)


@pytest.mark.parametrize(
    ("channels", "series", "message"),
    [
        (("t2", "flair"), None, "no series is called t2; say --series t2=NUMBER,flair=NUMBER, of number 1"),
        (("t1", "flair"), "1,1", "t1 and flair are one series"),
        (("t1", "flair"), "1,9", "has no series '9'"),
        (("t1", "flair"), "1", "wanted a series for each channel: t1=NUMBER,flair=NUMBER"),
    ],
)
def test_series_that_are_not_there(channels, series, message, tmp_path):
    (source,) = find_sources([_series(tmp_path)], channels=channels)
    with pytest.raises(InputError, match=message):
        load_channels(source, channels, None, series)


def test_a_folder_for_each_series(tmp_path):
    together = _series(tmp_path / "x")
    for name, number in (("t1", 1), ("flair", 2)):
        folder = tmp_path / "in" / "p" / name
        folder.mkdir(parents=True)
        for file in together.glob(f"{number}_*"):
            file.rename(folder / file.name)
    (source,) = find_sources([tmp_path / "in"], channels=CHANNELS)
    assert (source.case, source.kind, len(load_channels(source, CHANNELS))) == ("p", "dicom", 2)
