"""The data file of a case: its slices, then the check sums of every part that is read on its own.

For each slice, in geometry.SliceOrder's order: the image of every channel, then the label (uint8). After the
last slice, as 4-byte numbers: for each slice and each of its images and its label the CRC-32 of the whole and
of every band of `StoredCase.band` rows; then, for each slice, how many voxels have which of `StoredCase.codes`.

Whatever is read is compared with its check sum, and the check sums with the entry's: damage, an exchanged file
and a store that changed since it was opened are noticed by the reader, and cost no pass of their own.
"""

import struct
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


@dataclass(frozen=True)
class Tables:
    """What follows the slices of D slices of C channels in B bands.

    `whole` (D, C + 1) and `bands` (D, C + 1, B) are check sums, the label's last; `counts` (D, K) says how many
    voxels have each of `codes`, the label values that occur.
    """

    whole: NDArray[np.uint32]
    bands: NDArray[np.uint32]
    codes: tuple[int, ...]
    counts: NDArray[np.uint32]


def write_case(
    path: Path, entry: StoredCase, slices: Iterable[tuple[Sequence[NDArray[Any]], NDArray[np.uint8]]]
) -> StoredCase:
    """Write a case's data file `path`, whole or not at all: for each slice its images and its labels.

    Each is (H, W), images of the entry's type. Returns the entry with what the tables are read by. Raises
    InputError.
    """
    sums = np.zeros((entry.shape[0], entry.channels + 1, 1 + entry.bands), _WORD)
    counts = np.zeros((entry.shape[0], CODES), _WORD)
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        for own, count, (images, labels) in zip(sums, counts, slices, strict=True):
            planes = [*(np.ascontiguousarray(image, entry.record["image"].base) for image in images)]
            planes.append(np.ascontiguousarray(labels, np.uint8))
            for row, plane in zip(own, planes, strict=True):
                stream.write(plane.data)
                row[0] = crc32(plane)
                row[1:] = [crc32(plane[at : at + entry.band]) for at in range(0, len(plane), entry.band)]
            count[:] = counted(planes[-1])
        codes = np.flatnonzero(counts.any(0))
        tables = sums.tobytes() + counts[:, codes].tobytes()
        stream.write(tables)
    return entry.model_copy(update={"codes": tuple(codes.tolist()), "tables_crc32": f"{crc32(tables):08x}"})


def counted(labels: NDArray[np.uint8]) -> NDArray[np.intp]:
    """How many of these labels have which value, 256 numbers."""
    if not labels.any():  # as in most slices of a scan, and looking is far cheaper than counting
        return np.bincount([0], [labels.size], CODES).astype(np.intp)
    return np.bincount(labels.ravel(), minlength=CODES)


def read_tables(stream: IO[bytes], entry: StoredCase) -> Tables:
    """The tables of an open data file; of format 2 what the entry has of them, no counts. Raises InputError."""
    if entry.format == 2:
        return _of_before(entry)
    stream.seek(entry.nbytes - 4 * entry.table_words)
    words = np.fromfile(stream, _WORD, entry.table_words)
    if len(words) != entry.table_words or f"{crc32(words):08x}" != entry.tables_crc32:
        raise _changed(stream, "its table of check sums")
    sums = words[: len(words) - entry.shape[0] * len(entry.codes)]
    sums = sums.reshape(entry.shape[0], entry.channels + 1, 1 + entry.bands)
    counts = words[sums.size :].reshape(entry.shape[0], len(entry.codes))
    return Tables(sums[..., 0], sums[..., 1:], entry.codes, counts)


def _of_before(entry: StoredCase) -> Tables:
    """Those of a case of format 2: a check sum for each image and each label."""
    form = f">{entry.shape[0]}I"
    try:
        each = [struct.unpack(form, bytes.fromhex(told)) for told in (entry.image_crc32, entry.label_crc32)]
    except (ValueError, struct.error) as error:
        raise InputError(f"case '{entry.id}': its check sums are damaged; run preprocess again") from error
    whole = np.array(each, np.uint32).T
    return Tables(whole, whole[..., None], (), np.empty((entry.shape[0], 0), np.uint32))


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
    stream.seek(wanted.start * entry.record.itemsize)
    for index in wanted:
        records = np.fromfile(stream, entry.record, count=1)
        if not len(records):
            raise _changed(stream, f"slice {index}")
        stored, labels = records["image"][0], records["label"][0]
        if [*map(crc32, stored), crc32(labels)] != tables.whole[index].tolist():
            raise _changed(stream, f"slice {index}")
        yield _normalised(stored, entry), labels


def checked_labels(stream: IO[bytes], entry: StoredCase, tables: Tables, index: int) -> NDArray[np.uint8]:
    """The labels (H, W) of a slice of an open data file, without its image. Raises as `checked_slices`."""
    size = entry.shape[1] * entry.shape[2]
    stream.seek((index + 1) * entry.record.itemsize - size)
    labels = np.fromfile(stream, np.uint8, size)
    if crc32(labels) != tables.whole[index, -1]:
        raise _changed(stream, f"slice {index}")
    return labels.reshape(entry.shape[1:])


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

    It may reach outside the case, where images and labels are 0. Of every slice only the bands of rows that the
    box touches are read. Raises as `checked_slices`.
    """
    images = np.zeros((entry.channels, *size), np.float32)
    labels = np.zeros(tuple(size), np.uint8)
    inside = [range(max(0, at), min(at + n, end)) for at, n, end in zip(start, size, entry.shape, strict=True)]
    if not all(inside):
        return images, labels
    place = tuple(slice(own.start - at, own.stop - at) for own, at in zip(inside, start, strict=True))
    stored = np.empty((entry.channels, *map(len, inside)), entry.record["image"].base)
    classes = labels[place]
    rows, columns = inside[1:]
    bands = range(rows.start // entry.band, (rows.stop - 1) // entry.band + 1)
    for number, index in enumerate(inside[0]):
        for plane, taken in enumerate((*stored[:, number], classes[number])):
            read = _bands(stream, entry, index, plane, bands)
            if [*map(crc32, read)] != tables.bands[index, plane, bands.start : bands.stop].tolist():
                raise _changed(stream, f"slice {index}")
            above = rows.start - bands.start * entry.band
            taken[...] = np.concatenate(read)[above : above + len(rows), columns.start : columns.stop]
    images[(slice(None), *place)] = _normalised(stored, entry)
    return images, labels


def _bands(stream: IO[bytes], entry: StoredCase, index: int, plane: int, bands: range) -> list[NDArray[Any]]:
    """Bands of rows of an image of a slice or, the plane after the last image, of its label; (rows, W) each."""
    height, width = entry.shape[1:]
    image = entry.record["image"].base
    kind = image if plane < entry.channels else entry.record["label"].base
    top, bottom = bands.start * entry.band, min(bands.stop * entry.band, height)
    stream.seek(
        index * entry.record.itemsize + plane * height * width * image.itemsize + top * width * kind.itemsize
    )
    read = np.fromfile(stream, kind, (bottom - top) * width)
    if read.size != (bottom - top) * width:
        raise _changed(stream, f"slice {index}")
    read = read.reshape(-1, width)
    return [read[at : at + entry.band] for at in range(0, len(read), entry.band)]


def _normalised(stored: NDArray[Any], entry: StoredCase) -> NDArray[np.float32]:
    """Stored images (C, ...) as the network sees them."""
    images: NDArray[np.float32] = stored.astype(np.float32)
    for channel, (base, slope) in enumerate(zip(entry.base, entry.slope, strict=True)):
        if base:
            images[channel] -= np.float32(base)
        if slope != 1:
            images[channel] *= np.float32(slope)
    return images


def _changed(stream: IO[bytes], what: str) -> InputError:
    """What to say of a part that is not what its check sum was made of."""
    return InputError(
        f"{stream.name}: {what} is not what was stored: damaged, cut short, or changed since the store "
        "was opened; run preprocess, then this"
    )
