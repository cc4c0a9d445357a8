"""An upload as a volume, read in a process of its own.

Decoders of DICOM, JPEG and ITK are native code, which a damaged file can bring down, and some bytes unpack to a
thousand times as many: here they end or fill that process, whose memory is limited (on Linux), not the server.
"""

import errno
import multiprocessing
import re
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path

import psutil

from dsnet_med.archives import numbered, unpack
from dsnet_med.errors import InputError, SeveralVolumesError, portable
from dsnet_med.inference.sources import Source, find_sources, load
from dsnet_med.processes import prepare_worker
from dsnet_med.server.refusals import TooLargeError, UnsupportedError, is_disk_full
from dsnet_med.sniff import Content, content_of, is_dicom, is_pair_header, known_as
from dsnet_med.volumes import Volume, read_grid

_WANTED = "wanted NIfTI, NRRD, MetaImage or DICOM, or a zip of a DICOM series or of one of the others"
_NO_DICOM = "the upload is no DICOM series, and a DICOM segmentation has to point at one; take format nifti"
_PAIR = "the upload is of a pair of files, .hdr and .img; make one .nii or .nii.gz file of them and send that"
_SUFFIXES = {"nifti": ".nii", "nrrd": ".nrrd", "metaimage": ".mha"}
_PACKED = {None: "", "gzip": ".gz", "bzip2": ".bz2"}
_NRRD = re.compile(rb"(?!.{,65536}?data\s*file\s*:).{,65536}?\n\r?\n", re.DOTALL | re.IGNORECASE)
_META = re.compile(rb"ElementDataFile[ \t]*=[ \t]*(LOCAL|Local|local)[ \t]*\r?\n")
_OVERHEAD = 512 << 20  # bytes, of reading anything at all


@dataclass(frozen=True)
class Bounds:
    """How much an upload may take; `max_bytes` is its own size and, as voxels, that of the volume in it."""

    max_bytes: int = 1 << 30
    max_files: int = 20_000
    max_slices: int = 4096  # each costs a run of the network, however small it is

    @property
    def max_unpacked(self) -> int:
        """Bytes of an archive once unpacked: as many float64 voxels as an upload has bytes."""
        return 8 * self.max_bytes

    def check(self, shape: Sequence[int]) -> None:
        """Raise TooLargeError for a shape with too many voxels or slices."""
        if prod(shape) > self.max_bytes or max(shape) > self.max_slices:
            named = " x ".join(map(str, shape))
            raise TooLargeError(
                f"holds {named} voxels, at most {self.max_bytes} and {self.max_slices} slices are taken"
            )


class Reader:
    """The process that reads, another one where a file has brought it down. To be closed."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        memory = 2 * self._bounds.max_unpacked + _OVERHEAD
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _prepare, (memory,))
        pool.submit(int)  # begins now, not with the first upload
        return pool

    def read(self, upload: Path, volume_index: int | None, series: str | None, *, dicom: bool) -> Volume:
        """The volume in the file `upload`, the only one of its folder, where an archive is unpacked.

        `dicom` refuses what is none. Raises InputError, which may name paths.
        """
        for _ in range(2):  # the process may have been ended by something else
            try:
                return self._pool.submit(_read, upload, volume_index, series, dicom, self._bounds).result()
            except BrokenProcessPool:
                self._pool = self._started()
        raise InputError(
            "the upload is damaged, or far larger than it says: its decoder crashed; export it again"
        )

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _prepare(memory: int) -> None:
    prepare_worker()
    import SimpleITK  # noqa: F401, PLC0415 -- before the limit, which counts what libraries map

    import dsnet_med.dicom.read  # noqa: F401, PLC0415

    with suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415 -- not on Windows

        most = psutil.Process().memory_info().vms + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _read(upload: Path, volume_index: int | None, series: str | None, dicom: bool, bounds: Bounds) -> Volume:
    try:
        source = _source(upload, bounds)
        if dicom and source.kind != "dicom":
            raise InputError(_NO_DICOM)
        if source.kind == "file":
            with suppress(SeveralVolumesError):  # of which one is taken, and checked below
                bounds.check(read_grid(source.where).shape)
        volume = load(source, volume_index, series)
        bounds.check(volume.shape)
        return volume
    except Exception as error:
        if is_disk_full(error):
            raise OSError(errno.ENOSPC, "no space left") from None  # causes do not reach another process
        raise portable(error) from None


def _source(upload: Path, bounds: Bounds) -> Source:
    """The one volume or DICOM series of an upload; nothing of it keeps a name that was sent."""
    folder, content = upload.with_name("unpacked"), content_of(upload)
    if zipped := content.kind == "zip" and content.packing is None:
        _require_bounded_archive(upload, bounds)
        unpack(upload, folder, name=numbered, most_bytes=bounds.max_unpacked, most_files=bounds.max_files)
    else:
        folder.mkdir()
        upload.rename(folder / upload.name)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    series = [file for file in files if is_dicom(file)]
    volumes = {file: suffix for file in files if file not in series and (suffix := _suffix(content_of(file)))}
    if len(volumes) == 1 and not series:
        [(file, suffix)] = volumes.items()
        named = file.rename(file.with_name(file.name + suffix))
        _require_own_voxels(named)
        return find_sources([named])[0]
    if volumes:
        also = f" and {len(series)} DICOM files" if series else ""
        raise InputError(f"the archive holds {len(volumes)} volume files{also}; send one volume at a time")
    if not series:
        known = known_as(content.start)
        what = (
            "the archive holds no volume"
            if zipped
            else f"the upload is {known[0] if known else 'of no known kind'}"
        )
        raise UnsupportedError(f"{what}; {_WANTED}")
    _require_bounded_series(series, bounds)
    for file in set(files) - set(series):
        file.unlink()
    [source] = find_sources([folder])
    return source


def _suffix(content: Content) -> str:
    """The ending that says what a volume file is, empty for another file. Raises UnsupportedError for pairs."""
    if is_pair_header(content.start):
        raise UnsupportedError(_PAIR)
    suffix = _SUFFIXES.get(content.kind, "")
    return (
        suffix + _PACKED[content.packing] if suffix and (content.kind == "nifti" or not content.packing) else ""
    )


def _require_bounded_archive(archive: Path, bounds: Bounds) -> None:
    with (
        suppress(zipfile.BadZipFile, NotImplementedError, ValueError, OSError),
        zipfile.ZipFile(archive) as opened,
    ):
        members = opened.infolist()
        if len(members) > bounds.max_files:
            raise TooLargeError(f"an archive of {len(members)} files, at most {bounds.max_files} are taken")
        if sum(member.file_size for member in members) > bounds.max_unpacked:
            raise TooLargeError(
                f"unpacks to more than {bounds.max_unpacked >> 20} MB; leave out what is no image"
            )


def _require_own_voxels(file: Path) -> None:
    """Raise InputError where ITK could take the voxels from any other file of the server."""
    if file.suffix in (".nrrd", ".mha"):
        with file.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as whole:
            first = whole.find(b"ElementDataFile")  # once in all of the file, however its lines are read
            once = first >= 0 and whole.find(b"ElementDataFile", first + 1) < 0
            if not (_NRRD.match(whole) if file.suffix == ".nrrd" else once and _META.match(whole, first)):
                raise InputError("the upload has its voxels in another file; send one file that holds them")


def _require_bounded_series(files: Sequence[Path], bounds: Bounds) -> None:
    from dsnet_med.dicom.boundary import header, reading  # noqa: PLC0415 -- pydicom takes long to load
    from dsnet_med.dicom.values import whole  # noqa: PLC0415

    pixels = 0
    for file in files:
        with reading(file):
            head = header(file)
            shape = [max(1, whole(head, name) or 1) for name in ("Columns", "Rows", "NumberOfFrames")]
        bounds.check(shape)
        pixels += prod(shape)
        if pixels > bounds.max_bytes:
            raise TooLargeError(f"holds more than the {bounds.max_bytes} pixels that are taken")
