"""Run notebooks from top to bottom, each in a fresh process, and keep what they show: execute.py [NAME ...]"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent


def source_hash(notebook: NotebookNode) -> str:
    """SHA-256 of the code of a notebook: which code its outputs are of."""
    code = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def executed(path: Path, folder: Path, timeout_s: int = 600) -> NotebookNode:
    """The notebook with its outputs, run in `folder`. Raises CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    here = str(Path(sys.executable).parent)
    if here not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = here + os.pathsep + os.environ["PATH"]  # `dsnet-med` of this Python
    client = NotebookClient(
        notebook,
        timeout=timeout_s,
        coalesce_streams=True,  # lines whole
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata.language_info = {"name": "python"}  # the same whichever Python ran it
    notebook.metadata.outputs_of = source_hash(notebook)
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
