"""Typing `dsnet-med ...` as a user does."""

import os
import signal
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


def started(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """The command under way, in which Ctrl-C works, as it does not in what a shell runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here is ignored there
    try:
        return subprocess.Popen(
            [str(BIN), *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def refused(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The last line of stderr of a command that must have been refused without a traceback."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("dsnet-med: ")
    return last
