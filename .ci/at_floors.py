"""Fail unless every library here is the oldest that is allowed: at_floors.py pyproject.toml [EXTRA ...]."""

import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version


def oldest(requirement: Requirement) -> Version:
    return min(Version(each.version) for each in requirement.specifier if each.operator in (">=", "=="))


if __name__ == "__main__":
    project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
    extras = [each for name in sys.argv[2:] for each in project["optional-dependencies"][name]]
    wanted = {each.name: oldest(each) for each in map(Requirement, [*project["dependencies"], *extras])}
    other = {name: version(name) for name, floor in wanted.items() if Version(version(name)) != floor}
    for name, here in other.items():
        print(f"{name} {here} is installed, not {wanted[name]}: nobody can have tried the older one")
    print(f"{len(wanted) - len(other)} of {len(wanted)} libraries are the oldest that are allowed")
    sys.exit(bool(other))
