"""What two networks of one seed share starts from the same values, whatever else they have."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from narrow import NARROW
from scipy.stats import ks_2samp
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from dsnet_med.engine.draws import seed_of
from dsnet_med.engine.initialisation import Initialisation
from dsnet_med.engine.plugin_choice import PluginChoice
from dsnet_med.engine.run import prepare, train
from dsnet_med.methods import build_network, published_ids

SHALLOW = {"num_classes": 3, "width": 0.125}


def made(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """What `make` gives, with the values of `seed`."""
    with Initialisation() as making:
        network = make()
    making.draw_again(network, seed)
    return network


def row(method: str, **more: object) -> Callable[[], nn.Module]:
    return partial(build_network, method, **SHALLOW, **more)


def by_hand(name: str, draw: Callable[[], Tensor], number: int = 0, seed: int = 0) -> Tensor:
    torch.manual_seed(seed_of(seed, "init", name, number))
    return draw()


def assert_shared_are_equal(one: nn.Module, other: nn.Module, at_least: int) -> None:
    first, second = one.state_dict(), other.state_dict()
    shared = [name for name in first if name in second and first[name].shape == second[name].shape]
    assert len(shared) >= at_least
    assert [name for name in shared if not torch.equal(first[name], second[name])] == []


@pytest.fixture(scope="module")
def fcn() -> nn.Module:
    torch.manual_seed(7)  # which says nothing
    return made(row("fcn"))


@pytest.mark.parametrize(
    "method", [each for each in published_ids() if "mscan" not in each and "convnext" not in each]
)
def test_rows_share_their_backbone_and_what_their_heads_have_in_common(method: str, fcn: nn.Module) -> None:
    torch.manual_seed(1)
    network = made(row(method))
    assert_shared_are_equal(fcn, network, at_least=330)
    assert_shared_are_equal(network, made(row(method)), at_least=330)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("upernet_mscan_b", "dsnet_mscan_b", 300),
        ("coco/resnet50", "coco/dsnet50_a", 300),
        ("imagenet/resnet50", "imagenet/fcanet50", 300),
    ],
)
def test_so_do_rows_on_other_backbones(one: str, other: str, shared: int) -> None:
    in_channels = 3 if "/" in one else 1
    networks = [made(row(method, in_channels=in_channels)) for method in (one, other)]
    assert_shared_are_equal(*networks, at_least=shared)


def test_seeds_differ_and_layers_of_one_shape_do(fcn: nn.Module) -> None:
    own, others = fcn.state_dict(), made(row("fcn"), seed=1).state_dict()
    drawn = [name for name, value in own.items() if value.is_floating_point() and value.unique().numel() > 2]
    assert len(drawn) > 50
    assert not any(torch.equal(own[name], others[name]) for name in drawn)
    alike = [own[f"backbone.layer1.{block}.conv2.weight"] for block in range(3)]
    assert not torch.equal(alike[0], alike[1]) and not torch.equal(alike[1], alike[2])


@pytest.mark.parametrize("method", ["fcn_dsm", "danet", "upernet_convnext_b", "hamnet_mscan_b", "fcn_encnet"])
def test_no_distribution_changes(method: str) -> None:
    torch.manual_seed(0)
    plain, own = row(method)().state_dict(), made(row(method)).state_dict()
    assert plain.keys() == own.keys()
    for name, value in plain.items():
        if value.is_floating_point() and value.unique().numel() <= 2:
            assert torch.equal(value, own[name]), name
        elif value.numel() >= 500:  # Kolmogorov and Smirnov's distance; by chance 2.5 once in 250,000 times
            distance = ks_2samp(value.flatten().numpy(), own[name].flatten().numpy()).statistic
            assert distance * (value.numel() / 2) ** 0.5 < 2.5, name
            assert not torch.equal(value, own[name])


class Odd(nn.Module):
    """Parameters that start in every way that people have."""

    def __init__(self, channels: int, before: int = 0) -> None:
        super().__init__()
        self.before = nn.ModuleList(nn.Linear(channels, channels) for _ in range(before))
        self.scaled = nn.Parameter(0.1 * torch.randn(channels))
        self.normal = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))
        self.cut = nn.Parameter(nn.init.trunc_normal_(torch.zeros(channels), std=0.02))
        self.sparse = nn.Parameter(nn.init.sparse_(torch.empty(channels, channels), 0.5))
        rows, step = torch.zeros(3, channels), torch.ones(channels)
        for i in range(3):
            step.fill_(i + 1)
            rows[i] += torch.rand(channels)
            rows[i].mul_(step)
        self.rows = nn.Parameter(rows)
        self.register_buffer("kept", torch.randn(channels))
        self.own = nn.Parameter(torch.randn(channels, generator=torch.Generator().manual_seed(5)))
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(channels, 2))


def test_every_way_to_start_is_kept_by_name() -> None:
    first, second = (made(partial(Odd, 8, before)).state_dict() for before in (0, 3))
    assert len(second) == len(first) + 6
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    rand = torch.rand
    expected = {
        "scaled": 0.1 * by_hand("scaled", lambda: torch.randn(8)),
        "normal": by_hand("normal", lambda: nn.init.orthogonal_(torch.empty(8, 8))),
        "cut": by_hand("cut", lambda: nn.init.trunc_normal_(torch.zeros(8), std=0.02)),
        "rows": torch.stack([(i + 1) * by_hand("rows", lambda: rand(8), i) for i in range(3)]),
        "kept": by_hand("kept", lambda: torch.randn(8)),
        "own": torch.randn(8, generator=torch.Generator().manual_seed(5)),
    }
    for name, value in expected.items():
        assert torch.equal(first[name], value), name
    assert ((first["sparse"] == 0).sum(0) == 4).all()
    weight = [first[f"linear.parametrizations.weight.original{i}"] for i in (0, 1)]
    torch.testing.assert_close(weight[0], weight[1].norm(dim=1, keepdim=True))


def test_what_is_loaded_stays() -> None:
    weights = nn.Linear(4, 4).state_dict()

    def make() -> nn.Module:
        network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        network[0].load_state_dict(weights)
        return network

    own = made(make)
    assert all(torch.equal(value, own[0].state_dict()[name]) for name, value in weights.items())
    assert not torch.equal(own[1].weight, weights["weight"])


class Rejecting(nn.Module):
    """Draws anew what lies too far out, and how often that is depends on what was drawn."""

    def __init__(self) -> None:
        super().__init__()
        values = torch.randn(50)
        while (out := values.abs() > 1).any():
            values[out] = torch.randn(int(out.sum()))
        self.values, self.plain = nn.Parameter(values), nn.Linear(3, 3)


def test_what_cannot_be_drawn_again_keeps_its_values() -> None:
    torch.manual_seed(3)
    plain = Rejecting()
    torch.manual_seed(3)
    own = made(Rejecting)
    assert own.values.abs().max() <= 1
    assert torch.equal(own.values, plain.values)
    assert not torch.equal(own.plain.weight, plain.plain.weight)


def test_generators_are_left_as_found_and_a_moved_network_has_the_same_values() -> None:
    with Initialisation() as making:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(2, 2)).to(memory_format=torch.channels_last)
        network[1].double()
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    making.draw_again(network, 0)
    assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()
    still = made(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(2, 2)))
    assert torch.equal(network[0].weight, still[0].weight)
    assert torch.equal(network[1].weight, still[1].weight.double())
    assert network[0].weight.requires_grad


def test_a_network_and_the_same_with_identity_end_bit_equal(store: Path, tmp_path: Path) -> None:
    states = []
    for name, plugin in (("plain", None), ("identity", PluginChoice("Identity", "layer*.*.act2"))):
        prepare("fcn", store, tmp_path / name, {**NARROW, "iterations": 3, "validate_every": 3}, plugin=plugin)
        train(tmp_path / name, {})
        states.append(torch.load(tmp_path / name / "models" / "model.pt", weights_only=True))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_nothing_is_watched_after_a_network_that_cannot_be_made(store: Path, tmp_path: Path) -> None:
    prepare("fcn", store, tmp_path, {**NARROW, "iterations": 1, "network": "$@network_def + torch.rand(1) / 0"})
    workflow = ConfigWorkflow(
        str(tmp_path / "configs" / "train.yaml"), workflow_type="train", logging_file=False
    )
    with pytest.raises(RuntimeError, match="Failed to evaluate"):
        workflow.initialize()
    assert not _get_current_dispatch_mode_stack()
    with pytest.raises(RuntimeError, match="no configuration is being read"):
        workflow.parser.get_parsed_content("session").initialise("network")
    workflow.finalize()


class Follower(nn.Module):
    """A layer, and with `follows` a parameter that starts as a copy of its weights."""

    def __init__(self, *, follows: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.also = nn.Parameter(self.layer.weight.detach().clone()) if follows else None


def test_a_copy_of_a_parameter_follows_it() -> None:
    alone, followed = (made(partial(Follower, follows=follows)) for follows in (False, True))
    assert torch.equal(alone.layer.weight, followed.layer.weight)
    assert torch.equal(followed.also, followed.layer.weight)
