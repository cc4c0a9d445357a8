"""What `bundle run` does is what was typed: which files, which root, which values; or one line says why not."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsnet_med import resources
from dsnet_med.cli.bundle import bundle_command, monai_command
from dsnet_med.errors import InputError

SEEN: dict[str, Any] = {}


class Part:
    """Remembers what it was made of; fails where `rate` is no number."""

    def __init__(self, rate: float, root: str = "", extra: Any = None) -> None:
        SEEN.update(rate=rate + 0.0, root=root, extra=extra)

    def go(self, **values: Any) -> None:
        SEEN.update(values, went=True)


TRAIN = {
    "bundle_root": ".",
    "dataset_dir": "data",
    "iterations": 3,
    "listed": [8],
    "note": "x",
    "flag": False,
    "handlers": {},
    "part": {"_target_": f"{__name__}.Part", "rate": 0.5, "root": "@bundle_root", "extra": "@handlers"},
    "initialize": ["$__import__('sys').path"],
    "run": ["$@part.go(data=@dataset_dir, steps=@iterations, listed=@listed, note=@note, flag=@flag)"],
    "training": "%run",
}
INFERENCE = {
    "bundle_root": ".",
    "model": "$@bundle_root + '/model.pt'",
    "run": ["$open(@model)"],
    "inference": "%run",
}
EVALUATE = {
    "note": "evaluated",
    "report": "written",
    "run": ["$@part.go(report=@report)"],
    "evaluating": "%run",
}


def write(folder: Path, **files: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "configs", train=TRAIN, inference=INFERENCE, evaluate=EVALUATE)
    for name in ("$x", "%y"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    SEEN.clear()
    return tmp_path


def ran(*arguments: str) -> dict[str, Any]:
    bundle_command(["run", *arguments, "--trust"])
    return dict(SEEN)


@pytest.mark.parametrize(
    "name", ["a#1", "a #b", "x@y", "$x", "%y", "it's#1", "2024", "1e3", f"{os.sep}a#b{os.sep}c"]
)
@pytest.mark.parametrize("form", [["--dataset_dir={}"], ["--dataset_dir", "{}"], ["--dataset-dir={}"]])
def test_a_path_is_handed_on_as_it_was_typed(name: str, form: list[str], bundle: Path) -> None:
    seen = ran("training", *(part.format(name) for part in form), "--iterations=5")
    assert (seen["data"], seen["steps"]) == (name, 5)


def test_what_means_something_to_monai_still_does(bundle: Path) -> None:
    seen = ran("training", "--note=$@dataset_dir + '/b'", "--listed=['a#1', 2]", "--iterations", "@listed")
    assert (seen["note"], seen["listed"], seen["steps"]) == ("data/b", ["a#1", 2], ["a#1", 2])


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        ("--part#rate 1e-3", "rate", 0.001),
        ("--part::rate=.5e2", "rate", 50.0),
        ("--iterations 1e3", "steps", 1000),
        ("--note 1_000", "note", "1_000"),
        ("--note yes", "note", "yes"),
        ("--listed [1e1]", "listed", [10.0]),
        ("--flag --iterations 4", "flag", True),
        ("--iterations 4 --flag", "flag", True),
        ("--handlers#+mine=[1]", "extra", {"mine": [1]}),
    ],
)
def test_values_are_what_people_mean(typed: str, name: str, value: object, bundle: Path) -> None:
    assert ran("training", *typed.split(" "))[name] == value
    assert type(SEEN[name]) is type(value)


@pytest.mark.parametrize(
    "run_id", ["train", "part", "iterations", "dataset_dir", "listed", "handlers", "initialize"]
)
@pytest.mark.parametrize("form", [["{}"], ["--run_id", "{}"], ["{}", "--config_file=configs/train.yaml"]])
def test_what_runs_nothing_is_no_run_id(run_id: str, form: list[str], bundle: Path) -> None:
    with pytest.raises(InputError, match=f"unknown run id '{run_id}': .*known: .*training"):
        ran(*(part.format(run_id) for part in form))
    assert not SEEN


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("training --iteration=4", "unknown setting 'iteration': did you mean 'iterations'"),
        ("training --part#rates=4", "unknown setting of 'part' 'rates': did you mean 'rate'"),
        ("training --+validate#handlers=[1]", "unknown setting 'validate'"),
        ("training --+mine=[1]", "unknown setting 'mine'"),
        ("training --iterations=abc", "got iterations=abc, wanted a number"),
        ("training --iterations=0", "wanted at least 1"),
        ("training --flag=yes", "got flag=yes, wanted true or false"),
        ("training --note=5", "got note=5, wanted text"),
        ("training --iterations=@nowhere", "unknown reference '@nowhere'"),
        ("training --part#rate=$'a'.upper()", "the configuration cannot be built .TypeError"),
        ("training --listed=[1", "the value is not valid YAML"),
        ("training nowhere", "unknown init_id 'nowhere'"),
        ("training a b c d e f g h", "wanted one run id"),
        ("training --config_file=configs/nowhere.yaml", "configs/nowhere.yaml: no such file"),
        ("inference", "./model.pt: there is no such file"),
        ("inference --dataset_dir=x", "unknown setting 'dataset_dir'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(typed: str, words: str, bundle: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        ran(*typed.split(" "))
    assert "\n" not in str(caught.value)


def test_bare_run_infers_and_never_trains(bundle: Path) -> None:
    (bundle / "model.pt").touch()
    assert ran() == {} == ran("run")
    shutil.move(bundle / "configs" / "inference.yaml", bundle / "configs" / "inference.yml")
    assert ran() == {}
    (bundle / "configs" / "inference.yml").unlink()
    with pytest.raises(InputError, match=r"no configs/inference\.yaml here"):
        ran()


def test_evaluate_is_laid_over_train_without_a_word_and_by_name(bundle: Path) -> None:
    for typed in (["evaluating"], ["evaluating", "--config_file=configs/evaluate.yaml"]):
        assert ran(*typed)["report"] == "written"
        SEEN.clear()


@pytest.mark.parametrize("where", [".", "configs", "elsewhere/deep"])
def test_the_root_is_where_the_file_lies(where: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = bundle / where
    here.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(here)
    files = [os.path.relpath(bundle / "configs" / f"{name}.yaml", here) for name in ("train", "evaluate")]
    for typed in (["training", f"--config_file={files[0]}"], ["evaluating", f"--config_file={files}"],
                  ["evaluating", f"--config_file={','.join(files)}"]):  # fmt: skip
        assert (here / ran(*typed)["root"]).resolve() == bundle.resolve()
        assert SEEN["went"]
        SEEN.clear()
    assert ran("training", f"--config_file={files[0]}", "--bundle_root=other")["root"] == "other"
    with pytest.raises(InputError, match=r"model\.pt"):
        ran("inference", f"--config_file={os.path.relpath(bundle / 'configs' / 'inference.yaml', here)}")


def test_a_root_that_a_file_gives_stays(bundle: Path, tmp_path: Path) -> None:
    write(bundle / "configs", train={**TRAIN, "bundle_root": "results"})
    assert ran("training")["root"] == "results"


@pytest.mark.parametrize("inside", ["configs", "models"])
def test_in_a_sub_folder_the_bundle_is_named(
    inside: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle / "configs" / "metadata.json").write_text("{}")
    (bundle / inside).mkdir(exist_ok=True)
    monkeypatch.chdir(bundle / inside)
    with pytest.raises(InputError, match=f"change to {bundle}, the bundle"):
        ran("training")


def test_a_file_of_arguments_is_checked_as_they_are(bundle: Path) -> None:
    arguments = {"run_id": "training", "iterations": 7, "config_file": ["configs/train.yaml"]}
    (bundle / "a.json").write_text(json.dumps(arguments))
    assert ran("--args_file", "a.json", "--note=mine") | {"steps": 7, "note": "mine"} == SEEN
    (bundle / "a.json").write_text(json.dumps({**arguments, "iteration": 7}))
    with pytest.raises(InputError, match="unknown setting 'iteration'"):
        ran("--args_file", "a.json")


def test_a_thin_file_is_laid_over_the_packages(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, copy = bundle / "package", bundle / "copy"
    write(package / "tasks", mine={"iterations": 5, "listed": [1e-3]})
    write(package, train=TRAIN)
    write(
        copy / "configs",
        train={"laid_over": ["train.yaml", "tasks/mine.yaml"], "note": "thin"},
        evaluate=EVALUATE,
    )
    monkeypatch.setattr(resources, "configs", lambda: package)
    monkeypatch.chdir(copy)
    assert ran("training") | {"steps": 5, "listed": [0.001], "note": "thin", "root": "."} == SEEN
    assert ran("evaluating")["report"] == "written"
    monkeypatch.chdir(bundle)
    assert ran("training", "--config_file=copy/configs/train.yaml")["root"] == "copy"
    write(copy / "configs", train={"laid_over": ["nowhere.yaml"]})
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        ran("training", "--config_file=copy/configs/train.yaml")


def test_a_number_of_a_file_is_one_as_well(bundle: Path) -> None:
    (bundle / "mine.yaml").write_text("part#rate: 1e-3\niterations: 1e1\nlisted: [on, 012]\n")
    assert ran("training", "--config_file=['configs/train.yaml', 'mine.yaml']")["rate"] == 0.001
    assert (SEEN["steps"], SEEN["listed"]) == (10, ["on", 12])


def test_other_commands_are_monais(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr("runpy.run_module", lambda name, **_: SEEN.update(module=name))
    monai_command(["bundle", "verify_metadata", "--meta_file", "x"])
    assert (
        sys.argv == ["monai.bundle", "verify_metadata", "--meta_file", "x"] and SEEN["module"] == "monai.bundle"
    )
