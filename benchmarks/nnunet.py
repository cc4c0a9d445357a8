"""Ours beside nnU-Net's 2d configuration: same cases, same split, same machine, processor time counted.

    uv venv nnunet && uv pip install --python nnunet/bin/python nnunetv2==2.8.1
    python benchmarks/nnunet.py --source hippocampus --out DIR --nnunet-python nnunet/bin/python --seeds 0,1,2

trains every arm with every seed, one after the other and with one thread each, segments the test cases, scores
all masks by `dsnet-med evaluate` and compares by `dsnet-med compare --scores`. What is done is kept.
nnU-Net runs in its own environment, by this file with `--inside`, so that both sides keep their own libraries.
Processor seconds are user and system time of a training with all processes that it started; of time on the wall
nothing is said, since other work may share the machine.
"""

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

DATASET, CONFIGURATION = "Dataset004_Hippocampus", "2d"
BATCH = (
    12  # the plan's 185 leaves room for 180 steps in a quarter of an hour on a CPU, and none was learnt from
)
EPOCH, CHECKED = (
    250,
    10,
)  # steps of an epoch, as nnU-Net has it, and batches that it looks at after each (it has 50)
MIRRORED = "_mirrored"
NOT_MIRRORED_IN_TRAINING = "nnunet_plain"
ADAMW = 'optimizer={_target_: torch.optim.AdamW, params: "$@network.parameters()", lr: %s, fused: true}'
OURS = {
    # docs/benchmarks.md, section on the hippocampus
    "fcn_dsm": (
        *("--set", "width=0.125", "--set", "network_def#backbone#layers=[2, 2, 2, 2]"),
        *("--set", "validate_every=500", "--set", ADAMW % 0.003),
    ),
    # nnU-Net's own topology, whole slices at nearly their own resolution
    "dynunet_2d": (
        *("--set", "size=[56, 40]", "--set", "batch_size=12", "--set", "network_def#stride=8"),
        *("--set", "network_def#network#kernel_size=[3, 3, 3, 3]"),
        *("--set", "network_def#network#strides=[1, 2, 2, 2]"),
        *("--set", "network_def#network#upsample_kernel_size=[2, 2, 2]"),
        *("--set", "network_def#network#deep_supr_num=2"),
        *("--set", "network_def#features#filters=[32, 64, 128, 256]"),
        *("--overlay", "configs/schedules/adamw.yaml", "--set", "optimizer#params#lr=2e-3"),
        *("--set", "lr_scheduler#warmup=50", "--set", "validate_every=500"),
    ),
}
COLUMNS = ("method", "seed", "case", "label", "name", "dice", "hd95_mm", "assd_mm", "nsd")
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    options = arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.inside:
        {"prepare": prepare, "train": train_nnunet}[options.inside](options)
        return
    options.source, options.out = options.source.resolve(), options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "store" / "manifest.json").exists():
        command("preprocess", "hippocampus", "--source", options.source, "--out", options.out / "store")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for seed in seeds:
        for arm in options.arms.split(","):
            run = options.out / arm / f"seed-{seed}"
            if not (run / "cost.json").exists():
                (nnunet if arm.startswith("nnunet") else ours)(options, arm, seed, run)
            for masks in sorted(run.glob("masks*")):
                score(options, masks)
    table(options, seeds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source", type=Path, required=True, help="imagesTr and labelsTr, as they were published"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nnunet-python", type=Path, help="Python of an environment with nnunetv2")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--arms", default="nnunet,fcn_dsm,dynunet_2d", help=f"also {NOT_MIRRORED_IN_TRAINING}")
    parser.add_argument("--iterations", type=int, default=3000, help="of every arm that --steps does not name")
    parser.add_argument("--steps", default="", help="of single arms, such as dynunet_2d=4000,fcn_dsm=2500")
    parser.add_argument(
        "--inside", choices=("prepare", "train"), help="what this file does in nnU-Net's environment"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arm", default="nnunet")
    return parser.parse_args()


def steps(options: argparse.Namespace, arm: str) -> int:
    """How many steps an arm is trained for."""
    told = dict(part.split("=") for part in options.steps.split(",") if part)
    return int(told.get(arm, options.iterations))


def command(*words: object) -> None:
    """Run `dsnet-med` with these arguments. Raises CalledProcessError."""
    started = [sys.executable, "-c", "from dsnet_med.cli import main; main()"]
    subprocess.run([*started, *map(str, words)], check=True, cwd=ROOT)


def processor_seconds(who: int = resource.RUSAGE_CHILDREN) -> float:
    """User and system time so far, of ended children or of this process."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def splits(store: Path) -> dict[str, list[str]]:
    """The cases of train, val and test."""
    found: dict[str, list[str]] = json.loads((store / "manifest.json").read_text(encoding="utf-8"))["splits"]
    return {split: sorted(names) for split, names in found.items()}


def ours(options: argparse.Namespace, arm: str, seed: int, run: Path) -> None:
    """One run of ours, and the masks of the test cases without and with mirroring."""
    before = processor_seconds()
    command(
        *("train", "--method", arm, "--data", options.out / "store", "--out", run / "run", "--seed", seed),
        *("--iterations", steps(options, arm), "--set", "workers=0"),
        *("--set", "train#augmentation#flip_prob=0.0", *OURS[arm]),
    )
    cost = {"training_cpu_s": round(processor_seconds() - before, 1), "iterations": steps(options, arm)}
    images = [options.source / "imagesTr" / f"{case}.nii.gz" for case in splits(options.out / "store")["test"]]
    command("infer", "--model", run / "run", *images, "--out", run / "masks")
    command("infer", "--model", run / "run", *images, "--out", run / f"masks{MIRRORED}", "--tta")
    (run / "cost.json").write_text(json.dumps(cost), encoding="utf-8")


def nnunet(options: argparse.Namespace, arm: str, seed: int, run: Path) -> None:
    """One run of nnU-Net in its own environment."""
    environment = os.environ | {
        "nnUNet_raw": str((options.out / "nnunet_raw").resolve()),
        "nnUNet_preprocessed": str((options.out / "nnunet_preprocessed").resolve()),
        "nnUNet_results": str((run / "results").resolve()),
        "nnUNet_compile": "f",
    }
    stages = ["train"] if (options.out / "nnunet_preprocessed" / DATASET / "splits_final.json").exists() else []
    for stage in stages or ["prepare", "train"]:
        words = [
            "--inside",
            stage,
            "--source",
            options.source,
            "--out",
            options.out,
            "--seed",
            seed,
            "--arm",
            arm,
        ]
        words += ["--iterations", steps(options, arm)]
        # Training augments in its own process: there the seed reaches it. The planner refuses 0.
        environment["nnUNet_n_proc_DA"] = "0" if stage == "train" else "1"
        subprocess.run([options.nnunet_python, __file__, *map(str, words)], check=True, env=environment)


def prepare(options: argparse.Namespace) -> None:
    """The data in nnU-Net's layout with our split, planned by nnU-Net, the batch made smaller."""
    import SimpleITK

    raw, cases = Path(os.environ["nnUNet_raw"]) / DATASET, splits(options.out / "store")  # noqa: SIM112
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for split, names in cases.items():
        for name in names:
            images = raw / ("imagesTs" if split == "test" else "imagesTr")
            shutil.copy(options.source / "imagesTr" / f"{name}.nii.gz", images / f"{name}_0000.nii.gz")
            if split != "test":
                label = SimpleITK.ReadImage(str(options.source / "labelsTr" / f"{name}.nii.gz"))
                label = SimpleITK.Cast(label, SimpleITK.sitkUInt8)
                SimpleITK.WriteImage(label, str(raw / "labelsTr" / f"{name}.nii.gz"))
    described: dict[str, Any] = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": len(cases["train"]) + len(cases["val"]),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    planner = Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess"
    subprocess.run([planner, "-d", "4", "-c", CONFIGURATION, "-npfp", "1", "-np", "1"], check=True)
    made = Path(os.environ["nnUNet_preprocessed"]) / DATASET  # noqa: SIM112
    plans = json.loads((made / "nnUNetPlans.json").read_text(encoding="utf-8"))
    plans["configurations"][CONFIGURATION]["batch_size"] = BATCH
    (made / "nnUNetPlans.json").write_text(json.dumps(plans, indent=2), encoding="utf-8")
    split = [{"train": cases["train"], "val": cases["val"]}]
    (made / "splits_final.json").write_text(json.dumps(split), encoding="utf-8")


def train_nnunet(options: argparse.Namespace) -> None:
    """One training by nnU-Net, seeded, and the masks of the test cases without and with mirroring."""
    import random

    import numpy as np
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class Bounded(nnUNetTrainer):  # type: ignore[misc, unused-ignore]
        """nnU-Net's own trainer with fewer epochs, so that its schedule ends where the budget does."""

        def __init__(
            self,
            plans: dict[str, Any],
            configuration: str,
            fold: int,
            dataset_json: dict[str, Any],
            device: torch.device,
        ) -> None:
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = EPOCH, CHECKED
            self.num_epochs = max(1, options.iterations // EPOCH)

        def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:
            rotation, dummy, patch, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
            if options.arm == NOT_MIRRORED_IN_TRAINING:
                axes = self.inference_allowed_mirroring_axes = None
            return rotation, dummy, patch, axes

    torch.set_num_threads(1)
    random.seed(options.seed)
    np.random.seed(options.seed)
    torch.manual_seed(options.seed)
    made = Path(os.environ["nnUNet_preprocessed"]) / DATASET  # noqa: SIM112
    plans = json.loads((made / "nnUNetPlans.json").read_text(encoding="utf-8")) | {"continue_training": False}
    dataset = json.loads((made / "dataset.json").read_text(encoding="utf-8"))
    trainer = Bounded(plans, CONFIGURATION, 0, dataset, torch.device("cpu"))
    trainer.initialize()
    trainer.run_training()
    spent = processor_seconds(resource.RUSAGE_SELF) + processor_seconds()
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    raw, run = Path(os.environ["nnUNet_raw"]) / DATASET, options.out / options.arm / f"seed-{options.seed}"  # noqa: SIM112
    images = [[str(image)] for image in sorted((raw / "imagesTs").iterdir())]
    for mirrored in (False, True):
        if mirrored and trainer.inference_allowed_mirroring_axes is None:
            continue
        masks = run / (f"masks{MIRRORED}" if mirrored else "masks")
        masks.mkdir(parents=True, exist_ok=True)
        predictor = nnUNetPredictor(use_mirroring=mirrored, device=torch.device("cpu"), allow_tqdm=False)
        predictor.manual_initialization(
            *(trainer.network, trainer.plans_manager, trainer.configuration_manager),
            *([trainer.network.state_dict()], dataset, "Bounded", trainer.inference_allowed_mirroring_axes),
        )
        names = [str(masks / Path(image).name.removesuffix("_0000.nii.gz")) for (image,) in images]
        predictor.predict_from_files_sequential(images, names, overwrite=True)
    cost = {"training_cpu_s": round(spent, 1), "iterations": options.iterations}
    (run / "cost.json").write_text(json.dumps(cost), encoding="utf-8")


def score(options: argparse.Namespace, masks: Path) -> None:
    """All test cases by our `evaluate`."""
    scores = masks.with_name(masks.name.replace("masks", "scores"))
    if not scores.exists():
        command(
            *("evaluate", "--prediction", masks, "--reference", options.source / "labelsTr"),
            *("--labels", "hippocampus", "--out", scores, "--cases", options.out / "store" / "manifest.json"),
        )


def table(options: argparse.Namespace, seeds: list[int]) -> None:
    """One scores.csv of all arms, mirrored ones as arms of their own, and what `compare` makes of it."""
    rows, costs = [], []
    for arm in options.arms.split(","):
        for seed in seeds:
            run = options.out / arm / f"seed-{seed}"
            costs.append(
                {"method": arm, "seed": seed, **json.loads((run / "cost.json").read_text(encoding="utf-8"))}
            )
            for scored in sorted(run.glob("scores*/cases.csv")):
                method = arm + scored.parent.name.removeprefix("scores")
                with scored.open(encoding="utf-8", newline="") as file:
                    rows += [{**row, "method": method, "seed": seed} for row in csv.DictReader(file)]
    for name, columns, content in (("scores.csv", COLUMNS, rows), ("costs.csv", tuple(costs[0]), costs)):
        with (options.out / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(content)
    command(
        "compare",
        "--scores",
        options.out / "scores.csv",
        "--out",
        options.out / "analysis",
        "--baseline",
        "nnunet",
    )


if __name__ == "__main__":
    main()
