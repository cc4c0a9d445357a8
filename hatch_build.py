"""Compiles the kernel of the scores (.pyx) while the package is built; without a C compiler it is left out.

Runs for wheels and for editable installs. `DSNET_MED_KERNEL=require` makes a failure an error, `=skip` builds
the package of Python files alone; `=try` is the default.
"""

import os
import shutil
import tempfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_WANTED = ("try", "require", "skip")
SOURCE = Path("dsnet_med/evaluate/kernel.pyx")


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the compiled module beside its source, and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root, wanted = Path(self.root), os.environ.get("DSNET_MED_KERNEL") or "try"
        if wanted not in _WANTED:
            raise ValueError(f"got DSNET_MED_KERNEL={wanted}, wanted one of {', '.join(_WANTED)}")
        if wanted != "skip":
            try:
                module = compile_kernel(root, SOURCE)
            except (Exception, SystemExit) as error:  # whatever a compiler can do wrong
                if wanted == "require":
                    raise
                self.app.display_warning(f"scores will take SciPy's slower way: no kernel compiled ({error})")
            else:
                build_data["artifacts"].append(module.as_posix())
                build_data["pure_python"] = False
                build_data["infer_tag"] = True
                return
        if version == "editable":  # the checkout is what is imported
            remove_kernel(root)


def remove_kernel(root: Path) -> None:
    """Remove what an earlier build compiled for this Python, which would be taken all the same."""
    for suffix in EXTENSION_SUFFIXES:
        (root / SOURCE).with_suffix(suffix).unlink(missing_ok=True)


def compile_kernel(root: Path, kernel: Path) -> Path:
    """The path in `root` of the compiled form of `kernel`."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    with tempfile.TemporaryDirectory() as scratch:
        options = [] if os.name == "nt" else ["-O3", "-g0", "-fno-trapping-math", "-ffp-contract=off"]
        source = Path(scratch) / kernel.name
        shutil.copy(root / kernel, source)
        extension = Extension(kernel.stem, [str(source)], extra_compile_args=options)
        modules = cythonize([extension], build_dir=scratch, quiet=True)
        command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = f"{scratch}/lib", f"{scratch}/temp"
        command.ensure_finalized()
        command.run()
        built = next(Path(scratch, "lib").iterdir())
        module = kernel.with_name(built.name)
        # A new name first: a process that has the old module loaded keeps it.
        shutil.copy(built, root / f"{module}.new")
        (root / f"{module}.new").replace(root / module)
    return module
