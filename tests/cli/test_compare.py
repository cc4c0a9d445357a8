"""`compare`: a trial on phantoms; what it refuses, and what it does beside others."""

import csv
import signal
import subprocess
import time
from pathlib import Path

import pytest
import typed
import yaml
from small_trial import PLACE, TINY, begun, make_store, options, results_of

from dsnet_med.cli.app import app
from dsnet_med.cli.guard import guarded
from dsnet_med.resources import config_file


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("store"))


def row_of_width(folder: Path, name: str, width: float) -> Path:
    row = yaml.safe_load(config_file("method", "fcn").read_text(encoding="utf-8"))
    row["method_card"] |= {"id": name, "title": name}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**row, "width": width}), encoding="utf-8")
    return file


def test_a_trial_on_phantoms(store: Path, tmp_path: Path) -> None:
    """A place alone changes nothing, exactly; eight times the width is better; a report says so."""
    wide, thin = row_of_width(tmp_path, "wide", 0.25), row_of_width(tmp_path, "thin", 0.25 / 8)
    out = tmp_path / "trial"
    ended = typed.run_anew(
        *("compare", "--methods", f"{wide},{wide}+Identity@{PLACE},{thin}", "--data", store, "--out", out),
        *("--seeds", "0,1,2", "--iterations", "50", "--jobs", "2", *options(*TINY, "validate_every=50")),
    )
    assert ended.returncode == 0, ended.stderr
    results = results_of(out)
    identity, narrow = results["contrasts"]
    assert identity["arm"] == f"wide+Identity@{PLACE}"
    assert (identity["difference"], identity["ci95"], identity["verdict"]) == (0, [0, 0], "equivalent")
    assert narrow["verdict"] == "worse"
    assert narrow["difference"] < -0.05
    runs = [out / "runs" / arm / "seed-1" / "models" / "model.pt" for arm in ("wide", f"wide+Identity@{PLACE}")]
    assert runs[0].stat().st_size == pytest.approx(runs[1].stat().st_size, rel=0.01)

    rows = list(csv.DictReader((out / "scores.csv").open(encoding="utf-8")))
    assert len(rows) == 3 * 3 * 4 * 8  # arms, seeds, cases, organs
    assert {"dice", "hd95_mm", "nsd", "dice_transunet", "hd95_voxels_transunet", "hd95_mm_monai"} <= rows[
        0
    ].keys()
    assert {"table.md", "table.tex", "report.html", "trial.yaml"} <= {file.name for file in out.iterdir()}

    verified = typed.run("verify", out, "--masks")
    assert verified.returncode == 0, verified.stderr
    again = typed.run(
        "compare", "--scores", out / "scores.csv", "--baseline", "thin", "--out", tmp_path / "again"
    )
    assert again.returncode == 0, again.stderr
    other = results_of(tmp_path / "again")
    assert {each["arm"]: each["verdict"] for each in other["contrasts"]}["wide"] == "better"
    assert typed.run("verify", out).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "fcn,fcm_se", "--seeds", "0"], "unknown method 'fcm_se': did you mean 'fcn_se'?"),
        (["--methods", "fcn,fcn+SEE", "--seeds", "0"], "SEE"),
        (["--methods", "fcn,fcn+SE@layer9.*", "--seeds", "0"], "layer9"),
        (["--methods", "fcn,fcn", "--seeds", "0"], "got the arm fcn twice"),
        (["--methods", "fcn", "--seeds", "0"], "got one arm, fcn: give at least two"),
        (["--methods", "fcn,fcn_se", "--seeds", "0,x"], "got --seeds 0,x, wanted whole numbers"),
        (["--methods", "fcn,fcn_se", "--seeds", "0,0"], "give each seed once"),
        (
            ["--methods", "fcn,fcn_se", "--seeds", "0", "--baseline", "danet"],
            "wanted one of the arms: fcn, fcn_se",
        ),
        (["--methods", "fcn,fcn_se", "--seeds", "0", "--folds", "4"], "got --folds 4, wanted 2 to 3"),
        (["--methods", "fcn,fcn_se", "--seeds", "0", "--shard", "3/2"], "got --shard 3/2"),
        (["--methods", "fcn,fcn_se", "--seeds", "0", "--primary", "hd95_mm"], "give --margin"),
        (["--methods", "fcn,fcn_se", "--seeds", "0", "--primary", "beauty"], "beauty"),
        (
            ["--methods", "fcn,fcn_se", "--seeds", "0", "--primary", "dice_dpcnet"],
            "unknown primary measure 'dice_dpcnet'",
        ),
        (["--methods", "fcn,fcn_se", "--seeds", "0", "--set", "iteration=3"], "iteration"),
        (["--methods", "fcn,imagenet/resnet50", "--seeds", "0"], "a row of imagenet"),
        (["--methods", "fcn,fcn_se"], "give --data and --seeds"),
        (["--seeds", "0"], "give --methods"),
        ([], "holds no trial.yaml"),
    ],
)
def test_what_cannot_be_a_trial_is_one_line(
    arguments: list[str], said: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(store)] if arguments else []
    command = ["compare", *arguments, *data, "--out", str(tmp_path / "trial")]
    assert guarded(lambda: app(command, standalone_mode=False)) == 2
    (line,) = (each for each in capsys.readouterr().err.splitlines() if each.startswith("dsnet-med: "))
    assert said in line
    assert not list(tmp_path.rglob("runs"))


def test_scores_take_no_options_of_training(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", "--scores", "scores.csv", "--data", str(store), "--out", str(tmp_path / "out")]
    assert guarded(lambda: app(command, standalone_mode=False)) == 2
    assert "got --scores with options of a trial that is run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failed_cell_stops_no_other(store: Path, tmp_path: Path) -> None:
    """A plug-in whose loss is not finite after some steps: listed, and the others are analysed."""
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from torch import nn\n\n\nclass Diverges(nn.Module):\n    def __init__(self, channels):\n"
        "        super().__init__()\n        self.passes = 0\n\n    def forward(self, x):\n"
        "        self.passes += self.training\n        return x * float('nan') if self.passes > 3 else x\n",
        encoding="utf-8",
    )
    out = tmp_path / "trial"
    ended = typed.run_anew(
        *("compare", "--methods", f"fcn,fcn+Identity@{PLACE},fcn+{mine}:Diverges@{PLACE}", "--data", store),
        *("--out", out, "--seeds", "0", "--iterations", "4", "--jobs", "2", *options(*TINY, "width=0.125")),
    )
    assert ended.returncode == 1
    assert "failed: fcn+Diverges" in ended.stderr
    results = results_of(out)
    assert set(results["arms"]) == {"fcn", f"fcn+Identity@{PLACE}"}
    assert any("1 of 3 runs are not done" in line for line in results["left_out"])


@pytest.mark.slow
def test_shards_and_a_cluster_give_what_one_command_gives(store: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    command: list[str | Path] = [
        *("compare", "--methods", f"fcn,fcn+SE@{PLACE}", "--data", store, "--seeds", "0,1"),
        *("--iterations", "12", *options(*TINY, "width=0.125")),
    ]
    whole, shards, cluster = (tmp_path / name for name in ("whole", "shards", "cluster"))
    assert typed.run_anew(*command, "--out", whole).returncode == 0
    first = typed.run_anew(*command, "--shard", "1/3", "--out", shards)
    assert first.returncode == 0, first.stderr
    assert len(list(shards.glob("runs/*/*/scores/summary.json"))) == 2
    assert any("2 of 4 runs are not done" in line for line in results_of(shards)["left_out"])
    for part in ("3/3", "2/3"):
        assert typed.run_anew(*command, "--shard", part, "--out", shards).returncode == 0
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as dask:
        ended = typed.run_anew(*command, "--scheduler", dask.scheduler_address, "--out", cluster)
    assert ended.returncode == 0, ended.stderr
    for other in (shards, cluster):
        assert (other / "scores.csv").read_bytes() == (whole / "scores.csv").read_bytes()
        assert results_of(other) == results_of(whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_saves_where_it_is(number: signal.Signals, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "trial"
    command = [
        *("compare", "--methods", f"fcn,fcn+SE@{PLACE}", "--data", str(store), "--seeds", "0", "--jobs", "2"),
        *("--iterations", "4000", *options(*TINY, "width=0.125"), "--out", str(out)),
    ]
    with subprocess.Popen([str(typed.BIN), *command], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob("runs/*/*/metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        assert not begun(out)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert "whatever was written is whole" in said
    assert begun(out)  # though no checkpoint was due
