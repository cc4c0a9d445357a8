"""Typing `dsnet-med ...` as a user does."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

BIN = Path(sys.executable).parent / "dsnet-med"


def run_anew(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command's exit code and what it printed."""
    return subprocess.run(
        [str(BIN), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def run(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The same in a fork of this process, which has the libraries loaded already."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            gc.freeze()  # garbage of this process may hold threads, of which the fork has none
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.chdir(cwd or ".")
            os.environ.update(environment)
            _end_with(list(map(str, arguments)))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


def _end_with(arguments: list[str]) -> NoReturn:
    """Become `dsnet-med ARGUMENTS`, and end as it ends."""
    from dsnet_med.cli import main

    code = 1
    try:
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        sys.argv = ["dsnet-med", *arguments]
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


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
