"""Constant gates of every shape, said or not, in networks of others: their mean is as good as they are."""

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import tiny_networks as tiny
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from dsnet_med.explain import explain
from dsnet_med.inference import Predictor
from dsnet_med.networks import attach
from dsnet_med.networks.plugins import ConstantGate, Identity, RandomGate
from dsnet_med.networks.rezero import ReZero


class Fixed(nn.Module):
    """x times the same gate for every image."""

    def __init__(self, gate: Tensor) -> None:
        super().__init__()
        self.register_buffer("gate", gate)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate


class Said(Fixed):
    """The same, and says so."""

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        return {"gate": self.gate.expand(len(x), *self.gate.shape[1:])}


def network_of(dims: int, last: str) -> tuple[nn.Module, str]:
    """A network with random weights, and where a map of 8 channels on half the grid is, after a ReLU or not."""
    torch.manual_seed(0)
    if last == "unet":
        return UNet(dims, 1, 4, channels=(8, 16), strides=(2,), norm="batch").eval(), "model.0"
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    up = nn.Upsample(scale_factor=2, mode="nearest")
    network = nn.Sequential(conv(1, 8, 3, 2, 1), nn.ReLU(), conv(8, 4, 1), up)
    nn.init.normal_(network[0].weight)
    nn.init.normal_(network[2].bias, std=0.3)
    nn.init.normal_(network[2].weight)
    return network.eval(), "1"


def predictor_of(network: nn.Module, dims: int) -> Predictor:
    made = tiny.predictor(None, dims=dims)
    (model,) = made.models
    return replace(made, models=(replace(model, network=network.requires_grad_(False)),))


def gate_of(shape: str, dims: int) -> Tensor:
    """Between 0.2 and 1.8, (1, C, *spatial) with ones where it does not differ."""
    side = (8, 8) if dims == 2 else (4, 4, 4)
    size = {"channel": (8, *[1] * dims), "place": (1, *side), "element": (8, *side)}[shape]
    generator = torch.Generator().manual_seed(prod(size))
    return (0.2 + 1.6 * torch.rand(size, generator=generator))[None]


def effects(network: nn.Module, dims: int, folder: Path) -> dict[str, dict[str, Any]]:
    """By intervention, over all labels: what changes, and how much of the mask stays; without a reference."""
    images, _ = tiny.write_cases(folder / "cases", 2)
    content = explain([predictor_of(network, dims)], [images], folder / "out", pictures=0, shuffles=2)
    (run,) = content["runs"]
    return {each["kind"]: each for each in run["interventions"] if each["plugin"] == "all"}


def changed(effect: dict[str, Any]) -> float:
    """Millilitres that change their label, in any organ."""
    return sum(each["changed_ml"]["mean"] or 0.0 for each in effect["labels"].values())


@pytest.mark.parametrize("last", ["unet", "relu"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("shape", ["channel", "place", "element"])
@pytest.mark.parametrize("make", [Fixed, Said])
def test_a_constant_gate_loses_nothing_by_its_mean(
    make: Any, shape: str, dims: int, last: str, tmp_path: Path
) -> None:
    network, place = network_of(dims, last)
    gate = gate_of(shape, dims)
    example = torch.rand(1, 1, *[16 if dims == 2 else 8] * dims)
    attach(network, lambda _channels: make(gate), at=place, example=example)
    found = effects(network, dims, tmp_path)
    assert changed(found["mean"]) == 0
    assert changed(found["other"]) == 0  # another image's gate is the same gate
    assert changed(found["identity"]) > 0, "the network does not mind the gate: the case shows nothing"
    assert changed(found["shuffled"]) > 0


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("factory", [ConstantGate, RandomGate])
def test_the_placebos_are_as_good_as_their_means(factory: Any, dims: int, tmp_path: Path) -> None:
    network, place = network_of(dims, "unet")
    example = torch.rand(1, 1, *[16 if dims == 2 else 8] * dims)
    attach(network, factory, at=place, example=example)
    found = effects(network, dims, tmp_path)
    assert changed(found["mean"]) == changed(found["other"]) == 0


@pytest.mark.parametrize("inner", [Identity, lambda _channels: Fixed(gate_of("element", 2)), RandomGate])
def test_under_an_alpha_of_zero_nothing_is_done(inner: Any, tmp_path: Path) -> None:
    network, place = network_of(2, "relu")
    attach(network, inner, at=place, example=torch.rand(1, 1, 16, 16), identity_at_start=True)
    assert any(isinstance(each, ReZero) for each in network.modules())
    found = effects(network, 2, tmp_path)
    assert len(found) == 4
    for effect in found.values():
        assert changed(effect) == 0
        assert all(each["agreement"]["mean"] in (1.0, None) for each in effect["labels"].values())


class Hides(nn.Module):
    """A gate per place, 0 where the map of `Bands` fits one organ best, and 1 elsewhere."""

    def __init__(self, organ: int) -> None:
        super().__init__()
        self.organ = organ

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.argmax(1, keepdim=True) != self.organ)


class SaysThatItHides(Hides):
    """The same, and says so."""

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        return {"gate_place": (x.argmax(1, keepdim=True) != self.organ).to(x.dtype)}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("make", [Hides, SaysThatItHides])
def test_what_hides_an_organ_acts_there_and_only_there(make: Any, dims: int, tmp_path: Path) -> None:
    images, labels = tiny.write_cases(tmp_path / "cases", 3)
    made = tiny.predictor(make(2), dims=dims)
    (run,) = explain([made], [images], tmp_path / "out", labels, pictures=0)["runs"]
    (plugin,) = run["plugins"].values()
    assert plugin["form"] == "place" and plugin["declared"] is (make is SaysThatItHides)
    (identity,) = (each for each in run["interventions"] if each["kind"] == "identity")
    lost = {name: each["dice"]["difference"] for name, each in identity["labels"].items()}
    assert lost["middle"] > 0.8  # without the plug-in the organ is found
    assert lost["low"] == lost["high"] == 0
    where = {name: each["changed_share_inside"] for name, each in run["where"]["labels"].items()}
    assert where["middle"] > 0.95
    assert max(where["low"] or 0, where["high"] or 0) < 0.05
