"""Compiles the kernels (.pyx) while the package is built; without a C compiler they are left out.

Runs for wheels and for editable installs. `DSNET_MED_KERNEL=require` makes a failure an error, `=skip` builds
the package of Python files alone.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = (Path("dsnet_med/evaluate/kernel.pyx"), Path("dsnet_med/inference/kernel.pyx"))


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts each compiled module beside its source, and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 -- hatchling's signature
        wanted = os.environ.get("DSNET_MED_KERNEL", "try")
        if self.target_name != "wheel" or wanted == "skip":
            return
        try:
            modules = [compile_kernel(Path(self.root), source) for source in SOURCES]
        except (Exception, SystemExit) as error:  # whatever a compiler can do wrong
            if wanted == "require":
                raise
            for source in SOURCES:
                for suffix in (".so", ".pyd"):
                    for old in Path(self.root, source.parent).glob(f"{source.stem}*{suffix}"):
                        old.unlink()  # made from an earlier source, perhaps
            self.app.display_warning(
                f"scores and masks will take the slower ways of SciPy and torch: no kernel compiled ({error})"
            )
            return
        build_data["artifacts"] += [module.as_posix() for module in modules]
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


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
