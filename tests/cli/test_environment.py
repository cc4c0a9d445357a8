"""Environments that dsnet-med does not work in are refused in one line, before anything else."""

import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
from typed import refused, run_anew

from dsnet_med import cli
from dsnet_med.cli import environment, guarded
from dsnet_med.errors import InputError
from dsnet_med.evaluate import backend


def installed(changes):
    """`importlib.metadata.version` where some packages are of other versions, or absent (None)."""

    def answer(name):
        found = changes.get(name, version(name) if name not in changes else None)
        if found is None:
            raise PackageNotFoundError(name)
        return found

    return answer


@pytest.mark.parametrize("python", [(2, 7), (3, 10), (3, 14)])
@pytest.mark.parametrize("command", [cli.main, cli.monai])
def test_another_python_is_refused_in_one_line(python, command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (*python, 0, "final", 0))
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("dsnet-med: got Python {}.{}, wanted ".format(*python))
    assert "3.11, 3.12, 3.13" in lines[0]


def test_this_environment_is_taken():
    environment.require_libraries()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"monai": "1.5.2"}, "monai 1.5.2 is installed, and dsnet-med wants monai"),
        ({"monai": "1.7.0"}, "monai 1.7.0 is installed, and dsnet-med wants monai<1.7,>=1.6"),
        ({"torch": "2.5.1+cu121"}, "torch 2.5.1+cu121 is installed, and dsnet-med wants torch>="),
        ({"numpy": "1.25.2"}, "numpy 1.25.2 is installed"),
        ({"timm": "0.9.16"}, "timm 0.9.16 is installed"),
    ],
)
def test_a_library_outside_its_range_is_named(changes, words, monkeypatch):
    monkeypatch.setattr(environment, "version", installed(changes))
    with pytest.raises(InputError) as error:
        environment.require_libraries()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_torchvision_of_another_torch_is_named(monkeypatch):
    wanted = {"dsnet-med": ["torch>=2"], "torchvision": ["numpy", "torch==2.0.1"]}
    monkeypatch.setattr(environment, "requires", wanted.get)
    with pytest.raises(InputError, match=r"torch \S+ is installed, and torchvision wants torch==2\.0\.1"):
        environment.require_libraries()


@pytest.mark.parametrize(
    "here", ["2.99.0", "2.99.0+cpu", "2.99.0a0+34c6371d24.nv25.8", "3.0.0.dev20260101+cu130"]
)
def test_builds_of_vendors_and_nightly_ones_are_taken(here, monkeypatch):
    public = here.partition("+")[0]
    wanted = {"dsnet-med": ["torch>=2.99"], "torchvision": [f"torch=={public}"]}
    monkeypatch.setattr(environment, "requires", wanted.get)
    monkeypatch.setattr(environment, "version", installed({"torch": here}))
    environment.require_libraries()


@pytest.mark.parametrize("here", [None, "unknown"])
def test_a_library_that_is_listed_otherwise_is_no_reason_to_stop(here, monkeypatch):
    monkeypatch.setattr(environment, "version", installed({"python-gdcm": here}))
    environment.require_libraries()


@pytest.mark.parametrize("module", ["torch", "monai", "ignite"])
def test_a_missing_library_is_told_at_once(module, monkeypatch):
    monkeypatch.setattr(environment, "find_spec", lambda name: None if name == module else object())
    with pytest.raises(InputError, match=f"^{module} is not installed"):
        environment.require_libraries()


def test_without_metadata_nothing_is_checked(monkeypatch):
    def nothing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(environment, "requires", nothing)
    environment.require_libraries()


def test_commands_ask_first_and_help_does_not_wait(tmp_path):
    """A `sitecustomize` stands for an environment with a MONAI that is too old."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as m\nreal = m.version\n"
        "m.version = lambda name: '1.4.0' if name == 'monai' else real(name)\n"
    )
    for command in (["methods"], ["evaluate"], ["--version"], ["train", "--out", "x"]):
        assert "monai 1.4.0 is installed" in refused(run_anew(*command, PYTHONPATH=str(tmp_path)))
    assert run_anew("train", "--help", PYTHONPATH=str(tmp_path)).returncode == 0


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcudart.so.12: cannot open shared object file"),
        ModuleNotFoundError("No module named 'typer'", name="typer"),
        RuntimeError("operator torchvision::nms does not exist"),
    ],
)
def test_a_library_that_cannot_be_loaded_is_one_line(error, capsys):
    def fail():
        raise error

    assert guarded(fail) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"dsnet-med: a library cannot be loaded: {error}; install what is missing")
    assert line.count("\n") == 1


def test_a_target_that_does_not_exist_is_no_fault_of_the_installation(capsys):
    def fail():
        raise ModuleNotFoundError("Cannot locate class or function path: 'torch.optim.AdamX'.")

    assert guarded(fail) == 1
    assert "a library cannot be loaded" not in capsys.readouterr().err


def test_a_broken_library_is_one_line_when_typed(tmp_path):
    (tmp_path / "yaml.py").write_text("raise ImportError('damaged')")
    for command in (["--version"], ["methods"]):
        done = run_anew(*command, PYTHONPATH=str(tmp_path))
        assert "Traceback" not in done.stderr
    assert "a library cannot be loaded: damaged" in refused(done)


def test_the_version_says_whether_the_kernel_is_in_use():
    done = run_anew("--version")
    first, second = done.stdout.splitlines()
    assert first.startswith("dsnet-med ")
    assert second.startswith("Python {}.{}.".format(*sys.version_info))
    missing = "no compiled kernel for scores (slower, same values)"
    assert second.endswith(", compiled kernel for scores" if backend.NAME == "compiled" else missing)
