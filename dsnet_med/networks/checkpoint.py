"""Files of weights, read without running the code that a pickle can hold, and written as safetensors.

MMEngine's checkpoints hold more than tensors: buffers of logged numbers, NumPy scalars. What they commonly hold
is read as an empty stand-in, so that no code of theirs is looked up or run; a file that holds anything else is
refused.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from dsnet_med.errors import InputError, one_line
from dsnet_med.files import written_whole

_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")  # under which checkpoints hold weights
_IGNORED = ("mmengine.", "mmcv.", "numpy.", "_codecs.encode", "builtins.getattr")


class _StandIn:
    """What stands for an object that is not wanted: it takes whatever a pickle gives it and keeps nothing."""

    def __init__(self, *_arguments: Any) -> None: ...

    def __new__(cls, *_arguments: Any) -> "_StandIn":
        return super().__new__(cls)

    def __setstate__(self, _state: Any) -> None: ...

    def __hash__(self) -> int:
        return id(self)


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a checkpoint saved by PyTorch, on the CPU. No code in it is run.

    Raises InputError for a file that is absent or damaged, holds no state dict, at the top or under one of the
    usual names (see `weights_in`), or holds Python objects that could only be made by running code.
    """
    if not file.is_file():
        raise InputError(f"no checkpoint at {file}: give an existing .pth or .safetensors file")
    content = _read_safetensors(file) if file.suffix == ".safetensors" else read_pickle(file)
    weights = weights_in(content, str(file))
    if empty := [name for name, value in weights.items() if value.is_meta]:
        raise InputError(f"{file} holds no values for '{empty[0]}': it was saved from the meta device")
    return weights


def weights_in(content: Any, where: str) -> dict[str, Tensor]:
    """The dense tensors by name in `content`, at its top or under "state_dict" or "model".

    Where timm's training kept averaged weights as well, "state_dict_ema" or "model_ema", those are taken, as
    timm does. Raises InputError, which says `where` the content came from, for anything else.
    """
    weights: Any = content
    if isinstance(content, Mapping):
        weights = next((content[key] for key in _KEYS if content.get(key) is not None), content)
    if (
        not isinstance(weights, Mapping)
        or not all(isinstance(name, str) for name in weights)
        or not all(isinstance(value, Tensor) for value in weights.values())
    ):
        raise InputError(f"{where} holds no state dict: wanted tensors by name, or such under 'state_dict'")
    if sparse := [name for name, value in weights.items() if value.layout != torch.strided]:
        raise InputError(f"{where} holds '{sparse[0]}' as a sparse tensor: save it with to_dense()")
    return dict(weights)


def write_safetensors(file: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `weights` and `metadata` to `file`, whole or not at all; InputError where that cannot be."""
    tensors = {name: value.contiguous().clone() for name, value in weights.items()}  # none may share memory
    with written_whole(file) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": "pt", **metadata})
        except SafetensorError as error:  # how it reports a full disk
            raise InputError(f"cannot write {file}: {error}") from error


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} cannot be read as safetensors: {one_line(error)}") from error
    return weights


def read_pickle(file: Path) -> Any:
    """What PyTorch saved to a file, on the CPU. Raises InputError for one that is damaged or would run code."""
    names = _unusual(file)
    if refused := [name for name in names if not name.startswith(_IGNORED)]:
        raise _holds_code(file, ", ".join(refused[:3]))
    try:
        with safe_globals([(_StandIn, name) for name in names]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the file, the error below says
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types for damaged files
        if named := re.search(r"unsupported global:? (?:GLOBAL )?(\S+)", str(error), re.IGNORECASE):
            raise _holds_code(file, named[1]) from error
        raise InputError(f"{file} cannot be read: it is damaged, or no PyTorch checkpoint") from error


def _unusual(file: Path) -> list[str]:
    """The names of what the file holds that is no part of PyTorch's weights; none for files of old formats."""
    try:
        return sorted(get_unsafe_globals_in_checkpoint(file))
    except Exception:  # damaged, or no zip archive: reading it will tell
        return []


def _holds_code(file: Path, what: str) -> InputError:
    return InputError(
        f"{file} holds Python objects ({what}) that could only be made by running code, and is refused: where "
        "you trust it, load it with the code that wrote it and save its state_dict alone"
    )
