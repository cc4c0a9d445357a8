"""Killed anywhere and run again, the files are those of a run that nobody disturbed."""

import os
import subprocess
import sys
from pathlib import Path

import killed
import pytest
import tiny


def _run(*arguments: object) -> list[int]:
    done = subprocess.run(
        [sys.executable, killed.__file__, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "abcdefghijklmnopqrst")
    assert _run(tmp_path / "in", tmp_path / "whole", 0, 0) == [0, 0]
    struck, status = _run(tmp_path / "in", tmp_path / "out", 20, 0.3)
    assert status == 0
    assert struck >= 10
    whole, got = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "out")
    )
    assert sorted(whole) == sorted(got)
    assert whole == got
