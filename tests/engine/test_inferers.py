"""Slices and volumes through a 2-D network."""

import pytest
import torch
from torch import Tensor, nn

from dsnet_med.engine.inferers import SliceFitInferer, SliceWise
from dsnet_med.errors import InputError


def _pointwise() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(1, 3, 1)


@pytest.mark.parametrize("fit", ["resize", "window"])
def test_a_slice_of_the_training_size_goes_straight_through(fit: str) -> None:
    network, image = _pointwise(), torch.rand(2, 1, 32, 48)
    torch.testing.assert_close(SliceFitInferer((32, 48), fit)(image, network), network(image))


@pytest.mark.parametrize("shape", [(20, 70), (33, 47), (100, 90)])
def test_windows_cover_slices_of_any_size(shape: tuple[int, int]) -> None:
    # A pointwise network gives the same logits whatever the window, so any seam would show.
    network, image = _pointwise(), torch.rand(3, 1, *shape)
    torch.testing.assert_close(SliceFitInferer((32, 48), "window")(image, network), network(image))


def test_the_network_sees_the_size_it_was_trained_at() -> None:
    seen: list[tuple[int, ...]] = []

    def network(image: Tensor) -> Tensor:
        seen.append(tuple(image.shape))
        return image

    out = SliceFitInferer((64, 64), "resize")(torch.rand(2, 1, 50, 70), network)
    assert out.shape == (2, 1, 50, 70)
    assert seen == [(2, 1, 64, 64)]


def test_unknown_fit_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(InputError, match="did you mean 'window'"):
        SliceFitInferer((8, 8), "windows")


def test_volumes_are_stacks_of_slices() -> None:
    network, volume = _pointwise(), torch.rand(1, 1, 5, 32, 32)
    whole = SliceWise(network, (32, 32), batch_size=2)
    logits = whole(volume)
    assert logits.shape == (1, 3, 5, 32, 32)
    torch.testing.assert_close(logits[0, :, 3], network(volume[0, :, 3][None])[0])
    torch.testing.assert_close(whole(volume[0]), logits[0])
    with pytest.raises(InputError, match="wanted"):
        whole(volume[0, 0])


def test_grey_volumes_are_repeated_for_a_network_of_three_channels() -> None:
    network, volume = nn.Conv2d(3, 2, 1), torch.rand(1, 1, 4, 8, 8)
    logits = SliceWise(network, (8, 8), in_channels=3)(volume)
    torch.testing.assert_close(logits[0, :, 2], network(volume[0, :, 2][None].expand(-1, 3, -1, -1))[0])


@pytest.mark.parametrize("strict", [True, False])
def test_volume_network_takes_the_weights_of_the_slice_network(strict: bool) -> None:
    trained, whole = _pointwise(), SliceWise(nn.Conv2d(1, 3, 1), (8, 8))
    whole.load_state_dict(trained.state_dict(), strict=strict)
    torch.testing.assert_close(whole.network.weight, trained.weight)
    again = SliceWise(nn.Conv2d(1, 3, 1), (8, 8))
    again.load_state_dict(whole.state_dict(), strict=strict)
    torch.testing.assert_close(again.network.weight, trained.weight)
