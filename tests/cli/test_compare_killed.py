"""`compare`, killed and gone on with."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import typed
from small_trial import PLACE, TINY, begun, make_store, options, results_of


def children(process: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.slow
def test_killed_and_run_again_it_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    store = make_store(tmp_path / "raw", tmp_path / "store")
    command: list[str | Path] = [
        *("compare", "--methods", f"fcn,fcn+SE@{PLACE}", "--data", store, "--seeds", "0"),
        *("--iterations", "20", *options(*TINY, "width=0.125", "validate_every=10", "checkpoint_every=4")),
    ]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert typed.run_anew(*command, "--jobs", "1", "--out", undisturbed).returncode == 0
    with subprocess.Popen(
        [str(typed.BIN), *map(str, command), "--jobs", "2", "--out", str(killed)], stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not begun(killed) and time.monotonic() < deadline:
            time.sleep(0.05)
        own = children(process.pid)
        process.send_signal(signal.SIGKILL)
    assert begun(killed)
    while any(_runs(child) for child in own) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (killed / "results.json").exists()
    ended = typed.run_anew(*command, "--jobs", "1", "--out", killed)
    assert ended.returncode == 0, ended.stderr
    assert (killed / "scores.csv").read_bytes() == (undisturbed / "scores.csv").read_bytes()
    assert results_of(killed) == results_of(undisturbed)
    assert results_of(killed)["contrasts"][0]["verdict"] == "no verdict"  # one seed


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/status")
    return not status.is_file() or "\nState:\tZ" not in status.read_text(encoding="ascii")
