"""Which prediction belongs to which reference, by names as tools and people give them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsnet_med.errors import InputError
from dsnet_med.evaluate.pairing import pair_folders, read_cases, require_one_file_per_case

ORGANS = {1: "aorta", 2: "left kidney", 3: "kidney", 4: "liver"}


def folder(place: Path, *names: str) -> Path:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"")
    return place


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("a.nii.gz", "a.seg.nrrd"),
        ("a_0000.nii.gz", "a.nii.gz"),
        ("a_pred.nii.gz", "a_gt.nii.gz"),
        ("pred_a.nii", "gt-a.mha"),
        ("a_prediction.nii.gz", "a_0000_Labels.nii.gz"),
        ("a-segmentation.nii.gz", "a_ground_truth.nii.gz"),
        ("a.SEG.nii.gz", "mask_a.nii.gz"),
    ],
)
def test_names_that_differ_in_what_says_the_role_alone(tmp_path, prediction, reference):
    p, r = folder(tmp_path / "p", prediction, "b.nii.gz"), folder(tmp_path / "r", reference, "b.nii.gz")
    found = pair_folders(p, r)
    assert [(pair.case, pair.prediction, pair.reference) for pair in found.pairs] == [
        ("a", p / prediction, r / reference),
        ("b", p / "b.nii.gz", r / "b.nii.gz"),
    ]
    assert (found.missing, found.failures, found.orphans) == ({}, {}, {})
    assert prediction in found.notes[0] and reference in found.notes[0]


def test_names_that_could_mean_several_are_not_paired(tmp_path):
    found = pair_folders(folder(tmp_path / "p", "a_pred.nii", "a_seg.nii"), folder(tmp_path / "r", "a_gt.nii"))
    assert found.pairs == []
    assert list(found.missing) == ["a_gt"]
    assert all("which holds a_gt.nii" in why for why in found.orphans.values())
    assert len(found.orphans) == 2


@given(st.sets(st.from_regex(r"[a-c](_0000|_gt|_pred)?", fullmatch=True)))
def test_equal_names_are_paired_whatever_they_end_in(tmp_path_factory, cases):
    place = tmp_path_factory.mktemp("names")
    names = [f"{case}.nii.gz" for case in cases | {"one"}]
    found = pair_folders(folder(place / "p", *names), folder(place / "r", *names))
    assert [pair.case for pair in found.pairs] == sorted(cases | {"one"})
    assert found.notes == []


def test_files_a_folder_deeper_are_named(tmp_path):
    p = folder(tmp_path / "p", "a.nii.gz")
    with pytest.raises(InputError, match=r"2 lie in .*inner: give that folder"):
        pair_folders(p, folder(tmp_path / "r", "inner/a.nii.gz", "inner/b.nii.gz"))
    with pytest.raises(InputError, match=r"2 folders in it hold some .a/label.nii.gz.: put them into one"):
        pair_folders(p, folder(tmp_path / "s", "a/label.nii.gz", "b/label.nii.gz"))


def test_a_link_that_leads_nowhere_is_its_case(tmp_path):
    p, r = folder(tmp_path / "p", "a.nii.gz"), folder(tmp_path / "r", "a.nii.gz", "b.nii.gz")
    (p / "b.nii.gz").symlink_to(tmp_path / "not fetched")
    (p / "folder.nii.gz").mkdir()
    assert [pair.case for pair in pair_folders(p, r).pairs] == ["a", "b"]


def test_the_cases_that_count(tmp_path):
    p, r = (
        folder(tmp_path / "p", "a.nii", "b.nii", "x.nii"),
        folder(tmp_path / "r", "a.nii", "b.nii", "c01.nii"),
    )
    found = pair_folders(p, r, cases=["b", "c01.nii"])
    assert [pair.case for pair in found.pairs] == ["b"]
    assert (list(found.missing), found.orphans) == (["c01"], {})
    with pytest.raises(InputError, match=r"'c1', which has no reference .*did you mean 'c01'"):
        pair_folders(p, r, cases=["c1"])


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("c.txt", "a\n\n# no case\nb c\na\n", ["a", "b c"]),
        ("c.txt", "\ufeffa\r\nb\r\n", ["a", "b"]),
        ("c.csv", "case,label,dice\na,1,1\na,2,1\nb,1,0\n", ["a", "b"]),
        (
            "manifest.json",
            json.dumps({"cases": [{"id": "a", "split": "test"}, {"id": "b", "split": "train"}]}),
            ["a"],
        ),
    ],
)
def test_a_file_of_cases(tmp_path, name, content, wanted):
    (tmp_path / name).write_text(content)
    assert read_cases(tmp_path / name) == wanted
    (tmp_path / name).write_bytes(content.removeprefix("\ufeff").encode("utf-16"))
    assert read_cases(tmp_path / name) == wanted


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.txt", "# nothing"),
        ("c.csv", "subject,split\na,test\n"),
        ("m.json", "{"),
        ("m.json", '{"cases": []}'),
    ],
)
def test_a_file_that_names_no_case(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=name):
        read_cases(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        read_cases(tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    "cases",
    [
        ["aorta", "liver"],
        ["Left-Kidney"],
        ["s1_liver", "s1_aorta", "s2_aorta"],
        ["liver_s1", "left_kidney_s1"],
        ["s1.left kidney", "s1.kidney"],
    ],
)
def test_one_file_per_organ_is_refused(cases):
    with pytest.raises(InputError, match="one file per organ"):
        require_one_file_per_case(cases, ORGANS, Path("masks"))


@pytest.mark.parametrize(
    "cases", [["liver_001", "liver_002"], ["img0001"], ["a_liver", "b_aorta"], ["deliver"]]
)
def test_one_file_per_case_is_not(cases):
    require_one_file_per_case(cases, ORGANS, Path("masks"))
    require_one_file_per_case(["liver", "liver_2"], {1: "liver"}, Path("masks"))
