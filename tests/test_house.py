"""What holds for the project as a whole: its files, its imports, its versions and the checks that CI runs."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import dsnet_med
from dsnet_med import resources
from dsnet_med.cli import PYTHONS
from dsnet_med.evaluate import backend

ROOT = Path(__file__).parents[1]
CI = ROOT / ".ci"
SOURCES = sorted((ROOT / "dsnet_med").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REGISTRY = "py" + "pi.org"  # in two parts: this file is checked too


def run(script: str, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CI / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def repository(folder: Path, files: dict[str, str]) -> Path:
    """A git repository with these files tracked."""
    if shutil.which("git") is None:
        pytest.skip("needs the program git, which the checks of CI call")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run(["git", "add", "--force", *files], cwd=folder, check=True)
    return folder


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
        (("dsnet_med.evaluate", "dsnet_med.prepare"), {"torch", "monai", "timm", "ignite"}),
        (("dsnet_med.networks", "dsnet_med.methods"), {"monai", "ignite"}),
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
            case ast.Constant(value=str(text)):  # __all__, and names that a module's __getattr__ gives
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


@pytest.mark.parametrize(
    "source",
    [
        "from a.b.dice import dice",
        "from a.b.overlap import overlap_of as dice",
        "def dice(): ...",
        "class dice: ...",
        "dice = 1",
        "__all__ = ['dice']",
        "def __getattr__(name):\n    if name == 'dice':\n        return 1",
    ],
)
def test_a_name_that_is_a_module_s_too_is_seen(tmp_path, source):
    package = tmp_path / "a" / "b"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "dice.py").write_text("")
    assert clashes(tmp_path) == []
    (package / "__init__.py").write_text(source)
    assert clashes(tmp_path) == ["b.dice"]


# ---------------------------------------------------------------- source


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_on_a_screen_and_modules_say_what_they_are_for(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = len((ast.get_docstring(node, clean=False) or "").splitlines())
            assert node.end_lineno - node.lineno + 1 - docstring <= 60, node.name


def test_public_functions_and_classes_have_docstrings():
    """But for cli/, where typer turns docstrings into help."""
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in SOURCES
        if "cli" not in path.parts
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        if not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert bare == []


# ---------------------------------------------------------------- words and numbers that must agree


def test_the_version_is_the_same_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == dsnet_med.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dsnet_med.__version__
    assert citation["license"] == PROJECT["project"]["license"] == "Apache-2.0"


def test_the_licence_is_the_full_apache_text():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    for number in range(1, 10):
        assert re.search(rf"^   {number}\. ", text, re.MULTILINE), number
    assert "END OF TERMS AND CONDITIONS" in text


def test_every_dependency_is_pinned_to_the_version_that_was_tested():
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in wanted}
    pins = PROJECT["tool"]["uv"]["constraint-dependencies"]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in pins)
    pinned = {pin.partition("==")[0] for pin in pins}
    assert {name for name in names if not name.startswith("types-")} == pinned


def test_the_readme_shows_the_two_commands():
    setup = "pip install --upgrade --target .uv uv && .uv/bin/uv run"  # --target: not managed by the system
    for heading, command in (("Try it", "dsnet-med quickstart"), ("Run the tests", "--extra dev pytest")):
        assert run("readme_command.py", "README.md", heading).stdout.strip() == f"{setup} {command}"


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


def test_what_can_run_code_is_read_by_no_library_s_default():
    """Defaults change between versions: PyTorch's and timm's readers ran code in older ones."""
    wanted = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}
    never = {
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
        "pickle.load",
        "pickle.loads",
        "load_state_dict",
    }
    calls = [
        (f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), ast.unparse(node))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert sum(called == "torch.load" for _, called, _ in calls) > 1
    wrong = [place for place, called, text in calls if called in never or wanted.get(called, "") not in text]
    assert wrong == []


def test_nothing_that_only_posix_has_is_imported_by_a_module():
    """Functions may: they say what they do without."""
    posix = {"crypt", "fcntl", "grp", "nis", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (*(alias.name for alias in node.names), getattr(node, "module", ""))
        if name in posix
    ]
    assert found == []


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


# ---------------------------------------------------------------- notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run_from_start_to_end(path, tmp_path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (tmp_path / "notebook.py").write_text(code, encoding="utf-8")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "notebook.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


# ---------------------------------------------------------------- what CI runs


def test_ci_is_a_program_that_bash_can_read():
    assert os.access(CI / "run", os.X_OK)
    subprocess.run(["bash", "-n", str(CI / "run")], check=True)


def test_tracked_files_are_found_clean(tmp_path):
    clean = repository(tmp_path, {"a.py": "x = 1\n", ".gitignore": "uv.lock\n"})
    done = run("tracked.py", cwd=clean)
    assert (done.returncode, done.stdout) == (
        0,
        "2 tracked files name no registry host and no path of a machine\n",
    )


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"a.md": f"see https://{REGISTRY}/simple"}, "a.md:1: names a package registry's host"),
        ({"deep/a.yaml": "x: 1\npath: /" + "root/store"}, "deep/a.yaml:2: names a path of one machine"),
        ({"a.py": "store = '/" + "home/someone/store'"}, "names a path of one machine"),
        ({"uv.lock": "version = 1"}, "a lock file is tracked"),
        ({".gitignore": "*.pyc\n"}, "uv.lock is not ignored"),
    ],
)
def test_tracked_files_that_tell_of_one_machine_are_found(tmp_path, files, word):
    done = run("tracked.py", cwd=repository(tmp_path, {".gitignore": "uv.lock\n"} | files))
    assert done.returncode == 1
    assert word in done.stdout


@pytest.mark.parametrize(
    "text", ["a/" + "root/b", "the work/ folder", "https://pytorch.org", "src/" + "work/x"]
)
def test_words_that_only_look_like_a_machine_s_are_let_be(tmp_path, text):
    done = run("tracked.py", cwd=repository(tmp_path, {"a.md": text, ".gitignore": "uv.lock\n"}))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("# A\n## Run the tests\n\nSo:\n\n```bash\nuv run pytest\n```\n", "uv run pytest"),
        ("## Run the tests\n```\n\n  first\nsecond\n```\n", "first"),
        ("## Run the tests\nnone\n## Next\n```\nother\n```\n", None),
        ("## Run\n```\nother\n```\n", None),
        ("", None),
    ],
)
def test_the_command_of_a_readme_section_is_found_or_said_to_be_missing(tmp_path, text, command):
    (tmp_path / "README.md").write_text(text)
    done = run("readme_command.py", tmp_path / "README.md", "Run the tests")
    assert done.returncode == (command is None)
    assert done.stdout.strip() == (command or "")
    assert ("no command under the heading" in done.stderr) == (command is None)


@pytest.mark.parametrize(
    ("folder", "reason", "code"),
    [
        ("shared", "needs volumes in x/shared", 1),
        ("shared", "needs a GPU", 0),
        ("absent", "needs volumes in x/absent", 0),
    ],
)
def test_a_skip_for_want_of_a_folder_that_is_there_fails(tmp_path, folder, reason, code):
    (tmp_path / "shared").mkdir()
    case = f'<testcase classname="tests.a" name="t"><skipped message="{reason}"/></testcase>'
    (tmp_path / "tests.xml").write_text(
        f'<testsuites><testsuite>{case}<testcase name="u"/></testsuite></testsuites>'
    )
    done = run("skips.py", tmp_path / "tests.xml", tmp_path / folder)
    assert done.returncode == code
    assert f"skipped tests.a::t: {reason}" in done.stdout


def packed(folder: Path, wheel: list[str], sdist: list[str]) -> tuple[Path, Path]:
    """A wheel and a source archive that hold these (empty) files."""
    with zipfile.ZipFile(folder / "p.whl", "w") as archive:
        for name in wheel:
            archive.writestr(name, "")
    (folder / "empty").touch()
    with tarfile.open(folder / "p.tar.gz", "w:gz") as archive:
        for name in sdist:
            archive.add(folder / "empty", f"p-0.1/{name}")
    return folder / "p.whl", folder / "p.tar.gz"


@pytest.mark.parametrize(
    ("left_out", "word"),
    [
        (None, "nothing missing"),
        ("dsnet_med/shipped/configs/train.yaml", "wheel lacks dsnet_med/shipped/configs/train.yaml"),
        ("dsnet_med/a.py", "wheel lacks dsnet_med/a.py"),
        ("p.dist-info/licenses/LICENSE", "wheel lacks the licence"),
        ("configs/train.yaml", "sdist lacks configs/train.yaml"),
        ("tests/test_a.py", "sdist lacks tests/test_a.py"),
    ],
)
def test_what_the_archives_lack_is_found(tmp_path, left_out, word):
    product = {"dsnet_med/a.py": "", "configs/train.yaml": "", "data_prep/x/recipe.yaml": ""}
    root = repository(tmp_path / "repository", product | {"tests/test_a.py": "", "LICENSE": ""})
    shipped = ["dsnet_med/shipped/configs/train.yaml", "dsnet_med/shipped/data_prep/x/recipe.yaml"]
    wheel = ["dsnet_med/a.py", *shipped, "p.dist-info/licenses/LICENSE"]
    sdist = [*product, "tests/test_a.py", "LICENSE"]
    archives = packed(tmp_path, [n for n in wheel if n != left_out], [n for n in sdist if n != left_out])
    done = run("packed.py", *archives, cwd=root)
    assert word in done.stdout
    assert done.returncode == (left_out is not None)


def test_constraints_are_those_of_the_project():
    lines = run("constraints.py", "pyproject.toml").stdout.splitlines()
    assert lines == PROJECT["tool"]["uv"]["constraint-dependencies"]


def test_configs_and_recipes_are_data_only():
    """No Python beside the data: what a configuration needs is imported from the package."""
    for folder in (resources.configs(), resources.data_prep()):
        assert {file.suffix for file in folder.rglob("*") if file.is_file()} <= {
            ".yaml", ".json", ".conf", ".csv", ".md",
        }  # fmt: skip
