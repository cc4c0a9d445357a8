"""The table of plug-ins in the README is the benchmark's, of all plug-ins, and true of today's parameters."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dsnet_med.networks import plugins

ROOT = Path(__file__).parents[1]
PLACEBOS = {"ConstantGate", "Identity", "PointwiseConv", "RandomGate", "UniformDSM"}
NOT_MEASURED = {"Squeezed"}  # what it costs is what it squeezes


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("plugin_benchmark", ROOT / "benchmarks" / "plugins.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_plugin_is_measured(benchmark):
    names = {subject.partition(",")[0] for subject in benchmark.SUBJECTS}
    assert names | PLACEBOS | NOT_MEASURED == set(plugins.__all__)
    assert not names & (PLACEBOS | NOT_MEASURED)


def test_the_readme_shows_them_with_their_parameters(benchmark):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition(benchmark.START)[2].partition(benchmark.END)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()[2:]]
    assert [row[0] for row in rows] == list(benchmark.SUBJECTS)
    for name, parameters, *measured in rows:
        with torch.device("meta"):
            assert int(parameters.replace(",", "")) == benchmark.count_parameters(
                benchmark.build(name, "ours", 512)
            )
        assert len(measured) == 4 and all(float(value) >= 0 for value in measured)


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("plugins.py", ["--only", "SE", "--size", "2x16x8x8", "--repeats", "1"], "| SE | 0.000 (1.00x)"),
        ("training.py", ["--quick", "--threads", "1"], "| FCN+DSM, textbook |"),
        pytest.param(
            *("gpu.py", ["--only", "steps", "kernels", "--device", "cpu", "--tiny", "--out"], "| FCN+DSM |"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_benchmarks_run(script, arguments, expected, tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    command += [str(tmp_path)] * (arguments[-1] == "--out")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
