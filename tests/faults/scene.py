"""Small data, a store, a run, masks and scores that attacks are made on; and the command that makes them."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = (str(Path(sys.executable).parent / "dsnet-med"),)
TRAIN = (
    "--iterations",
    "24",
    "--set",
    "width=0.125",
    "--set",
    "validate_every=8",
    "--set",
    "checkpoint_every=4",
)
NO_END = 1000  # the exit code of a command that had to be killed
VOLATILE = ("seconds", "seal", "created", "started", "time", "wall_time")  # of a result, from run to run


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal, and what it said."""

    code: int
    said: str

    @property
    def raw(self) -> bool:
        """Whether it ended in a way that no user should see: a traceback, a crash, an unknown exit code."""
        return "Traceback (most recent call last)" in self.said or self.code not in (0, 1, 2, 130, 143)


@dataclass(frozen=True)
class Scene:
    """Where everything lies."""

    folder: Path

    @property
    def raw(self) -> Path:
        """The raw data set."""
        return self.folder / "raw"

    @property
    def images(self) -> Path:
        """Its volumes."""
        return self.raw / "RawData" / "Training" / "img"

    @property
    def labels(self) -> Path:
        """Their masks."""
        return self.raw / "RawData" / "Training" / "label"

    @property
    def store(self) -> Path:
        """The data set, preprocessed."""
        return self.folder / "store"

    @property
    def run(self) -> Path:
        """A run trained on the store."""
        return self.folder / "run"

    @property
    def masks(self) -> Path:
        """The run's masks of all volumes."""
        return self.folder / "masks"

    @property
    def scores(self) -> Path:
        """The masks, scored."""
        return self.folder / "scores"

    def preprocess(self, out: Path) -> list[str]:
        """The arguments that make a store."""
        return ["preprocess", "synapse", "--source", str(self.raw), "--out", str(out)]

    def train(self, out: Path) -> list[str]:
        """The arguments that train a run."""
        return ["train", "--method", "fcn_dsm", "--data", str(self.store), "--out", str(out), *TRAIN]

    def infer(self, out: Path) -> list[str]:
        """The arguments that segment all volumes."""
        return ["infer", "--model", str(self.run), str(self.images), "--out", str(out)]

    def evaluate(self, out: Path) -> list[str]:
        """The arguments that score all masks."""
        places = ["--prediction", str(self.masks), "--reference", str(self.labels)]
        return ["evaluate", *places, "--labels", "synapse", "--out", str(out)]


def dsnet(
    *arguments: object, timeout: float = 180, environment: Mapping[str, str] | None = None, **options: Any
) -> Ended:
    """Run the command to its end; one that is not there after `timeout` seconds is killed and counts as raw."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=surroundings(environment),
        stdin=subprocess.DEVNULL,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True} | options,
    )
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return Ended(NO_END, f"no end within {timeout} s: {process.communicate()[0]!r}")
    return Ended(process.returncode, ((out or b"") + (errors or b"")).decode(errors="replace"))


def surroundings(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command."""
    return os.environ | {"OMP_NUM_THREADS": "1"} | dict(more or {})


def make_scene(folder: Path, *, until: str = "scores") -> Scene:
    """Make everything in `folder`, or what is missing there, until the part of this name is there."""
    scene = Scene(folder)
    phantom = ["phantom", "synapse", "--out", scene.raw, "--cases", 4, "--size", "64x64x24"]
    steps: list[tuple[Path, Sequence[object]]] = [
        (scene.raw, phantom),
        (scene.store, scene.preprocess(scene.store)),
        (scene.run, scene.train(scene.run)),
        (scene.masks, scene.infer(scene.masks)),
        (scene.scores, scene.evaluate(scene.scores)),
    ]
    for place, arguments in steps:
        if not place.exists():
            ended = dsnet(*arguments)
            if ended.code:
                shutil.rmtree(place, ignore_errors=True)
                raise RuntimeError(f"{arguments[0]}: exit {ended.code}: {ended.said[-2000:]}")
        if place.name == until:
            break
    return scene


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file in `folder` by its name, without what differs between two undisturbed runs."""
    return {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and "__pycache__" not in path.parts
    }


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
        content = "\n".join(json.dumps(_steady(json.loads(line)), sort_keys=True) for line in lines).encode()
    return hashlib.sha256(content).hexdigest()


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(each) for key, each in value.items() if key not in VOLATILE}
    return [_steady(each) for each in value] if isinstance(value, list) else value
