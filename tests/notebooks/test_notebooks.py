"""Every notebook runs from top to bottom, and shows what its own code gave."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Those that train several networks run nightly, with all the steps that they show; the others always, with few.
NIGHTLY = ("explain", "plugin_to_verdict")

_spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
execute = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(execute)


def names(path):
    return path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_outputs_are_of_the_code_beside_them(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert notebook.metadata.outputs_of == execute.source_hash(notebook), "run notebooks/execute.py"
    shown = [output for cell in code for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert kinds & {"image/png", "image/svg+xml"}
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in NIGHTLY)) for p in NOTEBOOKS], ids=names
)
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", "10")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ran = execute.executed(path, tmp_path)
    assert all(cell.execution_count for cell in ran.cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_runs_with_the_steps_that_it_shows(path, tmp_path, monkeypatch):
    monkeypatch.delenv("STEPS", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    execute.executed(path, tmp_path)


def test_a_cell_that_fails_fails_its_notebook(tmp_path):
    from nbclient.exceptions import CellExecutionError

    cells = [nbformat.v4.new_code_cell("%%bash\ndsnet-med check --source nowhere --recipe synapse")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "fails.ipynb")
    with pytest.raises(CellExecutionError, match="nowhere"):
        execute.executed(tmp_path / "fails.ipynb", tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_no_command_may_fail_unseen(path):
    """`!command` goes on after an error; `%%bash` ends its cell with one."""
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not [line for source in code for line in source.splitlines() if line.startswith("!")]
