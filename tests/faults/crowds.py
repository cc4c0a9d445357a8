"""Two commands that write to one folder at the same time, with different settings."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from scene import COMMAND, Ended, Scene, contents, dsnet, surroundings
from tally import Tally


def crowd(scene: Scene, work: Path, count: int) -> Iterator[Tally]:
    """Start two at once, `count` times for each command: the folder is one's, and the other says so."""
    more = ("--seed", "5")
    pairs = {
        "preprocess": (scene.preprocess, ("synapse13",)),
        "train": (scene.train, more),
        "infer": (scene.infer, ("--keep-largest", "liver")),
        "evaluate": (scene.evaluate, ("--protocol", "transunet")),
    }
    for name, (arguments, other) in pairs.items():
        tally = Tally(f"two `{name}` at once, other settings, one folder")
        alone = []
        for number, extra in enumerate(((), other)):
            out = work / name / f"alone{number}"
            alone.append((out, _second(name, arguments(out), extra)))
        wanted = []
        for out, command in alone:
            if (ended := dsnet(*command)).code:
                raise RuntimeError(ended.said)
            wanted.append(contents(out))
        for number in range(count):
            out = work / name / str(number)
            commands = [_second(name, arguments(out), extra) for extra in ((), other)]
            outcome, said = _judged(together(*commands), contents(out), wanted)
            # evaluate may replace its own report: one after the other, both are right.
            if outcome == "replaced":
                outcome = "harmless" if name == "evaluate" else "silent"
            tally.add(outcome, said)
            shutil.rmtree(out)
        yield tally


def _second(name: str, arguments: list[str], extra: Sequence[str]) -> list[str]:
    if name == "preprocess" and extra:
        return [extra[0] if each == "synapse" else each for each in arguments]
    return [*arguments, *extra]


def _judged(both: tuple[Ended, Ended], got: dict[str, str], wanted: list[dict[str, str]]) -> tuple[str, str]:
    said = "; ".join(f"exit {ended.code}, {ended.said[-200:]!r}" for ended in both)
    if any(ended.raw for ended in both):
        return "raw", said
    if all(ended.code for ended in both):
        return "lost", said
    if got not in wanted:
        return "silent", f"a mixed folder; {said}"
    if all(ended.code == 0 for ended in both):
        return "replaced", said
    return "noticed", ""


def together(first: Sequence[str], second: Sequence[str]) -> tuple[Ended, Ended]:
    """Run two commands that start in the same moment."""
    started = [
        subprocess.Popen(
            [*COMMAND, *each],
            env=surroundings(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for each in (first, second)
    ]
    said = [process.communicate(timeout=300)[0].decode(errors="replace") for process in started]
    one, other = (Ended(process.returncode, text) for process, text in zip(started, said, strict=True))
    return one, other
