"""Which model folders may run code of their own: those that this user trained, and those that are trusted.

A run with a stranger's plug-in holds its file. `train` signs such a run with a key that only this user has, so
that the own runs need no word, and any change to what would be executed asks for one.
"""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from dsnet_med.errors import InputError
from dsnet_med.files import sha256, write_text, written_whole

_SIGNATURE = ".signature"


def sign(run: Path) -> None:
    """Mark `run` as made by this user; without a home that can be written to, it stays unmarked."""
    with suppress(InputError, OSError):
        listed = "\n".join(_lines(run))
        write_text(run / _SIGNATURE, f"{_digest(listed, _key(make=True))}\n{listed}")


def is_own(run: Path) -> bool:
    """Whether this user made `run`, and every file that would be executed is as it was then."""
    try:
        signature, _, listed = (run / _SIGNATURE).read_text(encoding="utf-8").partition("\n")
        genuine = hmac.compare_digest(signature.encode(), _digest(listed, _key(make=False)).encode())
    except (OSError, ValueError):
        return False
    linked = any(path.is_symlink() and path.is_dir() for path in (run / "scripts").rglob("*"))
    return genuine and not linked and set(_lines(run)) <= set(listed.split("\n"))


def executed_files(run: Path) -> list[Path]:
    """The files of a model folder that say what is executed, or are; Python's own cache is not read."""
    configs = [run / "configs" / f"inference.{suffix}" for suffix in ("yaml", "json")]
    scripts = [path for path in sorted((run / "scripts").rglob("*")) if "__pycache__" not in path.parts]
    return [path for path in (*configs, *scripts) if path.is_file()]


def _lines(run: Path) -> list[str]:
    """A line for every file: its hash and its place."""
    return [f"{sha256(path)} {path.relative_to(run).as_posix()}" for path in executed_files(run)]


def _digest(listed: str, key: bytes) -> str:
    return hmac.new(key, listed.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def _key(*, make: bool) -> bytes:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    file = home / "dsnet-med" / "key"
    if make and not file.is_file():
        with written_whole(file) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_bytes(secrets.token_bytes(32))
    return file.read_bytes()
