"""Which model folders may run code of their own without a word: those that this user's `train` wrote.

Configurations are code: MONAI evaluates what begins with `$`, and calls what `_target_` names. `train` adds the
hash of every file that its run would execute to a list in the user's configuration folder. A file is one's own
while its hash stands there, wherever it is moved to; any change to it asks for `--trust`.
"""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dsnet_med import resources
from dsnet_med.errors import InputError
from dsnet_med.files import sha256


def remember(files: Iterable[Path], *coming: str) -> None:
    """Note `files`, and the text of some that are yet to be written, as this user's own code.

    Without a home that can be written to, nothing is noted.
    """
    with suppress(OSError, RuntimeError):
        hashes = [*map(sha256, files), *(hashlib.sha256(text.encode()).hexdigest() for text in coming)]
        if new := set(hashes) - _noted():
            _list().parent.mkdir(parents=True, exist_ok=True)
            with _list().open("a", encoding="ascii") as stream:
                stream.write("".join(f"{each}\n" for each in sorted(new)))


def is_own(run: Path) -> bool:
    """Whether all that `infer` would execute of a folder is as this user's `train` wrote it."""
    return _are_own(run, executed_files(run))


def executed_files(run: Path) -> list[Path]:
    """The files of a model folder that say what `infer` executes, or are; Python's own cache is not read."""
    configs = [run / "configs" / f"inference.{suffix}" for suffix in ("yaml", "json")]
    return [path for path in (*configs, *_scripts(run)) if path.is_file()]


def configured(run: Path) -> list[Path]:
    """All files of a bundle that say what it executes in training, or are executed."""
    configs = sorted((run / "configs").glob("*"))
    return [path for path in (*configs, *_scripts(run)) if path.is_file()]


def require_own(run: Path, files: Iterable[Path], doing: str) -> None:
    """Raise InputError unless `files` and the scripts of `run` are this user's own, or came with dsnet-med."""
    if not _are_own(run, files):
        raise InputError(
            f"{run}: {doing} would run the code of its configs and scripts, which your own train did not write "
            "or which were changed since; read them, and where you trust them say --trust"
        )


def _are_own(run: Path, files: Iterable[Path]) -> bool:
    scripts = _scripts(run)
    if any(path.is_symlink() and path.is_dir() for path in scripts):  # to who knows what
        return False
    try:
        hashes = {sha256(path) for path in (*files, *scripts) if path.is_file()}
        return not hashes - _noted() or not hashes - _noted() - _shipped()
    except (OSError, RuntimeError, ValueError):
        return False


def is_noted(file: Path) -> bool:
    """Whether a file is as this user's own code had it when it was noted."""
    return sha256(file) in _noted()


def _scripts(run: Path) -> list[Path]:
    return [path for path in sorted((run / "scripts").rglob("*")) if "__pycache__" not in path.parts]


def _noted() -> set[str]:
    try:
        return set(_list().read_text(encoding="ascii").splitlines())
    except (OSError, RuntimeError, ValueError):
        return set()


def _shipped() -> set[str]:
    """The hashes of the configurations that came with dsnet-med."""
    return {sha256(file) for file in resources.configs().rglob("*") if file.is_file()}


def _list() -> Path:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "dsnet-med" / "own-runs.txt"
