"""Fixtures that every test folder shares."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference vectors and openly licensed volumes beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs reference vectors and real volumes in {SHARED}, which are not part of the checkout")
    return SHARED
