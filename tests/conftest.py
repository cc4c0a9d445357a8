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

SHARED = Path(__file__).parents[2] / "shared"

# Test runs may share few cores: a slow example is no failure. The rest (CI's fixed seed) stays as it was.
settings.register_profile("unhurried", settings(), deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference vectors and openly licensed volumes beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs reference vectors and real volumes in {SHARED}, which are not part of the checkout")
    return SHARED


@pytest.fixture(scope="session")
def counts(shared: Path) -> Any:
    """The published numbers of parameters and multiply-accumulates, by table and row."""
    return json.loads((shared / "golden" / "counts.json").read_text(encoding="utf-8"))
