"""Fixtures that every test folder shares."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before torch is loaded: the threads of several workers would wait for each other, and forks have none of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared"

# Test runs may share few cores: a slow example is no failure. The rest (CI's fixed seed) stays as it was.
settings.register_profile("unhurried", settings(), deadline=None)
settings.load_profile("unhurried")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that use or are marked as one of these are there only where the machine has it."""
    here = {"shared": SHARED.is_dir, "mounted": _mounts, "browser": _has_browser}
    for name, is_here in here.items():
        users = [
            item for item in items if item.get_closest_marker(name) or name in getattr(item, "fixturenames", ())
        ]
        if users and not is_here():
            config.hook.pytest_deselected(items=users)
            items[:] = [item for item in items if item not in users]


def _mounts() -> bool:
    """Whether this user may mount a file system."""
    if not shutil.which("mount"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        mounted = _mount("size=4k", folder) == 0
        if mounted:
            subprocess.run(["umount", folder], check=True)
    return mounted


def _mount(options: str, folder: Path | str) -> int:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def _system_browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def _has_browser() -> bool:
    """The system's Chromium or Playwright's own; CI, which installs one, finds none missing."""
    own = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    required = "DSNET_MED_REQUIRE_BROWSER" in os.environ
    return required or _system_browser() is not None or any(own.glob("chromium*"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium under Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_system_browser(), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of its own, with the given options (`size=1m,ro`), on the folder that it returns."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options: str) -> Path:
        assert _mount(options, folder) == 0
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


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
