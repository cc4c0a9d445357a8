"""Which model folders may run code of their own without a word: those that this user's `train` wrote.

`train` adds the hash of what a run would execute to a list in the user's configuration folder. A run is one's
own while its hash stands there, wherever it is moved to; any change to its code asks for `--trust`.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from dsnet_med.files import sha256


def remember(run: Path) -> None:
    """Note what `run` executes as this user's own; without a home that can be written to, nothing is noted."""
    with suppress(OSError, RuntimeError):
        if not is_own(run):
            known = _known()
            known.parent.mkdir(parents=True, exist_ok=True)
            with known.open("a", encoding="ascii") as stream:
                stream.write(f"{_digest(run)}\n")


def is_own(run: Path) -> bool:
    """Whether every file that `run` would execute is as this user's `train` wrote it."""
    try:
        return _digest(run) in _known().read_text(encoding="ascii").splitlines()
    except (OSError, RuntimeError, ValueError):
        return False


def executed_files(run: Path) -> list[Path]:
    """The files of a model folder that say what is executed, or are; Python's own cache is not read."""
    configs = [run / "configs" / f"inference.{suffix}" for suffix in ("yaml", "json")]
    return [path for path in (*configs, *_scripts(run)) if path.is_file()]


def _scripts(run: Path) -> list[Path]:
    return [path for path in sorted((run / "scripts").rglob("*")) if "__pycache__" not in path.parts]


def _digest(run: Path) -> str:
    links = [path for path in _scripts(run) if path.is_symlink() and path.is_dir()]  # to who knows what
    lines = [f"{sha256(path)} {path.relative_to(run).as_posix()}" for path in executed_files(run)]
    return hashlib.sha256(os.fsencode("\n".join([*lines, *map(str, links)]))).hexdigest()


def _known() -> Path:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "dsnet-med" / "own-runs.txt"
