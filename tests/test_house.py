"""What holds for the project as a whole, and no linter looks at: what is imported, words that must agree."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import dsnet_med
from dsnet_med import resources
from dsnet_med.cli import PYTHONS
from dsnet_med.evaluate import backend

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "dsnet_med").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- imports


def loaded_by(statement: str) -> set[str]:
    """The top-level packages in memory after `statement`, run in a fresh interpreter."""
    code = f"{statement}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def modules_of(*packages: str) -> list[str]:
    parts = [file.relative_to(ROOT).with_suffix("").parts for file in SOURCES]
    names = [".".join(part for part in path if part != "__init__") for path in parts]
    compiled = backend.NAME == "compiled"
    return [name for name in names if name.startswith(packages) and (compiled or "compiled" not in name)]


@pytest.mark.parametrize(
    ("packages", "forbidden"),
    [
        (("dsnet_med.cli",), {"torch", "monai", "timm", "ignite"}),
        (("dsnet_med.cli.app",), {"numpy", "scipy", "nibabel", "torch", "monai"}),  # what `--help` waits for
    ],
)
def test_a_layer_loads_nothing_heavier_than_it_may(packages, forbidden):
    names = modules_of(*packages)
    assert len(names) >= len(packages)
    assert not loaded_by("import " + ", ".join(names)) & forbidden


def names_given_by(package: Path) -> set[str]:
    """The names that a package's __init__.py gives or spells in a string; no module imported as such."""
    given, modules = set(), set()
    for node in ast.walk(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                given.add(name)
            case ast.ImportFrom(module=module, names=names) if str(module).split(".")[-1] == package.name:
                modules |= {alias.name for alias in names if alias.asname is None}
            case ast.ImportFrom(names=names):
                given |= {alias.asname or alias.name for alias in names}
            case ast.Constant(value=str(text)) if (
                text.isidentifier()
            ):  # __all__, and names that a module's __getattr__ gives
                given.add(text)
    return given - modules


def clashes(root: Path) -> list[str]:
    """The names of packages under `root` that are both a module there and something else."""
    return [
        f"{package.name}.{name}"
        for package in sorted(path.parent for path in root.rglob("__init__.py"))
        for name in sorted(names_given_by(package))
        if any((package / place).is_file() for place in (f"{name}.py", f"{name}/__init__.py"))
    ]


def test_no_public_name_is_a_module_s_name_too():
    """Which of the two `pydoc.locate` gives, and so MONAI for a `_target_`, depends on Python's version."""
    assert clashes(ROOT / "dsnet_med") == []


# ---------------------------------------------------------------- words and numbers that must agree


def test_the_version_is_the_same_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == dsnet_med.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dsnet_med.__version__
    assert citation["license"] == PROJECT["project"]["license"] == "Apache-2.0"


def test_every_dependency_is_pinned_to_the_version_that_was_tested():
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(each for name in set(extras) - {"all", "loggers"} for each in extras[name]),
    ]
    wanted = [each for each in wanted if not each.startswith("dsnet-med[")]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in wanted}
    pins = PROJECT["tool"]["uv"]["constraint-dependencies"]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in pins)
    pinned = {pin.partition("==")[0] for pin in pins}
    assert {name for name in names if not name.startswith("types-")} == pinned


def test_the_supported_pythons_are_the_same_everywhere():
    versions = ["{}.{}".format(*version) for version in PYTHONS]
    classified = [line.rpartition(":: ")[2] for line in PROJECT["project"]["classifiers"] if ":: 3." in line]
    assert classified == versions
    above = f"{PYTHONS[-1][0]}.{PYTHONS[-1][1] + 1}"
    assert PROJECT["project"]["requires-python"] == f">={versions[0]},<{above}"
    words = f"Python {', '.join(versions[:-1])} or {versions[-1]}"
    for document in ("README.md", "CONTRIBUTING.md"):
        assert words in (ROOT / document).read_text(encoding="utf-8"), document


def test_an_old_python_can_read_what_tells_it_that_it_is_too_old():
    for name in ("dsnet_med/__init__.py", "dsnet_med/cli/__init__.py"):
        ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 7))


def test_links_between_documents_lead_somewhere():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "data_prep").rglob("*.md")]
    assert len(documents) > 4
    dead = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
        if not target.startswith(("http://", "https://", "mailto:")) and not (document.parent / target).exists()
    ]
    assert dead == []


def test_configs_and_recipes_are_data_only():
    """No Python beside the data: what a configuration needs is imported from the package."""
    for folder in (resources.configs(), resources.data_prep()):
        assert {file.suffix for file in folder.rglob("*") if file.is_file()} <= {
            ".yaml", ".json", ".conf", ".csv", ".md",
        }  # fmt: skip
