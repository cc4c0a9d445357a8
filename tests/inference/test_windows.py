"""Sliding windows are MONAI's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference

from dsnet_med.inference.windows import slide


def _shifting(windows: torch.Tensor) -> torch.Tensor:
    """Two classes that depend on where in its window a pixel lies, so that no wrong place goes unseen."""
    ramp = torch.linspace(0, 1, windows.shape[-1]) + torch.linspace(0, 3, windows.shape[-2])[:, None]
    return torch.cat([windows * ramp, windows - ramp], dim=1)


@given(
    st.tuples(st.integers(3, 40), st.integers(3, 40)),
    st.tuples(st.integers(4, 16), st.integers(4, 16)),
    st.sampled_from([0.0, 0.25, 0.5]),
)
def test_the_same_as_monai(size: tuple[int, int], window: tuple[int, int], overlap: float) -> None:
    image = torch.rand(2, 1, *size)
    theirs = sliding_window_inference(image, window, 2, _shifting, overlap, "gaussian", 0.125, "constant", 0.0)
    torch.testing.assert_close(slide(image, window, _shifting, overlap), theirs, atol=1e-4, rtol=1e-4)


def test_a_network_of_pixels_does_not_notice_windows() -> None:
    image = torch.rand(1, 1, 33, 47)
    torch.testing.assert_close(slide(image, (16, 16), lambda x: torch.cat([x, 2 * x], 1))[:, 1:], 2 * image)


def test_no_pixel_goes_without() -> None:
    for length in range(8, 40):
        seen = slide(torch.ones(1, 1, length, 9), (8, 8), lambda x: x)
        assert seen == pytest.approx(1)
