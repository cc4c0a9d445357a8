"""A plan: its rules worked by hand, the memory it counts, what it writes and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from dsnet_med.cli.app import app
from dsnet_med.engine.compose import compose_train
from dsnet_med.engine.plan import GB, PLANNED, Need, Topology, propose, topology_of
from dsnet_med.errors import InputError
from dsnet_med.methods import build_network
from dsnet_med.prepare.store import Store


def of_shape(store: Path, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Store:
    opened = Store.open(store)
    changes = {"shape": shape, "spacing_mm": spacing_mm}
    return opened.model_copy(
        update={"cases": {name: case.model_copy(update=changes) for name, case in opened.cases.items()}}
    )


def test_levels_of_anisotropic_voxels_worked_by_hand() -> None:
    """10 mm and 1.5 mm: the rows and columns are halved twice before the slices are as fine as they."""
    topology = topology_of("dynunet_3d", (10, 1.5, 1.5), (10, 64, 64))
    # 1.5 -> 3 -> 6 mm, where 10 < 2 * 6; then 10 -> 5 voxels, which cannot be halved again
    assert topology.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 2, 2))
    assert topology.kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert topology.multiples == (2, 16, 16)
    assert topology.channels == (32, 64, 128, 256, 320)
    # the rows become coarser than the slices at last, which keep the kernels that they had
    assert topology_of("dynunet_3d", (3, 3, 3), (48, 64, 64)).kernels == ((3, 3, 3),) * 5
    assert topology_of("swinunetr_3d", (10, 1.5, 1.5), (10, 64, 64)).multiples == (32, 32, 32)


def test_memory_is_counted_as_the_formula_says() -> None:
    topology = Topology(((1, 1), (2, 2), (2, 2)), ((3, 3),) * 3, (32, 64, 128))
    need = Need("unet_2d", 1, 2)
    network = build_network(
        "unet_2d",
        num_classes=2,
        network={"strides": [[2, 2], [2, 2]]},
        features={"channels": [32, 64, 128]},
        stride=4,
    )
    parameters = sum(each.numel() for each in network.parameters())
    assert need.fixed(topology) == 0.5 * GB + 12 * parameters
    seen = [32 * 32]
    for leaf in network.modules():
        if not list(leaf.children()):
            leaf.register_forward_hook(lambda _, __, out: seen.append(out.numel()))
    network(torch.zeros(1, 1, 32, 32))
    assert need.sample(topology, (32, 32)) == 4 * sum(seen)
    assert need(topology, (32, 32), 3) == need.fixed(topology) + 12 * sum(seen)


def test_more_memory_never_gives_less_and_is_never_exceeded(store: Path) -> None:
    large = of_shape(store, (200, 128, 128), (3.0, 0.8, 0.8))
    plans = [propose(large, memory_gb=memory, method="unet_2d") for memory in (0.6, 4)]
    voxels = [plan.batch * torch.Size(plan.size).numel() for plan in plans]
    assert voxels == sorted(voxels) and len(set(voxels)) > 1
    for plan, memory in zip(plans, (0.6, 4), strict=True):
        assert plan.needs <= memory * GB
        assert all(side % step == 0 for side, step in zip(plan.size, plan.topology.multiples, strict=True))


@pytest.mark.parametrize("method", PLANNED)
def test_too_little_memory_is_one_line_whatever_the_network(method: str, store: Path) -> None:
    with pytest.raises(InputError, match=rf"0\.1 GB is too little for {method}: its smallest plan, "):
        propose(of_shape(store, (48, 64, 64), (3.0, 3.0, 3.0)), memory_gb=0.1, method=method)


def test_too_little_memory_and_rows_that_cannot_be_planned_are_one_line(store: Path) -> None:
    large = of_shape(store, (40, 32, 32), (3.0, 0.8, 0.8))
    with pytest.raises(InputError, match=r"0\.5 GB is too little for unet_2d: its smallest plan, 4 patches of"):
        propose(large, memory_gb=0.5, method="unet_2d")
    with pytest.raises(InputError, match="unknown method that can be planned 'fcn'"):
        propose(large, memory_gb=8, method="fcn")
    assert propose(of_shape(store, (8, 32, 32), (8, 1, 1)), memory_gb=8).method == "dynunet_2d"


@pytest.mark.parametrize("method", ["unet_2d", "dynunet_3d"])
def test_the_overlay_is_taken_by_train_and_fits_the_network(store: Path, tmp_path: Path, method: str) -> None:
    file = tmp_path / "plan.yaml"
    arguments = ["plan", str(store), "--method", method, "--out", str(file), "--json"]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.output)
    assert yaml.safe_load(file.read_text()) == told["settings"]
    assert all(f"# {number}. {reason}" in file.read_text() for number, reason in enumerate(told["reasons"], 1))
    config = compose_train(method, store, {}, [file])
    assert (config["size"], config["batch_size"]) == (told["settings"]["size"], told["settings"]["batch_size"])
    parts = {"network": {}, "features": {}}
    for name, value in told["settings"].items():
        if name.startswith("network_def#"):
            assert (
                name.count("#") == 1 or config["network_def"][name.split("#")[1]][name.split("#")[2]] == value
            )
            if name.count("#") == 2:
                parts[name.split("#")[1]][name.split("#")[2]] = value
    network = build_network(
        method, num_classes=3, width=0.1, stride=told["settings"]["network_def#stride"], **parts
    )
    image = torch.zeros(1, 1, *told["settings"]["size"])
    assert network.eval()(image).shape == (1, 3, *told["settings"]["size"])


def test_a_plan_replaces_no_file_unasked(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("mine")
    arguments = ["plan", str(store), "--method", "unet_2d", "--out", str(file)]
    ended = CliRunner().invoke(app, arguments)
    assert isinstance(ended.exception, InputError) and "is there already" in str(ended.exception)
    assert file.read_text() == "mine"
    assert CliRunner().invoke(app, [*arguments, "--replace"]).exit_code == 0
    assert "batch_size" in file.read_text()
