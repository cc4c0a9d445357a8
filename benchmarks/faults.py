"""Attacks, counted: bits that flip, kills, two commands at once, want of means, damaged DICOM files.

    python benchmarks/faults.py [--only flips kills crowds starved dicom] [--store 200] [--weights 100]
        [--results 100] [--kills 20] [--crowds 5] [--dicom 500] [--seed 0] [--work DIR] [--json FILE]

Small data and a narrow network, made first; every command is the real one, as a process of its own. All of it
takes about an hour on two cores. tests/faults has the attacks, and CI makes them in small numbers. It exits
with 1 where one of them ended silently, raw or with something lost.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "faults"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "dicom"))

from crowds import crowd
from dicom_damage import SYNTAXES, fuzz_dicom
from flips import flip_results, flip_store, flip_weights
from kills import kill_commands
from scene import Scene, make_scene
from starved import starve
from tally import Tally, table


def main() -> int:
    """Attack, print, and write JSON if asked."""
    options = _options()
    kinds: dict[str, Callable[[Scene, Path], Iterable[Tally]]] = {
        "flips": lambda scene, work: chain(
            flip_store(scene, work, options.store, options.seed),
            flip_weights(scene, work, options.weights, options.seed),
            flip_results(scene, work, options.results, options.seed),
        ),
        "kills": lambda scene, work: kill_commands(scene, work, options.kills, options.seed),
        "crowds": lambda scene, work: crowd(scene, work, options.crowds),
        "starved": starve,
        "dicom": lambda scene, _work: _damaged_dicom(scene, options.dicom, options.seed),
    }
    every: list[Tally] = []
    with tempfile.TemporaryDirectory(prefix="dsnet_med_faults_") as temporary:
        scene = make_scene(options.work or Path(temporary) / "scene")
        for kind in options.only or kinds:
            begin, work = time.monotonic(), Path(temporary) / kind
            work.mkdir()
            for tally in kinds[kind](scene, work):
                every.append(tally)
                print(f"{tally.kind}: {dict(tally.ended)}, {time.monotonic() - begin:.0f} s", file=sys.stderr)
                print("".join(f"- {example}\n" for example in tally.examples[:8]), file=sys.stderr, end="")
                begin = time.monotonic()
    print(table(every))
    if options.json:
        told = [{"kind": tally.kind, "ended": tally.ended, "examples": tally.examples} for tally in every]
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    return int(any(tally.failed for tally in every))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=["flips", "kills", "crowds", "starved", "dicom"])
    numbers = {"store": 200, "weights": 100, "results": 100, "kills": 20, "crowds": 5, "dicom": 500, "seed": 0}
    for name, number in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--work", type=Path, help="where the data and the run are kept for the next time")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _damaged_dicom(scene: Scene, count: int, seed: int) -> Iterator[Tally]:
    """DICOM has no check sums: pixels that decode to others count as harmless, being what the file says."""
    for syntax in SYNTAXES:
        found, tally = (
            fuzz_dicom(syntax, count, seed, scene),
            Tally(f"damaged DICOM, {syntax}, through all commands"),
        )
        tally.ended.update(harmless=found["silent"], raw=found["raw"], lost=found["lost"] + found["died"])
        tally.ended["noticed"] = max(0, found["tried"] - tally.tried)
        yield tally


if __name__ == "__main__":
    sys.exit(main())
