"""The checks on the set as a whole, on sets written by hand."""

from dsnet_med.prepare.doctor_set import examine_set
from dsnet_med.prepare.findings import Finding
from dsnet_med.prepare.fingerprint import CaseFingerprint as Case


def kinds(*members: Case) -> list[tuple[str, str]]:
    return [(finding.kind, finding.case) for finding in examine_set(members)]


def test_a_sound_set() -> None:
    assert kinds(Case("a", "a", "train", "1"), Case("b", "b", "test", "2")) == []


def test_a_subject_in_two_splits_is_an_overlap() -> None:
    members = (
        Case("a1", "a", "train", "1"),
        Case("a2", "a", "test", "2"),
        Case("b", "b", "test", "3"),
    )
    assert kinds(*members) == [("overlap", "a")]
    (finding,) = examine_set(members)
    assert str(finding) == "error: a: one subject in the splits test and train; keep it in one"


def test_two_cases_of_one_subject_in_one_split_are_no_overlap() -> None:
    assert (
        kinds(
            Case("a1", "a", "train", "1"),
            Case("a2", "a", "train", "2"),
            Case("b", "b", "test", None),
        )
        == []
    )


def test_unread_volumes_are_no_duplicates_of_each_other() -> None:
    assert kinds(Case("a", "a", "train", None), Case("b", "b", "test", None)) == []


def test_three_of_a_kind_are_one_finding() -> None:
    members = [Case(name, name, "train", "1") for name in "abc"]
    found = list(examine_set([*members, Case("d", "d", "test", "2")]))
    assert [finding.message for finding in found] == [
        "one volume under 3 names: a (train), b (train), c (train); keep one of them"
    ]


def test_a_set_of_strangers() -> None:
    assert kinds(Case("a", "a", "extra", "1")) == [("split", "")]
    assert str(Finding("warning", "", "split", "no case belongs to test")) == "warning: no case belongs to test"
