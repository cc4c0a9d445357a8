"""Fusing batch norms changes the time, not the result; every row of the comparison."""

import pytest
import torch
from torch import nn

from dsnet_med.inference.fuse_batch_norm import fuse_batch_norm
from dsnet_med.methods import build_network, published_ids
from dsnet_med.networks import Segmenter, attach

SMALL = {"backbone": {"layers": [1, 1, 1, 1]}}


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


def _same(network: nn.Module, example: torch.Tensor) -> bool:
    """Whether the network gives after fusing what it gave, on more than the example; and stays so."""
    others = [torch.rand(1, 1, 96, 64), 8 * torch.rand(2, 1, 64, 96)]
    with torch.inference_mode():
        wanted = [network(x) for x in others]
    fused = fuse_batch_norm(network, example).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return all(
            (fused(x) - y).abs().max() <= 1e-4 * y.abs().max() for x, y in zip(others, wanted, strict=True)
        )


@pytest.mark.parametrize("method", published_ids())
def test_every_row_gives_what_it_gave(method: str) -> None:
    network = _lively(build_network(method, num_classes=3, width=0.125))
    before = _norms(network.backbone)
    assert _same(network, torch.rand(2, 1, 64, 64))
    if before and "cbam" not in method and "mscan" not in method:  # which have norms elsewhere
        assert _norms(network.backbone) == 0
    elif before:
        assert _norms(network.backbone) < before


class _Doubled(nn.Module):
    def __init__(self, _channels: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


@pytest.mark.parametrize("at", ["backbone.layer1.0.conv1", "backbone.layer1.0.bn1", "backbone.layer2.0"])
def test_a_plugin_between_convolution_and_norm_stays(at: str) -> None:
    network = _lively(attach(build_network("fcn", num_classes=3, width=0.125, **SMALL), _Doubled, at=at))
    assert _same(network, torch.rand(1, 1, 64, 64))


def test_what_has_no_graph_is_left_alone() -> None:
    class Backbone(nn.Module):
        """One that looks at what it sees."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.feature_info = type("Info", (), {"channels": lambda _: (4,), "reduction": lambda _: (1,)})()

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            maps = self.conv(x)
            return [self.norm(maps) if x.mean() > 0 else maps]

    network = _lively(Segmenter(Backbone(), lambda _: nn.Sequential()))
    network.head.forward = lambda features: features[-1]  # type: ignore[method-assign]
    backbone = network.backbone
    assert fuse_batch_norm(network, torch.rand(1, 1, 64, 64)).backbone is backbone
    bare = nn.Conv2d(1, 2, 3).eval()
    assert fuse_batch_norm(bare, torch.rand(1, 1, 8, 8)) is bare
