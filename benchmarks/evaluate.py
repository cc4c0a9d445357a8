"""`dsnet-med evaluate` on pairs of CT label maps, from typing it to the report, beside decompressing the files.

    python benchmarks/evaluate.py [--cases 12] [--repeats 5] [--json FILE]

Writes 512x512x148 pairs as .nii.gz, then times, in turns and as whole processes on two cores, the command,
isal alone (the decoder that it uses), `gzip -dc`, Python's gzip module (two processes each), and nibabel's
get_fdata. A first turn, not counted, warms the file cache and lets Python keep its bytecode.
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
from collections.abc import Sequence
from pathlib import Path

from label_maps import LABELS, make_folders, size_of

CORES = 2
# Each takes its files from the command line and reads every byte, decompressed.
READERS = {
    "isal, one call a file": "from isal import igzip\nfor f in files: igzip.decompress(open(f, 'rb').read())",
    "Python gzip": "import gzip\nfor f in files: gzip.open(f).read()",
    "nibabel get_fdata": "import nibabel\nfor f in files: nibabel.load(f).get_fdata()",
}


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--size", default="512x512x148")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="evaluate_benchmark_"))
    try:
        prediction, reference = make_folders(folder, options.cases, size_of(options.size))
        (folder / "labels.json").write_text(json.dumps(LABELS))
        rows = measure(folder, prediction, reference, options.repeats)
    finally:
        shutil.rmtree(folder)
    command = rows["dsnet-med evaluate"]
    print("| | s | `evaluate` over it |\n|---|--:|--:|")
    for name, seconds in rows.items():
        print(f"| {name} | {seconds:.2f} | {command / seconds:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(folder: Path, prediction: Path, reference: Path, repeats: int) -> dict[str, float]:
    """The median seconds of each way, as whole processes; they take turns."""
    files = [str(path) for place in (prediction, reference) for path in sorted(place.iterdir())]
    evaluate = [str(Path(sys.executable).parent / "dsnet-med"), "evaluate", "--workers", str(CORES)]
    evaluate += ["--prediction", str(prediction), "--reference", str(reference)]
    evaluate += ["--labels", str(folder / "labels.json"), "--out", str(folder / "out")]
    ways: dict[str, Sequence[Sequence[str]]] = {"dsnet-med evaluate": [evaluate]}
    ways["gzip -dc"] = [["gzip", "-dc", *files[part::CORES]] for part in range(CORES)]
    for name, code in READERS.items():
        program = f"import sys; files = sys.argv[1:]\n{code}"
        ways[name] = [[sys.executable, "-c", program, *files[part::CORES]] for part in range(CORES)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, commands in ways.items():
            took = together(commands)
            if turn:  # the first warms the file cache
                seconds[name].append(took)
    return {name: statistics.median(values) for name, values in seconds.items()}


def together(commands: Sequence[Sequence[str]]) -> float:
    """The seconds until all have ended."""
    begin = time.perf_counter()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    running = [subprocess.Popen(command, **quiet) for command in commands]
    codes = [process.wait() for process in running]
    took = time.perf_counter() - begin
    if any(codes):
        raise RuntimeError(f"{commands[0][0]} ended with {codes}")
    return took


if __name__ == "__main__":
    main()
