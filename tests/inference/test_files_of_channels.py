"""Several channels: which files are of one case, and what is refused by name."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsnet_med.errors import InputError
from dsnet_med.inference.channel_names import grouped, place_of
from dsnet_med.inference.channels import load_channels, only_source, split_series
from dsnet_med.inference.sources import find_sources

MODALITIES = ("t1", "t1ce", "t2", "flair")


def _write(file: Path, value: int = 0, shape: tuple[int, ...] = (4, 5, 6), shift: float = 0.0) -> Path:
    affine = np.diag((1.0, 1.0, 2.0, 1.0))
    affine[0, 3] = shift
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.full(shape, value, np.int16), affine), file)
    return file


def _values(path: Path, **options) -> dict[str, list[int] | str]:
    """For each case below a path the value of its channels, or why it is refused."""
    found = {}
    for source in find_sources([path], channels=MODALITIES):
        try:
            found[source.case] = [int(v.voxels.flat[0]) for v in load_channels(source, MODALITIES, **options)]
        except InputError as error:
            found[source.case] = str(error)
    return found


@pytest.mark.parametrize(
    "names",
    [
        [f"case_{number:04d}" for number in range(4)],
        [f"case_{name}" for name in MODALITIES],
        [f"case-{name.upper()}" for name in MODALITIES],
        [f"{name}/case" for name in MODALITIES],
        [f"case/{name}" for name in MODALITIES],
        [f"case/case_{name}" for name in MODALITIES],
    ],
    ids=["nnunet", "last", "capitals", "folder-of-channel", "folder-of-case", "brats"],
)
def test_names_tell_case_and_channel(names, tmp_path):
    for value, name in reversed(list(enumerate(names))):
        _write(tmp_path / "in" / f"{name}.nii.gz", value)
    ((case, values),) = _values(tmp_path / "in").items()
    assert values == [0, 1, 2, 3]
    assert case in ("case", "case_case")


def test_files_named_one_by_one_in_their_folders(tmp_path):
    files = [_write(tmp_path / case / f"{name}.nii", k) for case in "ab" for k, name in enumerate(MODALITIES)]
    sources = find_sources(files[::-1], channels=MODALITIES)
    assert sorted(source.case for source in sources) == ["a", "b"]
    assert all(source.files[0].name == "t1.nii" for source in sources)


def test_a_4d_file_is_a_case_whatever_it_is_called(tmp_path):
    for number in range(4):
        voxels = np.broadcast_to(np.arange(4, dtype=np.int16), (3, 4, 5, 4)) + 10 * number
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"BRATS_{number:04d}.nii.gz")
    found = _values(tmp_path)
    assert found == {f"BRATS_{k:04d}": [10 * k, 10 * k + 1, 10 * k + 2, 10 * k + 3] for k in range(4)}


def test_a_list_is_in_the_order_of_the_channels(tmp_path):
    files = [_write(tmp_path / f"scan{letter}.nii", k) for k, letter in enumerate("dcba")]
    source = only_source(Path(",".join(map(str, files))), MODALITIES)
    assert source.case == "scan"
    assert [int(v.voxels.flat[0]) for v in load_channels(source, MODALITIES)] == [0, 1, 2, 3]


def test_a_list_that_its_names_contradict_is_refused(tmp_path):
    files = [_write(tmp_path / f"x_{name}.nii") for name in ("t1", "t2", "t1ce", "flair")]
    assert "x_t2.nii: is called t2 and stands for t1ce" in _refused(Path(",".join(map(str, files))))


def _refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_channels(only_source(path, MODALITIES), MODALITIES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_lists_of_another_length_and_files_that_are_not_there(tmp_path):
    one = _write(tmp_path / "a.nii")
    assert "got 2 files for 4 channels; wanted t1, t1ce, t2, flair" in _refused(Path(f"{one},{one}"))
    four = Path(f"{one},{one},{tmp_path / 'absent.nii'},{one}")
    assert "absent.nii: no such file or folder" in _refused(four)


def test_what_lacks_a_channel_fails_alone(tmp_path):
    for case in "abcd":
        for k, name in enumerate(MODALITIES):
            _write(tmp_path / "in" / f"{case}_{name}.nii.gz", k)
    (tmp_path / "in" / "b_t2.nii.gz").unlink()
    _write(tmp_path / "in" / "c_t2.nii.gz", shape=(4, 5, 7))
    _write(tmp_path / "in" / "d_flair.nii.gz", shift=3.0)
    found = _values(tmp_path / "in")
    assert found["a"] == [0, 1, 2, 3]
    assert "case b lacks t2, wanted each once: t1, t1ce, t2, flair" in found["b"]
    assert "c_t2.nii.gz: channel t2 has the shape (4, 5, 7), and t1 (c_t1.nii.gz) (4, 5, 6)" in found["c"]
    assert "d_flair.nii.gz: channel flair lies elsewhere than t1" in found["d"]


def test_channels_on_other_grids_come_onto_the_first_where_the_model_says_so(tmp_path):
    rows = np.arange(8, dtype=np.float32)[:, None, None] + np.zeros((8, 5, 6), np.float32)
    fine = np.arange(16, dtype=np.float32)[:, None, None] / 2 - 0.25 + np.zeros((16, 5, 6), np.float32)
    half = np.diag((0.5, 1.0, 1.0, 1.0))
    half[0, 3] = -0.25  # the same box in voxels of half the length
    files = [tmp_path / f"{name}.nii" for name in ("t1", "t2")]
    nib.save(nib.Nifti1Image(rows, np.eye(4)), files[0])
    nib.save(nib.Nifti1Image(fine, half), files[1])
    source = only_source(Path(",".join(map(str, files))), ("t1", "t2"))
    with pytest.raises(InputError, match="channel t2 has the shape"):
        load_channels(source, ("t1", "t2"))
    first, second = load_channels(source, ("t1", "t2"), resample=True)
    assert second.shape == first.shape
    assert np.allclose(second.affine, first.affine)
    assert np.allclose(second.voxels[1:-1], rows[1:-1], atol=1e-5)


def test_too_many_and_two_of_one(tmp_path):
    for k in range(5):
        _write(tmp_path / "five" / f"x_{k:04d}.nii.gz", k)
    assert "has a channel 0004" in _values(tmp_path / "five")["x"]
    for name in (*MODALITIES, "T2"):
        _write(tmp_path / "two" / f"x_{name}.nii.gz")
    assert "has two files for t2" in _values(tmp_path / "two")["x"]


def test_a_file_of_one_volume_is_too_few(tmp_path):
    _write(tmp_path / "a.nii.gz")
    assert "wanted 4, one for each channel" in str(_values(tmp_path)["a"])
    _write(tmp_path / "b" / "five.nii.gz", shape=(3, 3, 3, 5))
    assert "wanted 4, one for each channel" in str(_values(tmp_path / "b")["five"])


def test_one_channel_takes_no_list(tmp_path):
    one = _write(tmp_path / "a.nii")
    with pytest.raises(InputError, match="got 2 files for 1 channels"):
        load_channels(only_source(Path(f"{one},{one}"), ("image",)), ("image",))


def test_nothing_changes_for_one_channel(tmp_path):
    for name in ("a_0000", "a_0001", "t1", "t2"):
        _write(tmp_path / f"{name}.nii.gz")
    assert sorted(s.case for s in find_sources([tmp_path])) == ["a_0000", "a_0001", "t1", "t2"]


# ---------------------------------------------------------------- tables


def _table(tmp_path: Path, *rows: str) -> Path:
    for k, name in enumerate("abcd"):
        _write(tmp_path / "files" / f"{name}.nii", k)
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "cases.csv"


HEAD = "case,image_t1,image_t1ce,image_t2,image_flair"


def test_a_table_names_the_files_of_each_case(tmp_path):
    rows = [
        "one,files/a.nii,files/b.nii,files/c.nii,files/d.nii",
        "two,files/d.nii,files/c.nii,files/b.nii,none.nii",
    ]
    found = _values(_table(tmp_path, HEAD, *rows))
    assert found["one"] == [0, 1, 2, 3] and "none.nii: no such file" in str(found["two"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["case,image_t1", "a,b"], "has no column image_t1ce, image_t2, image_flair"),
        ([HEAD], "names no case"),
        ([HEAD, "a,b,,d,e"], "line 2: image_t1ce is empty"),
        ([HEAD, "../a,b,c,d,e"], "line 2: got the case '../a'"),
        ([""], "has no column"),
    ],
)
def test_tables_that_are_none(rows, message, tmp_path):
    with pytest.raises(InputError, match=message):
        find_sources([_table(tmp_path, *rows)], channels=MODALITIES)


# ---------------------------------------------------------------- names and series


def test_a_channels_name_in_another():
    assert place_of("a_t1ce", MODALITIES) == ("a", 1) and place_of("a_t1", MODALITIES) == ("a", 0)
    assert place_of("at1", MODALITIES) is None and place_of("T2", MODALITIES) == ("", 2)
    assert place_of("t1_a", MODALITIES) == ("a", 0) and place_of("a_0003", MODALITIES) == ("a", 3)


def test_what_gives_whole_cases_is_believed():
    folders = [f"{name}_case_{number:04d}" for number in range(4) for name in MODALITIES]
    assert sorted(group.case for group in grouped(folders, MODALITIES)) == [f"case_{k:04d}" for k in range(4)]
    nnunet = [f"T1_case_{number:04d}" for number in range(4)]
    assert [group.case for group in grouped(nnunet, MODALITIES)] == ["T1_case"]


@given(st.lists(st.text("ab01_-t", min_size=1, max_size=8), max_size=12, unique=True))
def test_a_name_is_in_one_group_at_most(names):
    members = [index for group in grouped(names, ("t1", "t2")) for index, _ in group.members]
    assert len(members) == len(set(members))


def test_series_for_each_channel():
    assert split_series(None, MODALITIES) == [None] * 4
    assert split_series("4, 3,2,1", MODALITIES) == ["4", "3", "2", "1"]
    assert split_series("t2=1,t1=2,flair=3,t1ce=4", MODALITIES) == ["2", "4", "1", "3"]
    for wrong in ("1,2", "t1=1,t2=2,flair=3,adc=4", "1,2,3,t1=4", "1,,2,3"):
        with pytest.raises(InputError, match="wanted a series for each channel: t1=NUMBER"):
            split_series(wrong, MODALITIES)
