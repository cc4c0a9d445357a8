"""Typing `dsnet-med ...` as a user does."""

import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent / "dsnet-med"


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command's exit code and what it printed."""
    return subprocess.run(
        [str(BIN), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The last line of stderr of a command that must have been refused without a traceback."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("dsnet-med: ")
    return last
