"""A run, a bundle of it and three volumes, for MONAI Label and MONAI Deploy."""

from pathlib import Path

import pytest
from elsewhere_bundle import as_bundle, untrained_run
from volumes import write_volumes


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("elsewhere") / "run")


@pytest.fixture(scope="session")
def bundle(run: Path) -> Path:
    return as_bundle(run, run.parent / "bundle")


@pytest.fixture(scope="session")
def volumes(run: Path) -> dict[str, Path]:
    return write_volumes(run.parent / "volumes")
