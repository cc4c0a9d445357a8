"""What the processes of a run may hold, and what they did hold."""

import errno
import multiprocessing
import threading
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from dsnet_med.errors import StoppedError
from dsnet_med.processes import in_parallel, peak_memory_bytes, workers_that_fit

HUGE = 200_000_000


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_a_command_that_is_to_end_does_not_wait_for_its_workers(
    monkeypatch: pytest.MonkeyPatch, ending: type[BaseException]
) -> None:
    before = set(multiprocessing.active_children())
    monkeypatch.setattr("dsnet_med.processes.wait", lambda *_: (_ for _ in ()).throw(ending))
    with pytest.raises(ending):
        list(in_parallel(_sleep, [1000.0, 1000.0], 2))
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.EMFILE, "Too many open files"),
            "too many files are open in this process; raise the limit",
        ),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more processes may be started"),
        (RuntimeError("can't start new thread"), "no more processes may be started"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
    ],
)
def test_processes_that_cannot_be_started_are_one_line_and_those_that_were_end(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fails(thread: threading.Thread) -> None:
        raise error

    before = set(multiprocessing.active_children())
    monkeypatch.setattr(threading.Thread, "start", fails)
    with pytest.raises(StoppedError, match=words):
        list(in_parallel(_sleep, [1000.0], 2))
    assert set(multiprocessing.active_children()) <= before


def test_a_pool_that_nobody_leads_any_more_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsnet_med.processes._LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("dsnet_med.processes._is_led", lambda _: False)
    with pytest.raises(StoppedError, match="cannot be started"):
        list(in_parallel(_sleep, [1000.0], 1))


def _hold(size: int) -> int:
    before = peak_memory_bytes()
    held = np.ones(size, np.uint8)
    return peak_memory_bytes() - before if held.all() else 0


def test_peak_memory_is_that_of_each_process() -> None:
    grown = dict(in_parallel(_hold, [1, HUGE], 1))
    assert grown[1] < HUGE / 10
    assert HUGE * 0.9 < grown[HUGE] < HUGE * 1.5


def test_workers_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    assert workers_that_fit(8, 3_000) == 3
    assert workers_that_fit(2, 3_000) == 2
    assert workers_that_fit(8, 30_000) == 1
