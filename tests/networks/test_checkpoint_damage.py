"""No flipped bit in a file of weights is loaded unnoticed; want of means is not called damage."""

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dsnet_med.errors import InputError
from dsnet_med.networks.checkpoint import digest, read_checkpoint, write_pickle, write_safetensors

FEW, MANY = 40, 1000


def weights(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    kinds = {"float": torch.rand(20, 30), "half": torch.rand(7).bfloat16(), "count": torch.tensor(3)}
    return {**kinds, "none": torch.zeros(0, 4), "whether": torch.rand(5) > 0.5}


def ours(file: Path) -> None:
    with file.open("w+b") as stream:
        write_pickle(weights(), stream)


def our_safetensors(file: Path) -> None:
    write_safetensors(file, weights(), {"method": "fcn"})


def pytorchs(file: Path) -> None:
    torch.save(weights(), file)


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("flips", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("write", "name"), [(ours, "model.pt"), (our_safetensors, "w.safetensors")])
def test_every_bit_counts(write: Callable[[Path], None], name: str, flips: int, tmp_path: Path) -> None:
    file = tmp_path / name
    write(file)
    assert digest(read_checkpoint(file)) == digest(weights())
    whole, draw = file.read_bytes(), random.Random(0)
    key = whole.find(b'"crc32":"')  # without it a file is one of another program's
    bits = [draw.randrange(8 * len(whole)) for _ in range(flips)]
    ending = range(8 * len(whole) - 8 * 60, 8 * len(whole))
    for bit in [*bits, *draw.sample(ending, min(flips, len(ending)))]:
        if key >= 0 and key <= bit // 8 < key + 9:
            continue
        file.write_bytes(flipped(whole, bit))
        with pytest.raises(InputError):
            read_checkpoint(file)
    for length in (0, 1, 9, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_checkpoint(file)


def test_a_flipped_number_in_a_file_of_pytorch(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    pytorchs(file)
    whole = file.read_bytes()
    at = whole.find(weights()["float"].numpy().tobytes())
    for byte in range(at, at + 2400, 97):
        file.write_bytes(flipped(whole, 8 * byte + 3))
        with pytest.raises(InputError, match="is damaged, its check sum does not hold"):
            read_checkpoint(file)


def test_other_ways_to_save_are_read(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save(weights(), file, _use_new_zipfile_serialization=False)
    assert digest(read_checkpoint(file)) == digest(weights())
    torch.serialization.set_crc32_options(False)
    try:
        pytorchs(file)
    finally:
        torch.serialization.set_crc32_options(True)
    assert digest(read_checkpoint(file)) == digest(weights())


def test_what_would_unpack_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    pytorchs(tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "tight.pt", "w", zipfile.ZIP_DEFLATED) as tight,
    ):
        for part in plain.infolist():
            tight.writestr(part.filename, plain.read(part))
    with pytest.raises(InputError, match=r"packed tighter .* torch\.save"):
        read_checkpoint(tmp_path / "tight.pt")


def test_the_digest_is_that_of_the_tensors(tmp_path: Path) -> None:
    ours(tmp_path / "a.pt")
    our_safetensors(tmp_path / "a.safetensors")
    same = {digest(read_checkpoint(tmp_path / name)) for name in ("a.pt", "a.safetensors")}
    assert same == {digest(dict(reversed(weights().items())))}
    changed = weights()
    changed["float"][3, 4] += 1e-6
    assert digest(changed) not in same
    assert digest({**weights(), "float": weights()["float"].reshape(30, 20)}) not in same


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "permission denied"),
        (OSError(24, "Too many open files"), "too many files are open"),
        (MemoryError(), "not enough memory"),
    ],
)
@pytest.mark.parametrize("name", ["model.pt", "w.safetensors"])
def test_want_of_means_is_not_damage(
    error: BaseException, words: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).touch()

    def refuse(_: Path) -> bytes:
        raise error

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=f"cannot be read: {words}"):
        read_checkpoint(tmp_path / name)


def test_no_memory_for_the_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    ours(tmp_path / "model.pt")
    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(InputError, match="cannot be read: not enough memory"):
        read_checkpoint(tmp_path / "model.pt")


def test_equal_contents_give_equal_bytes() -> None:
    streams = [io.BytesIO(), io.BytesIO()]
    for stream in streams:
        write_pickle(weights(), stream)
    assert streams[0].getvalue() == streams[1].getvalue()
