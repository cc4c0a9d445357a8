"""What `evaluate` takes with the compiled kernel and without: whole commands, in turns, in one run.

    python benchmarks/kernels.py [--cases 4] [--size 512x512x148] [--repeats 3] [--json FILE]

Pairs of CT label maps with eight organs. It is checked that both forms give the same scores; starting Python is
part of the time, as a user waits for it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from label_maps import LABELS, make_folders, size_of

# What is None there cannot be imported, as where it was never compiled.
WITHOUT = "sys.modules['dsnet_med.evaluate.kernel'] = None; "
FORMS = {"compiled": "", "without a C compiler": WITHOUT}


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description="What the compiled kernel saves.")
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--size", default="512x512x148")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kernel_benchmark_"))
    try:
        rows = measure(folder, options)
    finally:
        shutil.rmtree(folder)
    first, second = FORMS
    print(f"| | {first}, s | {second}, s | times |\n|---|--:|--:|--:|")
    for name, seconds in rows.items():
        one, other = seconds[first], seconds[second]
        print(f"| {name} | {one:.2f} | {other:.2f} | {other / one:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The median seconds of each command in each form; the forms take turns."""
    seconds: dict[str, dict[str, list[float]]] = {}
    outs = {form: folder / form.replace(" ", "_") for form in FORMS}
    for name, arguments in commands(folder, options).items():
        seconds[name] = {form: [] for form in FORMS}
        for turn in range(options.repeats + 1):
            for form, before in FORMS.items():
                shutil.rmtree(outs[form], ignore_errors=True)
                took = run(before, [*arguments, "--out", str(outs[form])])
                if turn:  # the first warms the file cache
                    seconds[name][form].append(took)
        check_same(*outs.values())
    return {
        name: {form: statistics.median(each) for form, each in forms.items()} for name, forms in seconds.items()
    }


def commands(folder: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """The commands without --out, after making what they read."""
    prediction, reference = make_folders(folder, options.cases, size_of(options.size))
    (folder / "labels.json").write_text(json.dumps(LABELS))
    return {
        f"evaluate, {options.cases} pairs of {options.size}": [
            *("evaluate", "--prediction", str(prediction), "--reference", str(reference)),
            *("--labels", str(folder / "labels.json")),
        ]
    }


def run(before: str, arguments: list[str]) -> float:
    """The seconds that a command takes, starting Python included."""
    code = f"import sys; {before}from dsnet_med.cli import main; main()"
    begin = time.perf_counter()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, env=environment)
    return time.perf_counter() - begin


def check_same(one: Path, other: Path) -> None:
    """Fail where the forms gave other scores."""
    if (one / "cases.csv").read_text() != (other / "cases.csv").read_text():
        raise RuntimeError("the scores differ")


if __name__ == "__main__":
    main()
