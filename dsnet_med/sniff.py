"""What a file is, by its first bytes: a name says little, and a wrong cause sends its reader the wrong way."""

import bz2
import errno
import hashlib
import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import nibabel as nib
from isal import igzip, isal_zlib

from dsnet_med.errors import InputError, cannot_read, one_line
from dsnet_med.find import require_file

Kind = Literal["nifti", "nrrd", "metaimage", "dicom", "zip", "other"]
Packing = Literal["gzip", "bzip2"]
DECODING_ERRORS = (EOFError, OSError, zlib.error, cast(type[Exception], isal_zlib.error))
_CHUNK = 1 << 20
LONGEST_START = int(nib.Nifti2Header.sizeof_hdr)
GZIP_AT_MOST = 1100  # times smaller: DEFLATE cannot compress better
_MAGIC: dict[Packing, bytes] = {"gzip": b"\x1f\x8b", "bzip2": b"BZh"}
_OPENERS: dict[Packing, Callable[..., Any]] = {"gzip": igzip.open, "bzip2": bz2.open}
_SUFFIXES: dict[Packing, str] = {"gzip": ".gz", "bzip2": ".bz2"}
_METAIMAGE = re.compile(rb"\s*(ObjectType|ObjectSubType|Comment|NDims)\s*=")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")

_WANTING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)
_DICOM_START = 512  # bytes that tell a DICOM object
_DICOM_PREFIX = b"DICM"  # behind a preamble of 128 bytes, which may hold anything
_DICOMDIR = b"1.2.840.10008.1.3.10"  # the class of the index of a medium, beside the images on most of them
_SEGMENTATIONS: tuple[tuple[bytes, Literal["seg", "rtstruct"]], ...] = (  # classes of objects
    (b"1.2.840.10008.5.1.4.1.1.66.4", "seg"),
    (b"1.2.840.10008.5.1.4.1.1.66.7", "seg"),  # a label map
    (b"1.2.840.10008.5.1.4.1.1.481.3", "rtstruct"),
)
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_SHORT = set(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_FIRST_GROUPS = (0x0002, 0x0008)
_ENOUGH = 3  # elements that follow each other as they must; no other format begins so

_FETCH, _CONVERT = "fetch it again", "convert it first"
_POINTER = "pointer, whose content has not been fetched"
_XML = rb"(\xef\xbb\xbf)?\s*<"
_OTHERS: tuple[tuple[bytes, str, str], ...] = (  # what lies under the name of a volume: its start, what to do
    (rb"version https://git-lfs", f"a git-lfs {_POINTER}", "run 'git lfs pull'"),
    (rb"[ -~]*annex/objects/", f"a git-annex {_POINTER}", "run 'git annex get'"),
    (_XML + rb"(!doctype html|html|head|body)", "a web page, not the file it should be", _FETCH),
    (_XML + rb"[?!a-z]", "XML text", _FETCH),
    (rb"\s*[{\[]\s*[\"{}\]]", "JSON text", _FETCH),
    (rb"PK(\x03\x04|\x05\x06)", "a zip archive", "unpack it first"),
    (rb".{257}ustar", "a tar archive", "unpack it first"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (rb"Rar!\x1a\x07", "a rar archive", "unpack it first"),
    (rb"BZh", "compressed with bzip2", "unpack it first (bzip2 -d)"),
    (rb"\xfd7zXZ\x00", "compressed with xz", "unpack it first (xz -d)"),
    (rb"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first (zstd -d)"),
    (rb"\x04\x22\x4d\x18", "compressed with lz4", "unpack it first (lz4 -d)"),
    (rb"\x1f\x9d", "compressed with compress (.Z)", "unpack it first (uncompress)"),
    (
        rb".{128}DICM.{0,400}1\.2\.840\.10008\.1\.3\.10",
        "a DICOMDIR, the index of a DICOM medium",
        "give the folder of its images",
    ),
    (rb".{128}DICM", "DICOM", "give its folder, or take the ending from its name"),
    (rb"NRRD", "NRRD", "name it .nrrd"),
    (rb"\s*(ObjectType|ObjectSubType|NDims)\s*=", "MetaImage", "name it .mha"),
    (rb"\x00\x00\x00\x01\x00\x00", "MGHImage", _CONVERT),
    (rb"\x89HDF\r\n\x1a\n", "HDF5 (MINC 2, MATLAB 7.3 or the like)", _CONVERT),
    (rb"CDF[\x01\x02]", "netCDF (MINC 1)", _CONVERT),
    (rb"MATLAB 5", "a MATLAB file", _CONVERT),
    (rb"\x93NUMPY", "a NumPy array", _CONVERT),
    (rb"\x89PNG", "a PNG picture", _CONVERT),
    (rb"\xff\xd8\xff", "a JPEG picture", _CONVERT),
    (rb"II\*\x00|MM\x00\*", "a TIFF picture", _CONVERT),
    (rb"GIF8", "a GIF picture", _CONVERT),
    (rb"%PDF", "a PDF document", _CONVERT),
)


@dataclass(frozen=True)
class Content:
    """A file's content: its kind, how it is compressed, and its first bytes without that."""

    kind: Kind
    packing: Packing | None
    start: bytes


def content_of(path: Path) -> Content:
    """What the file is. Raises InputError where it is not there, or damaged before that can be told."""
    require_file(path)
    try:
        with path.open("rb") as plain:
            start = plain.read(LONGEST_START)
    except OSError as error:
        raise cannot_read(path, error, str(error)) from error
    packing = next((name for name, magic in _MAGIC.items() if start.startswith(magic)), None)
    if packing:
        try:
            with opened(path, packing) as stream:
                start = stream.read(LONGEST_START)
        except DECODING_ERRORS as error:
            reason = f"damaged {packing} compression: {one_line(error, 160)}"
            raise cannot_read(path, error, f"not a readable NIfTI file ({reason}); export it again") from error
    return Content(kind_of(start), packing, start)


def kind_of(start: bytes) -> Kind:
    """What these first bytes, of LONGEST_START at most, begin."""
    if starts_dicom(start):  # before the others: the 128 bytes in front may hold anything
        return "dicom"
    if is_nifti(start):
        return "nifti"
    if start.startswith(b"NRRD"):
        return "nrrd"
    if start.startswith(_ZIP):
        return "zip"
    return "metaimage" if _METAIMAGE.match(start) else "other"


def is_nifti(start: bytes) -> bool:
    """Whether these first bytes are those of a NIfTI-1 or NIfTI-2 header."""
    return any(kind.may_contain_header(start) for kind in (nib.Nifti1Header, nib.Nifti2Header))


def is_pair_header(start: bytes) -> bool:
    """Whether these first bytes are those of the .hdr of a pair, whose voxels are in another file."""
    kinds = [kind for kind in (nib.Nifti1Header, nib.Nifti2Header) if kind.may_contain_header(start)]
    return any(kind(start[: kind.sizeof_hdr], check=False)["magic"] == kind.pair_magic for kind in kinds)


def opened(path: Path, packing: Packing | None) -> IO[bytes]:
    """The file's bytes, decompressed."""
    return cast(IO[bytes], _OPENERS[packing](path, "rb") if packing else path.open("rb"))


class Once(io.RawIOBase):
    """The bytes of a file in their order, each read a single time, and their hash: of what was read, no more.

    `unpacked` is the stream of what they hold. To be closed.
    """

    def __init__(self, path: Path, packing: Packing | None, *, hashed: bool) -> None:
        self._file = path.open("rb", buffering=0)
        self._hash = hashlib.sha256() if hashed else None
        self.unpacked = cast(IO[bytes], _OPENERS[packing](self, "rb") if packing else self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        if self._hash is not None:
            self._hash.update(memoryview(buffer)[:count])
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    def digest(self) -> str | None:
        """The SHA-256 of the whole file, read to its end, where it is wanted."""
        if self._hash is None:
            return None
        while self.read(_CHUNK):
            pass
        return self._hash.hexdigest()


def filled(stream: Any, into: memoryview) -> int:
    """How many bytes of `into` the stream had for it: all, or those up to its end."""
    done = 0
    while done < len(into) and (count := stream.readinto(into[done : done + _CHUNK])):
        done += count
    return done


def skipped(stream: Any, most: int | None = None) -> int:
    """How many bytes were passed over: `most`, or those up to the stream's end."""
    spare, done = memoryview(bytearray(_CHUNK)), 0
    while count := stream.readinto(spare if most is None else spare[: min(_CHUNK, most - done)]):
        done += count
    return done


def known_as(start: bytes) -> tuple[str, str] | None:
    """What these first bytes are known to be, if no volume that is read, and what to do with it."""
    flags = re.DOTALL | re.IGNORECASE
    return next(((what, hint) for begins, what, hint in _OTHERS if re.match(begins, start, flags)), None)


def refusal(path: Path, content: Content, wanted: str) -> InputError | None:
    """The error for content that is known to be something else than `wanted`, with what it is; else None."""
    if not content.start:
        return InputError(f"{path}: not a readable {wanted} file (it is empty); {_FETCH}")
    known = known_as(content.start)
    return InputError(f"{path}: is {known[0]}, wanted {wanted}; {known[1]}") if known else None


def looks(start: bytes) -> str:
    """What can be said of first bytes that are of no known kind."""
    if not any(start):
        return f"its first {len(start)} bytes are zeros, as after a copy that was not finished"
    text = start[:40].decode("latin-1")
    if re.fullmatch(r"[ -~\s]+", text):
        return f"it is text that begins '{' '.join(text.split())}'"
    return f"its {len(start)} bytes are fewer than a header's" if len(start) < 348 else "no NIfTI header in it"


def misnamed(path: Path, packing: Packing | None) -> str | None:
    """A note on a name that says something else about compression than the content does."""
    said = next((name for name, suffix in _SUFFIXES.items() if path.name.lower().endswith(suffix)), None)
    real, named = (f"{each}-compressed" if each else "not compressed" for each in (packing, said))
    if said == packing:
        return None
    return f"{path.name} is {real} although its name says that it is {named}; read as what it is"


# ---------------------------------------------------------------- DICOM, with the preamble of files or without


def is_dicom(path: Path) -> bool:
    """Whether the content is a DICOM object's, whatever the name; a DICOMDIR is none.

    What is no file, or may not be read, is none. Raises InputError where means are wanting to tell.
    """
    start = _start_of(path)
    return starts_dicom(start) and _DICOMDIR not in start


def dicom_segmentation(path: Path) -> Literal["seg", "rtstruct"] | None:
    """Which kind of DICOM segmentation a file is, a segmentation or a structure set; None for others."""
    start = _start_of(path)
    kind = next((kind for uid, kind in _SEGMENTATIONS if uid in start), None)
    return kind if kind and starts_dicom(start) else None


def _start_of(path: Path) -> bytes:
    try:
        if not path.is_file():  # a pipe might never end
            return b""
        with path.open("rb") as stream:
            return stream.read(_DICOM_START)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in _WANTING:
            raise cannot_read(path, error, str(error)) from error
        return b""


def starts_dicom(start: bytes) -> bool:
    """Whether these first bytes are those of a DICOM object, the index of a medium (DICOMDIR) among them."""
    start = start[:_DICOM_START]
    as_written = max(_elements(start, "little"), _elements(start, "big"))
    return start[128:132] == _DICOM_PREFIX or as_written >= _ENOUGH


def _elements(start: bytes, order: Literal["little", "big"]) -> int:
    """How many elements of ascending tags the bytes begin with, each in explicit or implicit representation."""

    def number(begin: int, end: int) -> int:
        return int.from_bytes(start[at + begin : at + end], order)

    found, at, last = 0, 0, (0, -1)
    while at + 12 <= len(start) and found < _ENOUGH:
        tag, kind = (number(0, 2), number(2, 4)), start[at + 4 : at + 6]
        head, length = (12, number(8, 12)) if kind in _LONG else (8, number(6 if kind in _SHORT else 4, 8))
        if tag <= last or (not found and tag[0] not in _FIRST_GROUPS) or length % 2 or length > _DICOM_START:
            break
        found, at, last = found + 1, at + head + length, tag
    return found
