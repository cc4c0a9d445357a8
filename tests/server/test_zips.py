"""Archives of too many files are refused by what they claim, wherever their records lie."""

import struct
import zipfile
from dataclasses import replace

import pytest

from dsnet_med.server.limits import Limits
from dsnet_med.server.refusal import Refused
from dsnet_med.server.zips import require_bounded_zip

FILES = 400


@pytest.mark.parametrize("between", [0, 1, 56, 1000])
@pytest.mark.parametrize("version_64", [False, True])
def test_too_many_files_are_refused_before_they_are_listed(tmp_path, monkeypatch, between, version_64):
    """`between`: bytes of extensible data after the zip64 record, which zipfile takes since Python 3.13.5."""
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(FILES):
            archive.writestr(f"{number:060d}", b"")
    whole = path.read_bytes()
    if version_64:
        body, end = whole[:-22], whole[-22:]
        length, offset = struct.unpack_from("<LL", end, 12)
        numbers = (44 + between, 45, 45, 0, 0, FILES, FILES, length, offset)
        record = b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", *numbers) + bytes(between)
        locator = b"PK\x06\x07" + struct.pack("<LQL", 0, len(body), 1)
        end = end[:8] + b"\xff" * 12 + end[20:]
        path.write_bytes(body + record + locator + end)
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *_: pytest.fail("its members were listed"))
    with pytest.raises(Refused, match="more than 10 files"):
        require_bounded_zip(path, replace(Limits(), most_files=10))
