"""A small prepared data set and one short run, shared by the engine's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from narrow import NARROW

from dsnet_med.engine.run import prepare, train
from dsnet_med.phantoms import make_synapse
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.recipe import load_recipe


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The number of threads changes the order of sums, and with it the last bits of every weight."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantoms in the raw Synapse layout."""
    folder = tmp_path_factory.mktemp("raw")
    list(make_synapse(folder, cases=6, seed=0, size=(64, 64, 16)))
    return folder


@pytest.fixture(scope="session")
def store(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their store."""
    folder = tmp_path_factory.mktemp("store")
    results = list(convert(load_recipe("synapse"), raw, folder, workers=1))
    failed = [result.error for result in results if result.error]
    if failed:
        raise RuntimeError(f"the phantoms did not convert: {failed}")
    return folder


@pytest.fixture(scope="session")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps of a narrow FCN+DSM."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    prepare("fcn_dsm", store, folder, NARROW)
    train(folder, {})
    return folder
