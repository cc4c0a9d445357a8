"""The fixed slices of the validation and the gates of plug-ins: the right ones, with the right values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_engines import batches, engines, network
from torch import Tensor, nn

from dsnet_med.engine.gates import gates_of
from dsnet_med.engine.loggers import Loggers
from dsnet_med.engine.pictures import FixedSlices, Slice, panels
from dsnet_med.methods import build_network
from dsnet_med.networks import attach
from dsnet_med.networks.attaching import plugins_of
from dsnet_med.networks.plugins import SE, Identity


class _Kept(Loggers):
    """Loggers that keep what they get."""

    def __init__(self) -> None:
        super().__init__([], ".")
        self.names, self.taken, self.shown = ["tensorboard"], [], []

    def numbers(self, iteration: int, values: object) -> None:
        self.taken.append((iteration, values))

    def picture(self, iteration: int, name: str, pixels: np.ndarray) -> None:
        self.shown.append((iteration, name, pixels))


def test_the_same_slices_are_shown_after_every_validation() -> None:
    trainer, validator = engines()
    logger = _Kept()
    slices = FixedSlices(logger, validator, count=1)
    slices.attach(trainer)
    before = torch.random.get_rng_state()
    trainer.run()
    assert [(iteration, name) for iteration, name, _ in logger.shown] == [
        (3, "slices/case0"),
        (6, "slices/case0"),
    ]
    # Of the eight slices of the first case, number 0 is the first of those with the most foreground.
    torch.testing.assert_close(slices.slices["case0"].image, batches(4, seed=2)[0]["image"][0])
    first, second = (pixels for _, _, pixels in logger.shown)
    width = first.shape[1] // 3
    np.testing.assert_array_equal(first[:, : 2 * width], second[:, : 2 * width])
    (_, gates), *_ = logger.taken
    assert set(gates) == {"gate_mean", "gate_spread"}
    assert set(gates["gate_mean"]) == {"0.plugin.channel", "0.plugin.spatial", "2.plugin"}
    assert torch.equal(torch.random.get_rng_state(), before)
    assert trainer.network.training


def test_a_picture_has_image_reference_and_prediction_side_by_side() -> None:
    ids = torch.zeros(16, 24, dtype=torch.long)
    reference, prediction = ids.clone(), ids.clone()
    reference[4:12, 4:12], prediction[4:12, 8:20], reference[0, 0] = 1, 2, 255
    image = torch.rand(1, 16, 24)
    picture = panels(Slice(64, image, reference, prediction, image[None]), ["background", "liver"])
    assert picture.dtype == np.uint8
    image, left, right = np.split(picture, 3, axis=1)
    colourful = [np.ptp(panel.astype(int), axis=2) > 0 for panel in (image, left, right)]
    assert not colourful[0].any()
    factor = len(picture) // 16
    np.testing.assert_array_equal(colourful[1], np.kron(reference == 1, np.ones((factor, factor))).astype(bool))
    np.testing.assert_array_equal(
        colourful[2], np.kron(prediction == 2, np.ones((factor, factor))).astype(bool)
    )


class _Half(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


class _Add(_Half):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tensor([[[[1.0, -1.0]]]])


def test_gates_are_what_sigmoids_give_else_the_factor_of_the_output() -> None:
    x = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 1.0]]]])  # (2, 1, 1, 2)
    host = attach(nn.Sequential(nn.Identity()), lambda _: SE(1).eval(), at="0", example=x)
    (se,) = plugins_of(host).values()
    logits = se.expand(torch.relu(se.reduce(x.flatten(2).mean(2))))
    wanted = ((logits + 3) / 6).clamp(0, 1)
    (found,) = gates_of(host, lambda: host(x)).items()
    assert found == ("0.plugin", pytest.approx((wanted.mean().item(), wanted.std(correction=0).item())))

    for plugin, mean, spread in ((_Half, 0.5, 0.0), (Identity, 1.0, 0.0)):
        host = attach(nn.Sequential(nn.Identity()), plugin, at="0", example=x)
        assert gates_of(host, lambda host=host: host(x)) == {"0.plugin": pytest.approx((mean, spread))}
    host = attach(nn.Sequential(nn.Identity()), _Add, at="0", example=x)
    # <x, y> / <x, x> = (15 - 3 + 4) / 15, and |y - g x|^2 = 4 - 1 / 15
    assert gates_of(host, lambda: host(x)) == {"0.plugin": pytest.approx((16 / 15, ((4 - 1 / 15) / 15) ** 0.5))}


def test_plugins_are_found_in_heads_and_hooks_are_gone_afterwards() -> None:
    danet = build_network("danet", num_classes=2, width=0.0625, backbone={"layers": [1, 1, 1, 1]})
    assert [type(each).__name__ for each in plugins_of(danet).values()] == [
        "PositionAttention",
        "ChannelAttention",
    ]
    net = network().eval()
    hooks = [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in net.modules()]
    image = torch.rand(1, 1, 16, 24)
    with torch.no_grad():
        twice = gates_of(net, lambda: [net(image) for _ in range(2)])
        once = gates_of(net, lambda: net(image))
    assert twice == {name: pytest.approx(gate) for name, gate in once.items()}
    assert hooks == [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in net.modules()]
    assert gates_of(nn.ReLU(), lambda: pytest.fail("ran")) == {}


def test_the_gates_of_compiled_networks_are_seen_too() -> None:
    net = network().eval()
    image = torch.rand(1, 1, 16, 24)
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        compiled(image)
        assert gates_of(compiled, lambda: compiled(image)) == gates_of(net, lambda: net(image))


def test_without_label_maps_the_gates_are_those_of_the_first_batch(tmp_path: Path) -> None:
    trainer, validator = engines()
    for batch in validator.data_loader:
        batch["label"] = torch.zeros(4)
    logger = _Kept()
    FixedSlices(logger, validator).attach(trainer)
    trainer.run()
    assert not logger.shown
    assert [iteration for iteration, _ in logger.taken] == [3, 6]
