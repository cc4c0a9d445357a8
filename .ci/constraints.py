"""Print the tested versions that pyproject.toml pins, one requirement a line."""

import sys
import tomllib
from pathlib import Path

if __name__ == "__main__":
    project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("\n".join(project["tool"]["uv"]["constraint-dependencies"]))
