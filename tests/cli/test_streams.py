"""Whatever becomes of stdout and stderr, the work is done, and its exit code is its own."""

import json
import os
import select
import subprocess
import sys
import termios
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typed import BIN

_WORK = """
import os, sys
from contextlib import suppress
from pathlib import Path
from dsnet_med.cli import _prepare
from dsnet_med.cli.guard import _told
_prepare()
with open("first", "wb") as first:
    print("\\u30de\\u0431\\udcff" * 40_000)
    print("to stderr \\u30de", file=sys.stderr)
    with suppress(OSError):
        os.write(2, b"a library's own words")
    first.write(str(first.fileno()).encode())
sys.stdout.flush()
Path("last").touch()
sys.exit(_told(0))
"""


def _worked(ends: str, folder: Path, **environment: str) -> int:
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" -c "$1" {ends}', sys.executable, _WORK],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert (folder / "last").exists(), done.stderr
    assert int((folder / "first").read_text()) > 2  # where libraries print
    return done.returncode


@pytest.mark.parametrize(
    "ends",
    [
        "",
        "2>&-",
        ">&-",
        ">&- 2>&-",
        "<&- >&- 2>&-",
        "2>/dev/full",
        "| true",
        "2>&1 | head -c 1",
        "2>&1 >&- | true",
    ],
)
def test_closed_full_and_left_streams(ends: str, tmp_path: Path) -> None:
    assert _worked(ends, tmp_path) == 0


@pytest.mark.parametrize("encoding", ["cp1252", "ascii:strict", "latin-1", "utf-8:surrogateescape"])
def test_characters_that_an_encoding_lacks(encoding: str, tmp_path: Path) -> None:
    assert _worked("", tmp_path, PYTHONIOENCODING=encoding) == 0
    assert _worked("| cat", tmp_path, PYTHONIOENCODING=encoding, PYTHONUNBUFFERED="1") == 0


def test_a_result_that_is_printed_is_not_lost_in_silence(tmp_path: Path) -> None:
    assert _worked(">/dev/full", tmp_path) == 1
    done = subprocess.run(["bash", "-c", f"{BIN} datasets --json >/dev/full"], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"what was printed could not be written (No space left on device)" in done.stderr


def test_a_pipe_that_does_not_block(tmp_path: Path) -> None:
    """It is waited for, and everything arrives."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = subprocess.Popen(
        [sys.executable, "-c", _WORK], stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        printed = stream.read()
    assert process.wait() == 0
    assert printed.decode() == "マб\\udcff" * 40_000 + "\n"


def test_unbuffered_lines_arrive_at_once(tmp_path: Path) -> None:
    code = "from dsnet_med.cli import _prepare; _prepare(); print('there'); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 30)[0]
    assert process.communicate("\n")[0] == "there\n"


def test_a_comparison_is_written_whatever_its_cases_are_called(tmp_path: Path) -> None:
    mask = np.zeros((5, 5, 5), np.uint8)
    mask[2:4, 2:4, 2:4] = 1
    for name in ("ref/a", "pred/a", "pred2/a", "ref/б", "pred/б", "pred2/б"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / f"{name}.nii.gz")
    (tmp_path / "labels.json").write_text(json.dumps({"1": "organ"}))
    predictions = "--prediction pred --prediction pred2 --workers 1"
    command = f"{BIN} evaluate {predictions} --reference ref --labels labels.json --out マスク"
    done = subprocess.run(
        ["bash", "-c", f"{command} 2>&-"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "マスク" / "comparison.json").is_file()
    assert b"\\u30de\\u30b9\\u30af" in done.stdout


_HOSTILE = "scan\x1b]0;renamed\x07\x1b[2J\x1b[8mhidden\r\x9b1A\u202egnp.\u2066\x08.nii"


def _printed(work: str, folder: Path, *arguments: str) -> bytes:
    """What a terminal is sent."""
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    command = [sys.executable, "-c", f"from dsnet_med.cli import _prepare\n_prepare()\n{work}", *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=follower, stderr=follower) as process:
        os.close(follower)
        sent = bytearray()
        try:
            while part := os.read(leader, 65536):
                sent += part
        except OSError:  # Linux's end of file
            pass
        os.close(leader)
        assert process.wait() == 0, sent
    return bytes(sent)


@pytest.mark.parametrize(
    "said",
    [
        "print(name)",
        "import typer; typer.echo(f'failed: {name}', err=True)",
        "import warnings; warnings.warn(name)",
        "import logging; logging.getLogger('x').error(name)",
        "from tqdm import tqdm\nimport sys\ntqdm.write(f'note: {name}', file=sys.stderr)",
        "sys.stderr.write(f'a: {name}')",
    ],
)
def test_no_escape_sequence_reaches_a_terminal(said: str, tmp_path: Path) -> None:
    sent = _printed(f"import sys\nname = {_HOSTILE!r}\n{said}", tmp_path)
    assert b"renamed" in sent
    assert b"hidden" in sent
    text = sent.decode().replace("\r\n", "\n")
    assert not [each for each in text if not each.isprintable() and each not in "\n"], sent
    assert "\\x1b]0;renamed\\x07" in text


def test_bars_still_move(tmp_path: Path) -> None:
    work = """
from tqdm import tqdm
for _ in tqdm(range(3), mininterval=0, ncols=40):
    for _ in tqdm(range(2), position=1, leave=False, mininterval=0, ncols=40):
        pass
"""
    sent = _printed(work, tmp_path)
    assert b"\r" in sent
    assert b"\x1b[A" in sent
    assert b"\\x" not in sent
