"""The data file of a case: its slices in tiles, then the check sums of every tile.

Slices follow each other in geometry.SliceOrder's order. Each is cut into tiles of `StoredCase.tile` rows and
columns, filled up with zeros at the end; they lie column by column, so that those of a patch are next to each
other. A tile is the image of every channel, then the label (uint8). After the last slice, as 4-byte numbers:
the CRC-32 of every slice, of every tile of every slice, and for each slice how many voxels have which of
`StoredCase.codes`.

Whatever is read is compared with its check sum, and the check sums with the entry's: damage, an exchanged file
and a store that changed since it was opened are noticed by the reader, and cost no pass of their own.
"""

import math
import os
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.files import written_whole
from dsnet_med.prepare.stored_case import StoredCase
from dsnet_med.regions import CODES

Slices = tuple[NDArray[np.float32], NDArray[np.uint8]]
_WORD = "<u4"
_AT_ONCE = 1 << 22  # bytes that are read before they are looked at: few calls, and memory that stays small


@dataclass(frozen=True)
class Tables:
    """What follows the slices.

    `slices` (D) and `tiles` (D, columns, rows) are check sums; `counts` (D, K) says how many voxels have each
    of `codes`, the label values that occur.
    """

    slices: NDArray[Any]
    tiles: NDArray[Any]
    codes: tuple[int, ...]
    counts: NDArray[np.uint32]


class _Scratch(threading.local):
    """Memory that is used again by every read of a thread."""

    raw: NDArray[np.uint8] = np.empty(0, np.uint8)

    def of(self, size: int) -> NDArray[np.uint8]:
        if len(self.raw) < size:
            self.raw = np.empty(size, np.uint8)
        return self.raw[:size]


_SCRATCH = _Scratch()


def write_case(
    path: Path, entry: StoredCase, slices: Iterable[tuple[Sequence[NDArray[Any]], NDArray[np.uint8]]]
) -> StoredCase:
    """Write a case's data file `path`, whole or not at all: for each slice its images and its labels.

    Each is (H, W), images of the entry's type. Returns the entry with what the tables are read by. Raises
    InputError.
    """
    depth, size = entry.shape[0], entry.unit.itemsize
    sums = np.zeros((depth, 1 + math.prod(entry.tiles)), _WORD)
    counts = np.zeros((depth, CODES), _WORD)
    tiles = np.zeros(entry.tiles, entry.unit)
    raw = tiles.reshape(-1).view(np.uint8)
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        for own, count, (images, labels) in zip(sums, counts, slices, strict=True):
            for channel, image in enumerate(images):
                _as_rows(tiles["image"][:, :, channel])[...] = _filled_up(image, entry)
            _as_rows(tiles["label"])[...] = _filled_up(labels, entry)
            stream.write(raw.data)
            own[0] = crc32(raw)
            own[1:] = [crc32(raw[at : at + size]) for at in range(0, len(raw), size)]
            count[:] = counted(labels)
        codes = np.flatnonzero(counts.any(0))
        words = np.concatenate([sums[:, 0], sums[:, 1:].ravel(), counts[:, codes].ravel()]).astype(_WORD)
        stream.write(words.data)
    return entry.model_copy(update={"codes": tuple(codes.tolist()), "tables_crc32": f"{crc32(words):08x}"})


def _as_rows(tiles: NDArray[Any]) -> NDArray[Any]:
    """A slice's tiles (columns, rows, h, w) in the order of its voxels: (rows, h, columns, w)."""
    return tiles.transpose(1, 2, 0, 3)


def _filled_up(plane: NDArray[Any], entry: StoredCase) -> NDArray[Any]:
    """A plane (H, W) with zeros up to the last tile's end, (rows, h, columns, w)."""
    (rows, columns), (across, down) = entry.tile, entry.tiles
    whole = plane
    if plane.shape != (down * rows, across * columns):
        whole = np.zeros((down * rows, across * columns), plane.dtype)
        whole[: plane.shape[0], : plane.shape[1]] = plane
    return whole.reshape(down, rows, across, columns)


def counted(labels: NDArray[np.uint8]) -> NDArray[np.intp]:
    """How many of these labels have which value, 256 numbers."""
    if not labels.any():  # as in most slices of a scan, and looking is far cheaper than counting
        return np.bincount([0], [labels.size], CODES).astype(np.intp)
    return np.bincount(labels.ravel(), minlength=CODES)


def read_tables(stream: IO[bytes], entry: StoredCase) -> Tables:
    """The tables of an open data file; of format 2 what the entry has of them, no counts. Raises InputError."""
    if entry.format == 2:
        return _of_before(entry)
    depth = entry.shape[0]
    stream.seek(depth * entry.slice_nbytes)
    words = np.fromfile(stream, _WORD, entry.table_words)
    if len(words) != entry.table_words or f"{crc32(words):08x}" != entry.tables_crc32:
        raise _changed(stream, "its table of check sums")
    slices, tiles, counts = np.split(words, [depth, depth * (1 + math.prod(entry.tiles))])
    return Tables(slices, tiles.reshape(depth, *entry.tiles), entry.codes, counts.reshape(depth, -1))


def _of_before(entry: StoredCase) -> Tables:
    """Those of a case of format 2: the check sums of each image and each label, as one number of 8 bytes."""
    form = f">{entry.shape[0]}I"
    try:
        images, labels = (
            struct.unpack(form, bytes.fromhex(told)) for told in (entry.image_crc32, entry.label_crc32)
        )
    except (ValueError, struct.error) as error:
        raise InputError(f"case '{entry.id}': its check sums are damaged; run preprocess again") from error
    both = np.array(images, np.uint64) << np.uint64(32) | np.array(labels, np.uint64)
    return Tables(both, both.reshape(-1, 1, 1), (), np.empty((entry.shape[0], 0), np.uint32))


def _sum(raw: memoryview, entry: StoredCase) -> int:
    """The check sum of a tile's or a slice's bytes."""
    if entry.format == 2:
        label = entry.shape[1] * entry.shape[2]
        return crc32(raw[:-label]) << 32 | crc32(raw[-label:])
    return crc32(raw)


def with_counts(stream: IO[bytes], entry: StoredCase, tables: Tables) -> Tables:
    """The tables of an open data file with the counts that a store of format 2 lacks: every label is read."""
    if tables.codes:
        return tables
    every = np.array([counted(checked_labels(stream, entry, tables, index)) for index in range(entry.shape[0])])
    codes = np.flatnonzero(every.any(0))
    return replace(tables, codes=tuple(codes.tolist()), counts=every[:, codes].astype(np.uint32))


def checked_slices(stream: IO[bytes], entry: StoredCase, tables: Tables, wanted: range) -> Iterator[Slices]:
    """Slices of an open data file: each normalised image (C, H, W) and its labels (H, W), fresh arrays.

    Raises InputError for one that is not what was stored.
    """
    for index in wanted:
        tiles = _slice(stream, entry, tables, index)
        image = np.empty((entry.channels, *_as_rows(tiles["label"]).shape), np.float32)
        for channel, out in enumerate(image):
            _normalise(_as_rows(tiles["image"][:, :, channel]), entry, channel, out)
        yield _cut(image, entry), _labels(tiles, entry)


def checked_labels(stream: IO[bytes], entry: StoredCase, tables: Tables, index: int) -> NDArray[np.uint8]:
    """The labels (H, W) of a slice of an open data file, a fresh array. Raises as `checked_slices`."""
    return _labels(_slice(stream, entry, tables, index), entry)


def _slice(stream: IO[bytes], entry: StoredCase, tables: Tables, index: int) -> NDArray[Any]:
    """The tiles of a slice, in this thread's scratch memory."""
    raw = _SCRATCH.of(entry.slice_nbytes)
    stream.seek(index * len(raw))
    view = raw.data
    if _read(stream, view) != len(raw) or _sum(view, entry) != tables.slices[index]:
        raise _changed(stream, f"slice {index}")
    return raw.view(entry.unit).reshape(entry.tiles)


def _labels(tiles: NDArray[Any], entry: StoredCase) -> NDArray[np.uint8]:
    return _cut(np.array(_as_rows(tiles["label"]), order="C"), entry)


def _cut(rows: NDArray[Any], entry: StoredCase) -> NDArray[Any]:
    """A slice's voxels (..., rows, h, columns, w) as (..., H, W)."""
    *ahead, down, high, across, wide = rows.shape
    whole = rows.reshape(*ahead, down * high, across * wide)
    return np.ascontiguousarray(whole[..., : entry.shape[1], : entry.shape[2]])


def _normalise(stored: NDArray[Any], entry: StoredCase, channel: int, out: NDArray[np.float32]) -> None:
    """Stored values of a channel as the network sees them, in `out`, of the same shape."""
    base, slope = np.float32(entry.base[channel]), np.float32(entry.slope[channel])
    if base:
        np.subtract(stored, base, out=out, dtype=np.float32)
        out *= slope
    elif slope != 1:
        np.multiply(stored, slope, out=out, dtype=np.float32)
    else:
        out[...] = stored


def read_slices(stream: IO[bytes], entry: StoredCase, tables: Tables) -> Slices:
    """All slices of an open data file, (C, D, H, W) and (D, H, W). Raises as `checked_slices`."""
    images = np.empty((entry.channels, *entry.shape), np.float32)
    labels = np.empty(entry.shape, np.uint8)
    for index, (image, label) in enumerate(checked_slices(stream, entry, tables, range(entry.shape[0]))):
        images[:, index], labels[index] = image, label
    return images, labels


def read_box(
    stream: IO[bytes], entry: StoredCase, tables: Tables, start: Sequence[int], size: Sequence[int]
) -> Slices:
    """The box of `size` (d, h, w) from `start` (z, y, x) on: images (C, d, h, w) and labels (d, h, w).

    It may reach outside the case, where images and labels are 0. Of every slice only the tiles that the box
    touches are read. Raises as `checked_slices`.
    """
    images = np.zeros((entry.channels, *size), np.float32)
    labels = np.zeros(tuple(size), np.uint8)
    inside = [range(max(0, at), min(at + n, end)) for at, n, end in zip(start, size, entry.shape, strict=True)]
    if not all(inside):
        return images, labels
    indices, rows, columns = inside
    block = _Block(entry, _touched(rows, entry.tile[0]), _touched(columns, entry.tile[1]))
    block.ask_for(stream, indices)
    at_once = max(1, _AT_ONCE // block.nbytes)
    for first in range(indices.start, indices.stop, at_once):
        some = range(first, min(first + at_once, indices.stop))
        read = block.read(stream, tables, some)
        slices = slice(some.start - start[0], some.stop - start[0])
        for column, tiles in zip(block.across, read.swapaxes(0, 1), strict=True):
            from_x, to_x = _part(columns, column, entry.tile[1], start[2])
            for row, tile in zip(block.down, tiles.swapaxes(0, 1), strict=True):
                from_y, to_y = _part(rows, row, entry.tile[0], start[1])
                labels[slices, to_y, to_x] = tile["label"][:, from_y, from_x]
                for channel, image in enumerate(images):
                    part = tile["image"][:, channel, from_y, from_x]
                    _normalise(part, entry, channel, image[slices, to_y, to_x])
    return images, labels


@dataclass(frozen=True)
class _Block:
    """The same tiles, `down` of each of the columns `across`, of every slice of a box."""

    entry: StoredCase
    down: range
    across: range

    @property
    def nbytes(self) -> int:
        """How much of each slice."""
        return len(self.across) * len(self.down) * self.entry.unit.itemsize

    def _places(self, indices: range) -> Iterator[int]:
        """Where in the file the tiles of each column of each slice begin."""
        size, high = self.entry.unit.itemsize, self.entry.tiles[1]
        begins = [(column * high + self.down.start) * size for column in self.across]
        for index in indices:
            slice_begins = index * self.entry.slice_nbytes
            for begin in begins:
                yield slice_begins + begin

    def ask_for(self, stream: IO[bytes], indices: range) -> None:
        """Have the system fetch all of it at once, where it takes such advice."""
        if advise := getattr(os, "posix_fadvise", None):
            descriptor, length = stream.fileno(), len(self.down) * self.entry.unit.itemsize
            for place in self._places(indices):
                advise(descriptor, place, length, os.POSIX_FADV_WILLNEED)

    def read(self, stream: IO[bytes], tables: Tables, indices: range) -> NDArray[Any]:
        """The tiles of these slices, (slices, columns, rows), in this thread's scratch memory."""
        size, length = self.entry.unit.itemsize, len(self.down) * self.entry.unit.itemsize
        raw = _SCRATCH.of(len(indices) * self.nbytes)
        parts = raw.data
        for number, place in enumerate(self._places(indices)):
            stream.seek(place)
            if _read(stream, parts[number * length : (number + 1) * length]) != length:
                raise _changed(stream, f"slice {indices[number // len(self.across)]}")
        own = tables.tiles[indices.start : indices.stop, self.across.start : self.across.stop]
        known = own[:, :, self.down.start : self.down.stop].ravel().tolist()
        sums = [_sum(parts[at : at + size], self.entry) for at in range(0, len(raw), size)]
        if sums != known:
            wrong = next(
                n for n, (found, wanted) in enumerate(zip(sums, known, strict=True)) if found != wanted
            )
            raise _changed(stream, f"slice {indices[wrong * size // self.nbytes]}")
        return raw.view(self.entry.unit).reshape(len(indices), len(self.across), len(self.down))


def _touched(wanted: range, side: int) -> range:
    """The tiles of `side` voxels that the voxels `wanted` lie in."""
    return range(wanted.start // side, (wanted.stop - 1) // side + 1)


def _part(wanted: range, tile: int, side: int, origin: int) -> tuple[slice, slice]:
    """Which voxels of a tile are wanted, and where they lie in a box that begins at `origin`."""
    first, last = max(wanted.start, tile * side), min(wanted.stop, (tile + 1) * side)
    return slice(first - tile * side, last - tile * side), slice(first - origin, last - origin)


def _read(stream: IO[bytes], into: memoryview) -> int:
    """Fill `into` from an unbuffered stream; how many bytes there were."""
    got: int = stream.readinto(into)  # type: ignore[attr-defined]
    while 0 < got < len(into) and (more := stream.readinto(into[got:])):  # type: ignore[attr-defined]
        got += more
    return got


def _changed(stream: IO[bytes], what: str) -> InputError:
    """What to say of a part that is not what its check sum was made of."""
    return InputError(
        f"{stream.name}: {what} is not what was stored: damaged, cut short, or changed since the store "
        "was opened; run preprocess, then this"
    )
