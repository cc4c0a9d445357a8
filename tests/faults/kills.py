"""Commands killed at random moments, then run again: is the end the same as that of an undisturbed one?"""

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scene import COMMAND, Scene, contents, dsnet, surroundings
from tally import Tally

Arguments = Callable[[Path], list[str]]


def kill_commands(scene: Scene, work: Path, count: int, seed: int = 0) -> Iterator[Tally]:
    """Kill preprocess, train, infer and evaluate at `count` random moments each."""
    kinds: dict[str, Arguments] = {
        "preprocess": scene.preprocess,
        "train": scene.train,
        "infer": scene.infer,
        "evaluate": scene.evaluate,
    }
    for name, arguments in kinds.items():
        yield _killed(name, arguments, work / name, count, seed)


def _killed(name: str, arguments: Arguments, work: Path, count: int, seed: int) -> Tally:
    tally, chance = Tally(f"SIGKILL in `{name}`, then the same again"), random.Random(seed)
    begin = time.monotonic()
    if (ended := dsnet(*arguments(work / "undisturbed"))).code:
        raise RuntimeError(ended.said)
    seconds, wanted = time.monotonic() - begin, contents(work / "undisturbed")
    for number in range(count):
        out = work / str(number)
        moment = chance.uniform(0.1 * seconds, seconds)
        struck = _start_and_kill(arguments(out), moment)
        ended = dsnet(*arguments(out))
        if name == "train" and ended.code == 2 and "--resume" in ended.said:
            ended = dsnet("train", "--resume", "--out", out)
        where = f"after {moment:.1f} of {seconds:.1f} s: exit {ended.code}, {ended.said[-300:]!r}"
        same = (got := contents(out)) == wanted
        finished = ended.code == 2 and "has done all" in ended.said  # killed after its last file
        if ended.raw:
            tally.add("raw", where)
        elif ended.code and not (finished and same):
            tally.add("lost", where)
        elif not same:
            differing = sorted(key for key in wanted.keys() | got.keys() if wanted.get(key) != got.get(key))
            tally.add("silent", f"{', '.join(differing)}, {where}")
        else:
            tally.add("noticed" if struck else "harmless")
        shutil.rmtree(out, ignore_errors=True)
    return tally


def _start_and_kill(arguments: list[str], seconds: float) -> bool:
    """Whether the command still ran when it was killed."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=surroundings(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait() == -signal.SIGKILL
    return False
