"""Regions: masks from label values and back, their written form, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsnet_med.errors import InputError
from dsnet_med.regions import Region, as_dict, label_map, of_structures, parse, region_masks

CLASSES = ("background", "edema", "core", "enhancing")
BRATS = (Region("whole", (1, 2, 3), 1), Region("tumour_core", (2, 3), 2), Region("enhancing", (3,), 3))
ROW = np.array([0, 1, 2, 3, 255], np.uint8)


def test_nested_regions_worked_by_hand():
    masks = region_masks(ROW, BRATS)
    assert masks.astype(int).tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]
    assert label_map(masks, BRATS).tolist() == [0, 1, 2, 3, 0]


def test_a_later_region_is_written_over_an_earlier_one():
    both = np.ones((2, 1), bool)
    first, second = Region("a", (1,), 7), Region("b", (2,), 300)
    assert label_map(both, (first, second)).tolist() == [300]
    assert label_map(both, (second, first)).tolist() == [7]
    assert label_map(both, (first, second)).dtype == np.uint16
    assert label_map(both[:1], (first,)).dtype == np.uint8


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.sampled_from([np.uint8, np.int16, np.int64]))
def test_labels_become_masks_and_the_same_labels_again(values, dtype):
    labels = np.array(values, dtype).reshape(-1, 1)
    masks = region_masks(labels, BRATS)
    assert masks.shape == (3, *labels.shape)
    assert np.array_equal(label_map(masks, BRATS), labels)


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=8))
def test_structures_that_overlap_lose_nothing_in_one_label(rows):
    masks = np.array(rows)
    regions = of_structures([f"s{i}" for i in range(len(rows))])
    stored = sum(mask.astype(int) << bit for bit, mask in enumerate(masks)).astype(np.uint8)
    assert np.array_equal(region_masks(stored, regions), masks)
    assert [region.value for region in regions] == list(range(1, len(rows) + 1))


def test_the_written_form_comes_back_and_names_and_left_out_values_are_found():
    written = as_dict(BRATS)
    assert written["tumour_core"] == {"of": [2, 3], "value": 2}
    assert parse(json.loads(json.dumps(written))) == parse(written, CLASSES) == BRATS
    short = {"whole": ["edema", 2, "enhancing"], "tumour_core": {"of": [3, 2, 3]}, "enhancing": [3]}
    assert parse(short, CLASSES) == BRATS
    assert parse(as_dict(of_structures(["a", "b"]))) == of_structures(["a", "b"])
    assert parse({}) == ()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ([1, 2], "wanted {name: [classes], ...}"),
        ({"whole": 1}, "regions#whole: got 1, wanted a list of classes"),
        ({"whole": []}, "regions#whole: got [], wanted a list"),
        ({"whole": {"off": [1]}}, "unknown key in regions#whole 'off': did you mean 'of'?"),
        ({"whole": {"value": 1}}, "regions#whole: got None, wanted a list"),
        ({"whole": [True]}, "got the class True, wanted whole numbers from 1 to 3"),
        ({"whole": [0]}, "got the class 0, wanted whole numbers from 1 to 3"),
        ({"whole": [4]}, "got the class 4, wanted whole numbers from 1 to 3"),
        ({"whole": ["edma"]}, "unknown class in regions#whole 'edma': did you mean 'edema'?"),
        ({"whole": ["background"]}, "unknown class in regions#whole 'background'"),
        ({"whole": {"of": [1], "value": 0}}, "got value 0, wanted a whole number from 1 to 65535"),
        ({"whole": [1, 2, 3]}, "whole has the classes 1, 2, 3 that no later region has, wanted one"),
        ({"core": [2], "whole": [1, 2]}, "core has no class that no later region has"),
        (
            {"a": {"of": [1, 2], "value": 1}, "b": {"of": [2, 3], "value": 1}},
            "a, b are written with the same value",
        ),
        ({" ": [1]}, "got the name ' ', wanted a word"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(written, told):
    with pytest.raises(InputError) as caught:
        parse(written, CLASSES)
    assert told in str(caught.value)


def test_names_without_known_classes_and_too_many_structures_are_refused():
    with pytest.raises(InputError, match="got the class 'edema', wanted whole numbers from 1 to 255"):
        parse({"whole": ["edema"]})
    with pytest.raises(InputError, match="got 9 structures, wanted at most 8"):
        of_structures([str(i) for i in range(9)])
