"""Windows through a 3-D network: MONAI's sliding windows, without the logits of a volume."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import nn

from dsnet_med.errors import InputError
from dsnet_med.inference import windows
from dsnet_med.inference.batches import Batches
from dsnet_med.inference.windows import window_labels, window_scores, windows_of


def _network(classes: int, channels: int = 1, seed: int = 0) -> nn.Module:
    """A network that sees where its window ends: padding shows in its logits."""
    torch.manual_seed(seed)
    return nn.Conv3d(channels, classes, 3, padding=1).eval().requires_grad_(False)


def _by_monai(volume: torch.Tensor, network: nn.Module, size: tuple[int, ...]) -> torch.Tensor:
    logits = sliding_window_inference(volume[None], size, 1, network, 0.5, "gaussian", 0.125, "constant", 0.0)
    return torch.as_tensor(logits)[0]


_LENGTHS = st.tuples(*[st.integers(1, 20)] * 3)
_SIZES = st.tuples(*[st.integers(3, 12)] * 3)


@settings(max_examples=25, deadline=None)
@given(_LENGTHS, _SIZES, st.sampled_from([2, 7]), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9))
def test_the_sums_are_monais(lengths, size, classes, channels, batch, seed):
    network = _network(classes, channels, seed)
    volume = torch.rand(channels, *lengths, generator=torch.Generator().manual_seed(seed))
    expected = _by_monai(volume, network, size)
    found = torch.stack(list(window_scores(volume, network, size, Batches(batch, pytest.fail))), 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    labels = window_labels(volume, network, size)
    assert (labels == expected.argmax(0)).float().mean() >= 0.9999


def test_windows_are_monais_and_in_order():
    starts = [tuple(part.start for part in window) for window in windows_of((20, 8, 9), (8, 8, 6))]
    assert starts == [(z, 0, x) for z in (0, 4, 8, 12) for x in (0, 3)]


@pytest.mark.parametrize("shape", [(40, 10, 9), (8, 8, 8), (9, 30, 7)])
def test_no_more_than_a_windows_thickness_is_held(monkeypatch, shape):
    asked = []
    zeros = windows._zeros
    monkeypatch.setattr(windows, "_zeros", lambda shape, device: asked.append(shape) or zeros(shape, device))
    list(window_scores(torch.rand(1, *shape), _network(3), (8, 8, 8)))
    assert asked == [(8, 3, *(max(8, n) for n in shape[1:]))]


def test_sums_on_disk_are_the_same(monkeypatch, tmp_path):
    volume, network = torch.rand(1, 21, 13, 9), _network(4)
    expected = torch.stack(list(window_scores(volume, network, (8, 6, 6))))
    monkeypatch.setattr(windows, "_SHARE", 0.0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert torch.equal(torch.stack(list(window_scores(volume, network, (8, 6, 6)))), expected)
    assert not list(tmp_path.iterdir())


def test_a_slice_is_there_before_the_last_window_is_worked_on():
    seen = []

    def network(images):
        seen.append(len(images))
        return images

    first = next(window_scores(torch.rand(1, 40, 8, 8), network, (8, 8, 8), Batches(1, pytest.fail)))
    assert len(seen) == 1 and first.shape == (1, 8, 8)


def test_windows_that_do_not_fit_are_halved():
    notices, network = [], _network(2)

    def hungry(images):
        if len(images) > 1:
            raise MemoryError
        return network(images)

    volume, batches = torch.rand(1, 8, 20, 20), Batches(4, notices.append, "window")
    found = torch.stack(list(window_scores(volume, hungry, (8, 8, 8), batches)))
    torch.testing.assert_close(found, torch.stack(list(window_scores(volume, network, (8, 8, 8)))))
    assert batches.size == 1 and notices[0] == "out of memory with 4 windows at a time; going on with 2"


def test_the_whole_progress_is_one():
    told: list[float] = []
    one = Batches(1, pytest.fail)
    list(window_scores(torch.rand(1, 20, 9, 9), _network(2), (8, 8, 8), one, progress=told.append))
    assert np.isclose(sum(told), 1) and len(told) == len(windows_of((20, 9, 9), (8, 8, 8)))


def test_a_network_of_another_output_size_is_refused():
    with pytest.raises(InputError, match="one score for each voxel"):
        list(window_scores(torch.rand(1, 8, 8, 8), nn.AvgPool3d(2), (8, 8, 8)))
