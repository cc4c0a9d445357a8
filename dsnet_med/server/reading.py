"""An upload as a volume, read in a process of its own.

Decoders of DICOM, JPEG and ITK are native code, which a damaged file can bring down, and some bytes unpack to a
thousand times as many: here they end or fill that process, whose memory is limited (on Linux), not the server.
"""

import errno
import multiprocessing
import re
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path

import psutil
from starlette.exceptions import HTTPException

from dsnet_med.archives import numbered, unpack
from dsnet_med.errors import InputError, SeveralVolumesError, portable
from dsnet_med.inference.channels import load_channels, on_one_grid
from dsnet_med.inference.sources import Source, find_sources, load
from dsnet_med.processes import prepare_worker
from dsnet_med.sniff import Content, content_of, is_dicom, is_pair_header, known_as
from dsnet_med.volumes import Volume, read_grid

MAX_FILES = 20_000
_MAX_SLICES = 4096  # each costs a run of the network, however small it is
_OVERHEAD = 512 << 20  # bytes of memory, of reading anything at all
_WANTED = "wanted NIfTI, NRRD, MetaImage or DICOM, or a zip of a DICOM series or of one of the others"
_NO_DICOM = "the upload is no DICOM series, and a DICOM segmentation has to point at one; take format nifti"
_PAIR = "the upload is of a pair of files, .hdr and .img; make one .nii or .nii.gz file of them and send that"
_SUFFIXES = {"nifti": ".nii", "nrrd": ".nrrd", "metaimage": ".mha"}
_PACKED = {None: "", "gzip": ".gz", "bzip2": ".bz2"}
_NRRD = re.compile(rb"(?!.{,65536}?data\s*file\s*:).{,65536}?\n\r?\n", re.DOTALL | re.IGNORECASE)
_META = re.compile(rb"ElementDataFile[ \t]*=[ \t]*(LOCAL|Local|local)[ \t]*\r?\n")


class Reader:
    """The process that reads, another one where a file has brought it down. To be closed.

    A volume may have `max_bytes` voxels, an archive eight times as many bytes: those of float64.
    """

    def __init__(self, max_bytes: int, max_files: int = MAX_FILES) -> None:
        self._bounds = (max_bytes, max_files)
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        memory = 16 * self._bounds[0] + _OVERHEAD
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _prepare, (memory,))
        pool.submit(int)  # begins now, not with the first upload
        return pool

    def read(
        self,
        uploads: Sequence[Path],
        names: Sequence[str],
        volume_index: int | None,
        series: str | None,
        *,
        dicom: bool,
        resample: bool = False,
    ) -> tuple[Volume, ...]:
        """The channels called `names` in the file of `uploads`, or in one file each, alone in their folders.

        `resample` brings them onto the grid of the first, `dicom` refuses what is no DICOM series. Raises
        InputError, which may name paths, and HTTPException.
        """
        for _ in range(2):  # the process may have been ended by something else
            try:
                given = uploads, names, volume_index, series
                bounds = self._bounds
                work = self._pool.submit(_read, *given, dicom=dicom, resample=resample, bounds=bounds)
                return work.result()
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

    with suppress(InputError):  # the extra `dicom` is not installed, which reading a series will say
        import dsnet_med.dicom.read  # noqa: F401, PLC0415

    with suppress(ImportError, ValueError, OSError):
        import resource

        most = psutil.Process().memory_info().vms + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _read(
    uploads: Sequence[Path],
    names: Sequence[str],
    volume_index: int | None,
    series: str | None,
    *,
    dicom: bool,
    resample: bool,
    bounds: tuple[int, int],
) -> tuple[Volume, ...]:
    max_bytes, _ = bounds
    try:
        if len(uploads) == 1:
            source = _checked_source(uploads[0], dicom, bounds)
            channels = load_channels(source, names, volume_index, series, resample=resample)
        else:
            if volume_index is not None or series is not None:
                raise InputError("got --volume-index or --series beside a file for each channel; leave it out")
            each = [_channel(name, upload, dicom, bounds) for name, upload in zip(names, uploads, strict=True)]
            channels = on_one_grid(each, names, resample=resample)
        for volume in channels:
            _check_shape(volume.shape, max_bytes // len(channels))
        return channels
    except Exception as error:
        if is_disk_full(error):
            raise OSError(errno.ENOSPC, "no space left") from None  # causes do not reach another process
        raise portable(error) from None


def _channel(name: str, upload: Path, dicom: bool, bounds: tuple[int, int]) -> Volume:
    """The volume of one channel, which an InputError names."""
    try:
        return load(_checked_source(upload, dicom, bounds))
    except InputError as error:
        raise InputError(f"channel {name}: {error}") from error


def _checked_source(upload: Path, dicom: bool, bounds: tuple[int, int]) -> Source:
    """The source of an upload, whose headers name no more voxels than are taken."""
    max_bytes, _ = bounds
    source = _source(upload, *bounds)
    if source.kind == "file":
        if dicom:
            raise InputError(_NO_DICOM)
        with suppress(SeveralVolumesError):  # of which one is taken, and checked below
            _check_shape(read_grid(source.where).shape, max_bytes)
    else:
        _check_series(source.files, max_bytes)
    return source


def is_disk_full(error: BaseException | None) -> bool:
    """Whether this error, or one that it was raised from, says that the disk is full."""
    while error is not None and getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
        error = error.__cause__
    return error is not None


def _source(upload: Path, max_bytes: int, max_files: int) -> Source:
    """The one volume or DICOM series of an upload; nothing of it keeps a name that was sent."""
    folder, content = Path(tempfile.mkdtemp(dir=upload.parent)), content_of(upload)
    if zipped := content.kind == "zip" and content.packing is None:
        _check_archive(upload, 8 * max_bytes, max_files)
        unpack(upload, folder, name=numbered, most_bytes=8 * max_bytes, most_files=max_files)
    else:
        (folder / upload.name).hardlink_to(upload)  # which stays, for another try
    files = sorted(folder.iterdir())
    series = [file for file in files if is_dicom(file)]
    volumes = {file: suffix for file in set(files) - set(series) if (suffix := _suffix(content_of(file)))}
    if series and not volumes:
        for file in set(files) - set(series):
            file.unlink()
        return find_sources([folder])[0]
    if len(volumes) == 1 and not series:
        [(file, suffix)] = volumes.items()
        named = file.rename(file.with_name(file.name + suffix))
        _require_own_voxels(named)
        return find_sources([named])[0]
    if volumes:
        also = f" and {len(series)} DICOM files" if series else ""
        raise InputError(f"the archive holds {len(volumes)} volume files{also}; send one volume at a time")
    known = known_as(content.start) or ["of no known kind"]
    raise HTTPException(
        415, f"{'the archive holds no volume' if zipped else f'the upload is {known[0]}'}; {_WANTED}"
    )


def _suffix(content: Content) -> str:
    """The ending that says what a volume file is, empty for another file. Raises HTTPException for pairs."""
    if is_pair_header(content.start):
        raise HTTPException(415, _PAIR)
    suffix = _SUFFIXES.get(content.kind, "")
    return (
        suffix + _PACKED[content.packing] if suffix and (content.kind == "nifti" or not content.packing) else ""
    )


def _require_own_voxels(file: Path) -> None:
    """Raise InputError where ITK could take the voxels from any other file of the server."""
    if file.suffix in (".nrrd", ".mha"):
        with file.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as whole:
            first = whole.find(b"ElementDataFile")  # once in all of the file, however its lines are read
            once = first >= 0 and whole.find(b"ElementDataFile", first + 1) < 0
            if not (_NRRD.match(whole) if file.suffix == ".nrrd" else once and _META.match(whole, first)):
                raise InputError("the upload has its voxels in another file; send one file that holds them")


def _check_archive(archive: Path, most_bytes: int, max_files: int) -> None:
    with (
        suppress(zipfile.BadZipFile, NotImplementedError, ValueError, OSError),
        zipfile.ZipFile(archive) as opened,
    ):
        members = opened.infolist()
        if len(members) > max_files:
            raise HTTPException(413, f"an archive of {len(members)} files, at most {max_files} are taken")
        if sum(member.file_size for member in members) > most_bytes:
            raise HTTPException(413, f"unpacks to more than {most_bytes >> 20} MB; leave out what is no image")


def _check_series(files: Sequence[Path], max_pixels: int) -> None:
    from dsnet_med.dicom.header import header, reading, whole  # noqa: PLC0415 -- pydicom takes long to load

    for file in files:
        with reading(file):
            head = header(file)
            shape = [max(1, whole(head, name) or 1) for name in ("Columns", "Rows", "NumberOfFrames")]
        _check_shape(shape, max_pixels)
        max_pixels -= prod(shape)


def _check_shape(shape: Sequence[int], max_voxels: int) -> None:
    if prod(shape) > max_voxels or max(shape) > _MAX_SLICES:
        most = f"at most {max_voxels} and {_MAX_SLICES} slices are taken"
        raise HTTPException(
            413, f"its header names {prod(shape)} voxels ({' x '.join(map(str, shape))}), {most}"
        )
