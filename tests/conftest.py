"""Fixtures that every test folder shares."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before torch is loaded: the threads of several workers would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared"

# Test runs may share few cores: a slow example is no failure. The rest (CI's fixed seed) stays as it was.
settings.register_profile("unhurried", settings(), deadline=None)
settings.load_profile("unhurried")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Further tests, on more real volumes than the checkout holds, exist only where the folder of them does."""
    if not SHARED.is_dir():
        further = [item for item in items if item.get_closest_marker("shared")]
        config.hook.pytest_deselected(items=further)
        items[:] = [item for item in items if item not in further]


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of vectors that the reference computed; tests/data/README.md says how."""
    return DATA / "golden"


@pytest.fixture
def volumes(request: pytest.FixtureRequest) -> Path:
    """The folder of openly licensed volumes; for a test marked `shared`, the larger one beside the checkout."""
    return SHARED / "data" if request.node.get_closest_marker("shared") else DATA / "volumes"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of volumes beside the checkout, for tests marked `shared`."""
    return SHARED


@pytest.fixture(scope="session")
def counts(golden: Path) -> Any:
    """The published numbers of parameters and multiply-accumulates, by table and row."""
    return json.loads((golden / "counts.json").read_text(encoding="utf-8"))
