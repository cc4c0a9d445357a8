"""Where configs/ and data_prep/ lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    checkout = PACKAGE.parent / name
    return checkout if (PACKAGE.parent / "pyproject.toml").is_file() else PACKAGE / "shipped" / name


def configs() -> Path:
    """The folder of bundle configurations (train.yaml, methods/, datasets/)."""
    return _folder("configs")


def data_prep() -> Path:
    """The folder of data-set recipes, one sub-folder each."""
    return _folder("data_prep")
