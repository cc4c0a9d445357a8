"""`python stand_ins.py NAME PATH...`: what takes the place of things that a reader has and CI has not."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

SPLITS = Path(__file__).parents[2] / "data_prep" / "hippocampus" / "splits.csv"
HIPPOCAMPUS = Path(__file__).parents[1] / "data" / "volumes" / "hippocampus"


def hippocampus(out: Path) -> None:
    """Three real cases, each twice, under the names of two cases of each split."""
    sources = ("001", "003", "004")
    for place, name in enumerate(each for split in ("train", "val", "test") for each in _cases(split)):
        for folder in ("imagesTr", "labelsTr"):
            (out / folder).mkdir(parents=True, exist_ok=True)
            source = HIPPOCAMPUS / folder / f"hippocampus_{sources[place % 3]}.nii.gz"
            shutil.copy(source, out / folder / f"{name}.nii.gz")


def hippocampus_test(out: Path) -> None:
    """The images of its test cases."""
    hippocampus(whole := out.with_name("whole"))
    out.mkdir()
    for name in _cases("test"):
        shutil.copy(whole / "imagesTr" / f"{name}.nii.gz", out)


def _cases(split: str) -> list[str]:
    rows = [line.split(",") for line in SPLITS.read_text(encoding="utf-8").split()]
    return [name for name, its in rows if its == split][:2]


def plugin(out: Path) -> None:
    """mine.py as docs/plugins.md shows it."""
    from commands import pieces

    out.write_text(next(each.text for each in pieces("docs/plugins.md") if each.name == "mine.py"))


def prepared(store: Path, out: Path) -> None:
    """A run that has not begun."""
    from small import ORGANS

    from dsnet_med.engine.overrides import parse_settings
    from dsnet_med.engine.run import prepare

    settings = [f"{name}={value}" for name, value in ORGANS.items()]
    prepare("fcn_dsm", store, out, {"iterations": 2, "workers": 0, **parse_settings(settings)})


def theirs(out: Path) -> None:
    """A checkpoint of FCN+DSM as the published code saves it."""
    import torch

    from dsnet_med import build_network
    from dsnet_med.networks.reference import reference_names

    network = build_network("fcn_dsm", in_channels=3, num_classes=9)
    names = reference_names(network)
    state = {names[key]: value for key, value in network.state_dict().items()}
    torch.save({"meta": {}, "state_dict": state}, out)


def nnunet(out: Path) -> None:
    """summary.json as nnU-Net writes it."""
    cases = [
        {
            "reference_file": f"labelsTs/case_{number}.nii.gz",
            "metrics": {"1": {"Dice": 0.9}, "2": {"Dice": 0.8}},
        }
        for number in (1, 2)
    ]
    out.write_text(json.dumps({"metric_per_case": cases}), encoding="utf-8")


def organ_files(out: Path) -> None:
    """A subject of TotalSegmentator: one mask a file."""
    import nibabel as nib
    import numpy as np

    (out / "segmentations").mkdir(parents=True)
    for place, name in enumerate(("liver", "spleen")):
        voxels = np.zeros((8, 8, 8), np.uint8)
        voxels[place * 4 : place * 4 + 3] = 1
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), out / "segmentations" / f"{name}.nii.gz")


MAKERS: dict[str, Callable[..., None]] = {
    each.__name__: each
    for each in (hippocampus, hippocampus_test, plugin, prepared, theirs, nnunet, organ_files)
}

if __name__ == "__main__":
    MAKERS[sys.argv[1]](*map(Path, sys.argv[2:]))
