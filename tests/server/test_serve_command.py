"""`dsnet-med serve` as a process: how it starts, what it bears, how it ends."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import monotonic, sleep

import httpx
import psutil
import pytest
from served import RAW, gzipped, image, itk, nifti, zipped

from dsnet_med.inference import Predictor

BIN = Path(sys.executable).parent / "dsnet-med"


def command(*arguments: str | Path) -> list[str]:
    return [str(BIN), "serve", *map(str, arguments)]


def environment(temporary: Path) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}


@dataclass
class Process:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    temporary: Path

    @cached_property
    def first_line(self) -> str:
        return self.process.stdout.readline()

    @property
    def url(self) -> str:
        return re.search(r"http://\S+:\d+", self.first_line)[0]


@contextmanager
def served(run_folder: Path, temporary: Path, *arguments: str) -> Iterator[Process]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here is ignored there
    try:
        process = subprocess.Popen(
            command("--model", run_folder, "--port", "0", "--device", "cpu", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(temporary),
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield Process(process, temporary)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def two(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Process]]:
    """Two servers, which load at the same time."""
    folders = [tmp_path_factory.mktemp("temporary") for _ in range(2)]
    with (
        served(run_folder, folders[0]) as plain,
        served(run_folder, folders[1], "--max-mb", "1", "--queue", "16") as bounded,
    ):
        yield [plain, bounded]


def test_it_says_where_it_listens_and_what_it_is_not(two: list[Process]) -> None:
    server = two[0]
    assert "http://127.0.0.1:" in server.first_line
    assert "no authentication" in server.first_line
    assert "not a medical device" in server.first_line
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert len(list(server.temporary.glob("dsnet-med-serve-*"))) == 1
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(600) == 130
    assert "Traceback" not in (words := server.process.stderr.read())
    assert "interrupted" in words
    assert list(server.temporary.iterdir()) == []


def test_a_port_that_is_taken(run_folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            command("--model", run_folder, "--port", str(port)),
            capture_output=True,
            text=True,
            env=environment(tmp_path),
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == f"dsnet-med: port {port} is taken; choose another --port\n"


# ---------------------------------------------------------------- 500 at once


def good(predictor: Predictor, folder: Path) -> list[tuple[bytes, bytes]]:
    """Uploads of several kinds, each with the file that it must give."""
    made = []
    for seed in range(8):
        shape = (20 + seed, 24 - seed, 3 + seed % 4)
        content = nifti(seed, ".nii", shape)
        (folder / f"{seed}.nii").write_bytes(content)
        predictor.predict(folder / f"{seed}.nii").save(folder / "wanted.nii.gz")
        wanted = (folder / "wanted.nii.gz").read_bytes()
        made += [(form, wanted) for form in (content, gzipped(content), zipped({"a": gzipped(content)}))]
    nrrd = itk(folder / "a.nrrd")
    predictor.predict(folder / "a.nrrd").save(folder / "wanted.nii.gz")
    return [*made, (nrrd, (folder / "wanted.nii.gz").read_bytes())]


def bad() -> list[tuple[bytes, int]]:
    """Uploads that are refused, each with its status."""
    named = bytearray(image().to_bytes())
    named[42:48] = b"\xa0\x0f" * 3  # 4000 voxels each
    return [
        (b"no volume at all", 415),
        (nifti()[:-300], 400),
        (bytes(1 << 21), 413),
        (gzipped(bytes(named)), 413),
        (zipped({"../a": nifti()}), 400),
        (zipped({"a": bytes(9 << 20)}), 413),
        (nifti(shape=(8, 8, 2, 2)), 400),
        (b"", 400),
    ]


@dataclass
class Crowd:
    """What became of the requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


async def one(client: httpx.AsyncClient, crowd: Crowd, content: bytes, wanted: bytes | int) -> None:
    """Send until there is an answer other than "later"."""
    form = random.random() < 0.5
    while True:
        sent = {"files": {"file": content}} if form else {"content": content, "headers": RAW}
        answer = await client.post("/segment", **sent)
        crowd.statuses[answer.status_code] += 1
        if answer.status_code != 503:
            break
        assert answer.headers["retry-after"]
        await asyncio.sleep(random.uniform(0.3, 2.5))
    expected = 200 if isinstance(wanted, bytes) else wanted
    if answer.status_code != expected or (expected == 200 and answer.content != wanted):
        crowd.wrong.append(f"{answer.status_code} {answer.content[:200]!r}, wanted {expected}")


async def all_at_once(url: str, crowd: Crowd, uploads: list[tuple[bytes, bytes | int]]) -> None:
    limits = httpx.Limits(max_connections=len(uploads), max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await asyncio.gather(*(one(client, crowd, *upload) for upload in uploads))


@contextmanager
def watched(process: int) -> Iterator[list[int]]:
    """The resident bytes of a process, ten times a second."""
    sizes, end, seen = [], threading.Event(), psutil.Process(process)

    def watch() -> None:
        while not end.wait(0.1):
            sizes.append(seen.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        end.set()
        thread.join()


def test_five_hundred_requests_at_once(two: list[Process], predictor: Predictor, tmp_path: Path) -> None:
    random.seed(4)
    server, (kinds, wrong) = two[1], (good(predictor, tmp_path), bad())
    uploads: list[tuple[bytes, bytes | int]] = [kinds[k % len(kinds)] for k in range(340)]
    uploads += [wrong[k % len(wrong)] for k in range(160)]
    random.shuffle(uploads)
    for content, wanted in kinds:  # whatever is loaded late is loaded now
        assert httpx.post(f"{server.url}/segment", content=content, headers=RAW).content == wanted
    before, started, crowd = psutil.Process(server.process.pid).memory_info().rss, monotonic(), Crowd()
    with watched(server.process.pid) as sizes:
        asyncio.run(all_at_once(server.url, crowd, uploads))
    seconds, after = monotonic() - started, psutil.Process(server.process.pid).memory_info().rss
    numbers = {"seconds": seconds, "before": before, "peak": max(sizes), "after": after}
    sys.stdout.write(json.dumps(dict(crowd.statuses) | numbers))
    assert crowd.wrong == []
    assert crowd.statuses[200] == 340
    assert set(crowd.statuses) == {200, 400, 413, 415, 503}
    assert max(sizes) - before < 150 << 20, numbers
    _require_empty(server.temporary)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(600) == 0
    assert server.process.stderr.read() == ""
    assert list(server.temporary.iterdir()) == []


def _require_empty(temporary: Path) -> None:
    folders = list(temporary.glob("dsnet-med-serve-*"))
    assert len(folders) == 1
    for _ in range(40):
        if [path.name for path in folders[0].iterdir()] == [".lock"]:
            return
        sleep(0.05)
    raise AssertionError(list(folders[0].iterdir()))
