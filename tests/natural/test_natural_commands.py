"""The commands on natural images, from a data set to scores, as they are typed."""

import json
from pathlib import Path

import pytest

from dsnet_med.cli import bundle
from dsnet_med.cli.app import app
from dsnet_med.cli.guard import guarded
from dsnet_med.errors import InputError

TINY = ("width=0.0625", "workers=0", "min_size=64", "max_size=96", "batch_size=2")


def typed(*arguments):
    app([str(each) for each in arguments], standalone_mode=False)


@pytest.fixture
def trained(tmp_path, capsys):
    typed("phantom", "coco", "--out", tmp_path / "coco", "--cases", "6", "--size", "64x96")
    assert "7 coco images, 6 of them to train on" in capsys.readouterr().out
    settings = [word for value in TINY for word in ("--set", value)]
    typed(
        *("train", "--method", "coco/dsnet50_b", "--data", tmp_path / "coco", "--out", tmp_path / "run"),
        *("--iterations", 2),
        *settings,
    )
    assert "Faster R-CNN, DSNet50-B (width 0.0625): best AP 0.000 at iteration" in capsys.readouterr().out
    return tmp_path / "run"


def test_a_run_is_a_bundle_that_can_be_resumed_and_evaluated(trained, monkeypatch, capsys):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["method"]["id"] == "coco/dsnet50_b" and summary["device"] == "cpu"
    assert guarded(lambda: typed("train", "--out", trained, "--resume", "--device", "cpu")) == 2
    assert "has done all 2 iterations" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(InputError, match="already holds a run"):
        typed("train", "--method", "coco/resnet50", "--data", trained, "--out", trained)
    typed("train", "--out", trained, "--resume", "--device", "cpu", "--iterations", "4")
    assert json.loads((trained / "summary.json").read_text())["iterations"] == 2 * summary["iterations"]
    monkeypatch.chdir(trained)
    for words, message in (
        (["training", "--epoch", "3"], "unknown setting 'epoch': did you mean 'epochs'"),
        (["trainin"], "unknown run id 'trainin'"),
    ):
        with pytest.raises(InputError, match=message):
            bundle.bundle_command(["run", *words])


@pytest.mark.parametrize("dataset", ["imagenet", "cityscapes"])
def test_phantoms_of_the_other_tasks(tmp_path, capsys, dataset):
    typed("phantom", dataset, "--out", tmp_path, "--cases", "8", "--size", "48x64")
    assert f"of them to train on, in {tmp_path}" in capsys.readouterr().out
    assert len(list(Path(tmp_path).rglob("*.JPEG" if dataset == "imagenet" else "*_leftImg8bit.png"))) > 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imagenet", "--size", "48x64x3"], "got --size 48x64x3, wanted rows x columns"),
        (["coco", "--size", "48"], "got --size 48, wanted rows x columns"),
        (["coco", "--oblique"], "got --oblique for coco, which holds images"),
        (["cifar"], "unknown phantom 'cifar'"),
        (["brats", "--oblique"], "got --oblique for brats, which holds volumes on a straight grid"),
        (["synapse", "--layout", "nnunet"], "got --layout nnunet for synapse, which has one layout"),
    ],
)
def test_phantoms_that_cannot_be(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        typed("phantom", *arguments, "--out", tmp_path)
