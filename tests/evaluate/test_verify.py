"""verify: a summary holds until a file, a number or a rule changes."""

import json
import re

import nibabel as nib
import numpy as np
import pytest

from dsnet_med.errors import InputError
from dsnet_med.evaluate.pairing import pair_folders
from dsnet_med.evaluate.results import write_results
from dsnet_med.evaluate.score_folders import evaluate_pairs
from dsnet_med.evaluate.summary import summarise
from dsnet_med.evaluate.verify import count_numbers, differences, read_claim, score_again
from dsnet_med.files import sha256

NAMES = {1: "liver, left", 2: "spleen"}


def save(path, voxels, spacing=(1.0, 1.5, 3.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.uint8), np.diag((*spacing, 1.0))), path)


def evaluated(
    folder, protocols=("strict",), reference_map=None, resample=False, spacing=(1.0, 1.5, 3.0), rule="ignore"
):
    """Four cases, one of them unreadable, scored and written; returns the summary's path."""
    rng = np.random.default_rng(0)
    for case in ("a", "b", "c"):
        reference = np.zeros((12, 10, 4), np.uint8)
        reference[2:7, 2:8, 1:3], reference[8:11, 3:7, 1] = 1, 2
        prediction = np.where(rng.random(reference.shape) < 0.05, 0, reference)
        save(folder / "p" / f"{case}.nii.gz", prediction, spacing)
        save(folder / "r" / f"{case}.nii.gz", reference * (10 if reference_map else 1))
    for role in "pr":
        (folder / role / "bad.nii.gz").write_bytes(b"no volume")
    pairs, missing, failures, *_ = pair_folders(folder / "p", folder / "r")
    scores = list(
        evaluate_pairs(
            pairs,
            NAMES,
            protocols=protocols,
            reference_map=lambda _: reference_map,
            nsd_tolerance_mm=2.5,
            resample=resample,
            missing=rule,
        )
    )
    summary = summarise(
        scores, NAMES, protocols, missing=missing, failures=failures, rule=rule, nsd_tolerance_mm=2.5
    )
    assert (summary["cases"], len(summary["failed"])) == (3, 1)
    write_results(folder / "out", scores, summary, NAMES)
    return folder / "out" / "summary.json"


def verified(path, **folders):
    claim = read_claim(path, **folders)
    return differences(claim, list(score_again(claim)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"protocols": ("transunet", "strict", "dpcnet", "monai")},
        {"protocols": ("dpcnet",)},
        {"reference_map": {0: 0, 10: 1, 20: 2}},
        {"resample": True, "spacing": (1.0, 1.5, 3.3)},
    ],
)
def test_what_was_just_written_holds(tmp_path, options):
    path = evaluated(tmp_path, **options)
    assert verified(path) == []
    assert count_numbers(read_claim(path)) > 30


def numbers_in(value, trail=()):
    """Every place of a number in the part of a summary that is verified."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            yield (*trail, key)
        else:
            yield from numbers_in(item, (*trail, key))


def test_every_number_that_is_tampered_with_is_noticed(tmp_path):
    path = evaluated(tmp_path, protocols=("strict", "monai"))
    claim = read_claim(path)
    scores = list(score_again(claim))
    assert differences(claim, scores) == []
    # Every number there is but the ones that say how to score, which `score_again` goes by.
    rules = ("nsd_tolerance_mm", "label_values")
    places = [place for place in numbers_in(claim.content) if place[0] not in rules]
    assert sum(place[0] == "protocols" for place in places) == count_numbers(claim)
    assert {place[0] for place in places} >= {"inputs", "mean", "mean_ci95", "labels"}
    for *trail, last in places:
        where = claim.content
        for key in trail:
            where = where[key]
        kept = where[last]
        where[last] = kept + 1e-6
        found = differences(claim, scores)
        assert len(found) == 1, (trail, last)
        assert "when scored again" in found[0]
        where[last] = kept


@pytest.mark.parametrize(
    "tamper",
    [
        lambda content: content.update(protocol="monai"),
        lambda content: content["protocols"]["monai"].update(protocol="strict"),
        lambda content: content["hd95"].update(rule="max"),
        lambda content: content["protocols"]["monai"]["hd95"].update(unit="voxels"),
        lambda content: content["labels"].pop("spleen"),
        lambda content: content["inputs"]["a"].update(shape=[1, 1, 1]),
        lambda content: content["protocols"]["strict"].pop("mean"),
    ],
)
def test_words_that_are_tampered_with_are_noticed(tmp_path, tamper):
    path = evaluated(tmp_path, protocols=("strict", "monai"))
    claim = read_claim(path)
    scores = list(score_again(claim))
    tamper(claim.content)
    assert differences(claim, scores)


def test_a_changed_file_is_noticed_even_where_no_number_changes(tmp_path):
    path = evaluated(tmp_path)
    file = tmp_path / "r" / "b.nii.gz"
    voxels = np.asarray(nib.load(file).dataobj)
    image = nib.Nifti1Image(voxels, np.diag((1.0, 1.5, 3.0, 1)))
    image.header["descrip"] = b"touched"
    nib.save(image, file)
    assert verified(path) == [f"b: {file} is not the file that was scored (another SHA-256)"]


def test_a_changed_voxel_changes_numbers(tmp_path):
    path = evaluated(tmp_path)
    voxels = np.asarray(nib.load(tmp_path / "p" / "b.nii.gz").dataobj).copy()
    voxels[2:4] = 0
    save(tmp_path / "p" / "b.nii.gz", voxels)
    found = verified(path)
    assert any("SHA-256" in line for line in found)
    assert any(line.startswith("strict: labels.liver, left.dice.mean") for line in found)
    assert any("cases.csv: the row b,1," in line for line in found)


def test_every_file_and_every_key_counts(tmp_path):
    """Also those that nothing is scored from: notes, versions, tables of other protocols, images, CASE.json."""
    evaluated(tmp_path, protocols=("strict", "transunet"))
    image = tmp_path / "i" / "a.nii.gz"
    save(image, np.arange(480).reshape(12, 10, 4) % 200)
    (tmp_path / "p" / "a.json").write_text("{0}")
    pairs, _, failures, *_ = pair_folders(tmp_path / "p", tmp_path / "r")
    scores = list(evaluate_pairs(pairs, NAMES, protocols=("strict", "transunet")))
    summary = summarise(scores, NAMES, ("strict", "transunet"), failures=failures, rule="ignore")
    beside = {"folder": str(tmp_path / "p"), "files": {"a.json": sha256(tmp_path / "p" / "a.json")}}
    write_results(tmp_path / "all", scores, summary, NAMES, images={"a": image}, run={"seed": 1}, beside=beside)
    path = tmp_path / "all" / "summary.json"
    assert verified(path) == []
    beside_it = [path.with_name(name) for name in ("cases.csv", "cases_transunet.csv", "report.html")]
    for file in (*beside_it, tmp_path / "p" / "a.json", image):
        whole = file.read_bytes()
        file.write_bytes(whole.replace(b"0", b"1", 1) if b"0" in whole else whole + b" ")
        assert any(str(file) in line for line in verified(path))
        file.write_bytes(whole)
    text = path.read_text()
    for old, new in {
        '"seed": 1': '"seed": 2',
        '"python": "3': '"python": "4',
        '"missing": {': '"missinh": {',
        '"image": ': '"imagf": ',
        '"seal": "': '"seal": "0',
        '"seal"': '"sebl"',
        "\n": "\n ",
    }.items():
        assert old in text
        path.write_text(text.replace(old, new, 1))
        assert verified(path)[0].startswith(f"{path}: was")
    path.write_text(text)
    (tmp_path / "i").rename(tmp_path / "j")
    claim = read_claim(path)
    assert differences(claim, list(score_again(claim))) == []
    assert claim.absent == [str(image)]
    assert verified(path, images=tmp_path / "j") == []


def test_a_summary_of_an_earlier_version_has_no_seal(tmp_path):
    path = evaluated(tmp_path)
    content = {
        key: value for key, value in json.loads(path.read_text()).items() if key not in ("seal", "beside")
    }
    path.write_text(json.dumps(content))
    assert verified(path) == [] and read_claim(path).sealed is False


@pytest.mark.parametrize("name", ["../r/a.nii.gz", "/etc/passwd", "", ".."])
def test_a_summary_names_no_files_elsewhere(tmp_path, name):
    path = evaluated(tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"files": {name: ""}}))
    with pytest.raises(InputError, match="is no name of a file beside it"):
        read_claim(path)


def test_a_file_that_is_gone(tmp_path):
    path = evaluated(tmp_path)
    (tmp_path / "p" / "a.nii.gz").unlink()
    (found,) = verified(path)
    assert re.match(r"a: .*a\.nii\.gz: no such file", found)


def test_folders_that_moved(tmp_path):
    path = evaluated(tmp_path)
    (tmp_path / "p").rename(tmp_path / "q")
    assert len(verified(path)) == 3
    assert verified(path, prediction=tmp_path / "q") == []


def test_rows_of_the_csv(tmp_path):
    path = evaluated(tmp_path)
    table = path.with_name("cases.csv")
    text = table.read_text()
    table.write_text(text.replace(",spleen,0.", ",spleen,0.9", 1))
    assert len(verified(path)) == 1
    table.write_text("\n".join(text.splitlines()[:-1]) + "\n")
    assert "5 rows, 6 when scored again" in verified(path)[0]
    table.write_text(text.replace("\n", "\r\n"), newline="")
    assert verified(path) == [f"{table}: is not as it was (another SHA-256)"]
    table.unlink()
    claim = read_claim(path)
    assert differences(claim, list(score_again(claim))) == []
    assert claim.absent == [str(table)]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"protocol": "strict", "label_values": {"a": 1}, "inputs": {}, "nsd_tolerance_mm": 1}',
        '{"protocol": "strict", "label_values": {"a": 1}, "inputs": {"x": 3}, "nsd_tolerance_mm": 1}',
        '{"protocol": "strict", "label_values": {"a": -1}, "inputs": {"x": {}}, "nsd_tolerance_mm": 1}',
        '{"protocol": "foo", "label_values": {"a": 1}, "inputs": {"x": {}}, "nsd_tolerance_mm": 1}',
        '{"protocol": "strict", "protocols": ["strict"], "label_values": {"a": 1}, "inputs": {}}',
        '{"protocol": "strict", "protocols": {"strict": "x"}, "label_values": {"a": 1}, "inputs": {}}',
        '{"protocol": "strict", "label_values": {"a": 1}, "nsd_tolerance_mm": 1, "inputs": '
        '{"x": {"prediction": "p", "reference": "r", "reference_map": {"1": -1}}}}',
        "[" * 100_000,
        '{"protocol": "strict", "label_values": 3, "inputs": {}, "nsd_tolerance_mm": "x"}',
    ],
)
def test_what_is_no_summary(tmp_path, content):
    path = tmp_path / "summary.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"summary\.json|label"):
        read_claim(path)
    with pytest.raises(InputError, match="not a summary"):
        read_claim(tmp_path / "nowhere.json")


def test_a_table_that_cannot_be_read(tmp_path):
    path = evaluated(tmp_path)
    for content in (b"case\xff,1\n", b"x" * 200_000):
        path.with_name("cases.csv").write_bytes(content)
        assert any("cases.csv" in line for line in verified(path))


def test_a_file_name_that_is_no_text(tmp_path):
    evaluated(tmp_path)
    for role in "pr":
        (tmp_path / role / "a.nii.gz").rename(tmp_path / role / "a\udcff.nii.gz")
    pairs, missing, failures, *_ = pair_folders(tmp_path / "p", tmp_path / "r")
    scores = list(evaluate_pairs(pairs, NAMES))
    summary = summarise(scores, NAMES, missing=missing, failures=failures, rule="ignore")
    write_results(tmp_path / "odd", scores, summary, NAMES)
    assert "a\\udcff" in (tmp_path / "odd" / "cases.csv").read_text()
    assert verified(tmp_path / "odd" / "summary.json") == []
