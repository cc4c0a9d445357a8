"""`dsnet-med compare` beside the same runs typed one after the other: seconds, and whether scores are equal.

    python benchmarks/compare.py [--methods fcn,fcn_se] [--seeds 0,1,2] [--jobs 2] [--iterations 40] [--turns 2]
        [--json FILE]

Makes a phantom store, then, in turns and as whole processes, runs `compare` with `--jobs`, and `train`, `infer`
and `evaluate` for each method and seed with the same settings. All protocols are scored in both. What `compare`
does beside (the cost of each arm, tables, report) is a part of its time. The typed commands have all cores;
that their masks score exactly the same is checked with as many threads as `compare` gives a cell, in runs that
are not timed (`--no-check` leaves them out).
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dsnet_med.prepare.store import Store

PROTOCOLS = ("strict", "transunet", "dpcnet", "monai")  # those that compare scores
MEASURES = ("dice", "hd95_mm", "assd_mm", "nsd")
SETTINGS = (
    "width=0.125",
    "network_def#backbone#layers=[1, 1, 1, 1]",
    "batch_size=4",
    'optimizer={_target_: torch.optim.AdamW, params: "$@network.parameters()", lr: 0.005, fused: true}',
    "workers=0",
)
Scores = dict[tuple[str, ...], list[float | None]]


def main() -> None:
    """Measure, print, and write JSON if asked."""
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="compare_benchmark_"))
    try:
        store = made_store(folder, options)
        ways = {"compare": compared, "typed": typed}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.turns):
            for name, way in ways.items():
                shutil.rmtree(folder / name, ignore_errors=True)
                begun = time.perf_counter()
                way(folder / name, store, options)
                seconds[name].append(time.perf_counter() - begun)
        different = None if options.no_check else differences(folder, store, options)
    finally:
        shutil.rmtree(folder)
    ours, theirs = (statistics.median(seconds[name]) for name in ("compare", "typed"))
    cells = len(list(runs(options)))
    print(f"| {cells} runs of {options.iterations} steps | s | ratio |\n|---|--:|--:|")
    print(f"| `compare --jobs {options.jobs}` | {ours:.1f} | {ours / theirs:.2f} |")
    print(f"| `train`, `infer`, `evaluate`, one after the other | {theirs:.1f} | 1 |")
    print({None: "scores not compared", 0: "all scores are equal"}.get(different, f"{different} scores differ"))
    if options.json:
        found = {"seconds": seconds, "ratio": ours / theirs, "different": different}
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.exit(bool(different))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="fcn,fcn_se")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--size", default="64x64x16")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def made_store(folder: Path, options: argparse.Namespace) -> Path:
    dsnet_med("phantom", "synapse", "--out", folder / "raw", "--cases", options.cases, "--size", options.size)
    dsnet_med("preprocess", "synapse", "--source", folder / "raw", "--out", folder / "store")
    return folder / "store"


def runs(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Method and seed of every run."""
    yield from ((method, seed) for seed in options.seeds.split(",") for method in options.methods.split(","))


def how(options: argparse.Namespace) -> list[object]:
    """The settings of a training, the same in both ways."""
    pairs = [part for setting in SETTINGS for part in ("--set", setting)]
    return ["--iterations", options.iterations, *pairs, "--device", "cpu"]


def compared(out: Path, store: Path, options: argparse.Namespace) -> None:
    """The trial in one command."""
    matrix = ["--methods", options.methods, "--seeds", options.seeds, "--jobs", options.jobs]
    dsnet_med("compare", *matrix, "--data", store, "--out", out, *how(options))


def typed(out: Path, store: Path, options: argparse.Namespace, threads: int | None = None) -> None:
    """The same as separate commands, one after the other."""
    folder, opened = store.parent / "raw" / "RawData" / "Training", Store.open(store)
    images = [store.parent / "raw" / case.image_files[0] for case in opened.cases_of("test")]
    protocols = [part for name in PROTOCOLS for part in ("--protocol", name)]
    for method, seed in runs(options):
        run = out / method / seed
        what = ["--method", method, "--seed", seed, "--data", store, "--out", run]
        dsnet_med("train", *what, *how(options), threads=threads)
        dsnet_med("infer", "--model", run, *images, "--out", run / "masks", "--device", "cpu", threads=threads)
        into = ["--prediction", run / "masks", "--reference", folder / "label", "--labels", "synapse"]
        into += ["--cases", store / "manifest.json", "--out", run / "scores", "--images", folder / "img"]
        dsnet_med("evaluate", *into, *protocols, threads=threads)


def differences(folder: Path, store: Path, options: argparse.Namespace) -> int:
    """How many scores are not equal between both ways, with as many threads to a run in one as in the other."""
    shutil.rmtree(folder / "typed")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    typed(folder / "typed", store, options, threads=max(1, cores // options.jobs))
    ours: Scores = {}
    for row in rows(folder / "compare" / "scores.csv"):
        ours[row["method"], row["seed"], row["case"], row["label"]] = numbers(row)
    theirs: Scores = {}
    for method, seed in runs(options):
        for row in rows(folder / "typed" / method / seed / "scores" / "cases.csv"):
            theirs[method, seed, row["case"].removeprefix("img"), row["label"]] = numbers(row)
    if not ours.keys() & theirs.keys():
        raise SystemExit("the scores of both ways have nothing in common")
    return sum(ours.get(key) != theirs.get(key) for key in ours | theirs)


def numbers(row: dict[str, str]) -> list[float | None]:
    """The scores of a row, None where nothing is counted."""
    return [float(row[name]) if row[name] else None for name in MEASURES]


def rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def dsnet_med(*words: object, threads: int | None = None) -> None:
    """Run a command as typed; stop here if it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    command = [sys.executable, "-c", "from dsnet_med.cli import main; main()", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"dsnet-med {words[0]} ended with {done.returncode}: {done.stderr[-1000:]}")


if __name__ == "__main__":
    main()
