"""An explained folder is verified: it holds as written, and each thing that is changed is named."""

import json
from pathlib import Path

import numpy as np
import pytest

import dsnet_med
from dsnet_med.cli.app import app
from dsnet_med.cli.guard import guarded
from dsnet_med.evaluate.classes import Classes
from dsnet_med.evaluate.results import laid_out, without_nan
from dsnet_med.explain import effects, where
from dsnet_med.explain.records import Altered, CaseMasks, Score
from dsnet_med.explain.tables import SCORES, WHERE, write_scores, write_where
from dsnet_med.explain.verify import explain_differences, explain_folder, read_explain_claim
from dsnet_med.files import sha256
from dsnet_med.seal import sealed

LABELS = {1: "liver", 2: "spleen"}
RUNS, CASES = ["fcn_dsm/seed-0", "fcn_dsm/seed-1"], ["a", "b", "c"]


def rows_of(run, rng):
    """Scores and counts of a run, of random masks."""
    counting, scores = where.Where(), []
    for case in CASES:
        reference, intact, *replaced = (rng.integers(0, 3, (4, 5, 3)).astype(np.uint8) for _ in range(6))
        masks = CaseMasks(run, case, LABELS, np.eye(4), Classes((reference,)), Classes((intact,)))
        kinds = [("identity", 0), ("shuffled", 0), ("shuffled", 1), ("mean", 0)]
        for (kind, draw), mask in zip(kinds, replaced, strict=True):
            counting.add(masks, Altered("all", kind, draw, Classes((mask,)), rng.random((4, 5, 3), np.float32)))
        for plugin, kind, draw in [("", "intact", 0), *(("all", *each) for each in kinds)]:
            scores += [
                Score(run, plugin, kind, draw, case, name, *rng.random(5).tolist()) for name in LABELS.values()
            ]
    return scores, counting.rows()


def write(folder: Path, content, *, sealing=True) -> None:
    text = laid_out(sealed(without_nan(content)) if sealing else content)
    (folder / "explain.json").write_text(text)


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    every = [rows_of(run, rng) for run in RUNS]
    scores, counts = ([row for each in every for row in each[part]] for part in (0, 1))
    place = tmp_path / "explained"
    (place / "pictures").mkdir(parents=True)
    (place / "pictures" / "00.png").write_bytes(b"a picture")
    (place / "report.html").write_text("a page")
    write_scores(place / SCORES, scores)
    write_where(place / WHERE, counts)
    names = list(LABELS.values())
    content = {
        "schema": 1,
        "dsnet_med": dsnet_med.__version__,
        "cases": CASES,
        "labels": {str(value): name for value, name in LABELS.items()},
        "runs": [
            {"name": run, "plugins": {"layer4": {"class": "DSM", "energy_changed": {"mean": 0.1}}}}
            | effects.summarise(scores, run, names)
            | {"where": where.summarise(counts, scores, run, names)}
            for run in RUNS
        ],
        "between": effects.between(scores, RUNS, names),
        "files": {
            file.relative_to(place).as_posix(): sha256(file) for file in place.rglob("*") if file.is_file()
        },
    }
    write(place, content)
    return place


def told(folder):
    return explain_differences(read_explain_claim(folder))


def verified(folder):
    return guarded(lambda: app(["verify", str(folder)], standalone_mode=False))


def rewrite(folder, change, *, sealing=True):
    content = json.loads((folder / "explain.json").read_text())
    change(content)
    write(folder, content, sealing=sealing)


def test_it_holds_as_it_was_written(folder, capsys):
    assert told(folder) == []
    assert verified(folder) == 0
    assert verified(folder / "explain.json") == 0
    out = capsys.readouterr().out.splitlines()
    assert "holds" in out[0]
    assert "2 runs and 3 cases" in out[0]
    assert "what the plug-ins compute" in out[1]


def test_a_number_that_was_changed_is_named(folder, capsys):
    def change(content):
        content["runs"][1]["interventions"][0]["mean"]["dice"]["difference"] += 1e-6

    rewrite(folder, change)
    (line,) = told(folder)
    assert line.startswith("explain.json: runs.fcn_dsm/seed-1.interventions[0].mean.dice.difference:")
    assert verified(folder) == 1
    assert line in capsys.readouterr().err


NUMBERS = [
    ("where", "errors", "net_ml", "mean"),
    ("where", "calibration", 2, "null_error_share"),
    ("where", "by_border_mm", 0, "changed_share"),
    ("where", "by_size", "spearman"),
    ("where", "by_size", "points", 3, 0),
    ("where", "labels", "liver", "changed_ml"),
    ("scores", "labels", "spleen", "dice", "ci95", 1),
    ("interventions", 2, "labels", "liver", "hd95_mm", "n"),
    ("image_dependence", "dice", "identity"),
]


@pytest.mark.parametrize("place", NUMBERS, ids=lambda place: ".".join(map(str, place)))
def test_every_derived_number_is_derived_again(folder, place):
    def change(content):
        part = content["runs"][0]
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] += 0.5

    rewrite(folder, change)
    (line,) = told(folder)
    assert str(place[-1]) in line


def test_numbers_between_runs_are_derived_again(folder):
    rewrite(folder, lambda content: content["between"][0]["mean"]["dice"].update(n=4))
    assert [line.split(": ")[1] for line in told(folder)] == ["between[0].mean.dice.n"]


@pytest.mark.parametrize("part", ["scores", "where", "interventions"])
def test_a_part_that_was_taken_away_is_noticed(folder, part):
    rewrite(folder, lambda content: content["runs"][0].pop(part))
    assert told(folder)


def test_a_sentence_may_be_worded_otherwise_and_is_under_the_seal(folder):
    def change(content):
        content["runs"][0]["image_dependence"]["words"] = "A constant keeps nothing."

    rewrite(folder, change)
    assert told(folder) == []
    rewrite(folder, lambda content: content["runs"][0]["where"].update(counted="all"), sealing=False)
    assert "its seal does not hold" in told(folder)[0]


def test_what_nothing_derives_is_under_the_seal(folder):
    def change(content):
        content["runs"][0]["plugins"]["layer4"]["energy_changed"]["mean"] = 0.2

    rewrite(folder, change, sealing=False)
    (line,) = told(folder)
    assert "its seal does not hold" in line


def test_a_row_that_was_changed_changes_the_hash_and_the_numbers(folder):
    lines = (folder / SCORES).read_text().splitlines(keepends=True)
    cells = lines[3].split(",")
    cells[6] = "0.123"
    lines[3] = ",".join(cells)
    (folder / SCORES).write_text("".join(lines))
    found = told(folder)
    assert any("scores.csv: is not as it was" in line for line in found)
    assert any("when summarised again" in line for line in found)


def test_a_row_that_is_gone_is_noticed_even_with_a_new_hash(folder):
    lines = (folder / WHERE).read_text().splitlines(keepends=True)
    (folder / WHERE).write_text("".join([*lines[:4], *lines[5:]]))
    rewrite(folder, lambda content: content["files"].update({WHERE: sha256(folder / WHERE)}))
    assert told(folder) == ["where.csv: has no row of fcn_dsm/seed-0, intact 0, a, border 4-8"]
    lines = (folder / SCORES).read_text().splitlines(keepends=True)
    (folder / SCORES).write_text("".join(line for line in lines if ",shuffled,1,b," not in line))
    rewrite(folder, lambda content: content["files"].update({SCORES: sha256(folder / SCORES)}))
    assert "scores.csv: has no row of fcn_dsm/seed-0, all shuffled 1, b, liver and 1 more" in told(folder)


def test_rows_of_cases_and_runs_that_are_not_there_are_named(folder):
    rewrite(folder, lambda content: content.update(cases=["a", "b", "d"]))
    found = told(folder)
    assert "scores.csv: the case c is not in explain.json" in found
    assert "scores.csv: has no row of fcn_dsm/seed-0, intact 0, d, liver and 1 more" in found
    assert "where.csv: the case c is not in explain.json" in found


def test_missing_changed_and_extra_files_are_named(folder):
    (folder / "pictures" / "00.png").write_bytes(b"another")
    (folder / "report.html").unlink()
    (folder / "pictures" / "01.png").write_bytes(b"one more")
    (folder / ".DS_Store").write_bytes(b"the system's")
    assert told(folder) == [
        f"{folder / 'pictures' / '00.png'}: is not as it was (another SHA-256)",
        f"{folder / 'report.html'} is missing",
        f"{folder / 'pictures' / '01.png'}: was not written by explain",
    ]


def test_a_table_that_cannot_be_read_is_one_line(folder):
    (folder / SCORES).write_text("nonsense")
    found = told(folder)
    assert len(found) == 2
    assert "the first line is" in found[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.update(schema=2), "schema 2"),
        (lambda content: content.pop("runs"), "not an explain.json"),
        (lambda content: content["files"].update({"../secret": "0"}), "no name of a file beside it"),
        (lambda content: content["files"].update({"/etc/passwd": "0"}), "no name of a file beside it"),
    ],
)
def test_what_is_no_claim_is_refused(folder, change, words, capsys):
    rewrite(folder, change)
    assert verified(folder) == 2
    assert words in capsys.readouterr().err


def test_options_of_other_kinds_are_refused(folder, capsys):
    arguments = ["verify", str(folder), "--masks"]
    assert guarded(lambda: app(arguments, standalone_mode=False)) == 2
    assert "--masks" in capsys.readouterr().err


def test_which_paths_are_explained_folders(folder):
    assert explain_folder(folder) == explain_folder(folder / "explain.json") == folder
    assert explain_folder(folder / "pictures") is None
    assert explain_folder(folder / SCORES) is None
