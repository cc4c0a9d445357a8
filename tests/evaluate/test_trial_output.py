"""Files of a trial: what is written is read back the same, holds, and is noticed when it changes."""

import csv
import json
import re

import numpy as np
import pytest

from dsnet_med.errors import InputError
from dsnet_med.evaluate import analyse
from dsnet_med.evaluate.score_table import read_scores, write_scores
from dsnet_med.evaluate.trial_output import write_trial
from dsnet_med.evaluate.trial_tables import table_md, table_tex
from dsnet_med.evaluate.verify_trial import count_trial_numbers, read_trial_claim, trial_differences
from dsnet_med.files import read_json, sha256, write_json
from dsnet_med.seal import sealed

HEADER = "method,seed,case,label,dice\n"
ODD = "fcn_x&y|{50 %}+SE@layer4.*.act2"


def rows():
    rng = np.random.default_rng(0)
    return [
        {
            "method": arm,
            "seed": seed,
            "fold": "",
            "case": f"{case:04d}",
            "label": label,
            "name": name,
            "dice": None if (case, label) == (1, 2) else float(rng.uniform(0.5, 0.9)),
            "hd95_mm": float(rng.uniform(1, 9)),
            "dice_transunet": float(rng.uniform(0.5, 0.9)),
            "note": "absent from both" if (case, label) == (1, 2) else "",
        }
        for arm in ("fcn", ODD, "=cmd()")
        for seed in range(3)
        for case in range(5)
        for label, name in ((1, "liver, left"), (2, "@spleen"))
    ]


def written(folder, **more):
    every = rows()
    results = analyse(every, "fcn", costs={"fcn": {"parameters": 5, "device": "cpu"}}, **more)
    write_trial(folder, every, results, html="<p>page</p>")
    return folder


def test_five_files_that_hold(tmp_path):
    (tmp_path / "trial.yaml").write_text("seeds: [0, 1, 2]\n")
    folder = written(tmp_path, trial=sha256(tmp_path / "trial.yaml"))
    files = {"results.json", "scores.csv", "table.md", "table.tex", "report.html"}
    assert {path.name for path in folder.iterdir()} == files | {"trial.yaml"}
    claim = read_trial_claim(folder)
    assert trial_differences(claim) == []
    assert count_trial_numbers(claim) > 100
    written(tmp_path, trial=sha256(tmp_path / "trial.yaml"))  # again, in place of its own
    (tmp_path / "trial.yaml").write_text("seeds: [0, 1]\n")
    assert "not the trial that was analysed" in trial_differences(read_trial_claim(folder))[0]


def test_scores_are_read_as_they_were_written(tmp_path):
    write_scores(tmp_path / "scores.csv", rows())
    back = read_scores(tmp_path / "scores.csv")
    assert [row["dice"] for row in back] == [row["dice"] for row in rows()]
    assert {row["method"] for row in back} == {"fcn", ODD, "=cmd()"}
    assert (back[0]["case"], back[0]["name"], back[1]["name"]) == ("0000", "liver, left", "@spleen")
    with (tmp_path / "scores.csv").open(newline="") as stream:
        cells = {cell for line in csv.reader(stream) for cell in line}
    assert not [cell for cell in cells if cell[:1] in "=@+" and cell]


def tampered(folder, change):
    results = read_json(folder / "results.json")
    change(results)
    write_json(folder / "results.json", sealed(results))


@pytest.mark.parametrize(
    "change",
    [
        lambda results: results["contrasts"][0].update(p=0.01),
        lambda results: results["contrasts"][0].update(verdict="no verdict"),
        lambda results: results["contrasts"][1]["ci95"].__setitem__(0, 0.5),
        lambda results: results["arms"]["fcn"]["seed_means"].update({"0": 1.0}),
        lambda results: results["arms"].pop(ODD),
        lambda results: results.update(margin=0.02),
        lambda results: results.update(baseline=ODD),
        lambda results: results.update(baseline="gone"),
        lambda results: results["notes"].clear(),
        lambda results: results["primary"].update(measure="hd95_mm"),
    ],
)
def test_results_that_the_scores_do_not_give_are_noticed_even_when_sealed(tmp_path, change):
    folder = written(tmp_path)
    tampered(folder, change)
    assert trial_differences(read_trial_claim(folder))


def test_another_wording_is_no_other_result(tmp_path):
    folder = written(tmp_path)
    tampered(folder, lambda results: results["contrasts"][0].update(words="in short: who knows"))
    assert trial_differences(read_trial_claim(folder)) == []


def test_files_that_changed_are_noticed(tmp_path):
    folder = written(tmp_path)
    for name in ("scores.csv", "table.md", "table.tex", "report.html", "results.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole.replace(b"0", b"1", 1).replace(b"page", b"pager"))
        assert trial_differences(read_trial_claim(folder)), name
        if name != "results.json":
            (folder / name).unlink()
            assert any(name in line for line in trial_differences(read_trial_claim(folder)))
        (folder / name).write_bytes(whole)
    assert trial_differences(read_trial_claim(folder)) == []


def test_what_is_no_trial(tmp_path):
    with pytest.raises(InputError, match="not there"):
        read_trial_claim(tmp_path)
    for text in ("{", "[]", "{}", '{"schema": 1}', '{"schema": 2}'):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(InputError, match=r"results\.json"):
            read_trial_claim(tmp_path)


def test_files_of_somebody_else_are_not_replaced(tmp_path):
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(InputError, match=r"table\.md is there already"):
        written(tmp_path)
    assert (tmp_path / "table.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no column method"),
        (HEADER, "no scores"),
        ("method,seed,case,dice\na,0,x,1\n", "no column label"),
        ("method,seed,case,label,score\na,0,x,1,1\n", "no column of scores"),
        ("method,seed,case,label,dice,dice\na,0,x,1,1,1\n", "twice"),
        (HEADER + "a,0,x,1,high\n", "line 2: dice is 'high', wanted a number"),
        (HEADER + "a,0,x,1,0.5\na,0,x,1,0.6\n", "line 3: .* given before, in .*line 2"),
        (HEADER + "a,0,x,1,88.1\n", "line 2: dice is 88.1, .* per cent"),
        (HEADER + "a,0,x,1,0,5\n", "line 2: 6 cells"),
        (HEADER + "a,0,x,1,inf\n", "line 2: dice is inf"),
        (HEADER + 'a,0,"x,1,0.5\n', "no table"),
    ],
)
def test_a_file_that_is_no_table_of_scores(tmp_path, text, word):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(InputError, match=word) as caught:
        read_scores(tmp_path / "mine.csv")
    assert "\n" not in str(caught.value) and "mine.csv" in str(caught.value)


def test_semicolons_byte_order_marks_blank_lines_and_nan(tmp_path):
    (tmp_path / "mine.csv").write_text(
        "Method;Seed;Case;Label;Dice\na;0;x;1;NaN\n\na;0;x;2.0;0.5\n", "utf-8-sig"
    )
    first, second = read_scores(tmp_path / "mine.csv")
    assert (first["dice"], second["dice"], second["label"]) == (None, 0.5, "2")
    (tmp_path / "mine.csv").write_bytes(b"\xff\xfe\xfd\x00\x80")
    with pytest.raises(InputError, match="cannot be read"):
        read_scores(tmp_path / "mine.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_scores(tmp_path / "gone.csv")


def test_tables_hold_every_arm_and_escape_what_they_must(tmp_path):
    results = analyse(rows(), "fcn")
    markdown, tex = table_md(results), table_tex(results)
    lines = markdown.splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + 3
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines[:5]}) == 1
    assert r"layer4.\*.act2" in markdown and lines[2].endswith("| baseline |")
    assert r"fcn\_x\&y\textbar{}\{50 \%\}+SE" in tex
    assert all(word in tex for word in (r"\toprule", r"\midrule", r"\bottomrule", r"$\pm$"))
    body = tex[tex.index(r"\midrule") : tex.index(r"\bottomrule")].splitlines()[1:-1]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")
    one = analyse([row for row in rows() if row["method"] == "fcn" and row["seed"] == 0])
    assert "baseline" in table_md(one) and "nan" not in table_tex(one)
    json.dumps(one, allow_nan=False)
