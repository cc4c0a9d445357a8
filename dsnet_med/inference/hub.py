"""Models of the Hugging Face hub: `hf://OWNER/NAME[@REVISION]` as a folder here, and a bundle to the hub.

All is done by huggingface_hub: its cache, its logins, its environment (HF_ENDPOINT, HF_HOME, HF_TOKEN,
HF_HUB_OFFLINE). Of weights, safetensors alone are fetched: other files of weights can hold code. A stranger's
configs and scripts are text until `--trust` runs them (bundle_reader.py).
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dsnet_med
from dsnet_med.errors import InputError, one_line, printable, want_of_means

_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_REFERENCE = re.compile(rf"hf:/{{1,2}}({_NAME})(?:@([\w./-]+))?", re.ASCII)  # a Path joins the slashes
_WEIGHTS = "models/model.safetensors"
_FOLDERS = ("configs", "docs", "models", "scripts")  # of a bundle, with all that they hold
_FILES = ("LICENSE", "certificate.json", "large_files.yml", "summary.json", "weights.json")
_CARD = "README.md"
_WHOLE = [*(f"{name}/*" for name in _FOLDERS), *_FILES]
_FETCHED = [*(each for each in _WHOLE if each != "models/*"), _WEIGHTS]
_LOGIN = "log in (hf auth login, or HF_TOKEN)"


def is_reference(path: Path | str) -> bool:
    """Whether `path` names a model of the hub: `hf://...`, also as a Path, which makes one slash of two."""
    return _plain(path).startswith("hf:/")


def reference(path: Path | str) -> str:
    """`path` as it was meant, for messages: a reference with both its slashes."""
    return re.sub(r"^hf:/+", "hf://", _plain(path)) if is_reference(path) else str(path)


def located(path: Path | str, *, whole: bool = False) -> Path:
    """The folder that `path` names: itself, or what `fetched` gives for a reference. Raises InputError."""
    return fetched(path, whole=whole) if is_reference(path) else Path(path)


def fetched(path: Path | str, *, whole: bool = False) -> Path:
    """The folder, in the hub's own cache, of the bundle that `hf://OWNER/NAME[@REVISION]` names.

    Weights come as safetensors alone; `whole` fetches all files of the bundle, to compare them. Without
    network a copy in the cache is taken. Raises InputError, in one line, for whatever is in the way.
    """
    where = reference(path)
    parts = _REFERENCE.fullmatch(_plain(path))
    if parts is None:
        raise InputError(f"{printable(where)}: wanted hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    with _in_one_line(where):
        from huggingface_hub import snapshot_download  # noqa: PLC0415 -- takes time to load

        folder = Path(
            snapshot_download(
                parts[1],
                revision=parts[2],
                allow_patterns=_WHOLE if whole else _FETCHED,
                endpoint=os.environ.get("HF_ENDPOINT") or None,
                library_name="dsnet-med",
                library_version=dsnet_med.__version__,
            )
        )
    if not (folder / _WEIGHTS).is_file():
        raise InputError(
            f"{where}: has no {_WEIGHTS}, and other weights, which can hold code, are not taken from the hub; "
            "ask its author for what export writes"
        )
    return folder


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Commit the exported bundle in `folder` to the model OWNER/NAME of the hub; the address of its page.

    The model is made where it is not there yet. Only what belongs to a bundle is sent; files of an earlier
    bundle that this one lacks go in the same commit. Its docs/README.md is the model's card, too. Raises
    InputError, in one line, for whatever is in the way.
    """
    require_name(name)
    files = _files_of(folder)
    with _in_one_line(f"hf://{name}"):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi  # noqa: PLC0415

        api = HfApi(
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            library_name="dsnet-med",
            library_version=dsnet_med.__version__,
        )
        address = str(api.create_repo(name, private=private, exist_ok=True))
        changes: list[Any] = [CommitOperationAdd(place, file) for place, file in files.items()]
        changes += [CommitOperationDelete(place) for place in _there(api, name) if place not in files]
        api.create_commit(name, changes, commit_message=f"dsnet-med {dsnet_med.__version__}")
    return address


def require_name(name: str) -> None:
    """Raise InputError unless `name` is one that a model of the hub can have, OWNER/NAME."""
    if not re.fullmatch(_NAME, name, re.ASCII):
        raise InputError(f"got '{printable(name)}' to push to, wanted OWNER/NAME")


def _files_of(folder: Path) -> dict[str, Path]:
    """The files of a bundle, by their place in the model."""
    found = [file for name in _FOLDERS for file in sorted((folder / name).rglob("*"))]
    found += [folder / name for name in _FILES]
    files = {
        file.relative_to(folder).as_posix(): file
        for file in found
        if file.is_file() and "__pycache__" not in file.parts
    }
    card = f"docs/{_CARD}"
    for needed in (_WEIGHTS, card, "configs/inference.json"):
        if needed not in files:
            raise InputError(
                f"{folder}: has no {needed}; wanted a bundle that export wrote, with its bundle format"
            )
    return {_CARD: files[card], **files}


def _there(api: Any, name: str) -> list[str]:
    """The files of a bundle that the model holds; none where nothing was committed yet."""
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError  # noqa: PLC0415

    try:
        held = api.list_repo_files(name)
    except (EntryNotFoundError, RevisionNotFoundError):
        return []
    return sorted(each for each in held if each in _FILES or each.startswith(tuple(f"{x}/" for x in _FOLDERS)))


def _plain(path: Path | str) -> str:
    return path.as_posix() if isinstance(path, Path) else path


@contextmanager
def _in_one_line(where: str) -> Iterator[None]:
    """What huggingface_hub raises as one line; its bars for terminals alone, of its log the errors."""
    from huggingface_hub import logging as its_logging  # noqa: PLC0415 -- takes time to load
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415

    its_logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not sys.stderr.isatty():
                disable_progress_bars()
            yield
    except Exception as error:  # its own, and those of the library that carries its requests, whichever that is
        raise InputError(f"{where}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    from huggingface_hub import errors  # noqa: PLC0415

    known = (  # the first that fits: a gated model is one that is not found, too
        (errors.GatedRepoError, f"is gated; ask for access on its page, and {_LOGIN}"),
        (
            errors.RevisionNotFoundError,
            "has no such revision; look at its page for those that it has",
        ),
        (
            errors.RepositoryNotFoundError,
            f"no such model, or a private one; correct the name, or {_LOGIN}",
        ),
    )
    status = _status(error)
    if (reason := next((text for kind, text in known if isinstance(error, kind)), None)) is not None:
        return reason
    if status in (401, 403):
        return f"the hub does not allow it ({status}); {_LOGIN} with a token that may do it"
    if means := want_of_means(error):
        return means
    if status is not None:
        return f"the hub {_short(error)}; try again later"
    no_copy = isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled)
    cause = (error.__cause__ or error) if no_copy else error
    copy = ", and the cache has no copy" if no_copy else ""
    return f"the hub cannot be reached ({_short(cause)}){copy}; connect, or give a folder"


def _status(error: BaseException) -> int | None:
    """The HTTP status that the hub answered with, if it answered."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _short(error: BaseException) -> str:
    status = _status(error)
    return f"answered {status}" if status else f"{type(error).__name__}: {one_line(error, 160)}"
