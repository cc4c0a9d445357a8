"""What an arm costs: counted by hand where it can be, and measured without a trace."""

from pathlib import Path

import pytest
import torch
from narrow import NARROW
from torch import nn

from dsnet_med.engine.cost import measure_cost, multiply_accumulates
from dsnet_med.engine.run import prepare, train
from dsnet_med.errors import InputError
from dsnet_med.networks.plugins import CrissCross


def test_multiply_accumulates_are_those_of_convolutions_and_products() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 1))
    assert multiply_accumulates(network, torch.zeros(1, 2, 5, 7)) == 5 * 7 * (2 * 3 * 9 + 3 * 4)
    assert network.training and not next(network.parameters()).is_meta
    assert multiply_accumulates(CrissCross(8), torch.zeros(1, 8, 5, 7)) > 0


class Looking(nn.Module):
    def forward(self, x):
        return x if x.mean().item() > 0 else -x


def test_a_network_that_looks_at_its_values_has_no_count() -> None:
    assert multiply_accumulates(Looking(), torch.zeros(1, 2, 5, 7)) is None


@pytest.fixture(scope="module")
def prepared(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("cost") / "run"
    prepare("danet", store, run, {**NARROW, "iterations": 1, "clip": 1.0, "ema": 0.9})
    return run


def test_the_cost_of_a_run_is_measured_and_leaves_no_trace(prepared: Path) -> None:
    before = {file: file.read_bytes() for file in prepared.rglob("*") if file.is_file()}
    torch.manual_seed(0)
    cost = measure_cost(prepared, "cpu")
    after = torch.rand(1)
    torch.manual_seed(0)
    assert after == torch.rand(1)
    assert {file: file.read_bytes() for file in prepared.rglob("*") if file.is_file()} == before
    assert cost["device"] == "cpu"
    assert 0 < cost["seconds_per_step"] < 60 and 0 < cost["ms_per_slice"] < 60_000
    assert cost["macs"] > 1e6
    assert cost["peak_memory_bytes"] is None or cost["peak_memory_bytes"] > 4 * cost["parameters"]
    assert train(prepared, {})["parameters"] == cost["parameters"]


def test_a_run_that_cannot_be_measured_is_said_in_one_line(store: Path, tmp_path: Path) -> None:
    prepare("fcn", store, tmp_path, {**NARROW, "lr_scheduler#power": "$1 / 0"})
    with pytest.raises(InputError, match=r"cannot be measured .ZeroDivisionError"):
        measure_cost(tmp_path, "cpu")
