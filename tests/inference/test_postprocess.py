"""Cleaning of label maps: by hand, and against a second implementation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.measure import label as components

from dsnet_med.errors import InputError
from dsnet_med.inference.postprocess import PostProcess, postprocessed

NAMES = ("background", "liver", "spleen")


def _map() -> np.ndarray:
    """A liver of 27 voxels with a hole and one of 2, a spleen of 8 and one of 1."""
    ids = np.zeros((12, 10, 8), np.uint8)
    ids[1:4, 1:4, 1:4] = 1
    ids[2, 2, 2] = 0
    ids[8:10, 1, 1] = 1
    ids[6:8, 6:8, 5:7] = 2
    ids[11, 9, 7] = 2
    return ids


def _sizes(ids: np.ndarray) -> list[int]:
    return np.bincount(ids.ravel(), minlength=3).tolist()[1:]


def _done(options: PostProcess, ids: np.ndarray | None = None) -> np.ndarray:
    return postprocessed(_map() if ids is None else ids, options.checked(NAMES), NAMES, 10.0)


def test_nothing_is_done_unasked() -> None:
    np.testing.assert_array_equal(_done(PostProcess()), _map())


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        (PostProcess(keep_largest=("liver",)), [26, 9]),
        (PostProcess(keep_largest=("all",)), [26, 8]),
        (PostProcess(fill_holes=("liver",)), [29, 9]),
        (PostProcess(smallest_ml=0.02), [28, 8]),  # 2 voxels of 10 mm3
        (PostProcess(smallest_ml=0.0201), [26, 8]),
        (PostProcess(smallest_ml=0.09), [26, 0]),
        (PostProcess(("all",), ("all",), 0.01), [27, 8]),
    ],
)
def test_by_hand(options: PostProcess, sizes: list[int]) -> None:
    assert _sizes(_done(options)) == sizes


def test_a_hole_that_another_organ_fills_stays_its_own() -> None:
    ids = _map()
    ids[2, 2, 2] = 2
    assert _done(PostProcess(fill_holes=("all",)), ids)[2, 2, 2] == 2


def test_corners_connect() -> None:
    ids = np.zeros((4, 4, 4), np.uint8)
    ids[0, 0, 0] = ids[1, 1, 1] = ids[3, 3, 3] = 1
    assert _sizes(_done(PostProcess(keep_largest=("liver",)), ids)) == [2, 0]


@given(st.integers(0, 500), st.floats(0, 0.3))
def test_the_largest_piece_is_what_scikit_image_finds(seed: int, share: float) -> None:
    ids = (np.random.default_rng(seed).random((9, 8, 7)) < share).astype(np.uint8)
    pieces = components(ids, connectivity=3)
    sizes = np.bincount(pieces.ravel())[1:]
    got = _done(PostProcess(keep_largest=("liver",)), ids.copy())
    assert got.sum() == (sizes.max() if len(sizes) else 0)
    assert ((got == 1) <= (ids == 1)).all()


@pytest.mark.parametrize(
    "options", [PostProcess(keep_largest=("livre",)), PostProcess(fill_holes=("background",))]
)
def test_organs_that_are_none(options: PostProcess) -> None:
    with pytest.raises(InputError, match="unknown organ"):
        options.checked(NAMES)


@pytest.mark.parametrize("volume", [-1.0, float("nan"), float("inf")])
def test_volumes_that_are_none(volume: float) -> None:
    with pytest.raises(InputError, match="0 or more"):
        PostProcess(smallest_ml=volume).checked(NAMES)
