"""One tiny run, its predictor and a server of it for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, serving, write_run

from dsnet_med.inference import Predictor


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("served") / "run")


@pytest.fixture(scope="session")
def predictor(run_folder: Path) -> Predictor:
    return Predictor.from_run(run_folder, device="cpu")


@pytest.fixture(scope="session")
def shared_server(predictor: Predictor) -> Iterator[Served]:
    with serving(predictor, max_bytes=1 << 20, max_files=50) as server:
        yield server


@pytest.fixture
def server(shared_server: Served) -> Iterator[Served]:
    """A server that takes 1 MB and 50 files; every test leaves it empty and in good health."""
    yield shared_server
    shared_server.require_empty()
