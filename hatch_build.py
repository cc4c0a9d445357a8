"""Compiles dsnet_med/evaluate/kernel.pyx while the package is built; without a C compiler it is left out.

Runs for wheels and for editable installs. `DSNET_MED_KERNEL=require` makes a failure an error, `=skip` builds
the package of Python files alone.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("dsnet_med/evaluate/kernel.pyx")


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the compiled module beside its source, and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 -- hatchling's signature
        wanted = os.environ.get("DSNET_MED_KERNEL", "try")
        if self.target_name != "wheel" or wanted == "skip":
            return
        try:
            module = compile_kernel(Path(self.root))
        except (Exception, SystemExit) as error:  # whatever a compiler can do wrong
            if wanted == "require":
                raise
            for suffix in (".so", ".pyd"):
                for old in Path(self.root, SOURCE.parent).glob(f"{SOURCE.stem}*{suffix}"):
                    old.unlink()  # made from an earlier source, perhaps
            self.app.display_warning(
                f"scores will take SciPy's way, which is slower: no kernel compiled ({error})"
            )
            return
        build_data["artifacts"].append(module.as_posix())
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def compile_kernel(root: Path) -> Path:
    """The compiled module's path in `root`."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    with tempfile.TemporaryDirectory() as scratch:
        options = [] if os.name == "nt" else ["-O3", "-g0"]
        source = Path(scratch) / SOURCE.name
        shutil.copy(root / SOURCE, source)
        extension = Extension(SOURCE.stem, [str(source)], extra_compile_args=options)
        modules = cythonize([extension], build_dir=scratch, quiet=True)
        command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = f"{scratch}/lib", f"{scratch}/temp"
        command.ensure_finalized()
        command.run()
        built = next(Path(scratch, "lib").iterdir())
        module = SOURCE.with_name(built.name)
        # A new name first: a process that has the old module loaded keeps it.
        shutil.copy(built, root / f"{module}.new")
        (root / f"{module}.new").replace(root / module)
    return module
