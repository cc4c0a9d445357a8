"""Archives from strangers stay inside their folder and within their limits."""

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from dsnet_med.archives import is_zip, numbered, only_folder, unpack
from dsnet_med.errors import InputError


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_was_packed_is_unpacked(tmp_path: Path) -> None:
    members = {"run/a.txt": b"a", "run/deep/b.txt": b"b" * 100_000}
    archive = _zip(tmp_path / "a.zip", members)
    assert is_zip(archive)
    unpack(archive, tmp_path / "own")
    assert _files(tmp_path / "own") == members
    assert only_folder(tmp_path / "own") == tmp_path / "own" / "run"
    unpack(archive, tmp_path / "numbers", name=numbered)
    assert _files(tmp_path / "numbers") == {"0": b"a", "1": b"b" * 100_000}
    assert only_folder(tmp_path / "numbers") == tmp_path / "numbers"


@pytest.mark.parametrize(
    "name", ["../a", "x/../../a", "/etc/a", "C:\\a", "..\\a", "x/..", "\\\\server\\a", "a:stream"]
)
@pytest.mark.parametrize("named", [None, numbered])
def test_no_member_leaves_the_folder(name: str, named: object, tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"good": b"", name: b"bad"})
    (tmp_path / "into").mkdir()
    with pytest.raises(InputError, match="outside of it"):
        unpack(archive, tmp_path / "into", **({"name": named} if named else {}))  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "into"]


def test_links_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="holds a link"):
        unpack(tmp_path / "a.zip", tmp_path / "into")


def test_more_than_is_taken(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"zeros": bytes(10_000_000)})
    assert archive.stat().st_size < 100_000
    with pytest.raises(InputError, match="more bytes unpacked"):
        unpack(archive, tmp_path / "into", most_bytes=5_000_000)
    assert sum(path.stat().st_size for path in (tmp_path / "into").iterdir()) <= 5_000_000
    with pytest.raises(InputError, match="holds 3 files, at most 2"):
        unpack(_zip(tmp_path / "b.zip", dict.fromkeys("abc", b"")), tmp_path / "b", most_files=2)


def test_a_size_that_the_archive_denies(tmp_path: Path) -> None:
    content = bytearray(_zip(tmp_path / "a.zip", {"zeros": bytes(10_000_000)}).read_bytes())
    directory = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, directory + 24, 10)  # says that it holds ten bytes
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(InputError):
        unpack(tmp_path / "b.zip", tmp_path / "into", most_bytes=5_000_000)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_damage_is_one_line(cut: float, tmp_path: Path) -> None:
    content = _zip(tmp_path / "a.zip", {name: name.encode() * 999 for name in "abcd"}).read_bytes()
    (tmp_path / "b.zip").write_bytes(content[: int(cut * len(content))])
    with pytest.raises(InputError, match="not a readable zip"):
        unpack(tmp_path / "b.zip", tmp_path / "into")


def test_two_members_of_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    with pytest.raises(InputError, match="two files of one name, a"):
        unpack(tmp_path / "a.zip", tmp_path / "into")


def test_encrypted(tmp_path: Path) -> None:
    content = bytearray(_zip(tmp_path / "a.zip", {"a": b"secret"}).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    (tmp_path / "b.zip").write_bytes(bytes(content))
    assert zipfile.is_zipfile(io.BytesIO(bytes(content)))
    with pytest.raises(InputError, match="is encrypted"):
        unpack(tmp_path / "b.zip", tmp_path / "into")


def test_a_refusal_is_told_as_it_is(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"../a": b""})
    with pytest.raises(InputError) as caught:
        unpack(archive, tmp_path / "into")
    assert str(caught.value) == f"{archive}: holds ../a, which would lie outside of it"
    hostile = _zip(tmp_path / "b.zip", {"/\x1b]0;renamed\x07": b""})
    with pytest.raises(InputError, match=r"holds /\\x1b\]0;renamed\\x07, which") as caught:
        unpack(hostile, tmp_path / "into")
    assert str(caught.value).isprintable()


def test_methods_that_take_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", b"1")
    with pytest.raises(InputError, match="unusual method"):
        unpack(tmp_path / "a.zip", tmp_path / "into")
