"""Building the package with its kernel, without it, and where it does not compile."""

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def build(monkeypatch):
    """hatch_build.py, with a stand-in for hatchling, which a build alone needs."""
    interface = ModuleType("hatchling.builders.hooks.plugin.interface")
    interface.BuildHookInterface = object
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path, build):
    """A checkout with a kernel that an earlier build compiled, for this Python and for another."""
    folder = (tmp_path / build.SOURCE).parent
    folder.mkdir(parents=True)
    for suffix in ("pyx", "pyi", EXTENSION_SUFFIXES[0].removeprefix("."), "cpython-39-other.so"):
        (folder / f"kernel.{suffix}").touch()
    return tmp_path


def built(build, checkout, version="editable"):
    """What the build is told, and its warnings."""
    hook, warnings = build.KernelHook(), []
    hook.root, hook.target_name = str(checkout), "wheel"
    hook.app = SimpleNamespace(display_warning=warnings.append)
    data = {"artifacts": []}
    hook.initialize(version, data)
    return data, warnings


def compiled(build, checkout):
    source = checkout / build.SOURCE
    kept = source.is_file() and source.with_suffix(".cpython-39-other.so").is_file()
    return kept and source.with_suffix(EXTENSION_SUFFIXES[0]).is_file()


def fails(_root, _source):
    raise SystemExit("error: command 'cc' failed: No such file or directory")


def test_skipped_kernels_of_an_earlier_build_are_not_left_in_use(build, checkout, monkeypatch):
    monkeypatch.setenv("DSNET_MED_KERNEL", "skip")
    assert built(build, checkout) == ({"artifacts": []}, [])
    assert not compiled(build, checkout)
    left = {path.name for path in (checkout / build.SOURCE).parent.iterdir()}
    assert left == {"kernel.pyx", "kernel.pyi", "kernel.cpython-39-other.so"}


def test_a_wheel_without_kernels_leaves_those_of_the_checkout(build, checkout, monkeypatch):
    monkeypatch.setenv("DSNET_MED_KERNEL", "skip")
    assert built(build, checkout, "standard") == ({"artifacts": []}, [])
    assert compiled(build, checkout)


def test_without_a_compiler_it_is_built_with_a_warning(build, checkout, monkeypatch):
    monkeypatch.delenv("DSNET_MED_KERNEL", raising=False)
    monkeypatch.setattr(build, "compile_kernel", fails)
    data, warnings = built(build, checkout)
    assert data == {"artifacts": []}
    assert len(warnings) == 1 and "'cc' failed" in warnings[0]
    assert not compiled(build, checkout)


def test_a_kernel_that_is_required_must_compile(build, checkout, monkeypatch):
    monkeypatch.setenv("DSNET_MED_KERNEL", "require")
    monkeypatch.setattr(build, "compile_kernel", fails)
    with pytest.raises(SystemExit):
        built(build, checkout)


def test_compiled_kernels_make_the_wheel_one_for_this_machine(build, checkout, monkeypatch):
    monkeypatch.setenv("DSNET_MED_KERNEL", "require")
    monkeypatch.setattr(build, "compile_kernel", lambda _root, source: source.with_suffix(".so"))
    data, _ = built(build, checkout)
    assert data["artifacts"] == ["dsnet_med/evaluate/kernel.so"]
    assert data["infer_tag"] and not data["pure_python"]


def test_an_unknown_wish_is_refused(build, checkout, monkeypatch):
    monkeypatch.setenv("DSNET_MED_KERNEL", "no")
    with pytest.raises(ValueError, match="wanted one of try, require, skip"):
        built(build, checkout)
