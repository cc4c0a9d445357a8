"""Every wrong request has its status code and one line that says what to do."""

import errno
import io
import logging
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import httpx
import nibabel as nib
import numpy as np
import pytest
from served import RAW, Served, error_of, gzipped, image, mask_of, nifti, serving, zipped

from dsnet_med.inference import Predictor
from dsnet_med.server.service import remove_leftovers


def test_addresses_that_are_not_there(server: Served) -> None:
    for path in ("/nothing", "/segment/", "/static/../../x", "/static/..%2fapp.py", "/redoc"):
        assert "/health or /docs, or POST /segment" in error_of(server.client.get(path), 404)
    error_of(server.client.get("/segment"), 405)
    error_of(server.client.post("/health", content=b"x" * 300_000), 405)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("format=png", "format"),
        ("volume_index=one", "volume_index"),
        ("volume_index=-1", "volume_index"),
        ("series=" + "1" * 65, "series"),
        ("formt=nifti", "formt"),
    ],
)
def test_bad_parameters(server: Served, query: str, word: str) -> None:
    answer = server.client.post(f"/segment?{query}", content=nifti() + bytes(900_000), headers=RAW)
    assert f"parameter {word}" in error_of(answer, 422)


@pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n" + bytes(999), b"%PDF-1.7", bytes(400), b"PK"])
def test_content_of_no_known_kind(server: Served, content: bytes) -> None:
    assert "wanted NIfTI" in error_of(server.raw(content), 415)
    assert "wanted NIfTI" in error_of(server.form(content), 415)
    assert "wanted NIfTI" in error_of(server.raw(zipped({"a.nii.gz": content})), 415)


def test_a_gzip_file_of_something_else(server: Served) -> None:
    assert "no known kind" in error_of(server.raw(gzipped(bytes(5000))), 415)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "the upload is a git-lfs pointer"),
        (b"<!DOCTYPE html><html>Sign in", "the upload is a web page"),
        (b"\xfd7zXZ\x00" + bytes(600), "the upload is compressed with xz"),
    ],
)
def test_content_that_is_known_is_named(server: Served, content: bytes, words: str) -> None:
    assert words in error_of(server.raw(content), 415)


def test_pairs_are_to_be_one_file(server: Served) -> None:
    header = nib.Nifti1Pair(image().get_fdata(dtype=np.float32), np.eye(4)).header
    hdr, img = header.binaryblock + bytes(4), bytes(5000)
    for upload in (hdr, gzipped(hdr), zipped({"p.hdr.gz": gzipped(hdr), "p.img.gz": gzipped(img)})):
        assert "a pair of files, .hdr and .img; make one .nii" in error_of(server.raw(upload), 415)
    assert "a pair of files" in error_of(server.raw(zipped({"p.hdr": hdr, "p.img": img})), 415)
    error_of(server.raw(gzipped(img)), 415)


def test_forms_that_hold_no_one_file(server: Served) -> None:
    assert "one part called 'file'" in error_of(server.form(nifti(), name="image"), 422)
    twice = [("file", ("a", nifti())), ("file", ("b", nifti()))]
    assert "Maximum number of files is 1" in error_of(server.client.post("/segment", files=twice), 400)
    kind = {"content-type": "multipart/form-data; boundary=xyz"}
    post = server.client.post
    error_of(post("/segment", content=b"--xyz\r\n", headers=kind), 422)
    error_of(post("/segment", content=b"no multipart", headers=kind), 400)
    error_of(post("/segment", content=nifti(), headers={"content-type": "multipart/form-data"}), 400)
    error_of(post("/segment", content=b"x", headers={"content-type": kind["content-type"] + "y" * 300}), 400)
    start = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    error_of(post("/segment", content=start + nifti(), headers=kind), 422)
    many = b"--xyz\r\n" + b"a: b\r\n" * 1000
    error_of(post("/segment", content=many, headers=kind), 400)
    error_of(post("/segment", data={"file": "text"}), 400)


def test_an_empty_upload(server: Served) -> None:
    assert "empty" in error_of(server.raw(b""), 400)
    assert "empty" in error_of(server.form(b""), 400)


def damaged() -> dict[str, bytes]:
    whole, packed = bytearray(nifti(suffix=".nii")), nifti()
    spacing = bytearray(whole)
    spacing[80:84] = b"\0\0\0\0"
    spacing[254:256] = b"\0\0"
    return {
        "cut gzip": packed[:-200],
        "cut nifti": bytes(whole[:-100]),
        "flipped": packed[:300] + bytes([packed[300] ^ 255]) + packed[301:],
        "4-D": nifti(shape=(8, 8, 3, 2)),
        "spacing": bytes(spacing),
        "cut nrrd": b"NRRD0004\ntype: short\ndimension: 3\nsizes: 9 9 9\nencoding: raw\nendian: little\n\nabc",
        "endless nrrd": b"NRRD0004\n" + b"# x\n" * 50_000,
        "mha": b"NDims = 3\nDimSize = 9 9 9\nElementType = MET_SHORT\nElementDataFile = LOCAL\nx",
        "dicom": bytes(128) + b"DICM" + bytes(300),
        "zip": zipped({"a.nii.gz": nifti()})[:-40],
    }


@pytest.mark.parametrize("what", damaged())
def test_volumes_that_cannot_be_read(server: Served, what: str) -> None:
    line = error_of(server.raw(damaged()[what]), 400)
    assert line.startswith("the upload"), line


def test_a_format_that_cannot_be_had_costs_no_run_of_the_network(
    server: Served, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "segment", None)
    assert "no DICOM series" in error_of(server.raw(nifti(), format="dicom-seg"), 400)


def test_options_are_called_what_they_are_called_here(server: Served) -> None:
    assert "take one with volume_index 0 to 1" in error_of(server.raw(nifti(shape=(8, 8, 3, 2))), 400)
    assert "format nifti" in error_of(server.raw(nifti(), format="dicom-seg"), 400)
    error_of(server.raw(nifti(), series="3"), 400)
    error_of(server.raw(nifti(shape=(8, 8, 3, 2)), volume_index=2), 400)


def test_archives_of_several_volumes(server: Served) -> None:
    assert "2 volume files" in error_of(server.raw(zipped({"a": nifti(), "b": nifti(2)})), 400)
    error_of(server.raw(zipped({})), 415)
    error_of(server.raw(zipped({"a.zip": zipped({"a": nifti()})})), 415)


def test_an_archive_with_a_password(server: Served) -> None:
    content = bytearray(zipped({"a": nifti()}))
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    error_of(server.raw(bytes(content)), 400)


def test_too_large_by_what_it_says(server: Served) -> None:
    for send in (server.raw, server.form):
        assert "1 MB" in error_of(send(bytes(3 << 20)), 413)


def test_too_large_without_saying_so(server: Served) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(1 << 16)

    assert "1 MB" in error_of(server.raw(endless()), 413)
    body = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    parts = (part for part in (body, *endless()))
    kind = {"content-type": "multipart/form-data; boundary=xyz"}
    assert "1 MB" in error_of(server.client.post("/segment", content=parts, headers=kind), 413)


def test_the_largest_upload_is_taken(server: Served) -> None:
    content = nifti(suffix=".nii", shape=(32, 32, 32))
    assert server.raw(content + bytes((1 << 20) - len(content))).status_code == 200
    assert server.form(content + bytes((1 << 20) - len(content))).status_code == 200
    error_of(server.form(content + bytes((1 << 20) + 1 - len(content))), 413)


def test_a_refused_client_may_send_to_its_end(server: Served) -> None:
    """Most send all before they listen: closed early, they would see a reset and never the reason."""
    with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), timeout=600) as line:
        head = "POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 41943040\r\n"
        line.sendall(f"{head}Content-Type: application/zip\r\n\r\n".encode())
        for _ in range(40):
            line.sendall(bytes(1 << 20))
        assert line.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_asks_first_is_told_at_once(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), timeout=600) as line:
        head = "POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\nExpect: 100-continue\r\n"
        line.sendall(f"{head}Content-Type: application/zip\r\n\r\n".encode())
        answer = line.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer


def test_what_is_unexpected_is_logged_and_the_server_goes_on(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(predictor) as server:
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(predictor, "segment", lambda _volume: {}["secret"])
            assert "secret" not in error_of(server.raw(nifti()), 500)
            for _ in range(100):  # it is logged once it is answered
                if "KeyError: 'secret'" in caplog.text:
                    break
                sleep(0.02)
        assert "KeyError: 'secret'" in caplog.text
        with monkeypatch.context() as patch:
            patch.setattr(predictor, "segment", _no_memory)
            error_of(server.raw(nifti()), 413)
        mask_of(server.raw(nifti()))
        server.require_empty()


def _no_memory(_volume: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("send", ["raw", "form"])
def test_a_full_disk_is_not_the_client_s_mistake(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, send: str
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with serving(predictor) as server:
        monkeypatch.setattr("tempfile.SpooledTemporaryFile.write", full)
        answer = getattr(server, send)(nifti())
        assert "no space" in error_of(answer, 503)
        assert answer.headers["retry-after"]
        monkeypatch.undo()
        mask_of(server.raw(nifti()))


def test_a_client_that_stops_sending(predictor: Predictor) -> None:
    def stops() -> Iterator[bytes]:
        yield nifti()[:100]
        sleep(1.0)
        yield nifti()[100:]

    with serving(predictor, idle_s=0.2) as server:
        assert "0.2 s" in error_of(server.raw(stops()), 408)
        server.require_empty()


def test_kinds_do_not_go_by_names(server: Served) -> None:
    answer = server.client.post("/segment", files={"file": ("scan.zip", nifti(), "image/png")})
    mask_of(answer)


def test_memory_named_in_nifti_headers(server: Served) -> None:
    for shape in ((30000, 30000, 30000), (5000, 1, 1), (1, 1, 1, 1, 1, 1, 32000)):
        content = bytearray(nifti(suffix=".nii"))
        content[40:56] = np.array([len(shape), *shape, 1, 1, 1, 1, 1], np.int16)[:8].tobytes()
        status = 413 if len(shape) == 3 else 400  # of several volumes one has to be chosen
        error_of(server.raw(bytes(content)), status)
    content = bytearray(nifti(suffix=".nii"))
    content[42:48] = np.array([2000, 2000, 2], np.int16).tobytes()
    assert "8000000 voxels" in error_of(server.raw(bytes(content)), 413)


def test_archives_of_too_many_files(server: Served) -> None:
    assert "files" in error_of(server.raw(zipped({str(k): b"" for k in range(60)})), 413)


def test_an_archive_with_a_method_of_its_own(server: Served, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", nifti())
    assert "deflate" in error_of(server.raw(buffer.getvalue()), 400)


def test_a_token_and_a_host(predictor: Predictor) -> None:
    with serving(predictor, token="a-word", hosts=("127.0.0.1", "localhost")) as server:
        answer = server.raw(nifti())
        assert "Bearer" in error_of(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
        post, form = server.client.post, {"file": nifti()}
        for wrong in ("Bearer another", "Bearer", "Basic a-word", "Bearer a-wörd".encode()):
            error_of(post("/segment", files=form, headers={"authorization": wrong}), 401)
        mask_of(post("/segment", files=form, headers={"authorization": "Bearer a-word"}))
        for host in ("evil.example", "[::1", "127.0.0.1.evil.example", ""):
            error_of(server.client.get("/health", headers={"host": host}), 400)
        assert server.client.get("/health", headers={"host": "localhost:9"}).json()["token"] is True


@pytest.mark.parametrize("hosts", [(), ("127.0.0.1", "localhost")])
def test_another_site_s_page_may_not_send(predictor: Predictor, hosts: tuple[str, ...]) -> None:
    """A browser lets it post a form to any address, and says whose page it is."""
    form = {"file": nifti()}
    with serving(predictor, hosts=hosts) as server:
        here = server.url.rstrip("/")
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"{here}.evil.example", "file://"):
            for site in ({}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}):
                said = server.client.post("/segment", files=form, headers={"origin": origin, **site})
                assert "Origin" in error_of(said, 403)
        error_of(server.client.get("/health", headers={"origin": "http://evil.example"}), 403)
        mask_of(server.client.post("/segment", files=form, headers={"origin": here}))
        by_proxy = {"origin": "https://segment.example.org", "sec-fetch-site": "same-origin"}
        mask_of(server.client.post("/segment", files=form, headers=by_proxy))


def test_a_planted_link_is_no_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, left = tmp_path / "mine", tmp_path / "dsnet-med-serve-left"
    for folder in (mine, left):
        folder.mkdir()
        (folder / "a").touch()
    (tmp_path / "dsnet-med-serve-link").symlink_to(mine)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    remove_leftovers()
    assert not left.exists()
    assert [path.name for path in mine.iterdir()] == ["a"]
