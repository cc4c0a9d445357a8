"""The checks on the set as a whole, on sets written by hand."""

from dsnet_med.prepare.doctor_findings import Finding, Member, examine_set


def kinds(*members: Member) -> list[tuple[str, str]]:
    return [(finding.kind, finding.case) for finding in examine_set(members)]


def test_a_sound_set() -> None:
    assert kinds(Member("a", "a", "train", "1"), Member("b", "b", "test", "2")) == []


def test_a_subject_in_two_splits_is_an_overlap() -> None:
    members = Member("a1", "a", "train", "1"), Member("a2", "a", "test", "2"), Member("b", "b", "test", "3")
    assert kinds(*members) == [("overlap", "a")]
    (finding,) = examine_set(members)
    assert str(finding) == "error: a: one subject in the splits test and train; keep it in one"


def test_two_cases_of_one_subject_in_one_split_are_no_overlap() -> None:
    assert (
        kinds(Member("a1", "a", "train", "1"), Member("a2", "a", "train", "2"), Member("b", "b", "test", None))
        == []
    )


def test_unread_volumes_are_no_duplicates_of_each_other() -> None:
    assert kinds(Member("a", "a", "train", None), Member("b", "b", "test", None)) == []


def test_three_of_a_kind_are_one_finding() -> None:
    members = [Member(name, name, "train", "1") for name in "abc"]
    found = list(examine_set([*members, Member("d", "d", "test", "2")]))
    assert [finding.message for finding in found] == [
        "one volume under 3 names: a (train), b (train), c (train); keep one of them"
    ]


def test_a_set_of_strangers() -> None:
    assert kinds(Member("a", "a", "extra", "1")) == [("split", "")]
    assert str(Finding("warning", "", "split", "no case belongs to test")) == "warning: no case belongs to test"
