"""Many clients at once, slow ones, and ones that go away."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic, sleep

import httpx
import pytest
from served import RAW, Served, error_of, held, mask_of, nifti, serving

from dsnet_med.inference import Predictor


@pytest.fixture
def small(predictor: Predictor) -> Iterator[Served]:
    """A server with two places, whose slow uploads give way after a fifth of a second."""
    with serving(predictor, max_bytes=4 << 20, queue=2, idle_s=20) as server:
        yield server
        server.require_empty()


def until(condition, seconds: float = 10) -> None:
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, condition
        sleep(0.01)


def in_background(server: Served, content: bytes, answers: list[httpx.Response]) -> threading.Thread:
    def post() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            answers.append(client.post("/segment", content=content, headers=RAW))

    thread = threading.Thread(target=post)
    thread.start()
    return thread


def half_sent(server: Served, sent: bytes, length: int = 1 << 20) -> socket.socket:
    """A connection that has sent so much of a body and no more."""
    line = socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), timeout=20)
    head = f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
    line.sendall(f"{head}Content-Type: application/zip\r\n\r\n".encode() + sent)
    return line


def test_a_full_queue(small: Served, predictor: Predictor) -> None:
    answers: list[httpx.Response] = []
    with held(predictor) as go:
        threads = [in_background(small, nifti(), answers) for _ in range(2)]
        until(lambda: small.waiting == 2)
        started = monotonic()
        answer = small.raw(bytes(3 << 20))  # larger than all buffers on the way: it has to be read
        assert "2 places are taken" in error_of(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
        assert small.client.get("/health").status_code == 200
        assert monotonic() - started < 2
        go.set()
        for thread in threads:
            thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]
    mask_of(small.raw(nifti()))


def test_clients_that_go_away_free_their_places(small: Served, predictor: Predictor) -> None:
    calls: list[object] = []
    original = predictor.segment
    with held(predictor) as go:
        blocked = predictor.segment
        predictor.segment = lambda volume: (calls.append(volume), blocked(volume))[1]  # type: ignore
        first, second = (half_sent(small, nifti(), len(nifti())) for _ in range(2))
        until(lambda: small.waiting == 2 and len(calls) == 1)
        second.close()
        until(lambda: small.waiting == 1)  # the one that waited is dropped at once
        first.close()
        go.set()
        until(lambda: small.waiting == 0)
    assert len(calls) == 1
    assert predictor.segment == original


def test_an_upload_that_is_cut_off(
    small: Served, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(predictor, "segment", calls.append)
    line = half_sent(small, nifti(), len(nifti()) + 1)
    until(lambda: small.waiting == 1)
    line.close()
    until(lambda: small.waiting == 0)
    small.require_empty()
    assert calls == []


def test_slow_uploads_keep_nobody_out(small: Served) -> None:
    lines = [half_sent(small, b"PK\3\4") for _ in range(2)]
    until(lambda: small.waiting == 2)
    error_of(small.raw(nifti()), 503)  # they may have a moment
    sleep(0.3)
    mask_of(small.raw(nifti()))
    assert small.waiting == 1  # one has given way, the other may stay while nobody needs its place
    head = next(part for line in lines if (part := _answered(line)))
    assert head.startswith(b"HTTP/1.1 408 ")
    for line in lines:
        line.close()


def _answered(line: socket.socket) -> bytes:
    line.settimeout(0.3)
    try:
        return line.recv(4096)
    except TimeoutError:
        return b""


def test_a_connection_that_says_nothing(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsnet_med.server.protocol.HEAD_S", 0.2)
    with serving(predictor) as server:
        for start in (b"", b"GET /health HT"):
            with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), timeout=5) as line:
                line.sendall(start)
                with suppress(ConnectionResetError):
                    assert line.recv(100) == b""
        assert server.waiting == 0


def test_a_server_that_ends_answers_who_waits(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsnet_med.server.listening._GRACE_S", 1)
    answers: list[httpx.Response] = []
    with held(predictor) as go:
        with serving(predictor) as server:
            thread = in_background(server, nifti(), answers)
            until(lambda: server.waiting == 1)
        thread.join()
        go.set()
    assert "ends" in error_of(answers[0], 503)
    assert not server.service._folder.exists()
