"""What the processes of a run may hold, and what they did hold."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from dsnet_med.processes import in_parallel, peak_memory_bytes, workers_that_fit

HUGE = 200_000_000


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
