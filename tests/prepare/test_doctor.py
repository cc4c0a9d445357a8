"""The data doctor on a sound phantom, and on the same phantom with one known defect at a time."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dsnet_med.errors import InputError
from dsnet_med.phantoms import make_acdc, make_synapse
from dsnet_med.prepare.doctor import examine_source
from dsnet_med.prepare.findings import Finding
from dsnet_med.prepare.recipe import load_recipe

CASES = ["0001", "0002", "0005", "0006"]
ABSENT = "of the 30 subjects of the split list are not in the source"  # a phantom has few of them


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
    return [f for each in examined for f in each.findings if ABSENT not in f.message]


def only(source: Path, kind: str, case: str, severity: str = "error") -> str:
    """The message of the single finding there should be, suspicions that follow from it apart."""
    found = [each for each in findings(source) if each.kind not in {"fit", "exchanged"} - {kind}]
    assert [(each.kind, each.case, each.severity) for each in found] == [(kind, case, severity)], found
    assert "\n" not in found[0].message
    return found[0].message


def test_a_sound_phantom_has_no_findings(sound: Path) -> None:
    assert findings(sound) == []


def test_an_oblique_phantom_has_no_findings(tmp_path: Path) -> None:
    list(make_synapse(tmp_path, cases=4, seed=1, size=(64, 64, 16), oblique=True))
    assert findings(tmp_path) == []


@pytest.mark.parametrize("oblique", [False, True])
def test_a_heart_phantom_has_no_findings(tmp_path: Path, oblique: bool) -> None:
    list(make_acdc(tmp_path, cases=2, seed=1, size=(64, 64, 6), oblique=oblique))
    examined = list(examine_source(load_recipe("acdc"), tmp_path))
    assert len(examined) == 5
    assert [each.findings for each in examined[:-1]] == [()] * 4
    assert [each.kind for each in examined[-1].findings] == ["source"]


def test_workers_find_what_one_process_finds(source: Path) -> None:
    rewrite(label_file(source, "0002"), lambda voxels: voxels * 0)
    image_file(source, "0005").write_bytes(b"no volume")
    assert findings(source, workers=2) == findings(source) != []


def test_an_image_without_label(source: Path) -> None:
    label_file(source, "0002").unlink()
    assert only(source, "pair", "0002") == (
        "RawData/Training/img/img0002.nii.gz: the image has no label file, "
        "wanted RawData/Training/label/label0002.nii.gz"
    )


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


DISGUISES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "one voxel": lambda hu: np.where(np.indices(hu.shape).sum(axis=0) == 0, hu + 1, hu),
    "noise": lambda hu: (hu + np.random.default_rng(0).normal(0, 10, hu.shape)).round().astype(np.int16),
    "another scale": lambda hu: (0.9 * hu + 20).astype(np.float32),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_volume_in_disguise_is_a_duplicate(source: Path, disguise: str) -> None:
    for file in (image_file, label_file):
        shutil.copy(file(source, "0005"), file(source, "0006"))
    rewrite(image_file(source, "0006"), DISGUISES[disguise])
    message = only(source, "duplicate", "0005", "warning")
    assert message.startswith("nearly the same image as 0006 (correlation of details ")
    assert float(message.split("details ")[1][:5]) > 0.98


def test_phases_of_one_patient_are_no_duplicates(tmp_path: Path) -> None:
    list(make_acdc(tmp_path, cases=2, seed=0, size=(64, 64, 6)))
    examined = list(examine_source(load_recipe("acdc"), tmp_path))
    assert [f.kind for each in examined for f in each.findings] == ["source"]


@pytest.mark.parametrize(("axis", "order"), [(0, "columns"), (1, "rows"), (2, "slices")])
def test_a_mirrored_label_fits_its_image_better_when_mirrored_back(source: Path, axis: int, order: str) -> None:
    rewrite(label_file(source, "0005"), lambda voxels: np.flip(voxels, axis).copy())
    (message,) = (f.message for f in findings(source) if f.kind == "fit")
    assert message.startswith(f"the label map fits its image better with its {order} mirrored (edges ")
    steeper = float(message.split("edges ")[1].split()[0])
    assert steeper > 1.5


def test_labels_of_each_other(tmp_path: Path) -> None:
    source = tmp_path
    list(make_synapse(source, cases=6, seed=0, size=(64, 64, 16)))
    assert findings(source) == []
    one, other = label_file(source, "0005"), label_file(source, "0006")
    held = one.read_bytes()
    affines = [nib.load(image_file(source, case)).affine for case in ("0005", "0006")]
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)
    for file, affine in zip((one, other), affines, strict=True):
        rewrite(file, lambda voxels: voxels, affine)
    found = [f for f in findings(source) if f.kind == "fit"]
    assert [(f.case, f.severity) for f in found] == [("0005", "warning"), ("0006", "warning")]
    assert all("may belong to another case" in f.message for f in found)


def test_one_label_map_for_two_images(source: Path) -> None:
    affine = nib.load(image_file(source, "0006")).affine
    shutil.copy(label_file(source, "0005"), label_file(source, "0006"))
    rewrite(label_file(source, "0006"), lambda voxels: voxels, affine)
    messages = [f.message for f in findings(source) if f.kind == "fit"]
    assert "one label map under different images: 0005, 0006" in messages


@pytest.mark.parametrize(("one", "other"), [(2, 3), (1, 7), (8, 4)])
def test_exchanged_labels_are_seen_by_the_other_cases(source: Path, one: int, other: int) -> None:
    names = {1: "spleen", 2: "right_kidney", 3: "left_kidney", 4: "gallbladder", 7: "stomach", 8: "aorta"}
    table = np.arange(14, dtype=np.uint8)
    table[[one, other]] = other, one
    rewrite(label_file(source, "0005"), lambda voxels: table[voxels])
    (found,) = (f for f in findings(source) if f.kind == "exchanged")
    first, second = sorted((names[one], names[other]))
    assert (found.case, found.severity) == ("0005", "warning")
    assert found.message.startswith(f"{first} and {second} look exchanged")


def test_specks_far_from_their_organ(source: Path) -> None:
    def speck(voxels: np.ndarray) -> np.ndarray:
        voxels[1, 1, 1] = voxels[-2, -2, -2] = 6
        voxels[2, 1, 1] = 6  # of the same piece as the first
        return voxels

    rewrite(label_file(source, "0005"), speck)
    assert only(source, "specks", "0005", "warning").endswith(": liver (2)")


def test_a_spacing_that_no_scanner_has(source: Path) -> None:
    for file in (image_file(source, "0005"), label_file(source, "0005")):
        affine = nib.load(file).affine.copy()
        affine[:3, :3] *= 0.1 / np.linalg.norm(affine[:3, 2])
        rewrite(file, lambda voxels: voxels, affine)
    message = only(source, "geometry", "0005", "warning")
    assert "x 0.1 mm, of scans 0.2 to 20 mm" in message


def test_thick_slices_that_are_cut_across(source: Path) -> None:
    # Stored as x, y, z; the affine says that z runs to the left: a sagittal stack.
    turned = np.array([[0, 0, 5.0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])
    for file in (image_file(source, "0005"), label_file(source, "0005")):
        rewrite(file, lambda voxels: voxels, turned)
    messages = [f.message for f in findings(source) if f.kind == "slices"]
    assert len(messages) == 1
    assert messages[0].startswith("its sagittal slices lie 5 mm apart and have pixels of 1 mm")


def test_a_table_of_nrrd_files(source: Path) -> None:
    import SimpleITK as sitk

    rows = []
    for case in ("0001", "0005"):
        for file in (image_file(source, case), label_file(source, case)):
            volume = sitk.ReadImage(str(file))
            sitk.WriteImage(volume, str(source / f"{file.name.removesuffix('.nii.gz')}.nrrd"))
        rows.append(f"{case},{case},img{case}.nrrd,label{case}.nrrd")
    table = source / "cases.csv"
    table.write_text("\n".join(["case,subject,image,label", *rows]) + "\n")
    changes = {"layout": "table", "cases": table, "splits": {"0001": "train", "0005": "test"}}
    listed = load_recipe("synapse").model_copy(update=changes)
    assert [f for one in examine_source(listed, source) for f in one.findings] == []
    (source / "label0005.nrrd").write_bytes(b"NRRD0004\n")
    found = [f for one in examine_source(listed, source) for f in one.findings]
    assert [(f.case, f.kind) for f in found] == [("0005", "unreadable")]


def test_links_to_data_that_are_not_there(source: Path) -> None:
    for case, file in (("0002", image_file), ("0005", label_file)):
        file(source, case).unlink()
        file(source, case).symlink_to("../.git/annex/objects/x")
    found = findings(source)
    assert [(f.case, f.kind) for f in found] == [("0002", "unreadable"), ("0005", "unreadable")]
    assert all("a link to ../.git/annex/objects/x" in f.message for f in found)


def test_whatever_a_check_meets_stays_with_its_case(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dsnet_med.prepare import doctor

    def broken(*_: object) -> Iterator[Finding]:
        raise ZeroDivisionError

    monkeypatch.setattr(doctor, "volume_findings", broken)
    found = findings(source)
    assert [(f.case, f.message) for f in found if f.case] == [
        (case, "unexpected ZeroDivisionError: ") for case in CASES
    ]


def test_cases_of_one_subject_share_its_split(source: Path) -> None:
    recipe = load_recipe("synapse")
    table = source / "cases.csv"
    rows = [("a", "pat1", "0001"), ("b", "pat1", "0005"), ("c", "pat2", "0006")]
    files = [
        f"{a},{b},RawData/Training/img/img{c}.nii.gz,RawData/Training/label/label{c}.nii.gz" for a, b, c in rows
    ]
    table.write_text("\n".join(["case,subject,image,label", *files]) + "\n")
    changes = {"layout": "table", "cases": table, "splits": {"pat1": "train", "pat2": "test"}}
    listed = recipe.model_copy(update=changes)
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


def test_a_misspelt_split_is_an_error_and_an_absent_one_a_warning(source: Path) -> None:
    listed = {"1": "train", "0002": "train", "0005": "val", "0009": "test"}
    recipe = load_recipe("synapse").model_copy(update={"splits": listed, "path": source / "recipe.yaml"})
    found = [f for each in examine_source(recipe, source) for f in each.findings if f.kind == "source"]
    assert [(f.severity, f.message) for f in found] == [
        (
            "error",
            "the split list names '1' (did you mean '0001'?), which the source does not hold; "
            "correct the list or rename the files",
        ),
        ("warning", "1 of the 4 subjects of the split list are not in the source: 0009"),
        ("warning", "the split list does not name 0006: extra, neither trained nor tested on"),
    ]


def test_real_volumes_have_no_errors(volumes: Path) -> None:
    recipe = load_recipe("hippocampus")
    examined = iter_some(examine_source(recipe, volumes / "hippocampus"), 3)
    assert [each for one in examined for each in one if each.severity == "error"] == []


def iter_some(examined: Iterator, count: int) -> list[tuple[Finding, ...]]:
    return [next(examined).findings for _ in range(count)]
