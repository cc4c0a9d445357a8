"""Regions are scored as they are, against loops over masks and medpy; ignored voxels count for nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medpy.metric import binary

from dsnet_med.errors import InputError
from dsnet_med.evaluate import assd, backend, dice, hd95, nsd, score_case
from dsnet_med.evaluate.classes import Classes, classes_of_arrays, exclusive, measured
from dsnet_med.evaluate.labels import Labels, labels_of, with_regions
from dsnet_med.evaluate.measurements import measure_case
from dsnet_med.evaluate.protocols import PROTOCOLS, record

BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


@st.composite
def cases(draw):
    """Two label maps of values 0 to 5 with blobs, a spacing, and regions of any values."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=3)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    maps = []
    for _ in range(2):
        voxels = np.zeros(shape, np.uint8)
        for value in random.integers(1, 6, random.integers(0, 6)):
            low = [random.integers(0, n) for n in shape]
            voxels[tuple(slice(a, a + random.integers(1, 6)) for a in low)] = value
        maps.append(voxels if draw(st.booleans()) else np.asfortranarray(voxels))
    spacing = tuple(draw(st.sampled_from([0.5, 1.0, 2.5])) for _ in shape)
    of = draw(st.lists(st.sets(st.integers(1, 5), min_size=1), min_size=1, max_size=5))
    return maps, spacing, [sorted(each) for each in of]


@settings(max_examples=25)
@given(cases(), st.sampled_from(["compiled", "scipy"]))
def test_regions_are_scored_as_a_loop_over_masks_scores_them(case, form):
    (reference, prediction), spacing, of = case
    regions = {f"r{place}": codes for place, codes in enumerate(of)}
    labels = with_regions(labels_of({value: f"c{value}" for value in range(1, 6)}), regions)
    maps = classes_of_arrays(reference, prediction, labels)[:2]
    kept = backend.BACKEND
    if form == "scipy":
        from dsnet_med.evaluate import backend_scipy

        backend.BACKEND = backend_scipy
    try:
        found = measured(*maps, spacing, labels.names, in_voxels=True)
    finally:
        backend.BACKEND = kept
    assert [each.name for each in found] == list(regions)
    for each, codes in zip(found, of, strict=True):
        a, b = np.isin(reference, codes), np.isin(prediction, codes)
        (alone,) = measure_case(a, b, spacing, {1: "x"}, in_voxels=True).measures
        for own in PROTOCOLS.values():
            ours, loop = vars(record(each, own)), vars(record(alone, own))
            for key in ours.keys() - {"label", "name", "note"}:
                assert ours[key] == pytest.approx(loop[key], nan_ok=True, rel=1e-12), key
        if a.any() and b.any():
            assert record(each, PROTOCOLS["strict"]).dice == pytest.approx(binary.dc(b, a))
            assert each.hd95_pooled_mm == pytest.approx(binary.hd95(b, a, spacing))
            assert each.assd_mm == pytest.approx(binary.assd(b, a, spacing))


def test_nested_regions_worked_by_hand():
    reference, prediction = np.array([[1, 2, 3, 3, 0]]), np.array([[1, 1, 2, 3, 3]])
    rows = score_case(reference, prediction, (1, 1), BRATS)
    assert [(row.label, row.name, row.reference_voxels, row.prediction_voxels) for row in rows] == [
        (1, "whole", 4, 5),
        (2, "core", 3, 3),
        (3, "enhancing", 2, 2),
    ]
    assert [row.dice for row in rows] == [8 / 9, 4 / 6, 2 / 4]
    whole = reference > 0, prediction > 0
    assert (rows[0].dice, rows[0].hd95_mm) == (dice(*whole), hd95(*whole, (1, 1)))
    assert (rows[0].assd_mm, rows[0].nsd) == (assd(*whole, (1, 1)), nsd(*whole, (1, 1)))


def test_regions_that_exclude_each_other_are_measured_together():
    maps = np.array([[1, 2, 3, 4]], np.uint8)
    labels = labels_of({"a": [1, 2], "b": [3], "c": [2, 3], "d": [4]})
    sides = classes_of_arrays(maps, maps, labels)[:2]
    assert exclusive(*sides, labels.names) == [[1, 2, 4], [3]]
    assert exclusive(Classes((maps,)), Classes((maps,)), [1, 2]) == [[1, 2]]


@given(cases())
@settings(max_examples=15)
def test_ignored_voxels_are_in_neither_mask(case):
    (reference, prediction), spacing, _ = case
    given_labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "ignore": 5, "other": 4}
    prediction = np.where(prediction == 5, 4, prediction)
    gone = reference == 5
    left = np.where(gone, 0, reference), np.where(gone, 0, prediction)
    without = {name: value for name, value in given_labels.items() if name != "ignore"}
    for ours, plain in zip(
        score_case(reference, prediction, spacing, given_labels),
        score_case(*left, spacing, without),
        strict=True,
    ):
        assert str(ours) == str(plain)
    assert classes_of_arrays(reference, prediction, labels_of(given_labels))[2] == np.count_nonzero(gone)


def test_values_that_no_region_and_no_class_has_are_refused():
    with pytest.raises(InputError, match="prediction holds label 4, which is none of 1, 2, 3"):
        score_case(np.array([[1]]), np.array([[4]]), (1, 1), BRATS)
    classes = with_regions(labels_of({"a": 1, "b": 2, "c": 4}), {"all": ["a", "b"]})
    assert score_case(np.array([[1, 4]]), np.array([[4, 2]]), (1, 1), classes)[0].dice == 0


def test_labels_of_regions():
    labels = labels_of(BRATS | {"ignore": 4})
    assert isinstance(labels, Labels)
    assert (labels.names, labels.ignored) == ({1: "whole", 2: "core", 3: "enhancing"}, ("ignore", 4))
    assert [region.codes for region in labels.regions] == [(1, 2, 3), (2, 3), (3,)]
    assert list(labels.values) == [1, 2, 3]
    assert labels_of(labels) is labels
