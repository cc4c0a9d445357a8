"""Folding batch norms changes the time, not the result; every row of the comparison."""

import pytest
import torch
from torch import nn

from dsnet_med.inference.fuse_batch_norm import _agree, fuse_batch_norm
from dsnet_med.inference.slice_model import SliceModel
from dsnet_med.methods import build_network, method_ids
from dsnet_med.networks import attach
from dsnet_med.prepare.intensity import Intensity


def _lively(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with norms that do something."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for statistic, low, high in (("running_mean", -0.3, 0.3), ("running_var", 0.5, 2.0)):
                getattr(module, statistic).uniform_(low, high)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval().requires_grad_(False)


def _norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("method", method_ids())
def test_every_row_gives_what_it_gave(method: str) -> None:
    network = _lively(build_network(method, num_classes=3, width=0.125))
    x = torch.rand(2, 1, 64, 64)
    lean = fuse_batch_norm(network, [x])
    assert _norms(lean) < _norms(network)
    if method.startswith("fcn"):
        assert _norms(lean) == 0
    with torch.inference_mode():
        other = torch.rand(1, 1, 96, 64)  # not what it was tried on
        wanted = network(other)
        assert (lean(other) - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_ids_are_those_of_the_network_as_it_was() -> None:
    network = _lively(build_network("fcn_dsm", num_classes=3, width=0.125))
    x = torch.rand(2, 1, 50, 70)
    member = SliceModel(network, (64, 64), "resize", Intensity.from_dict({"window": [0, 1]}))
    lean = SliceModel(
        fuse_batch_norm(network, [torch.rand(1, 1, 64, 64)]), member.size, member.fit, member.intensity
    )
    with torch.inference_mode():
        assert (member.ids(x) == lean.ids(x)).float().mean() >= 0.9999
        assert torch.equal(member.ids(x).long(), member.logits(x).argmax(1))


class _Shared(nn.Module):
    """A convolution whose output goes to a norm, and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        return self.norm(maps) + maps


def test_what_would_differ_is_not_folded() -> None:
    network = _lively(_Shared())
    assert fuse_batch_norm(network, [torch.rand(1, 1, 8, 8)]) is network


class _Clipped(nn.Module):
    """An activation in place between convolution and norm, which no example of small values shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = nn.Hardtanh(-4, 4, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.act(self.conv(x)))


class _ReadTwice(_Clipped):
    """The convolution's output is read again, where no example of small values shows it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        return self.norm(maps) + torch.relu(maps - 60)


@pytest.mark.parametrize("kind", [_Clipped, _ReadTwice])
def test_what_an_example_does_not_show_is_seen(kind: type[nn.Module]) -> None:
    network = _lively(kind())
    assert fuse_batch_norm(network, [torch.rand(1, 1, 8, 8)]) is network


def test_each_class_is_compared_at_its_own_scale() -> None:
    wanted = torch.randn(1, 2, 8, 8)
    wanted[:, 0] -= 1e4
    assert _agree(wanted, wanted + 1e-6)
    assert not _agree(wanted, wanted + 0.1)


def test_a_plugin_between_convolution_and_norm_stays() -> None:
    class Doubled(nn.Module):
        def __init__(self, _channels: int) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    wrapped = _lively(attach(nn.ModuleDict({"net": network})["net"], Doubled, at="0"))
    x = torch.rand(1, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(fuse_batch_norm(wrapped, [x])(x), wrapped(x))


def test_a_network_without_norms_is_left_alone() -> None:
    network = nn.Conv2d(1, 2, 3).eval()
    assert fuse_batch_norm(network, [torch.rand(1, 1, 8, 8)]) is network


class _Capped(nn.BatchNorm2d):
    """A norm that does more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).clamp(max=20)


class _Curious(nn.Module):
    """A network that reads its norm's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)) * torch.sign(self.norm.weight.sum())


def test_norms_that_are_more_than_norms() -> None:
    capped = _lively(nn.Sequential(nn.Conv2d(1, 4, 3), _Capped(4)))
    for network in (capped, _lively(_Curious())):
        assert fuse_batch_norm(network, [torch.rand(1, 1, 8, 8)]) is network
    training = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    assert fuse_batch_norm(training, [torch.rand(2, 1, 8, 8)]) is training
