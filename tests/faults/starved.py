"""Want of disk, memory, files and output: a command ends in one line with the cause, and goes on afterwards."""

import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from scene import Ended, Scene, contents, dsnet
from tally import Tally

MB = 1 << 20
_LISTED = re.compile(r"(failed|note|warning)[ :]|.*\|")  # one for each case, and bars
_NO_START = (
    "error while loading shared libraries",
    "Fatal Python error",
    "failed to map segment",
    "init_import_site",
)


def starve(scene: Scene, work: Path) -> Iterator[Tally]:
    """Every command in want of every means."""
    commands = {
        "preprocess": scene.preprocess,
        "train": scene.train,
        "infer": scene.infer,
        "evaluate": scene.evaluate,
    }
    wants: dict[str, list[dict[str, Any]]] = {
        "few open files": [_limited(resource.RLIMIT_NOFILE, number) for number in (12, 20, 40)],
        "little memory": [_limited(resource.RLIMIT_AS, number * MB) for number in (300, 900, 2000)],
        "small files alone": [_limited(resource.RLIMIT_FSIZE, number) for number in (0, 4096, 100_000)],
    }
    for name, arguments in commands.items():
        tally = Tally(f"want of files, memory, disk, output: `{name}`")
        dsnet(*arguments(work / name / "alone"))
        wanted = contents(work / name / "alone")
        for what, cases in wants.items():
            for number, options in enumerate(cases):
                out = work / name / f"{what}{number}".replace(" ", "-")
                _judge(tally, f"{what} {number}", arguments, out, wanted, partial(_with, options))
        for size in (64, 1024):  # kB
            with small_disk(size) as disk:
                if disk:
                    _judge(
                        tally, f"disk of {size} kB", arguments, disk / "out", None, lambda each: dsnet(*each)
                    )
        out = work / name / "full-output"
        _judge(tally, "stdout is full", arguments, out, wanted, _to_full)
        yield tally


def _with(options: dict[str, Any], arguments: list[str]) -> Ended:
    return dsnet(*arguments, **options)


def _limited(what: int, most: int) -> dict[str, Any]:
    return {"preexec_fn": lambda: resource.setrlimit(what, (most, most))}


def _to_full(arguments: list[str]) -> Ended:
    with Path("/dev/full").open("wb") as full:
        return dsnet(*arguments, stdout=full, stderr=subprocess.PIPE)


def _judge(
    tally: Tally,
    where: str,
    arguments: Callable[[Path], list[str]],
    out: Path,
    wanted: dict[str, str] | None,
    run: Callable[[list[str]], Ended],
) -> None:
    """Run it in want, then with all it needs."""
    ended = run(arguments(out))
    lines = [line for line in ended.said.splitlines() if line.strip() and not _LISTED.match(line)]
    if _died_before_us(ended):
        tally.add("harmless")
        return
    if ended.raw or (ended.code == 2 and len(lines) > 4):
        tally.add("raw", f"{where}: exit {ended.code}: {ended.said[-200:]!r}")
        return
    if wanted is None:
        tally.add("noticed" if ended.code else "harmless")
        return
    again = dsnet(*arguments(out))
    if again.code == 2 and "--resume" in again.said:
        again = dsnet("train", "--resume", "--out", out)
    same = (got := contents(out)) == wanted
    if again.code and not (same and "has done all" in again.said):
        tally.add("lost", f"{where}: exit {ended.code}; again: exit {again.code}, {again.said[-200:]!r}")
    elif same:
        tally.add("noticed" if ended.code else "harmless")
    else:
        differing = sorted(key for key in wanted.keys() | got.keys() if wanted.get(key) != got.get(key))
        tally.add("silent", f"{where}: afterwards other files: {', '.join(differing)}")
    shutil.rmtree(out, ignore_errors=True)


def _died_before_us(ended: Ended) -> bool:
    """Whether the interpreter itself did not start: nothing of ours had a say."""
    return any(sign in ended.said for sign in _NO_START)


@contextmanager
def small_disk(kilobytes: int) -> Iterator[Path | None]:
    """A disk of this size; None where this user may not mount one."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["-t", "tmpfs", "-o", f"size={kilobytes}k"]
        mounted = os.geteuid() == 0 and bool(shutil.which("mount"))
        mounted = mounted and not subprocess.run(["mount", *options, "tmpfs", folder], check=False).returncode
        try:
            yield Path(folder) if mounted else None
        finally:
            if mounted:
                subprocess.run(["umount", "-l", folder], check=True)
