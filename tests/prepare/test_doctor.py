"""The data doctor on a sound phantom, and on the same phantom with one known defect at a time."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dsnet_med.errors import InputError
from dsnet_med.prepare.doctor import Finding, examine_source
from dsnet_med.prepare.phantom import make_acdc, make_synapse
from dsnet_med.prepare.recipe import load_recipe

CASES = ["0001", "0002", "0005", "0006"]
ABSENT = "18 more"  # the phantom has four of the 30 subjects that the published split names


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    assert sorted(make_synapse(folder, cases=4, seed=0, size=(64, 64, 16))) == CASES
    return folder


@pytest.fixture
def source(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound phantom to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "source"))


def image_file(source: Path, case: str) -> Path:
    return source / f"RawData/Training/img/img{case}.nii.gz"


def label_file(source: Path, case: str) -> Path:
    return source / f"RawData/Training/label/label{case}.nii.gz"


def rewrite(file: Path, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> None:
    volume = nib.load(file)
    voxels = change(np.array(volume.dataobj))
    nib.save(nib.Nifti1Image(voxels, volume.affine if affine is None else affine), file)


def findings(source: Path, **options: int) -> list[Finding]:
    examined = list(examine_source(load_recipe("synapse"), source, **options))
    assert [each.case for each in examined[:-1]] == sorted(each.case for each in examined[:-1])
    assert examined[-1].case == ""
    return [f for each in examined for f in each.findings if not f.message.endswith(ABSENT)]


def only(source: Path, kind: str, case: str, severity: str = "error") -> str:
    """The message of the single finding there should be."""
    found = findings(source)
    assert [(each.kind, each.case, each.severity) for each in found] == [(kind, case, severity)], found
    assert "\n" not in found[0].message
    return found[0].message


def test_a_sound_phantom_has_no_findings(sound: Path) -> None:
    assert findings(sound) == []


def test_an_oblique_phantom_has_no_findings(tmp_path: Path) -> None:
    list(make_synapse(tmp_path, cases=3, seed=1, size=(64, 64, 16), oblique=True))
    assert findings(tmp_path) == []


@pytest.mark.parametrize("oblique", [False, True])
def test_a_heart_phantom_has_no_findings(tmp_path: Path, oblique: bool) -> None:
    list(make_acdc(tmp_path, cases=2, seed=1, size=(64, 64, 6), oblique=oblique))
    examined = list(examine_source(load_recipe("acdc"), tmp_path))
    assert len(examined) == 5
    assert [each.findings for each in examined] == [()] * 5


def test_workers_find_what_one_process_finds(source: Path) -> None:
    rewrite(label_file(source, "0002"), lambda voxels: voxels * 0)
    image_file(source, "0005").write_bytes(b"no volume")
    assert findings(source, workers=2) == findings(source) != []


def test_an_image_without_label(source: Path) -> None:
    label_file(source, "0002").unlink()
    assert only(source, "pair", "0002") == "RawData/Training/img/img0002.nii.gz: the image has no label file"


def test_a_label_without_image(source: Path) -> None:
    image_file(source, "0002").unlink()
    assert "label0002.nii.gz: the label has no image" in only(source, "pair", "0002")


def test_a_label_of_another_shape(source: Path) -> None:
    rewrite(label_file(source, "0001"), lambda voxels: voxels[:, :, :-1])
    assert "shape (64, 64, 15) differs from (64, 64, 16)" in only(source, "geometry", "0001")


def test_a_label_in_another_place(source: Path) -> None:
    file = label_file(source, "0001")
    affine = nib.load(file).affine.copy()
    affine[2, 3] += 5
    rewrite(file, lambda voxels: voxels, affine)
    assert "places voxels elsewhere" in only(source, "geometry", "0001")


def test_stray_label_values_are_listed(source: Path) -> None:
    def stray(voxels: np.ndarray) -> np.ndarray:
        voxels = voxels.astype(np.uint16)
        voxels[0, 0, :3] = 281
        voxels[1, 0, 0] = 14
        return voxels

    rewrite(label_file(source, "0006"), stray)
    assert "14 (1 voxel), 281 (3 voxels)" in only(source, "label values", "0006")


def test_an_empty_label(source: Path) -> None:
    # Only the gullet is left, which the recipe makes background.
    rewrite(label_file(source, "0006"), lambda voxels: np.where(voxels == 5, voxels, 0).astype(np.uint8))
    assert "all background" in only(source, "empty label", "0006")


def test_a_missing_organ_is_a_warning(source: Path) -> None:
    rewrite(label_file(source, "0006"), lambda voxels: np.where(voxels == 4, 0, voxels).astype(np.uint8))
    assert only(source, "missing class", "0006", "warning").endswith("holds no gallbladder")


def test_fractions_in_a_label(source: Path) -> None:
    rewrite(label_file(source, "0006"), lambda voxels: voxels.astype(np.float32) + 0.5)
    assert "whole numbers" in only(source, "unreadable", "0006")


def test_one_volume_in_two_splits(source: Path) -> None:
    # 0001 tests, 0005 trains: the same voxels in another data type, compression and axis order.
    volume = nib.load(image_file(source, "0001"))
    turned = nib.as_closest_canonical(nib.Nifti1Image(np.array(volume.dataobj, np.float64), volume.affine))
    nib.save(turned, image_file(source, "0005"))
    labels = nib.as_closest_canonical(nib.load(label_file(source, "0001")))
    nib.save(labels, label_file(source, "0005"))
    message = only(source, "overlap", "0001")
    assert message == "one volume in several splits: 0001 (test), 0005 (train); keep one of them"


def test_one_volume_under_two_names(source: Path) -> None:
    for file in (image_file, label_file):
        shutil.copy(file(source, "0005"), file(source, "0006"))
    assert "one volume under 2 names: 0005 (train), 0006 (train)" in only(source, "duplicate", "0005")


def test_alike_but_not_the_same_volumes_are_no_duplicates(source: Path) -> None:
    def nudge(voxels: np.ndarray) -> np.ndarray:
        voxels[0, 0, 0] += 1
        return voxels

    for file in (image_file, label_file):
        shutil.copy(file(source, "0005"), file(source, "0006"))
    rewrite(image_file(source, "0006"), nudge)
    assert findings(source) == []


def test_cases_of_one_subject_share_its_split(source: Path) -> None:
    recipe = load_recipe("synapse")
    table = source / "cases.csv"
    rows = [("a", "pat1", "0001"), ("b", "pat1", "0005"), ("c", "pat2", "0006")]
    files = [
        f"{a},{b},RawData/Training/img/img{c}.nii.gz,RawData/Training/label/label{c}.nii.gz" for a, b, c in rows
    ]
    table.write_text("\n".join(["case,subject,image,label", *files]) + "\n")
    listed = replace(recipe, layout="table", cases=table, splits={"pat1": "train", "pat2": "test"})
    found = [each for one in examine_source(listed, source) for each in one.findings]
    assert found == []  # splits go by subject


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda hu: ((hu.clip(-125, 275) + 125) / 400).astype(np.float32), "looks normalised"),
        (lambda hu: ((hu.clip(-125, 275) + 125) / 400 * 255).astype(np.uint8), "windowed to 8 bits"),
        (lambda hu: (hu.clip(-1024, 3071) + 1024).astype(np.uint16), "offset by some 1024"),
        (lambda hu: hu.clip(-125, 275), "looks already windowed"),
        (lambda hu: hu.clip(-1024, 150), "bone is 300 HU"),
        (lambda hu: hu * 0 - 1000, "every voxel of the image is -1000"),
    ],
)
def test_intensities_that_are_not_hounsfield_units(
    source: Path, change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    rewrite(image_file(source, "0002"), change)
    assert words in only(source, "intensity", "0002")


@pytest.mark.parametrize(("value", "words"), [(-2000, "below -1100"), (9000, "above 4000")])
def test_padding_and_metal_are_warnings(source: Path, value: int, words: str) -> None:
    def pad(hu: np.ndarray) -> np.ndarray:
        hu[:4, :20] = value
        return hu

    rewrite(image_file(source, "0002"), pad)
    assert words in only(source, "intensity", "0002", "warning")


def test_a_flipped_affine_swaps_every_pair(source: Path) -> None:
    for file in (image_file(source, "0005"), label_file(source, "0005")):
        affine = np.diag([-1.0, 1, 1, 1]) @ nib.load(file).affine
        rewrite(file, lambda voxels: voxels, affine)
    message = only(source, "sides", "0005")
    assert message.startswith("left and right look swapped: left_kidney lies ")
    assert "mm to the right of right_kidney (9 of 9 pairs" in message and "flipped" in message
    distance = int(message.split("left_kidney lies ")[1].split(" mm")[0])
    volume = nib.load(label_file(source, "0005"))
    at = [np.argwhere(np.asarray(volume.dataobj) == kidney).mean(axis=0) for kidney in (3, 2)]
    assert distance == pytest.approx(((at[0] - at[1]) @ volume.affine[:3, :3].T)[0], abs=1)


@pytest.mark.parametrize(("one", "other", "words"), [(2, 3, "left_kidney"), (1, 6, "spleen")])
def test_two_exchanged_labels(source: Path, one: int, other: int, words: str) -> None:
    table = np.arange(14, dtype=np.uint8)
    table[[one, other]] = other, one
    rewrite(label_file(source, "0005"), lambda voxels: table[voxels])
    message = only(source, "sides", "0005")
    assert f"swapped: {words} lies" in message


def test_not_a_number_in_an_image(source: Path) -> None:
    rewrite(image_file(source, "0005"), lambda hu: np.where(hu > 300, np.nan, hu).astype(np.float32))
    assert "NaN" in only(source, "unreadable", "0005")


def test_a_volume_with_time(source: Path) -> None:
    rewrite(image_file(source, "0005"), lambda hu: np.stack([hu, hu], axis=-1))
    assert "4-D" in only(source, "unreadable", "0005")


@pytest.mark.parametrize("which", [image_file, label_file])
def test_a_truncated_file(source: Path, which: Callable[[Path, str], Path]) -> None:
    file = which(source, "0005")
    file.write_bytes(file.read_bytes()[:-900])
    assert "0005.nii.gz" in only(source, "unreadable", "0005")


def test_a_header_that_contradicts_itself(source: Path) -> None:
    volume = nib.load(image_file(source, "0005"))
    image = nib.Nifti1Image(np.array(volume.dataobj), None, volume.header)
    moved = volume.affine.copy()
    moved[0, 3] += 30
    image.set_qform(moved, 1)
    image.set_sform(volume.affine, 1)
    nib.save(image, image_file(source, "0005"))
    assert "sform and qform" in only(source, "geometry", "0005", "warning")


def test_every_bad_case_is_reported_in_one_pass(source: Path) -> None:
    image_file(source, "0001").write_text("hello")
    rewrite(label_file(source, "0002"), lambda voxels: voxels * 0)
    label_file(source, "0005").unlink()
    rewrite(image_file(source, "0006"), lambda hu: hu.clip(-125, 275))
    kinds = [(each.case, each.kind) for each in findings(source)]
    assert kinds == [("0001", "unreadable"), ("0002", "empty label"), ("0005", "pair"), ("0006", "intensity")]


def test_a_set_without_test_cases_is_a_warning(source: Path) -> None:
    for case in ("0001", "0002"):
        image_file(source, case).unlink()
        label_file(source, case).unlink()
    assert only(source, "split", "", "warning") == "no case belongs to test"


def test_no_data_set_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        next(examine_source(load_recipe("synapse"), tmp_path))


def test_real_volumes_have_no_errors(shared: Path) -> None:
    recipe = load_recipe("hippocampus")
    examined = iter_some(examine_source(recipe, shared / "data" / "hippocampus"), 12)
    assert [each for one in examined for each in one if each.severity == "error"] == []


def iter_some(examined: Iterator, count: int) -> list[tuple[Finding, ...]]:
    return [next(examined).findings for _ in range(count)]
