"""Many clients at once, slow ones, and ones that go away."""

import socket
import threading
from collections.abc import Iterator
from time import monotonic, sleep

import httpx
import pytest
from served import RAW, Served, error_of, held, mask_of, nifti, serving

from dsnet_med.inference import Predictor


@pytest.fixture
def small(predictor: Predictor) -> Iterator[Served]:
    """A server with two places."""
    with serving(predictor, max_bytes=4 << 20, queue=2, idle_s=20) as server:
        yield server
        server.require_empty()


def until(condition, seconds: float = 600) -> None:
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, condition
        sleep(0.01)


def in_background(server: Served, content: bytes, answers: list[httpx.Response]) -> threading.Thread:
    def post() -> None:
        with httpx.Client(base_url=server.url, timeout=600) as client:
            answers.append(client.post("/segment", content=content, headers=RAW))

    thread = threading.Thread(target=post)
    thread.start()
    return thread


def half_sent(server: Served, sent: bytes, length: int = 1 << 20) -> socket.socket:
    """A connection that has sent so much of a body and no more."""
    line = socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), timeout=600)
    head = f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
    line.sendall(f"{head}Content-Type: application/zip\r\n\r\n".encode() + sent)
    return line


def test_a_full_queue(small: Served, predictor: Predictor) -> None:
    answers: list[httpx.Response] = []
    with held(predictor) as go:
        threads = [in_background(small, nifti(), answers) for _ in range(2)]
        until(lambda: small.waiting == 2)
        answer = small.raw(bytes(3 << 20))  # larger than all buffers on the way: it has to be read
        assert "2 places are taken" in error_of(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
        assert small.client.get("/health").status_code == 200
        go.set()
        for thread in threads:
            thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]
    until(lambda: small.waiting == 0)
    mask_of(small.raw(nifti()))


def test_clients_that_go_away_cost_no_run_of_the_network(small: Served, predictor: Predictor) -> None:
    calls: list[object] = []
    with held(predictor) as go:
        blocked = predictor.segment
        predictor.segment = lambda volume: (calls.append(volume), blocked(volume))[1]  # type: ignore
        first, second = (half_sent(small, nifti(), len(nifti())) for _ in range(2))
        until(lambda: small.waiting == 2 and len(calls) == 1)
        first.close()
        second.close()
        go.set()
        until(lambda: small.waiting == 0)
    assert len(calls) == 1


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


def test_a_server_that_ends_answers_who_waits(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsnet_med.cli.serving._GRACE_S", 1)
    answers: list[httpx.Response] = []
    with held(predictor) as go:
        with serving(predictor) as server:
            thread = in_background(server, nifti(), answers)
            until(lambda: server.waiting == 1)
        thread.join()
        assert not server.folder.exists()  # the command ends here; in this process the thread goes on
        go.set()
    assert "ends" in error_of(answers[0], 503)
