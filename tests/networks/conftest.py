"""The reference's vectors, for the tests of networks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from networks.golden import Golden


@pytest.fixture(scope="session")
def vectors(golden: Path) -> Callable[[str], Golden]:
    """A vector file by its name."""
    return lambda name: Golden(golden, name)
