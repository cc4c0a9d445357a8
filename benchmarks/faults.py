"""Attacks, counted: bits that flip, kills, two commands at once, want of means, damaged DICOM files.

    python benchmarks/faults.py [--only flips kills crowds starved dicom] [--store 200] [--weights 100]
        [--results 100] [--kills 20] [--crowds 5] [--dicom 500] [--seed 0] [--work DIR] [--json FILE]

Small data and a narrow network, made first; every command is the real one, as a process of its own. All of it
takes about an hour on two cores. tests/faults has the attacks, and CI makes them in small numbers. It exits with
1 where one of them ended silently, raw or with something lost.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "faults"))

from crowds import crowd
from flips import flip_results, flip_store, flip_weights
from kills import kill_commands
from scene import Scene, make_scene
from starved import starve
from tally import Tally, table


def main() -> int:
    """Attack, print, and write JSON if asked."""
    options = _options()
    kinds: dict[str, Callable[[Scene, Path], list[Tally]]] = {
        "flips": lambda scene, work: [
            *flip_store(scene, work, options.store, options.seed),
            *flip_weights(scene, work, options.weights, options.seed),
            *flip_results(scene, work, options.results, options.seed),
        ],
        "kills": lambda scene, work: kill_commands(scene, work, options.kills, options.seed),
        "crowds": lambda scene, work: crowd(scene, work, options.crowds),
        "starved": starve,
        "dicom": lambda _scene, _work: _damaged_dicom(options.dicom, options.seed),
    }
    every: list[Tally] = []
    with tempfile.TemporaryDirectory(prefix="dsnet_med_faults_") as temporary:
        scene = make_scene(options.work or Path(temporary) / "scene")
        for kind in options.only or kinds:
            begin = time.monotonic()
            work = Path(temporary) / kind
            work.mkdir()
            tallies = kinds[kind](scene, work)
            every += tallies
            print(f"{kind}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    print(table(every))
    for tally in every:
        for example in tally.examples[:5]:
            print(f"- {tally.kind}: {example}")
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


def _damaged_dicom(count: int, seed: int) -> list[Tally]:
    raise NotImplementedError


if __name__ == "__main__":
    sys.exit(main())
