"""Pictures of maps: true proportions, colours that tell numbers, contours where the labels end."""

import io

import numpy as np
import pytest
from PIL import Image

from dsnet_med.errors import InputError
from dsnet_med.explain.pictures import common_limits, map_picture


def read(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), int)


def halves(picture, width):
    """The slice with its contours, and the map over it."""
    return picture[:, :width], picture[:, width + 8 : 2 * width + 8]


def test_panels_have_the_proportions_of_the_body():
    # 60 rows of 1 mm and 40 columns of 3 mm are 60 x 120 mm, so that a panel has 170 x 340 pixels.
    picture = read(map_picture(np.zeros((60, 40)), np.zeros((60, 40)), (1.0, 3.0)))
    assert picture.shape == (170, 2 * 340 + 2 * 8 + 14 + 62, 3)
    assert read(map_picture(np.zeros((60, 40)), np.zeros((60, 40)), (1.0, 1.0))).shape[:2] == (340, 546)


def test_a_map_lies_where_it_was_measured():
    values = np.zeros((20, 20))
    values[2:5, 12:16] = 1.0
    _, shown = halves(read(map_picture(np.full((20, 20), 7.0), values, (1, 1), limits=(0, 1))), 340)
    bright = shown[..., 1] > 120  # viridis runs from violet to yellow
    rows, columns = np.nonzero(bright)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (34, 85, 204, 272)
    assert bright[34:85, 204:272].all()


def test_one_number_has_one_colour_whatever_else_the_map_holds():
    """With common limits, runs side by side can be compared; by its own limits each map uses all colours."""
    image, weak, strong = np.zeros((8, 8)), np.full((8, 8), 1.0), np.full((8, 8), 1.0)
    weak[0, 0], strong[0], strong[1] = 1.1, 2.0, 0.5
    limits = common_limits([weak, strong])
    assert limits == (0.5, 2)
    first, second = (
        halves(read(map_picture(image, each, (1, 1), None, limits)), 340)[1] for each in (weak, strong)
    )
    assert (first[200:, 200:] == second[200:, 200:]).all()
    own = halves(read(map_picture(image, weak, (1, 1))), 340)[1]
    assert (own[200:, 200:] != first[200:, 200:]).any()


def test_limits():
    assert common_limits([]) == common_limits([np.full((2, 2), np.nan)]) == (0.0, 1.0)
    low, high = common_limits([np.full((3, 3), 1.0)])
    assert (low, high) == pytest.approx((0.999, 1.001))  # rounding is no pattern
    low, high = common_limits([np.r_[np.zeros(10), np.ones(990)], np.array([np.inf, -5.0])])
    assert (low, high) == (0.0, 1.0)  # what lies far off does not take all the colours


def test_contours_have_the_organs_colours_on_the_slice_and_are_white_on_the_map():
    labels = np.zeros((34, 34), int)
    labels[10:20, 10:20] = 3
    picture = map_picture(
        np.zeros((34, 34)), np.zeros((34, 34)), (1, 1), labels, (0, 1), colours={3: (250, 20, 30)}
    )
    plain, shown = halves(read(picture), 340)
    red = (plain == (250, 20, 30)).all(axis=2)
    rows, columns = np.nonzero(red)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 199, 100, 199)
    assert red.sum() == 4 * 100 - 4 + 4 * 98 - 4  # a line two pixels wide, nothing filled
    assert ((shown == 235).all(axis=2) == red).all()


def test_what_has_no_value_leaves_the_slice_as_it_is():
    rng = np.random.default_rng(0)
    image, values = rng.normal(size=(17, 17)), np.zeros((17, 17))
    values[:, 9:] = np.nan
    plain, shown = halves(read(map_picture(image, values, (1, 1))), 340)
    assert (plain[:, 180:] == shown[:, 180:]).all()
    assert (plain[:, :180] != shown[:, :180]).any(axis=2).all()


def test_shapes_that_differ_are_refused():
    with pytest.raises(InputError, match=r"shape \(4, 5\).*shape \(5, 4\)"):
        map_picture(np.zeros((4, 5)), np.zeros((5, 4)), (1, 1))
    with pytest.raises(InputError, match=r"contours of shape \(4, 4\)"):
        map_picture(np.zeros((4, 5)), np.zeros((4, 5)), (1, 1), np.zeros((4, 4), int))


def test_the_thinnest_of_slices():
    for shape in ((1, 1), (1, 300), (300, 1)):
        assert read(map_picture(np.full(shape, np.nan), np.full(shape, np.inf), (1, 1))).min() >= 0
