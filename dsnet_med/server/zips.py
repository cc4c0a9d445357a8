"""Zip archives looked at before they are opened: what unpacks to too much is refused by what it claims.

Python reads no more of a member than the archive claims, so that the claims can be relied on; the directory
itself is held in memory, about a kilobyte for each file.
"""

import struct
import zipfile
from pathlib import Path

from dsnet_med.errors import InputError, one_line
from dsnet_med.server.limits import Limits
from dsnet_med.server.refusal import Refused

_END, _END_BYTES = b"PK\x05\x06", 22
_LOCATOR, _LOCATOR_BYTES = b"PK\x06\x07", 20
_END64, _END64_BYTES = b"PK\x06\x06", 56
_LONGEST_COMMENT = 1 << 16
_DIRECTORY_BYTES = 1 << 9  # for one file; names are rarely longer than 200


def require_bounded_zip(path: Path, limits: Limits) -> None:
    """Raise Refused for an archive of too many files or bytes, InputError for one that cannot be read."""
    if _directory_bytes(path) > limits.most_files * _DIRECTORY_BYTES:
        raise Refused(413, f"an archive of more than {limits.most_files} files; leave out what is no image")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable zip archive ({one_line(error)}); pack it again") from error
    if len(members) > limits.most_files:
        raise Refused(413, f"an archive of {len(members)} files, at most {limits.most_files} are taken")
    if sum(member.file_size for member in members) > limits.most_unpacked:
        raise Refused(413, f"unpacks to more than {limits.most_unpacked >> 20} MB; leave out what is no image")


def _directory_bytes(path: Path) -> int:
    """How long the archive's directory is, by the records that any Python's zipfile goes by; 0 without."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _LONGEST_COMMENT - _END_BYTES - _LOCATOR_BYTES - _END64_BYTES))
        tail = stream.read()
        end = len(tail) - _END_BYTES
        if not (end >= 0 and tail.startswith(_END, end) and tail.endswith(b"\0\0")):
            end = tail.rfind(_END)
        if end < 0 or len(tail) < end + _END_BYTES:
            return 0
        before = end - _LOCATOR_BYTES
        if before < _END64_BYTES or not tail.startswith(_LOCATOR, before):
            return int(struct.unpack_from("<L", tail, end + 12)[0])
        # Right before its locator, or, for newer zipfiles, where the locator says: the larger one counts.
        records = [tail[before - _END64_BYTES : before]]
        stream.seek(min(size, struct.unpack_from("<Q", tail, before + 8)[0]))
        records += [record for record in [stream.read(_END64_BYTES)] if record.startswith(_END64)]
    return max(
        int(struct.unpack_from("<Q", record, 40)[0]) for record in records if len(record) == _END64_BYTES
    )
