"""Splits: by subject, each subject once, seeded draws that repeat and hardly move."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsnet_med.errors import InputError
from dsnet_med.prepare.splits import SPLITS, SeededSplit, assign, meant, read_splits

SUBJECTS = st.sets(st.text("abcdef0123", min_size=1, max_size=5), max_size=40)
RULES = st.builds(SeededSplit, st.integers(0, 9), st.floats(0, 0.4), st.floats(0, 0.4))


def test_list_is_read_with_zeros_blanks_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_bytes("\ufeffsubject,split\r\n0001, train\r\n\r\n0002,extra\r\n".encode())
    assert read_splits(path) == {"0001": "train", "0002": "extra"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("subject,split\na,train\na,test\n", r"'a' is listed twice \(train and test\)"),
        ("subject,split\na,train\na,train\n", "listed twice"),
        ("subject,split\na,tset\n", "did you mean 'test'"),
        ("case,split\na,test\n", "wanted 'subject,split'"),
        ("", "an empty file"),
        ("subject,split\na\n", "has not the 2 cells"),
        ("subject,split\n,train\n", "has not the 2 cells"),
    ],
)
def test_bad_lists_are_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        read_splits(path)
    assert str(path) in str(caught.value)


def test_binary_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_bytes(b"\x1f\x8b\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as a CSV file"):
        read_splits(path)


@pytest.mark.parametrize(
    ("name", "meant_by_it"),
    [
        ("c3", "c03"),
        ("c03.nii.gz", "c03"),
        ("C03", "c03"),
        ("c03_0000", "c03"),
        ("3", "c03"),
        ("c-03", "c03"),
        ("c30", None),
        ("c05", None),
        ("other03", None),
        ("patient7_frame01", "patient007"),
        ("patiemt007", "patient007"),
        ("anne", "anna"),
        ("bert", None),
    ],
)
def test_which_subject_a_name_means(name: str, meant_by_it: str | None) -> None:
    assert meant(name, ["c04", "c03", "patient007", "anna"]) == meant_by_it


def test_unlisted_subject_is_extra() -> None:
    assert assign({"a": "val"}, ["b", "a"]) == {"b": "extra", "a": "val"}


@given(SUBJECTS, RULES)
def test_draw_covers_every_subject_once_and_leaves_some_for_training(
    subjects: set[str], rule: SeededSplit
) -> None:
    drawn = assign(rule, subjects)
    counts = Counter(drawn.values())
    assert set(drawn) == subjects
    assert set(counts) <= set(SPLITS) - {"extra"}
    assert not subjects or counts["train"] >= 1
    for split, fraction in (("val", rule.val), ("test", rule.test)):
        assert abs(counts[split] - fraction * len(subjects)) <= 1
        if fraction > 0 and len(subjects) >= 3:
            assert counts[split] >= 1


@pytest.mark.parametrize(
    ("subjects", "counts"), [(1, (0, 0, 1)), (2, (0, 0, 2)), (3, (1, 1, 1)), (4, (1, 2, 1))]
)
def test_few_subjects_still_leave_one_for_training(subjects: int, counts: tuple[int, int, int]) -> None:
    drawn = list(assign(SeededSplit(0, 0.4, 0.4), [str(n) for n in range(subjects)]).values())
    assert (drawn.count("val"), drawn.count("test"), drawn.count("train")) == counts


@given(SUBJECTS, RULES)
def test_draw_repeats_whatever_the_order(subjects: set[str], rule: SeededSplit) -> None:
    assert assign(rule, sorted(subjects)) == assign(rule, sorted(subjects, reverse=True))


def test_another_seed_draws_others() -> None:
    subjects = [f"s{i}" for i in range(50)]
    assert assign(SeededSplit(0, 0.1, 0.2), subjects) != assign(SeededSplit(1, 0.1, 0.2), subjects)


def test_one_more_subject_moves_few() -> None:
    subjects = [f"s{i}" for i in range(100)]
    rule = SeededSplit(0, 0.1, 0.2)
    before, after = assign(rule, subjects), assign(rule, [*subjects, "new"])
    assert sum(before[subject] != after[subject] for subject in subjects) <= 2
