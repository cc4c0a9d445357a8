"""SIGTERM, owners of folders, and what goes wrong around a training: one line, and nothing left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from typed import BIN, refused, run, started

_NARROW = ("--set", "width=0.125", "--set", "network_def#backbone#layers=[1, 1, 1, 1]")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "raw"
    done = run("phantom", "synapse", "--out", folder, "--cases", "4", "--size", "32x32x8", "--seed", "1")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def store(raw: Path) -> Path:
    done = run("preprocess", "synapse", "--source", raw, "--out", raw.parent / "store")
    assert done.returncode == 0, done.stderr
    return raw.parent / "store"


def _training(store: Path, out: Path, *more: str) -> list[str | Path]:
    length = ["--iterations", "100000", "--set", "validate_every=50000", "--set", "checkpoint_every=50000"]
    return ["train", "--method", "fcn_dsm", "--data", store, "--out", out, *length, *_NARROW, *more]


def _wait(holds: Callable[[], object], process: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if holds() or process.poll() is not None:
            return
        time.sleep(0.02)


def _is_logged(out: Path) -> bool:
    log = out / "metrics.jsonl"
    return log.is_file() and log.stat().st_size > 0


def _lines(text: str) -> list[str]:
    """Without bars."""
    return [line for line in text.replace("\r", "\n").splitlines() if line.strip() and "|" not in line]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """Makes another process own a folder; who that is."""
    code = "import sys; from pathlib import Path; from dsnet_med.files import locked\n"
    code += "with locked(Path(sys.argv[1]), 'works in'): print(flush=True); input()"
    holders = []

    def hold(folder: Path) -> str:
        holder = subprocess.Popen(
            [sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        holders.append(holder)
        assert holder.stdout is not None
        holder.stdout.readline()
        return f"process {holder.pid} on {socket.gethostname()} works in {folder}: wait until it has ended"

    yield hold
    for holder in holders:
        holder.communicate("\n")


@pytest.mark.parametrize("heavy", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_command_that_writes_a_folder_says_who_has_it(
    heavy: bool, raw: Path, store: Path, tmp_path: Path, held: Callable[[Path], str]
) -> None:
    out = tmp_path / "out"
    owner = held(out)
    labels = raw / "RawData" / "Training" / "label"
    light: list[Sequence[str | Path]] = [
        ("phantom", "acdc", "--out", out, "--cases", "1"),
        ("preprocess", "synapse", "--source", raw, "--out", out),
        ("evaluate", "--prediction", labels, "--reference", labels, "--labels", "synapse", "--out", out),
    ]
    with_torch = [("quickstart", "--out", out), _training(store, out), ("train", "--resume", "--out", out)]
    for command in with_torch if heavy else light:
        assert owner in refused(run(*command)), command
    assert [file.name for file in out.iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_terminated_training_says_so_ends_with_its_workers_and_goes_on(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = started(*_training(store, out, "--set", "workers=2"))
    _wait(lambda: _is_logged(out), process)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143, said
    assert _lines(said) == ["dsnet-med: terminated; whatever was written is whole"]
    psutil.wait_procs(workers, 600)
    assert (out / "checkpoints" / "last.pt").is_file()
    assert not list(out.rglob(".*"))
    iterations = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["iteration"] + 10
    config = (out / "configs" / "train.yaml").read_text()
    (out / "configs" / "train.yaml").write_text(config.replace("100000", str(iterations)))
    done = run("train", "--resume", "--out", out)
    assert done.returncode == 0, done.stderr


def test_a_terminated_preprocess_ends_with_its_workers(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    process = started("preprocess", "synapse", "--source", raw, "--out", out, "--workers", "2")
    _wait(lambda: len(psutil.Process(process.pid).children()) >= 2, process)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    if process.returncode:  # it was not too late
        assert process.returncode == 143, said
        assert _lines(said)[-1] == "dsnet-med: terminated; whatever was written is whole"
        assert "Traceback" not in said
    psutil.wait_procs(workers, 600)
    assert run("preprocess", "synapse", "--source", raw, "--out", out).returncode == 0


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_line(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = started(*_training(store, out, "--set", "workers=2"))
    _wait(lambda: _is_logged(out), process)
    psutil.Process(process.pid).children()[-1].kill()
    _, said = process.communicate()
    assert process.returncode in (1, 2), said
    assert "Traceback" not in said
    (line,) = _lines(said)
    assert "killed" in line
    assert "workers" in line


@pytest.mark.slow
def test_a_store_that_is_removed_while_it_is_trained_on_is_one_line(store: Path, tmp_path: Path) -> None:
    out, copy = tmp_path / "run", tmp_path / "store"
    shutil.copytree(store, copy)
    process = started(*_training(copy, out, "--set", "workers=1"))
    _wait(lambda: _is_logged(out), process)
    shutil.rmtree(copy)
    _, said = process.communicate()
    assert process.returncode in (1, 2), said
    (line,) = _lines(said)
    assert str(copy) in line
    assert str(copy) in refused(run("train", "--resume", "--out", out))


@pytest.mark.slow
def test_a_training_whose_folder_is_removed_says_so(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = _training(store, out, "--iterations", "60", "--set", "validate_every=30", "--set", "workers=0")
    process = started(*command)
    _wait(lambda: _is_logged(out), process)
    if process.poll() is None:
        shutil.rmtree(out, ignore_errors=True)
    _, said = process.communicate()
    assert process.returncode == 1, said
    assert "went while it trained" in _lines(said)[-1]
    assert "train.yaml" in _lines(said)[-1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits are POSIX's")
@pytest.mark.parametrize("files", [12, 20, 24])
def test_few_open_files_are_named(files: int, raw: Path, store: Path, tmp_path: Path) -> None:
    for number, command in enumerate(
        (
            ("preprocess", "synapse", "--source", raw, "--out", tmp_path / "store"),
            _training(store, tmp_path / "run", "--iterations", "2", "--set", "validate_every=1"),
        )
    ):
        words = ["bash", "-c", f'ulimit -n {files}; exec "$@"', "bash", str(BIN)]
        done = subprocess.run(
            [*words, *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            (line,) = [line for line in _lines(done.stderr) if line.startswith("dsnet-med: ")]
            assert "files" in line, (number, line)
            assert "ulimit -n" in line
        assert "Traceback" not in done.stderr
