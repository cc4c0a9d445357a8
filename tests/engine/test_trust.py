"""A stranger's run is configuration, and configuration is code: nothing of it runs before one has said so."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsnet_med.cli.app import app
from dsnet_med.cli.bundle import bundle_command
from dsnet_med.cli.guard import guarded
from dsnet_med.engine.run import reopen
from dsnet_med.errors import InputError
from dsnet_med.inference.trust import executed_files

MONAI = Path(sys.executable).with_name("monai")


def _code(canary: Path) -> str:
    return f"$__import__('pathlib').Path('{canary}').touch() or 0"


def _expression(run: Path, canary: Path) -> None:
    config = run / "configs" / "train.yaml"
    lines = config.read_text().splitlines()
    changed = [f'seed: "{_code(canary)}"' if line.startswith("seed:") else line for line in lines]
    assert changed != lines
    config.write_text("\n".join(changed))


def _initialize(run: Path, canary: Path) -> None:
    with (run / "configs" / "evaluate.yaml").open("a") as stream:
        stream.write(f'\ninitialize: ["{_code(canary)}"]\n')


def _logging(run: Path, canary: Path) -> None:
    (run / "configs" / "logging.conf").write_text(f"[loggers]\nkeys=root\n# {canary}\n")


def _script(run: Path, canary: Path) -> None:
    (run / "scripts").mkdir()
    (run / "scripts" / "mine.py").write_text(f"import pathlib\npathlib.Path('{canary}').touch()\n")


CHANGES = [_expression, _initialize, _logging, _script]


@pytest.fixture
def strangers(run: Path, tmp_path: Path) -> Path:
    """A copy of an own run, for a stranger to change."""
    return Path(shutil.copytree(run, tmp_path / "strangers"))


def _typed(*arguments: object) -> int:
    return guarded(lambda: app([*map(str, arguments)], standalone_mode=False))


@pytest.mark.parametrize("change", CHANGES)
def test_resume_asks_for_trust(
    change: Callable[[Path, Path], None], strangers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = tmp_path / "canary"
    change(strangers, canary)
    assert _typed("train", "--resume", "--out", strangers, "--device", "cpu") == 2
    assert "which your own train did not write or which were changed since" in capsys.readouterr().err
    assert not canary.exists()


def test_trust_is_given_by_a_word(strangers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _expression(strangers, tmp_path / "canary")
    trusting = ("train", "--resume", "--out", strangers, "--device", "cpu", "--trust")
    assert _typed(*trusting) == 2
    assert "has done all" in capsys.readouterr().err
    assert (tmp_path / "canary").exists()  # nothing else is asked for


def test_an_own_run_goes_on_without_a_word(strangers: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(strangers, tmp_path / "moved"))
    reopen(moved, {"iterations": 12})  # writes another train.yaml
    reopen(moved, {"iterations": 13})
    with pytest.raises(InputError, match="--trust"):
        (moved / "configs" / "train.yaml").write_text((moved / "configs" / "train.yaml").read_text() + "a: 1\n")
        reopen(moved, {})


def test_trusting_a_run_once_does_not_make_it_ones_own(strangers: Path) -> None:
    (strangers / "configs" / "train.yaml").write_text(
        (strangers / "configs" / "train.yaml").read_text() + "strangers: 1\n"
    )
    reopen(strangers, {"iterations": 12}, trust=True)
    with pytest.raises(InputError, match="--trust"):
        reopen(strangers, {})


def test_a_bundle_asks_for_trust(strangers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    _expression(strangers, canary)
    monkeypatch.chdir(strangers)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for words in (["run", "training"], ["ckpt_export", "network_def", "--config_file", "configs/train.yaml"]):
        with pytest.raises(InputError, match="say --trust"):
            bundle_command(words)
        assert not canary.exists()
    assert guarded(lambda: bundle_command(["run", "training", "--trust"])) == 2  # it holds a run already
    assert canary.exists()


def test_values_alone_need_no_trust(strangers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(strangers)
    monkeypatch.setattr(sys, "path", [*sys.path])
    mine = tmp_path / "mine.yaml"
    words = ["run", "training", "--config_file", f"['configs/train.yaml', '{mine}']"]
    mine.write_text("iterations: 2\nlr_scheduler: {power: 0.5}\n")
    with pytest.raises(InputError) as refused:
        bundle_command(words)
    assert "--trust" not in str(refused.value)  # it holds a run already, or the key is another
    for code in (
        'seed: "$1 + 1"',
        "x: {_target_: os.getcwd}",
        "x#_target_: os.getcwd",
        '"%y.yaml::z": 1',
        "laid_over: [/x]",
    ):
        mine.write_text(f"{code}\n")
        with pytest.raises(InputError, match="say --trust"):
            bundle_command(words)


@pytest.mark.slow
def test_a_module_in_an_own_run_takes_no_library_s_place(strangers: Path, tmp_path: Path) -> None:
    """A run that was given away and came back: its configs are as they were."""
    planted = f"import pathlib\npathlib.Path('{tmp_path / 'canary'}').touch()\n"
    for name in ("tqdm", "nibabel", "matplotlib", "pandas", "skimage"):
        (strangers / f"{name}.py").write_text(planted)
    done = subprocess.run(
        [MONAI, "bundle", "run", "training", "--iterations", "2", "--bundle_root", str(tmp_path / "new")],
        cwd=strangers,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "canary").exists()


def test_help_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "infer", "serve"):
        assert _typed(command, "--help") == 0
        assert "--trust" in capsys.readouterr().out
    assert _typed("bundle", "--help") == 0
    assert "--trust" in capsys.readouterr().out


def test_only_what_train_wrote_is_remembered(strangers: Path) -> None:
    _script(strangers, strangers / "canary")
    assert strangers / "scripts" / "mine.py" in executed_files(strangers)
    with pytest.raises(InputError, match="--trust"):
        reopen(strangers, {})


@pytest.mark.parametrize("text", ["a: 1", "dataset_dir: null", "dataset_dir: [x]", "method_card: x"])
def test_a_configuration_that_says_too_little_is_one_line(text: str, strangers: Path) -> None:
    (strangers / "configs" / "train.yaml").write_text(text)
    with pytest.raises(InputError, match="says too little to go on with"):
        reopen(strangers, {"iterations": 12}, trust=True)
