"""What dsnet-med runs on: whether the libraries are those that it works with, and whether it has its kernel.

The ranges are read from the package's own metadata, so that pyproject.toml alone says them; that of torch also
from torchvision's, which is built for some versions of it only.
"""

from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec, module_from_spec
from pathlib import Path

from dsnet_med.errors import InputError

_IMPORTED = ("torch", "torchvision", "timm", "monai", "ignite")  # without which nothing can be trained


def require_libraries() -> None:
    """Raise InputError, in one line, for the first library that is outside its range, or missing.

    Of those that are not listed as installed only the main ones are asked for, by their modules: distributions
    other than PyPI's have names of their own.
    """
    for module in _IMPORTED:
        if find_spec(module) is None:
            raise InputError(
                f"{module} is not installed: `pip install .` in a checkout installs what is needed"
            )
    for wanted_by in ("dsnet-med", "torchvision"):
        for complaint in _complaints(wanted_by):
            raise InputError(f"{complaint}: `pip install .` in a checkout installs what fits")


def _complaints(package: str) -> Iterator[str]:
    from packaging.requirements import Requirement
    from packaging.version import InvalidVersion, Version

    try:
        wanted = [Requirement(line) for line in requires(package) or ()]
    except PackageNotFoundError:  # read from a folder that was never installed
        return
    for each in wanted:
        if each.marker and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            here = version(each.name)
            # Vendors count their own builds as before the release: 2.8.0a0+nv25.6 has the parts of 2.8.
            builds = (here, Version(here).base_version)
            fits = any(each.specifier.contains(build, prereleases=True) for build in builds)
        except (PackageNotFoundError, InvalidVersion):
            continue
        if not fits:
            yield f"{each.name} {here} is installed, and {package} wants {each}"


def kernel() -> str:
    """Whether the compiled kernel is in use, in words; without it SciPy gives the same scores.

    It is looked for without loading what stands around it.
    """
    folder = Path(__file__).parents[1] / "evaluate"
    spec = PathFinder.find_spec("dsnet_med.evaluate.kernel", [str(folder)])
    try:
        found = spec is not None and module_from_spec(spec) is not None
    except ImportError:  # made for another Python
        found = False
    return "compiled kernel for scores" if found else "no compiled kernel for scores (slower, same values)"
