"""Frequency channel attention: every published selection of frequencies, what they measure, what is refused."""

import itertools

import pytest
import torch
from agreement import MAPS, check_agreement
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.frequency_channel import RANKINGS, TextbookFrequencyChannel

from dsnet_med.errors import InputError
from dsnet_med.networks.plugins import FrequencyChannel

SELECTIONS = [f"{name}{2**power}" for name in RANKINGS for power in range(6)]


@pytest.mark.parametrize("frequencies", SELECTIONS)
def test_filters_of_every_selection(frequencies):
    for height, width in ((7, 7), (14, 9)):
        ours = FrequencyChannel(64, height, width, frequencies=frequencies).cosines
        theirs = TextbookFrequencyChannel(64, height, width, frequencies=frequencies).dct_layer.weight
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@settings(max_examples=20)
@given(
    shape=MAPS,
    channels=st.integers(1, 40),
    size=st.sampled_from([(7, 7), (14, 7), (8, 15)]),
    ratio=st.sampled_from([1, 16]),
    frequencies=st.sampled_from(SELECTIONS),
)
def test_equals_the_formulas(*, shape, channels, size, ratio, frequencies):
    batch, height, width, seed = shape
    torch.manual_seed(seed)
    forms = (kind(channels, *size, ratio, frequencies) for kind in (FrequencyChannel, TextbookFrequencyChannel))
    check_agreement(*forms, (batch, channels, height, width))


def test_first_frequency_is_the_mean():
    """With one frequency the squeeze is the mean, in units of the root of the number of pixels."""
    filters = FrequencyChannel(3, 14, 21, frequencies="top1").cosines
    torch.testing.assert_close(filters, torch.full((3, 14, 21), (14 * 21) ** -0.5))


def test_a_wave_excites_the_channels_of_its_frequency():
    filters = FrequencyChannel(64, 14, 14, frequencies="low8").cosines
    wave = torch.cos(torch.pi * 2 * 2 * (torch.arange(14) + 0.5) / 14)  # twice the second on the 7x7 grid
    response = (filters * wave.reshape(14, 1)).sum((1, 2)).abs()
    assert (response > 1e-4).nonzero().flatten().tolist() == list(range(40, 48))  # the sixth pair is (2, 0)


def test_a_channel_count_that_is_no_multiple():
    """Groups differ by at most one channel, in order."""
    filters = FrequencyChannel(10, frequencies="top4").cosines
    same = [torch.equal(a, b) for a, b in itertools.pairwise(filters)]
    assert same == [True, True, False, True, False, True, True, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frequencies": "top3"}, "top3"),
        ({"height": 6}, "height=6 and width=7"),
        ({"width": 3}, "height=7 and width=3"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        FrequencyChannel(16, **options)


@pytest.mark.parametrize("spatial", [(49,), (7, 7, 7)])
def test_other_than_two_axes_are_refused(spatial):
    with pytest.raises(InputError, match=r"wants \(batch, channels, H, W\)"):
        FrequencyChannel(16)(torch.randn(1, 16, *spatial))
