"""What `evaluate` and `infer` take with the compiled kernels and without: whole commands, in turns, in one run.

    python benchmarks/kernels.py [--cases 4] [--size 512x512x148] [--slices 12] [--repeats 3] [--json FILE]

Evaluation: pairs of CT label maps with eight organs. Inference: one volume of 512x512 slices by FCN-R50 at
full width and at a sixteenth of it, random weights, nine classes. It is checked that both forms give the same
scores and masks; starting Python is part of the time, as a user waits for it.
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

import nibabel as nib
import numpy as np
import torch
import yaml
from label_maps import LABELS, SPACING_MM, make_folders, size_of

from dsnet_med.methods import build_network

KERNELS = ("dsnet_med.evaluate.kernel", "dsnet_med.inference.kernel")
# What is None there cannot be imported, as where it was never compiled.
WITHOUT = "".join(f"sys.modules['{name}'] = None; " for name in KERNELS)
FORMS = {"compiled": "", "without a C compiler": WITHOUT}
WIDTHS = {"FCN-R50": 1.0, "FCN-R50, a sixteenth of the width": 1 / 16}


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description="What the compiled kernels save.")
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--size", default="512x512x148")
    parser.add_argument("--slices", type=int, default=12)
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
    made = {
        f"evaluate, {options.cases} pairs of {options.size}": [
            *("evaluate", "--prediction", str(prediction), "--reference", str(reference)),
            *("--labels", str(folder / "labels.json")),
        ]
    }
    volume = folder / "ct.nii.gz"
    shape = (*size_of(options.size)[:2], options.slices)
    coarse = np.random.default_rng(0).normal(0, 150, (16, 16, 4))
    voxels = torch.nn.functional.interpolate(torch.from_numpy(coarse)[None, None], shape, mode="trilinear")
    nib.save(nib.Nifti1Image(voxels[0, 0].numpy().astype(np.int16), np.diag([*SPACING_MM, 1])), volume)
    for title, width in WIDTHS.items():
        run_folder = write_run(folder / f"run_{width}", width, shape[:2])
        made[f"infer, {title}, {options.slices} slices"] = ["infer", "--model", str(run_folder), str(volume)]
    return made


def write_run(folder: Path, width: float, size: tuple[int, ...]) -> Path:
    """A run folder of FCN with random weights."""
    definition = {"_target_": "dsnet_med.build_network", "method": "fcn", "num_classes": 9, "width": width}
    config = {"class_names": ["background", *LABELS.values()], "size": list(size), "slice_network": definition}
    config["intensity"] = {"window": [-125, 275]}
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    torch.save(build_network("fcn", num_classes=9, width=width).state_dict(), folder / "models" / "model.pt")
    return folder


def run(before: str, arguments: list[str]) -> float:
    """The seconds that a command takes, starting Python included."""
    code = f"import sys; {before}from dsnet_med.cli import main; main()"
    begin = time.perf_counter()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, env=environment)
    return time.perf_counter() - begin


def check_same(one: Path, other: Path) -> None:
    """Fail where the forms gave other scores, or more than one in a hundred thousand other voxels."""
    for file in [*one.glob("cases.csv"), *one.glob("*.nii.gz")]:
        twin = other / file.name
        if file.suffix == ".csv":
            if file.read_text() != twin.read_text():
                raise RuntimeError(f"{file.name} differs")
            continue
        a, b = (np.asarray(nib.load(path).dataobj) for path in (file, twin))
        if (a != b).mean() > 1e-5:
            raise RuntimeError(f"{(a != b).mean():.1e} of the voxels of {file.name} differ")


if __name__ == "__main__":
    main()
