"""The benchmark of the rows on natural images measures all of them, and its table in the README is true."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from dsnet_med.methods import method_row, natural_method_ids

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "natural.py"
TASKS = ("cityscapes", "coco", "imagenet")
SMALLEST = ["--width", "0.0625", "--size", "64x64", "--batch", "2", "--repeats", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("natural_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.WARM_UP = 1
    return module


@pytest.fixture
def run(benchmark, monkeypatch, capsys):
    """Runs the script with arguments: what it says on stdout; a refusal is a SystemExit."""

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        benchmark.main()
        return capsys.readouterr().out

    return main


def cells_of(table):
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")
    ]


def rows_in(text, benchmark):
    _, start, rest = text.partition(benchmark.START)
    table, end, _ = rest.partition(benchmark.END)
    assert start and end, "the README lacks the markers of the table"
    return cells_of(table)[2:]


@pytest.mark.parametrize("task", TASKS)
def test_every_row_is_measured_and_dsm_in_both_forms(task, run, benchmark, monkeypatch):
    if task != "imagenet":  # whose arithmetic is counted in test_natural_methods.py, too
        monkeypatch.setattr(benchmark, "gmac", lambda network, task: 0.0)
    said = run("--task", task, *SMALLEST)
    assert re.match(r"fp32, width 0\.0625, CPU, \d+ threads, torch \d", said)
    measured = {row[0]: row[1:6] for row in cells_of(said)[2:]}
    rows = [row for row in natural_method_ids() if row.startswith(task)]
    direct = [f"{row}, direct" for row in rows if "dsnet" in row]
    assert sorted(measured) == sorted(rows + direct)
    for name, (parameters, published, here, rate, relative) in measured.items():
        card = method_row(name.partition(",")[0])["method_card"]
        assert parameters == f"{card['parameters']:,}" and published == f"{card['flops'] / 1e9:.3f}"
        if task == "imagenet":
            assert (here == published) == (name not in rows or "dsnet" not in name)  # our DSM takes less
        assert float(rate) > 0 and float(relative) > 0
    assert measured[f"{task}/resnet50"][-1] == "1.00"
    assert ("imagenet/dsnet50_a is printed there as DSNet50-B" in said) == (task == "imagenet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "1"], "--batch is at least 2"),
        (["--readme", "--task", "coco"], "leave out --task and --width"),
        (["--readme", str(SCRIPT.parent / "plugins.py")], "has no line <!-- natural images"),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, message, run, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_the_table_is_written_between_its_markers_alone(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "on_meta", lambda row: row)
    monkeypatch.setattr(benchmark, "count_parameters", lambda row: 0)
    monkeypatch.setattr(benchmark, "gmac", lambda row, task: 0.0)
    file = tmp_path / "README.md"
    file.write_text(f"before\n\n{benchmark.START}old{benchmark.END}\nafter\n", encoding="utf-8")
    rates = {row: 2.0 if row.endswith("resnet50") else 1.0 for row in natural_method_ids()}
    for _ in range(2):  # again over its own
        benchmark.write_readme(file, rates)
    text = file.read_text(encoding="utf-8")
    assert text.startswith("before\n\n<!--") and text.endswith("-->\nafter\n") and "old" not in text
    table = rows_in(text, benchmark)
    assert [row[-1] for row in table if row[1] == "`coco/resnet50`"] == ["1.00"]
    assert [row[-2:] for row in table if row[1] == "`coco/dsnet50_b`"] == [["1.00", "0.50"]]


def test_the_readme_shows_every_row_with_its_parameters(benchmark):
    table = rows_in((ROOT / "README.md").read_text(encoding="utf-8"), benchmark)
    assert [row.strip("`") for _, row, *_ in table] == natural_method_ids()
    for task, name, parameters, published, _, published_flops, rate, relative in table:
        row = name.strip("`")
        printed = method_row(row)["method_card"]["published"]
        assert task == row.partition("/")[0]
        assert parameters == f"{benchmark.count_parameters(benchmark.on_meta(row)):,}"
        assert [published, published_flops] == [printed["parameters"], printed["flops"]]
        assert float(rate) > 0 and float(relative) > 0
