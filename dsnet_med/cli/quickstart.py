"""The whole path on synthetic volumes: phantom, preprocess, train, infer, evaluate."""

import json
import shutil
import time
from pathlib import Path

import typer

from dsnet_med.cli import inferring, scoring, steps, training
from dsnet_med.errors import InputError
from dsnet_med.files import LOCK, locked, require_writable, write_text

CASES, SIZE, ITERATIONS = 14, "112x112x24", 850

# FCN+DSM narrow and shallow enough for two processor cores, with an optimiser that gets there in a minute.
# The published protocol, which `train` follows unless told otherwise, takes 40 000 steps of SGD.
SETTINGS = [
    "width=0.125",
    "network_def#backbone#layers=[1, 1, 1, 1]",
    "batch_size=4",
    'optimizer={_target_: torch.optim.AdamW, params: "$@network.parameters()", lr: 0.005, fused: true}',
    "train#augmentation#rotate_prob=0.25",
    "train#augmentation#flip_prob=0.0",
    "workers=0",
]


def quickstart(out: Path, iterations: int = ITERATIONS) -> None:
    """Make phantoms, prepare them, train, segment the test cases and score them. Raises InputError."""
    with locked(out, "makes a quickstart in"):
        _quickstart(out, iterations)


def _quickstart(out: Path, iterations: int) -> None:
    started = time.monotonic()
    raw, store, run, masks = folders = [out / name for name in ("raw", "store", "run", "predictions")]
    _clear(out, folders)
    steps.phantom("synapse", raw, cases=CASES, seed=0, size=SIZE, oblique=False)
    steps.preprocess("synapse", raw, store, workers=2)
    length = {"iterations": iterations, "validate_every": iterations // 2}
    training.train(run, training.Request("fcn_dsm", store, {"seed": 0, **length}, SETTINGS))
    folder = raw / "RawData" / "Training"
    inferring.infer([run], held_out_images(store, raw), masks)
    scoring.evaluate(
        [masks],
        folder / "label",
        "synapse",
        out,
        images=folder / "img",
        options=scoring.Options(protocols=("strict", "transunet")),
        cases=store / "manifest.json",
        overwrite=True,
    )
    dice = json.loads((out / "summary.json").read_text(encoding="utf-8"))["mean"]["dice"]
    typer.echo(
        f"mean Dice {dice:.3f} over 8 organs, {time.monotonic() - started:.0f} s. Open {out / 'report.html'}"
    )


def _clear(out: Path, folders: list[Path]) -> None:
    """Remove what an earlier quickstart left in `out`, and nothing else."""
    marker = out / "quickstart.txt"
    if any(file.name != LOCK for file in out.iterdir()) and not marker.is_file():
        raise InputError(f"{out} holds other files; choose an empty folder with --out")
    require_writable(out)
    write_text(
        marker, "Made by `dsnet-med quickstart`; running it again here replaces what lies beside this file.\n"
    )
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def held_out_images(store: Path, raw: Path) -> list[Path]:
    """The raw images of a store's test cases."""
    from dsnet_med.prepare.store import Store

    return [raw / case.image_files[0] for case in Store.open(store).cases_of("test")]
