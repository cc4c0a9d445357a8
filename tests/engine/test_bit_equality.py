"""Same seed, same bits: whatever the workers that read, killed at any step and resumed, typed in any way."""

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from monai.engines import SupervisedTrainer
from tiny_volumes import SMALL, write_row

from dsnet_med.engine.run import prepare, train
from dsnet_med.phantoms import make_cityscapes, make_coco, make_imagenet

BIN = Path(sys.executable).parent
ITERATIONS = 9
NARROW = {
    "iterations": ITERATIONS,
    "validate_every": 4,  # so that the last epoch is shorter
    "checkpoint_every": 2,
    "batch_size": 2,
    "workers": 0,
    "width": 0.0625,
}
SHALLOW = {"network_def#backbone#layers": [1, 1, 1, 1], "size": [32, 32]}
OPTIONS = {"accumulate": 2, "clip": 1.0, "ema": 0.9, "early_stopping": 9}
FILES = ("models/model.pt", "checkpoints/last.pt")


@pytest.fixture(scope="module")
def data(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data set of each task."""
    folder = tmp_path_factory.mktemp("data")
    list(make_imagenet(folder / "imagenet", images=16, seed=0, size=(48, 48), classes=2))
    list(make_cityscapes(folder / "cityscapes", images=4, seed=0, size=(64, 128)))
    list(make_coco(folder / "coco", images=8, seed=0, size=(96, 112)))
    return {"organs": store, **{task: folder / task for task in ("imagenet", "cityscapes", "coco")}}


def _result(run: Path) -> tuple[list[bytes], list[dict[str, Any]], dict[str, Any]]:
    """The bytes of what was learnt, and what was logged and summed up but for its times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    for each in (*lines, summary):
        each.pop("seconds", None)
        each.pop("seal", None)  # which covers the seconds
    return [(run / name).read_bytes() for name in FILES], lines, summary


def _begun(run: Path) -> bool:
    return (run / "metrics.jsonl").exists() or (run / "checkpoints").exists()


def _killed(run: Path, step: int, settings: dict[str, Any]) -> None:
    """Train `run` in a process forked from this one, which SIGKILL ends within that step."""
    child = os.fork()
    if child == 0:
        gc.freeze()  # garbage of this process may hold threads, of which the fork has none
        ended = os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        iteration = SupervisedTrainer._iteration

        def dying(trainer: Any, engine: Any, batch: Any) -> Any:
            output = iteration(trainer, engine, batch)
            if engine.state.iteration == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return output

        SupervisedTrainer._iteration = dying
        try:
            train(run, {**settings, "resume": _begun(run)})
        finally:
            os._exit(ended)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _resumed_ends_as_undisturbed(
    method: str, data: Path, folder: Path, settings: dict[str, Any], kills: Sequence[tuple[int, int]]
) -> None:
    """Compare an undisturbed run with one killed at the steps of `kills`, each with its number of workers."""
    prepare(method, data, folder / "whole", settings)
    shutil.copytree(folder / "whole", folder / "killed")
    train(folder / "whole", {})
    for step, workers in kills:
        _killed(folder / "killed", step, {"workers": workers})
    train(folder / "killed", {"resume": True})
    assert _result(folder / "killed") == _result(folder / "whole")


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("fcn_dsm", {**SHALLOW, **OPTIONS}),
        ("hamnet", SHALLOW),
        ("imagenet/dsnet50_a", {"size": 32, "batch_size": 8}),
    ],
)
def test_a_run_killed_at_five_steps_ends_with_the_bits_of_one_that_was_not(
    method: str, more: dict[str, Any], data: dict[str, Path], tmp_path: Path
) -> None:
    steps = random.Random(method)  # each time the same ones
    kills = sorted(steps.sample(range(1, ITERATIONS + 1), 4))
    kills.insert(1, kills[0])  # twice in a row in one place
    task = method.partition("/")[0] if "/" in method else "organs"
    workers = (0, 1, 3, 0, 1)
    _resumed_ends_as_undisturbed(
        method, data[task], tmp_path, {**NARROW, **more}, list(zip(kills, workers, strict=True))
    )


@pytest.mark.slow
def test_a_run_of_patches_killed_at_three_steps_ends_with_the_bits_of_one_that_was_not(
    store: Path, tmp_path: Path
) -> None:
    settings = {**SMALL, "iterations": 5, "size": 16, "ema": 0.9, "oversample": 0.5}
    settings |= {f"train#augmentation#{name}_prob": 0.8 for name in ("affine", "noise", "resolution", "gamma")}
    kills = [(1, 0), (3, 2), (4, 1)]
    _resumed_ends_as_undisturbed(write_row(tmp_path), store, tmp_path, settings, kills)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "more"),
    [
        *((method, SHALLOW | OPTIONS) for method in ("fcn_encnet", "ccnet", "eanet", "upernet_convnext_b")),
        ("danet", SHALLOW),
        ("hamnet_mscan_b", {"size": [32, 32]}),
        ("cityscapes/dsnet50_a", {"crop": [64, 64], "short_side": [48, 96], "ema": 0.9}),
        ("coco/dsnet50_a", {"min_size": 64, "max_size": 96, "warmup": 3, "clip": 1.0}),
    ],
)
def test_every_kind_of_row_killed_after_each_step_ends_with_the_same_bits(
    method: str, more: dict[str, Any], data: dict[str, Path], tmp_path: Path
) -> None:
    task = method.partition("/")[0] if "/" in method else "organs"
    kills = [(step, (0, 1, 3)[step % 3]) for step in range(1, ITERATIONS + 1)]
    _resumed_ends_as_undisturbed(method, data[task], tmp_path, {**NARROW, **more}, kills)


def _kill_when(process: subprocess.Popen[bytes], happened: Callable[[], bool]) -> None:
    while not happened():
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.002)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_killed_and_resumed_in_three_ways_to_type_it_a_run_ends_with_the_same_bits(
    store: Path, tmp_path: Path
) -> None:
    settings = {
        **NARROW,
        **SHALLOW,
        "iterations": 40,
        "validate_every": 25,
        "checkpoint_every": 1,
        "workers": 1,
    }
    assignments = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    prepare("fcn_dsm", store, tmp_path / "whole", settings)
    train(tmp_path / "whole", {})
    run = tmp_path / "run"
    ways = [
        [BIN / "dsnet-med", "train", "--method", "fcn_dsm", "--data", store, "--out", run, *assignments],
        [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "configs/train.yaml"],
        [BIN / "dsnet-med", "bundle", "run", "training"],
    ]
    last = run / "checkpoints" / "last.pt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for number, way in enumerate(ways):
        before = last.stat().st_ino if last.exists() else None
        resumed = ["--resume", "True"] if number else []
        command = [str(part) for part in (*way, *resumed)]
        with subprocess.Popen(
            command,
            cwd=run if number else tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        ) as process:
            if number < 2:
                _kill_when(process, lambda before=before: last.exists() and last.stat().st_ino != before)
            else:
                assert process.wait() == 0, process.stderr.read()
    assert _result(run) == _result(tmp_path / "whole")
