"""Normalisation: hand-worked values, the same for any type or axis order, never a division by zero."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dsnet_med.errors import InputError
from dsnet_med.prepare.intensity import Intensity

WINDOW = Intensity("window", -125, 275)
UNIT_VARIANCE = Intensity("unit_variance", 0.5, 99.5)
ZSCORE = Intensity("zscore", 0.5, 99.5)
FOREGROUND = Intensity("zscore", 0, 100, foreground=True)
VOLUMES = hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6))


def test_window_maps_its_bounds_to_zero_and_one_and_clips_outside() -> None:
    scaled = WINDOW.fit(np.zeros(1)).apply(np.array([-1024, -125, 75, 275, 3000], np.int16))
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, np.float32([0, 0, 0.5, 1, 1]))


def test_unit_variance_clips_at_order_statistics_and_divides_by_the_clipped_deviation() -> None:
    # 0..10 clipped at the 10th and 90th percentile is 1 1 2 ... 8 9 9: mean 5, variance 92 / 11.
    scaling = Intensity("unit_variance", 10, 90).fit(np.arange(11, dtype=np.int16))
    assert (scaling.low, scaling.high) == (1, 9)
    assert scaling.slope == pytest.approx((92 / 11) ** -0.5)
    assert scaling.apply(np.array([0, 1, 5, 99]))[2] == pytest.approx(4 / (92 / 11) ** 0.5)


def test_percentiles_are_the_enclosing_voxel_values() -> None:
    values = np.random.default_rng(0).normal(size=997)
    scaling = UNIT_VARIANCE.fit(values)
    assert scaling.low == np.percentile(values, 0.5, method="lower")
    assert scaling.high == np.percentile(values, 99.5, method="higher")


@given(VOLUMES)
def test_unit_variance_has_minimum_zero_and_deviation_one_or_is_all_zeros(volume: np.ndarray) -> None:
    scaled = UNIT_VARIANCE.fit(volume).apply(volume)
    assert scaled.min() == 0
    assert scaled.std(dtype=np.float64) == pytest.approx(1 if scaled.any() else 0, abs=1e-4)


@given(VOLUMES, st.permutations(range(3)), st.sampled_from([WINDOW, UNIT_VARIANCE, ZSCORE]))
def test_type_and_axis_order_do_not_change_the_result(
    volume: np.ndarray, axes: list[int], rule: Intensity
) -> None:
    scaled = rule.fit(volume).apply(volume)
    turned = volume.transpose(axes)[::-1].astype(np.float32)
    again = rule.fit(turned).apply(turned)
    np.testing.assert_allclose(again[::-1].transpose(np.argsort(axes)), scaled, rtol=1e-6, atol=1e-6)


def test_long_volumes_are_summed_in_chunks_without_loss() -> None:
    volume = np.random.default_rng(1).normal(1e4, 3, size=(2, 1 << 19, 3)).astype(np.float32)
    scaling = Intensity("unit_variance", 0, 100).fit(volume)
    assert scaling.slope == pytest.approx(1 / volume.std(dtype=np.float64), rel=1e-12)


@pytest.mark.parametrize("value", [-7, 0, 40])
def test_constant_volume_gives_zeros(value: int) -> None:
    volume = np.full((3, 4, 5), value, np.int16)
    assert not UNIT_VARIANCE.fit(volume).apply(volume).any()


@pytest.mark.parametrize("bounds", [(0, 1e41), (-1e41, 0), (-3e38, 3e38)])
def test_values_beyond_float32_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="its values are too large: "):
        UNIT_VARIANCE.fit(np.linspace(*bounds, 1000))


def test_apply_leaves_its_input_alone() -> None:
    volume = np.array([-1000.0, 1000.0], np.float32)
    WINDOW.fit(volume).apply(volume)
    assert volume.tolist() == [-1000, 1000]


@given(VOLUMES)
def test_zscore_has_mean_zero_and_deviation_one_or_is_all_zeros(volume: np.ndarray) -> None:
    scaled = ZSCORE.fit(volume).apply(volume)
    assert scaled.mean(dtype=np.float64) == pytest.approx(0, abs=1e-4)
    assert scaled.std(dtype=np.float64) == pytest.approx(1 if scaled.any() else 0, abs=1e-4)


@given(VOLUMES)
def test_zscore_of_the_foreground_is_that_of_monai(volume: np.ndarray) -> None:
    scaled = FOREGROUND.fit(volume).apply(volume)
    inside = volume[volume != 0].astype(np.float64)
    wanted = np.zeros(volume.shape)
    if inside.size and inside.std():
        wanted[volume != 0] = (inside - inside.mean()) / inside.std()  # NormalizeIntensity(nonzero=True)
    np.testing.assert_allclose(scaled, wanted, atol=1e-4)


def test_zscore_of_the_foreground_clips_at_percentiles_of_the_foreground() -> None:
    volume = np.array([0, 0, 0, 0, 10, 20, 30, 40, 1000])
    scaling = Intensity("zscore", 0, 75, foreground=True).fit(volume)  # 10 20 30 40 40: mean 28, variance 136
    assert (scaling.low, scaling.high, scaling.origin) == (10, 40, 28)
    np.testing.assert_allclose(scaling.apply(volume) * 136**0.5, [0, 0, 0, 0, -18, -8, 2, 12, 12], rtol=1e-6)


@pytest.mark.parametrize("rule", [WINDOW, UNIT_VARIANCE, ZSCORE, FOREGROUND])
def test_rule_survives_writing_and_reading(rule: Intensity) -> None:
    assert Intensity.from_dict(rule.as_dict()) == rule


def test_the_old_name_of_unit_variance_is_read_in_stores_and_not_in_recipes() -> None:
    assert Intensity.from_dict({"zscore": [0.5, 99.5]}) == UNIT_VARIANCE
    assert Intensity.from_recipe({"zscore": [0.5, 99.5]}) == ZSCORE
    assert Intensity.from_dict({"zscore": {"clip": [0.5, 99.5]}}) == ZSCORE
    assert Intensity.from_recipe({"zscore": {"foreground": True}}) == FOREGROUND


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"windw": [0, 1]}, "did you mean 'window'"),
        ({"window": [5, 5]}, "two rising numbers"),
        ({"window": [1]}, "two rising numbers"),
        ({"window": ["a", 2]}, "two rising numbers"),
        ({"window": [float("nan"), 2]}, "two rising numbers"),
        ({"window": True}, "two rising numbers"),
        ({"unit_variance": [-1, 50]}, "percentiles from 0 to 100"),
        ({"unit_variance": [0, 101]}, "percentiles from 0 to 100"),
        ({"window": [0, 1], "unit_variance": [1, 2]}, "wanted {window"),
        ({"zscore": {"foregruond": True}}, "did you mean 'foreground'"),
        ({"zscore": {"foreground": 1}}, "wanted true or false"),
        ({"zscore": {"clip": [5]}}, "two rising numbers"),
        ("window", "wanted {window"),
    ],
)
def test_bad_rules_are_refused(rule: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Intensity.from_dict(rule)
