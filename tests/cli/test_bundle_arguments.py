"""What `bundle run` hands to MONAI is what was typed."""

import os
import sys
from pathlib import Path

import pytest
import yaml
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser

from dsnet_med.cli.bundle import bundle_command
from dsnet_med.errors import InputError

CONFIG = {"dataset_dir": "data", "iterations": 3, "milestones": [8], "root": "x", "run": ["$@iterations"]}


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.yaml").write_text(yaml.safe_dump(CONFIG))
    for name in ("$x", "%y"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def handed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, object]:
    """The options as MONAI has them once `fire` and its configuration have read them."""
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr("runpy.run_module", lambda *_, **__: None)
    bundle_command(["run", *arguments])
    options = dict(each.removeprefix("--").split("=", 1) for each in sys.argv if each.startswith("--"))
    parser = ConfigParser({**CONFIG, **{name: DefaultParseValue(text) for name, text in options.items()}})
    return {name: parser.get_parsed_content(name) for name in options if name != "config_file"}


@pytest.mark.parametrize("name", ["a#1", "a #b", "x@y", "$x", "%y", "it's#1", f"{os.sep}a#b{os.sep}c"])
@pytest.mark.parametrize("form", [["--dataset_dir={}"], ["--dataset_dir", "{}"]])
def test_a_path_is_handed_on_as_it_was_typed(
    name: str, form: list[str], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = [part.format(name) for part in form]
    assert handed(monkeypatch, "run", *typed, "--iterations=5") == {"dataset_dir": name, "iterations": 5}


def test_what_means_something_to_monai_still_does(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["--root=$@dataset_dir + '/b'", "--milestones=['a#1', 2]", "--dataset_dir=plain"]
    found = handed(monkeypatch, "run", *typed)
    assert found == {"root": "plain/b", "milestones": ["a#1", 2], "dataset_dir": "plain"}


@pytest.mark.parametrize("run_id", ["iterations", "dataset_dir", "milestones"])
def test_what_runs_nothing_is_no_run_id(run_id: str, bundle: Path) -> None:
    with pytest.raises(InputError, match=f"unknown run id '{run_id}': .*known: run"):
        bundle_command(["run", run_id])
