"""Files of weights, read without running the code that a pickle can hold, and without missing any damage.

What is written here ends in (PyTorch) or holds (safetensors) a check sum of the whole file; of other files of
PyTorch, which are zip archives, the sums of their parts are compared. A file is read once, into memory.

MMEngine's checkpoints hold more than tensors: buffers of logged numbers, NumPy scalars. What they commonly hold
is read as an empty stand-in, so that no code of theirs is looked up or run; a file that holds anything else is
refused.
"""

import hashlib
import io
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch
from isal.isal_zlib import crc32
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from dsnet_med.errors import InputError, one_line, want_of_means
from dsnet_med.files import written_whole

_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")  # under which checkpoints hold weights
_ENDING = re.compile(rb"dsnet-med crc32 ([0-9a-f]{8})")  # the comment of a zip archive: PyTorch leaves it empty
_ENDING_BYTES = 24
_ENTRY = re.compile(rb'"crc32":"([^"]{8})"')  # in the header of safetensors
_NO_SUM = "0" * 8  # what stands there while the sum is taken
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
    return weights_of(checkpoint_bytes(file), file)


def checkpoint_bytes(file: Path) -> bytes:
    """All bytes of a file of weights. Raises InputError where it is absent or cannot be read."""
    try:
        if not file.is_file():
            raise InputError(f"no checkpoint at {file}: give an existing .pth or .safetensors file")
        return file.read_bytes()
    except (OSError, MemoryError) as error:
        raise InputError(f"{file} cannot be read: {want_of_means(error) or one_line(error)}") from error


def weights_of(content: bytes, file: Path) -> dict[str, Tensor]:
    """The state dict in the bytes of `file`, as `read_checkpoint` reads it."""
    read = _read_safetensors if file.suffix == ".safetensors" else _unpickled
    weights = weights_in(read(content, file), str(file))
    if empty := [name for name, value in weights.items() if value.is_meta]:
        raise InputError(f"{file} holds no values for '{empty[0]}': it was saved from the meta device")
    return weights


def digest(weights: Mapping[str, Tensor]) -> str:
    """A SHA-256 of tensors with their names and types: the same however they are stored."""
    with ThreadPoolExecutor() as pool:  # hashing lets other threads work
        each = list(pool.map(_digest_of_one, sorted(weights.items())))
    return hashlib.sha256("".join(each).encode(errors="backslashreplace")).hexdigest()


def _digest_of_one(named: tuple[str, Tensor]) -> str:
    name, value = named
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    found = hashlib.sha256(plain.view(torch.uint8).numpy().data).hexdigest()
    return f"{name} {value.dtype} {tuple(value.shape)} {found}\n"


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
    content = save(tensors, {"format": "pt", **metadata, "crc32": _NO_SUM})
    sum_of_all = b'"crc32":"%08x"' % crc32(content)
    with written_whole(file) as temporary:
        temporary.write_bytes(_ENTRY.sub(sum_of_all, content, count=1))


def _read_safetensors(content: bytes, file: Path) -> dict[str, Tensor]:
    header = 8 + int.from_bytes(content[:8], "little")
    if entry := _ENTRY.search(content, 8, min(header, len(content))):
        found = crc32(
            memoryview(content)[entry.end(1) :], crc32(_NO_SUM.encode(), crc32(content[: entry.start(1)]))
        )
        if entry[1] != b"%08x" % found:
            raise _damaged(file)
    try:
        weights: dict[str, Tensor] = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        reason = want_of_means(error) or one_line(error)
        raise InputError(f"{file} cannot be read as safetensors: {reason}") from error
    return weights


class _Summed:
    """A stream to write to that knows the check sum of what it was given."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.sum = stream, 0

    def write(self, part: bytes) -> int:
        self.sum = crc32(part, self.sum)
        return self.stream.write(part)

    def flush(self) -> None:
        self.stream.flush()


def write_pickle(content: Any, stream: IO[bytes]) -> None:
    """Save `content` as PyTorch does, to a file that was opened anew, and behind it the check sum of it all."""
    summed: Any = _Summed(stream)
    torch.save(content, summed)  # into a file it would write that file's name
    ending = b"dsnet-med crc32 %08x" % summed.sum
    stream.seek(-2, io.SEEK_END)
    stream.write(struct.pack("<H", len(ending)) + ending)


def read_pickle(file: Path) -> Any:
    """What PyTorch saved to a file, on the CPU. Raises InputError for one that is damaged or would run code."""
    return _unpickled(checkpoint_bytes(file), file)


def _unpickled(content: bytes, file: Path) -> Any:
    if not _is_whole(content, file):
        raise _damaged(file)
    names = _unusual(content)
    if refused := [name for name in names if not name.startswith(_IGNORED)]:
        raise _holds_code(file, ", ".join(refused[:3]))
    try:
        with safe_globals([(_StandIn, name) for name in names]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the file, the error below says
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types for damaged files
        if means := want_of_means(error):
            raise InputError(f"{file} cannot be read: {means}") from error
        if named := re.search(r"unsupported global:? (?:GLOBAL )?(\S+)", str(error), re.IGNORECASE):
            raise _holds_code(file, named[1]) from error
        raise InputError(f"{file} cannot be read: it is damaged, or no PyTorch checkpoint") from error


def _is_whole(content: bytes, file: Path) -> bool:
    """Whether the check sums of a file of PyTorch hold; also where it has none, being of an old format."""
    if ending := _ENDING.fullmatch(content, len(content) - _ENDING_BYTES):
        length = struct.pack("<H", _ENDING_BYTES)  # where PyTorch, before the ending came, wrote 0
        found = crc32(bytes(2), crc32(memoryview(content)[: -_ENDING_BYTES - 2]))
        return bool(found == int(ending[1], 16)) and content[:-_ENDING_BYTES].endswith(length)
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return True
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts, comment = archive.infolist(), archive.comment
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        return False
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise InputError(f"{file} is packed tighter than PyTorch does; save it again with torch.save")
    small = sum(part.file_size for part in parts) <= len(content)
    return small and not comment and all(_part_is_whole(content, part) for part in parts)


def _part_is_whole(content: bytes, part: zipfile.ZipInfo) -> bool:
    head = content[part.header_offset : part.header_offset + 30]
    if len(head) < 30 or not head.startswith(b"PK\x03\x04"):
        return False
    start = part.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
    found = crc32(memoryview(content)[start : start + part.file_size])
    return bool(found == part.CRC) or part.CRC == 0  # torch.serialization.set_crc32_options(False)


def _damaged(file: Path) -> InputError:
    return InputError(f"{file} is damaged, its check sum does not hold: copy it again from where it is whole")


def _unusual(content: bytes) -> list[str]:
    """The names of what the file holds that is no part of PyTorch's weights; none for files of old formats."""
    try:
        return sorted(get_unsafe_globals_in_checkpoint(io.BytesIO(content)))
    except Exception:  # damaged, or no zip archive: reading it will tell
        return []


def _holds_code(file: Path, what: str) -> InputError:
    return InputError(
        f"{file} holds Python objects ({what}) that could only be made by running code, and is refused: where "
        "you trust it, load it with the code that wrote it and save its state_dict alone"
    )
