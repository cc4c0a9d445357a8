"""The base install needs no extra, and what does says which, in one line."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from dsnet_med import cli
from dsnet_med.errors import InputError
from dsnet_med.extras import EXTRA_OF, missing_in, needed_for
from dsnet_med.inference.outputs import Outputs
from dsnet_med.inference.sources import find_sources, load
from dsnet_med.natural.coco_annotations import read_annotations
from dsnet_med.processes import on_cluster

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PACKAGES = packages_distributions()
OF_AN_EXTRA = ("dsnet_med.dicom", "dsnet_med.server")  # and what imports them, lazily


def name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


@pytest.fixture
def bare(monkeypatch):
    """Only the base install: no module of an extra can be imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] in EXTRA_OF]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith(OF_AN_EXTRA)]:
        monkeypatch.delitem(sys.modules, name)
    for name in EXTRA_OF:
        monkeypatch.setitem(sys.modules, name, None)


def test_each_package_of_an_extra_has_its_line() -> None:
    for extra in set(EXTRAS) - {"all", "dev", "docs", "loggers"}:  # docs is for the site; dev lacks mlflow
        modules = [module for module, its in EXTRA_OF.items() if its == extra]
        named = {name_of(dist) for module in modules for dist in PACKAGES[module]}
        assert named == {name_of(each) for each in EXTRAS[extra]}
    assert {name for name, its in EXTRA_OF.items() if its == "loggers"} == {*map(name_of, EXTRAS["loggers"])}


def test_all_is_every_extra() -> None:
    (everything,) = EXTRAS["all"]
    assert set(re.findall(r"\w+", everything.partition("[")[2])) == set(EXTRAS) - {"all", "dev", "docs"}


def imported(file: Path) -> set[str]:
    """What a module imports while it is imported."""
    names, waiting = set[str](), list(ast.parse(file.read_text(encoding="utf-8")).body)
    while waiting:
        match waiting.pop():
            case ast.Import(names=several):
                names |= {each.name for each in several}
            case ast.ImportFrom(module=module, names=several):
                names |= {str(module), *(f"{module}.{each.name}" for each in several)}
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                pass
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                pass
            case node:
                waiting += ast.iter_child_nodes(node)
    return names


def test_only_the_modules_of_an_extra_import_it_while_they_are_imported() -> None:
    told = re.compile("|".join([*EXTRA_OF, *OF_AN_EXTRA]))
    files = [file for file in (ROOT / "dsnet_med").rglob("*.py") if file.name != "decoder_process.py"]
    files = [file for file in files if told.search(file.read_text(encoding="utf-8"))]
    assert len(files) > 20
    for file in files:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        needed = {name for name in imported(file) if name.partition(".")[0] in EXTRA_OF}
        needed |= {name for name in imported(file) if name.startswith(OF_AN_EXTRA)}
        assert not needed or module.startswith(OF_AN_EXTRA), f"{module}: {needed}"


def test_what_is_always_installed_is_imported() -> None:
    sources = (file.read_text(encoding="utf-8") for file in (ROOT / "dsnet_med").rglob("*.py"))
    used = {name for text in sources for name in re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE)}
    packages = {name_of(dist) for module in used for dist in PACKAGES.get(module, ())}
    unused = {name_of(each) for each in PROJECT["dependencies"]} - packages
    assert unused == {"fire"}  # of which MONAI's command line is made


def test_dicom_alone_is_refused_and_among_others_fails_by_itself(bare, tmp_path: Path) -> None:
    series = tmp_path / "series"
    series.mkdir()
    for name in ("1.dcm", "2.dcm"):
        (series / name).write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    with pytest.raises(
        InputError, match=r"^DICOM needs the package 'pydicom': pip install 'dsnet-med\[dicom\]'"
    ):
        find_sources([series])
    (tmp_path / "volume.nii").write_bytes(b"\0" * 400)
    found = {source.case: source for source in find_sources([tmp_path])}
    assert set(found) == {"series", "volume"}
    with pytest.raises(InputError, match=r"dsnet-med\[dicom\]"):
        load(found["series"])


def test_each_extra_is_named_where_it_is_wanted(bare, tmp_path: Path, monkeypatch, capsys) -> None:
    with pytest.raises(InputError, match=r"--format dicom-seg needs .*'dsnet-med\[dicom\]'"):
        Outputs(("nifti", "dicom-seg"))
    with pytest.raises(InputError, match=r"COCO needs the package 'pycocotools'.*'dsnet-med\[natural\]'"):
        read_annotations(str(tmp_path), "train")
    with pytest.raises(InputError, match=r"a Dask scheduler needs .*'dsnet-med\[cluster\]'"):
        list(on_cluster(str, ["1"], "127.0.0.1:1"))
    monkeypatch.setattr(sys, "argv", ["dsnet-med", "serve", "--model", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    lines = capsys.readouterr().err.splitlines()
    assert (ended.value.code, len(lines)) == (2, 1)
    assert "serve needs the package" in lines[0]
    assert "'dsnet-med[serve]'" in lines[0]


def test_other_modules_that_are_missing_are_told_as_they_are() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), needed_for("this"):
        import no_such_module  # noqa: F401
    assert missing_in(ImportError("damaged", name="pydicom"), "this") is None
