"""`verify` of a trial's folder, and the analysis of scores from anywhere, as a user types them."""

from pathlib import Path

import numpy as np
from typed import refused, run

from dsnet_med.cli.analysing import analyse_file


def scores(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["method,seed,case,label,dice"]
    for arm, effect in {"fcn": 0.0, "fcn_se": 0.1}.items():
        for seed in range(3):
            lines += [
                f"{arm},{seed},c{case},1,{0.5 + 0.03 * case + effect + rng.normal(0, 0.01):.5f}"
                for case in range(10)
            ]
    file = folder / "mine.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_folder_holds_until_a_score_changes(tmp_path: Path, capsys) -> None:
    analyse_file(scores(tmp_path), tmp_path / "out", "fcn")
    assert "fcn_se is better" in capsys.readouterr().out
    done = run("verify", tmp_path / "out")
    assert done.returncode == 0 and "holds" in done.stdout and "2 methods and 6 runs" in done.stdout
    table = tmp_path / "out" / "scores.csv"
    first = table.read_text().splitlines()[1].split(",")[-1]
    table.write_text(table.read_text().replace(first, "0.99", 1))
    done = run("verify", tmp_path / "out" / "results.json")
    assert done.returncode == 1 and "scores.csv" in done.stderr and "Traceback" not in done.stderr
    assert "results.json" in refused(run("verify", tmp_path, "--masks"))
