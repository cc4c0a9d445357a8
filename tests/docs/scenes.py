"""What lies in the folder in which the commands of a page are typed: data; commands_typed.py types them.

A page needs nothing here as long as it uses the names of GIVEN. For what else it names it gets a Scene:
`has` says which of PIECES lies there by which name (a new piece is one line of a shell), `python` what its
Python takes for granted, `before` what is done before a command that begins so. What CI has not: NOT_HERE.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scene:
    """How one page is typed. `says`: what is typed for a word of it, in the shell and in Python."""

    has: Mapping[str, str] = field(default_factory=dict)
    says: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    python: str = ""


# Made once for all pages, when a page has it: the line makes a file or folder of the piece's name. $other is
# another piece, $DATA tests/data, $ROOT the checkout, `made NAME` a function of stand_ins.py.
PIECES = {
    "raw": "dsnet-med phantom synapse --out raw --cases 10",
    "store": "dsnet-med preprocess synapse --source $raw --out store --folds 5",
    "store_large": "dsnet-med phantom synapse --out raw_large --cases 10 --size 96x96x48"
    " && dsnet-med preprocess synapse --source raw_large --out store_large",
    "run": "dsnet-med train --method fcn_dsm --data $store --out run",
    "plain": "dsnet-med train --method fcn --data $store --out plain",
    "prepared": "made prepared $store prepared",
    "images": "mkdir images && cp $raw/RawData/Training/img/img000[1-4].nii.gz images",
    "image": "cp $raw/RawData/Training/img/img0001.nii.gz image",
    "reference": "mkdir reference && cp $raw/RawData/Training/label/label000[1-4].nii.gz reference",
    "masks": "dsnet-med infer --model $run $images --out masks",
    "report": "dsnet-med evaluate --prediction $masks --reference $reference --labels synapse --out report",
    "labels": "cp $masks/labels.json labels",
    "series": "cp -r $DATA/volumes/dicom/dcmqi_ct_seg/24x38x3/image series",
    "trial": "dsnet-med compare --methods fcn,fcn_se --data $store --seeds 0,1 --out trial",
    "scores": "sed 's/^fcn_se,/nnunet,/' $trial/scores.csv > scores",
    "mine": "made plugin mine",
    "store_brats": "dsnet-med phantom brats --out raw_brats --cases 10"
    " && dsnet-med preprocess brats --source raw_brats --out store_brats --folds 5",
    "hippocampus": "made hippocampus hippocampus",
    "hippocampus_test": "made hippocampus_test hippocampus_test",
    "store_hippocampus": "dsnet-med preprocess hippocampus --source $hippocampus --out store_hippocampus",
    "bundle": "dsnet-med export $run --out bundle --formats bundle",
    "mask": "cp $masks/img0001.nii.gz mask",
    "own_labels": "mkdir own_labels && cp $masks/*.nii.gz own_labels",  # with the values of labels.json
    "theirs": "made theirs theirs",
    "nnunet": "made nnunet nnunet",
    "organ_files": "made organ_files organ_files",
    "configs": "cp -r $ROOT/configs configs",
}

# Names that stand for the same on every page which uses them before one of its commands has made them.
GIVEN = {
    "STORE": "store",
    "RAW": "raw",
    "RUN": "run",
    "runs/fcn": "plain",
    "runs/fcn_dsm": "run",
    "stores/synapse": "store",
    "stores/brats": "store_brats",
    "IMAGES": "images",
    "SCANS": "images",
    "LABELS": "reference",
    "CT_SERIES": "series",
    "patient.nii.gz": "image",
    "masks": "masks",
    "masks/fcn": "masks",
    "masks/fcn_dsm": "masks",
    "labels.json": "labels",
    "report": "report",
    "trial": "trial",
    "scores.csv": "scores",
    "mine.py": "mine",
    "hippocampus": "hippocampus",
    "stores/hippocampus": "store_hippocampus",
    "TEST_IMAGES": "hippocampus_test",
    "configs": "configs",
}

# Words of a synopsis, and what is typed in their place.
SAYS = {"RECIPE": "synapse", "GB": "8", "DIR": "RAW"}

# How a command of any page begins, and what is done before it.
_PREPARED = 'cd "$SCENE"; rm -rf prepared; cp -r "$prepared" prepared; cd prepared'  # no run has begun there

BEFORE = {
    "dsnet-med compare --methods 'dynunet_3d,": "rm -rf trial",
    "dsnet-med bundle run training": _PREPARED,
    "monai bundle run training": _PREPARED,
    "python -m monai.bundle run training": _PREPARED,
}

SCENES = {
    "README.md": Scene(
        python="import timm; network = timm.create_model('resnet18')",
    ),
    "docs/benchmarks.md": Scene(has={"run": "run", "ct": "images"}),
    "docs/comparing.md": Scene(
        has={"summary.json": "nnunet"},
        says={"METHOD": "nnunet", "SEED": "0"},
        before={
            "dsnet-med compare --methods fcn,fcn_se,fcn_dsm --placebos --data STORE --seeds 0,1,2,3,4 "
            "--out trial --dry-run": "rm -rf trial"
        },
        python="import csv; rows = [{**row, 'seed': int(row['seed']), 'label': int(row['label']), "
        "'dice': float(row['dice'] or 'nan')} for row in csv.DictReader(open('scores.csv'))]",
    ),
    "docs/elsewhere.md": Scene(
        has={
            "organs": "bundle",
            **{f"{case}.nii.gz": "image" for case in "ab"},
            **{f"{case}_label.nii.gz": "mask" for case in "ab"},
        },
    ),
    "docs/exporting.md": Scene(python="import numpy as np; slices = np.zeros((2, 1, 64, 64), np.float32)"),
    "docs/metrics.md": Scene(has={"s0001": "organ_files", "reference": "reference"}),
    "docs/natural.md": Scene(says={"IMAGES": "../../data/coco/val2017"}),
    "docs/networks.md": Scene(
        has={"fcn_dsm.pth": "theirs"}, python="import torch; images = torch.zeros(2, 1, 64, 64)"
    ),
    "docs/plugins.md": Scene(
        has={"theirs.pth": "theirs"},
        says={"pretrained=True": "pretrained=False"},  # without a network
        python="from mine import Mine",
    ),
    "docs/training.md": Scene(
        has={"STORE": "store_large"},
        before={"cd RUN && torchrun": 'rm -rf RUN; cp -r "$prepared" RUN'},
    ),
    "docs/tutorials/reviewer.md": Scene(has={"LABELS": "own_labels"}),
}

# ---------------------------------------------------------------- typed by others, or not at all

# How a command begins, and the test or the step of .ci/run that types it.
ELSEWHERE = {
    "pip install --upgrade --target .uv uv && .uv/bin/uv run dsnet-med quickstart": ".ci/run quickstart",
    "pip install --upgrade --target .uv uv && .uv/bin/uv run --extra dev pytest": ".ci/run tests",
    ".ci/run": ".ci/run",
    "uv run --extra dev pytest -m slow": ".ci/run nightly",
    "pytest tests/": ".ci/run tests",
    "monai bundle run training --dataset_dir DATA --method coco/dsnet50_a": ".ci/run wheel",
    "DSNET_MED_LABEL_PYTHON=": ".ci/run elsewhere",
}
# Pages of which every command is typed by a test of its own.
TESTED_PAGES = {"docs/bundle.md": "tests/engine/test_monai_bundle.py"}

# How a command begins, and what it wants that CI has not.
NOT_HERE = {
    "pip install": "installs from an index; .ci/run wheel, newest and floors install the extras",
    "uv sync": "the same",
    "uv run --extra": "the same",
    "DSNET_MED_KERNEL=skip": "compiles the checkout anew; .ci/run newest does it",
    "source .venv": "the environment that the tests run in",
    "python benchmarks/": "measures for minutes to hours on a quiet machine; .ci/run benchmarks runs two",
    "srun": "Slurm",
    "job=$(sbatch": "Slurm",
    "sbatch": "Slurm",
    "monailabel": "MONAI Label in an environment of its own; .ci/run elsewhere does the same",
    "MonaiBundleInferenceOperator(": "a part of an application of MONAI Deploy; .ci/run elsewhere has one",
    "dsnet-med export RUN --out DIR --push-to": "an account; tests/inference/test_hub.py has a stand-in",
    "dsnet-med infer --model hf://": "a model of the hub; the same",
    "dsnet-med verify hf://": "a model of the hub; the same",
    "hf auth login": "an account of the hub",
    "mlflow ui": "MLflow and a browser",
}
# Packages that pages import and CI has not.
NOT_INSTALLED = {"dask_jobqueue": "Slurm"}
