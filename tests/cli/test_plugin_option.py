"""`train --plugin mine.py:Mine --at PATTERN`: a stranger's file in a run that works without it afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typed
import yaml

from dsnet_med.cli.app import app
from dsnet_med.cli.guard import guarded
from dsnet_med.engine.plugin_choice import PluginChoice
from dsnet_med.engine.run import prepare, reopen, train
from dsnet_med.errors import InputError
from dsnet_med.methods import build_network, with_plugin
from dsnet_med.networks.plugin_file import load_plugin
from dsnet_med.networks.plugins import DSM, ConstantGate
from dsnet_med.phantoms import make_synapse
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.recipe import load_recipe

SMALL = {"width": 0.125, "network_def#backbone#layers": [1, 1, 1, 2], "validate_every": 2, "workers": 0}
TITLE = "FCN + Mine at layer4.*.act2 (width 0.125, backbone.layers changed)"
OF_NUL = (
    "SyntaxError" if sys.version_info >= (3, 11, 4) else "ValueError"
)  # what Python says of a NUL in a source
MINE = """
import torch
from torch import nn


class Mine(nn.Module):
    '''One learned factor per channel.'''

    def __init__(self, channels):
        super().__init__()
        self.factor = nn.Parameter(torch.full((channels,), 1.5))

    def forward(self, x):
        return x * self.factor.reshape(-1, *[1] * (x.ndim - 2))


class Narrower(Mine):
    def forward(self, x):
        return x[:, ::2]


class FailsInTraining(Mine):
    def forward(self, x):
        if self.training:
            raise RuntimeError("not while it learns")
        return x


class Leaves(Mine):
    def __init__(self, channels):
        raise SystemExit(0)


answer = 42
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin_raw")
    list(make_synapse(folder, cases=4, seed=0, size=(64, 64, 8)))
    return folder


@pytest.fixture(scope="module")
def store(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin_store")
    assert not [
        result.error for result in convert(load_recipe("synapse"), raw, folder, workers=1) if result.error
    ]
    return folder


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained from the command line, then moved, its plug-in's file deleted."""
    folder = tmp_path_factory.mktemp("plugin_run")
    (folder / "my @file.py").write_text(MINE)
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    what = ["--method", "fcn", "--plugin", "my @file.py:Mine", "--at", "layer4.*.act2", "--data", store]
    more = ["--out", "run", "--iterations", "2", "--device", "cpu", *settings]
    done = typed.run("train", *what, *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"{TITLE}: best Dice" in done.stdout and " parameters, " in done.stdout
    (folder / "my @file.py").unlink()
    return (folder / "run").rename(folder / "elsewhere")


def _image(raw: Path) -> Path:
    return raw / "RawData" / "Training" / "img" / "img0001.nii.gz"


def test_the_run_says_what_it_is(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["method"] == {
        "id": "fcn+Mine",
        "title": TITLE,
        "changes": "width 0.125, backbone.layers changed",
        "parameters": summary["parameters"],
        "paper": "Long et al. 2015, https://arxiv.org/abs/1411.4038",
        "backbone": "ResNet-50-C, output stride 8 (changed)",
        "plugin": "Mine",
        "place": "layer4.*.act2",
        "head": "FCN",
    }
    assert json.loads((run / "configs" / "metadata.json").read_text())["name"] == "fcn+Mine"
    config = yaml.safe_load((run / "configs" / "train.yaml").read_text())
    assert config["method_card"] | {"parameters": summary["parameters"]} == summary["method"]
    assert config["network_def"]["at"] == "layer4.*.act2"
    assert (run / "scripts" / "my__file.py").read_text() == MINE
    plain = build_network("fcn", num_classes=9, width=0.125, backbone={"layers": [1, 1, 1, 2]})
    assert summary["parameters"] == sum(each.numel() for each in plain.parameters()) + 2 * 64


def test_its_weights_hold_the_plugin_where_it_was_put(run: Path) -> None:
    weights = torch.load(run / "models" / "model.pt", weights_only=True)
    added = {name for name in weights if "plugin" in name}
    assert added == {f"backbone.layer4.{block}.act2.plugin.factor" for block in (0, 1)}
    assert all((weights[name] != 1.5).any() for name in added)  # learned


def test_it_segments_without_the_file(run: Path, raw: Path, tmp_path: Path) -> None:
    done = typed.run("infer", _image(raw), "--model", run, "--out", tmp_path / "masks")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "masks" / "run.json").read_text())["method"] == TITLE


def test_monai_s_own_command_loads_it(run: Path) -> None:
    files = str([f"configs/{name}.yaml" for name in ("train", "evaluate")])
    command = [sys.executable, "-m", "monai.bundle", "run", "evaluating", "--config_file", files]
    done = subprocess.run(command, cwd=run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mean_dice" in json.loads((run / "test_dice.json").read_text())


def test_it_goes_on_without_the_file(run: Path) -> None:
    last = run / "checkpoints" / "last.pt"
    reopen(run, {"iterations": 3})
    summary = train(run, {"resume": True})
    assert summary["method"]["title"] == TITLE
    assert torch.load(last, weights_only=True)["moment"][0] == 3


def test_a_run_that_lost_its_script_says_so(
    run: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = run / "scripts" / "my__file.py"
    script.rename(tmp_path / "kept.py")
    arguments = ["infer", str(_image(raw)), "--model", str(run), "--out", str(tmp_path / "masks")]
    assert guarded(lambda: app(arguments, standalone_mode=False)) == 2
    assert "no plug-in file at" in capsys.readouterr().err  # it is no longer what was trained
    assert guarded(lambda: app([*arguments, "--trust"], standalone_mode=False)) == 2
    assert f"no plug-in file at {script}" in capsys.readouterr().err
    (tmp_path / "kept.py").rename(script)


def test_one_of_ours_after_a_method_s_own(store: Path, tmp_path: Path) -> None:
    prepare(
        "fcn_dsm",
        store,
        tmp_path,
        {**SMALL, "iterations": 2},
        plugin=PluginChoice("ConstantGate", "layer3.*.act2"),
    )
    summary = train(tmp_path, {})
    card = summary["method"]
    title = "FCN+DSM + ConstantGate at layer3.*.act2 (width 0.125, backbone.layers changed)"
    assert (card["id"], card["title"]) == ("fcn_dsm+ConstantGate", title)
    assert (card["plugin"], card["place"]) == (
        "DSM (ratio 2, bias) (changed); ConstantGate",
        "stage 4, after conv2 (changed); layer3.*.act2",
    )
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert "backbone.layer3.0.act2.plugin.logit" in weights
    assert "backbone.layer4.0.act2.plugin.fusion.value.weight" in weights
    assert not (tmp_path / "scripts").exists()


@pytest.mark.parametrize(
    ("plugin", "at", "words"),
    [
        ("none.py:Mine", None, "no plug-in file at none.py: give the path"),
        ("mine.py:Mini", None, "unknown class in mine.py 'Mini': did you mean 'Mine'? known: "),
        ("mine.py", None, "got 'mine.py', wanted a file and a class in it, for example mine.py:Mine"),
        ("mine.py:answer", None, "'answer' in mine.py is a int"),
        ("mine.py:Mine", "layer9.*.act2", "no submodule is named 'layer9.*.act2': the network has"),
        ("mine.py:Mine", "layer4.9.act2", "backbone.layer4.0.act2"),
        (
            "mine.py:Narrower",
            None,
            "Narrower turns the (1, 64, 8, 12) of 'backbone.layer4.0.act2' into (1, 32, 8, 12)",
        ),
        ("typo.py:Mine", None, "typo.py cannot be executed: SyntaxError: line 2: "),
        (
            "fails.py:Mine",
            None,
            "fails.py cannot be executed: ModuleNotFoundError: No module named 'helpers_of_mine'",
        ),
        ("leaves.py:Mine", None, "leaves.py cannot be executed: SystemExit: 0"),
        ("nul.py:Mine", None, f"nul.py cannot be executed: {OF_NUL}: source code"),
        ("mine.py:Leaves", None, "Leaves cannot follow 'backbone.layer4.0.act2'"),
        ("mine.py:FailsInTraining", None, "fails in training: RuntimeError: not while it learns"),
        ("DMS", None, "unknown plug-in 'DMS': did you mean 'DSM'?"),
        ("", None, "got an empty --plugin or --at"),
        ("SE", "", "got an empty --plugin or --at"),
    ],
)
def test_what_does_not_fit_is_one_line_before_the_run_is_made(
    plugin: str,
    at: str | None,
    words: str,
    store: Path,
    mine: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(mine.parent)
    Path("typo.py").write_text("class Mine:\n    def (self):\n")
    Path("fails.py").write_text("import helpers_of_mine\nclass Mine: ...\n")
    Path("leaves.py").write_text("raise SystemExit(0)\n")
    Path("nul.py").write_bytes(b"class Mine: ...\n\0")
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    arguments = [
        "train",
        "--method",
        "fcn",
        "--data",
        str(store),
        "--out",
        "run",
        "--plugin",
        plugin,
        *settings,
    ]
    code = guarded(lambda: app(arguments + (["--at", at] if at is not None else []), standalone_mode=False))
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert lines[-1].startswith("dsnet-med: ") and words in lines[-1]
    assert "Traceback" not in "".join(lines) and not Path("run").exists()


def test_at_wants_a_plugin(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--method", "fcn", "--data", str(store), "--out", "run", "--at", "layer4.*"]
    assert guarded(lambda: app(arguments, standalone_mode=False)) == 2
    assert "got --at layer4.* without --plugin" in capsys.readouterr().err


def test_a_plugin_that_the_batch_is_too_small_for(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="DSM got a batch of one in training"):
        prepare("fcn", store, tmp_path / "run", {**SMALL, "batch_size": 1}, plugin=PluginChoice("DSM"))
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_keeps_its_network(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--resume", "--out", str(run), "--plugin", "SE"]
    assert guarded(lambda: app(arguments, standalone_mode=False)) == 2
    assert "with --resume: a run goes on with the network that it has" in capsys.readouterr().err


def test_the_help_says_that_the_file_is_executed() -> None:
    done = typed.run("train", "--help")
    assert "--plugin" in done.stdout and "executed" in " ".join(done.stdout.split())


def test_loading(mine: Path) -> None:
    assert load_plugin("DSM") is DSM
    first = load_plugin(f"{mine}:Mine")
    assert load_plugin(f"{mine}:Mine") is first  # the same content, the same class
    assert first(3).factor.shape == (3,)
    mine.write_text(MINE.replace("1.5", "2.5"))
    assert load_plugin(f"{mine}:Mine")(3).factor[0] == 2.5
    (mine.parent / "mine.txt").write_text("x = 1")
    with pytest.raises(InputError, match=r"is no Python file"):
        load_plugin(f"{mine.parent / 'mine.txt'}:Mine")


def test_build_network_takes_a_plugin(mine: Path) -> None:
    options = {"num_classes": 2, "width": 0.125, "backbone": {"layers": [1, 1, 1, 1]}}
    for plugin in ("ConstantGate", ConstantGate):
        network = build_network("fcn", plugin=plugin, **options)
        assert isinstance(network.backbone.layer4[0].act2.plugin, ConstantGate)
    network = build_network("fcn", plugin=f"{mine}:Mine", at="head.convs.0", **options)
    assert network.head.convs[0].plugin.factor.shape == (64,)
    assert with_plugin(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1)), "ConstantGate", "0")[0].plugin
