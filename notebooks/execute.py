"""Run notebooks from top to bottom, each in a fresh process, and keep what they show: execute.py [NAME.ipynb ...]"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent


def executed(path: Path, folder: Path, timeout: int = 600) -> NotebookNode:
    """The notebook with its outputs, run in `folder`; raises nbclient's CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `dsnet-med` of this Python
    NotebookClient(
        notebook, timeout=timeout, coalesce_streams=True, record_timing=False, resources={"metadata": {"path": str(folder)}}
    ).execute()
    notebook.metadata.language_info = {"name": "python"}  # the same whichever Python ran it
    return notebook


def main(names: list[str]) -> None:
    """Run the notebooks of these names, or all, and write them with their outputs."""
    for path in [FOLDER / Path(name).name for name in names] or sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, Path(folder))
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
