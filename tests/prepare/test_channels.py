"""Channels, regions, ignored labels, masks of structures, spacings and folds: from raw data into a store."""

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from sources import write_volume

from dsnet_med.errors import InputError
from dsnet_med.geometry import SliceOrder
from dsnet_med.phantoms import make_brats
from dsnet_med.prepare.cases import find_cases
from dsnet_med.prepare.convert import SOURCE, convert
from dsnet_med.prepare.doctor import examine_source
from dsnet_med.prepare.doctor_store import examine_store
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.prepare.recipe import Recipe, load_recipe
from dsnet_med.prepare.splits import FoldedSplit, assign, fold_subjects
from dsnet_med.prepare.store import Store
from dsnet_med.regions import IGNORED, Region
from dsnet_med.resampling import new_shape, resampled, resampled_labels

SHAPE, AFFINE = (9, 8, 6), np.diag([-1.0, -1.0, 2.0, 1.0])
KEYS: dict[str, Any] = {
    "id": "two",
    "title": "Two",
    "source": "nowhere",
    "licence": "none",
    "modality": "MR",
    "layout": "pairs",
    "channels": ["t1", "t2"],
    "image": {"t1": "{case}/t1.nii.gz", "t2": "{case}/t2.nii.gz"},
    "label": "{case}/seg.nii.gz",
    "classes": ["background", "a", "b"],
    "intensity": {"t1": {"window": [0, 400]}, "t2": {"zscore": {"foreground": True}}},
    "splits": {"seed": 0, "val": 0.2, "test": 0.2},
}
MASKS = {"classes": None, "label": {"liver": "{case}/liver.nii.gz", "spleen": "{case}/spleen.nii.gz"}}


def recipe(folder: Path, **changes: Any) -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    keys = {key: value for key, value in (KEYS | changes).items() if value is not None}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(keys, sort_keys=False))
    return load_recipe(str(folder))


def voxels_of(name: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    random = np.random.default_rng(list(name.encode()))
    return random.integers(0, 3 if name.endswith("seg") else 500, shape).astype(np.int16)


def source(folder: Path, cases: str = "abcd") -> Path:
    for case in cases:
        for name in ("t1", "t2", "seg"):
            voxels = voxels_of(f"{case}/{name}")
            write_volume(folder / f"{case}/{name}.nii.gz", voxels, AFFINE)
    return folder


def run(made: Recipe, raw: Path, out: Path, **options: Any) -> tuple[Store, dict[str, str]]:
    results = list(convert(made, raw, out, workers=1, **options))
    return Store.described(out), {result.case: result.error for result in results if result.error}


def test_channels_lie_in_the_store_in_their_order(tmp_path: Path) -> None:
    store, failed = run(recipe(tmp_path / "r"), source(tmp_path / "s"), tmp_path / "o")
    assert failed == {} and store.channels == ("t1", "t2")
    assert store.cases["a"].image_files == ("a/t1.nii.gz", "a/t2.nii.gz")
    image, labels = store.read_case("a")
    order = SliceOrder.of(AFFINE)
    for channel, (name, rule) in enumerate(KEYS["intensity"].items()):
        raw = voxels_of(f"a/{name}")
        wanted = Intensity.from_recipe(rule).fit(raw).apply(raw)
        np.testing.assert_array_equal(image[channel], order.to_slices(wanted))
    np.testing.assert_array_equal(labels, order.to_slices(voxels_of("a/seg")))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("brats")
    for layout in ("decathlon", "nnunet"):
        list(make_brats(folder / layout, cases=4, seed=1, size=(24, 28, 16), layout=layout))
    return folder


@pytest.mark.parametrize("changes", [{}, {"spacing_mm": [7, 9, 8]}, {"spacing_mm": "median"}])
def test_both_layouts_of_one_data_set_give_one_store(tmp_path: Path, phantoms: Path, changes: Any) -> None:
    keys = yaml.safe_load((Path(load_recipe("brats").path)).read_text())
    (tmp_path / "r").mkdir()
    (tmp_path / "r/recipe.yaml").write_text(yaml.safe_dump(keys | changes, sort_keys=False))
    made = load_recipe(str(tmp_path / "r"))
    stores = [run(made, phantoms / layout, tmp_path / layout)[0] for layout in ("decathlon", "nnunet")]
    assert list(stores[0].cases) == [f"BRATS_00{k}" for k in (1, 2, 3, 4)]
    of_source = {"image_files", "image_sha256"}
    for case in stores[0].cases:
        one, other = (store.path / f"cases/{case}.bin" for store in stores)
        assert one.read_bytes() == other.read_bytes()
        entries = [store.cases[case].model_dump(exclude=of_source) for store in stores]
        assert entries[0] == entries[1]
    assert stores[0].targets == ("whole_tumour", "tumour_core", "enhancing")
    assert stores[0].splits == stores[1].splits
    found = [examined.findings for examined in examine_source(made, phantoms / "nnunet")]
    assert not any(finding.severity == "error" for findings in found for finding in findings)


def test_a_task_of_several_channels_needs_no_recipe_of_its_own(tmp_path: Path, phantoms: Path) -> None:
    plain, failed = run(load_recipe("decathlon"), phantoms / "decathlon", tmp_path / "d")
    assert failed == {} and plain.channels == ("FLAIR", "T1w", "t1gd", "T2w") and plain.regions == ()
    assert plain.classes == ("background", "edema", "non-enhancing_tumor", "enhancing_tumour")
    nnunet, failed = run(load_recipe("nnunet"), phantoms / "nnunet", tmp_path / "n")
    assert failed == {} and nnunet.classes == ("background", "label_1", "label_2", "enhancing_tumor")
    assert nnunet.regions == (
        Region("whole_tumor", (1, 2, 3), 1),
        Region("tumor_core", (2, 3), 2),
        Region("enhancing_tumor", (3,), 3),
    )
    image, labels = nnunet.read_case("BRATS_001")
    brain = image != 0
    assert 0 < brain.mean() < 0.5 and set(np.unique(labels)) == {0, 1, 2, 3}
    assert image[brain].mean() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_nnunet_in_each_of_its_endings(tmp_path: Path, ending: str) -> None:
    for case in "abc":
        for name in (f"imagesTr/{case}_0000", f"imagesTr/{case}_0001", f"labelsTr/{case}"):
            image = sitk.GetImageFromArray(voxels_of("seg" if "labels" in name else name).T.copy())
            image.SetSpacing((1, 1, 2))
            (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(tmp_path / f"s/{name}{ending}"))
    described = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "a": 1, "ignore": 2},
        "file_ending": ending,
    }
    (tmp_path / "s/dataset.json").write_text(json.dumps(described))
    store, failed = run(load_recipe("nnunet"), tmp_path / "s", tmp_path / "o")
    assert failed == {} and store.ignore and store.classes == ("background", "a")
    assert [rule.kind for rule in store.intensities] == ["window", "zscore"]
    assert store.cases["a"].codes == (0, 1, IGNORED)
    raw = voxels_of("seg")
    assert store.cases["a"].label_voxels == {"background": (raw == 0).sum(), "a": (raw == 1).sum()}
    assert np.count_nonzero(store.read_case("a")[1] == IGNORED) == (raw == 2).sum()


def test_cases_without_all_their_channels_fail_alone(tmp_path: Path) -> None:
    raw = source(tmp_path / "s", "abcde")
    (raw / "a/t2.nii.gz").unlink()
    (raw / "b/t1.nii.gz").unlink()
    write_volume(raw / "c/t2.nii.gz", voxels_of("x", (9, 8, 5)), AFFINE)
    write_volume(raw / "d/t2.nii.gz", voxels_of("x"), AFFINE + np.eye(4, k=3) * 4)
    store, failed = run(recipe(tmp_path / "r"), raw, tmp_path / "o")
    assert list(store.cases) == ["e"]
    assert "case 'a' has no channel t2" in failed["a"] and "case 'b' has no channel t1" in failed["b"]
    assert "channel 't2': shape (9, 8, 5) differs from (9, 8, 6)" in failed["c"]
    assert "channel 't2': its affine places voxels elsewhere" in failed["d"]
    assert all("resample_channels: true" in failed[case] for case in "cd")


def test_images_on_other_grids_are_brought_onto_the_first(tmp_path: Path) -> None:
    raw = source(tmp_path / "s", "ab")
    smooth = np.broadcast_to(np.arange(18, dtype=np.float32)[:, None, None] * 10, (18, 8, 6))
    affine = AFFINE @ np.diag([0.5, 1, 1, 1])
    affine[0, 3] = 0.25  # the outer faces of both grids are the same
    write_volume(raw / "a/t2.nii.gz", smooth, affine)
    made = recipe(tmp_path / "r", resample_channels=True, intensity={"window": [0, 400]})
    store, failed = run(made, raw, tmp_path / "o")
    assert failed == {}
    image = store.cases["a"].order.to_volume(store.read_case("a")[0][1])
    np.testing.assert_allclose(image[:, 3, 3], (np.arange(9) * 20 + 5) / 400, atol=1e-6)
    first = voxels_of("a/t1").clip(0, 400) / np.float32(400)
    np.testing.assert_allclose(store.read_case("a")[0][0], SliceOrder.of(AFFINE).to_slices(first), atol=1e-6)


def test_a_case_is_normalised_and_then_resampled(tmp_path: Path) -> None:
    made, raw = recipe(tmp_path / "r", spacing_mm=[1.5, 2, 1]), source(tmp_path / "s")
    store, failed = run(made, raw, tmp_path / "o")
    entry, order = store.cases["a"], SliceOrder.of(AFFINE)
    assert failed == {} and store.spacing_mm == (1.5, 2.0, 1.0) == entry.spacing_mm
    assert (tmp_path / f"o/{SOURCE}").read_text() == f"{raw}\n"
    have, wanted = (2.0, 1.0, 1.0), (1.5, 2.0, 1.0)
    assert entry.shape == new_shape((6, 8, 9), have, wanted) == (8, 4, 9)
    assert (entry.native_shape, entry.slope) == (SHAPE, (1.0, 1.0))
    ready = np.stack(
        [
            order.to_slices(rule.fit(voxels).apply(voxels))
            for rule, voxels in zip(made.intensities, (voxels_of("a/t1"), voxels_of("a/t2")), strict=True)
        ]
    )
    classes = order.to_slices(voxels_of("a/seg")).astype(np.uint8)
    image, labels = store.read_case("a")
    np.testing.assert_array_equal(image, resampled(ready, have, wanted))
    np.testing.assert_array_equal(labels, resampled_labels(classes, have, wanted, entry.shape))
    assert sum(entry.label_voxels.values()) == labels.size
    assert all(result.reused for result in convert(made, raw, tmp_path / "o", workers=1))


def test_the_median_spacing_is_that_of_the_training_cases(tmp_path: Path) -> None:
    raw = source(tmp_path / "s", "abcde")
    splits = "subject,split\na,train\nb,train\nc,train\nd,test\ne,train\n"
    for case, slices in zip("abcd", (2.0, 3.0, 5.0, 50.0), strict=True):
        for name in ("t1", "t2", "seg"):
            write_volume(
                raw / f"{case}/{name}.nii.gz", voxels_of(f"{case}/{name}"), np.diag([1, 1.5, slices, 1])
            )
    (raw / "e/t1.nii.gz").write_bytes(b"no volume")
    (tmp_path / "r").mkdir()
    (tmp_path / "r/splits.csv").write_text(splits)
    made = recipe(tmp_path / "r", spacing_mm="median", splits="splits.csv")
    store, failed = run(made, raw, tmp_path / "o")
    assert list(failed) == ["e"]
    assert store.spacing_mm == (3.0, 1.5, 1.0) and store.recipe["spacing_mm"] == "median"
    assert store.recipe_hash != made.hash
    with pytest.raises(InputError, match="no training case has a header to read"):
        list(convert(made, raw, tmp_path / "o", workers=1, exclude=["a", "b", "c"]))


def masks(folder: Path, **of_case: tuple[slice, slice]) -> Path:
    for case in "abc":
        liver, spleen = of_case.get(case, (slice(0, 4), slice(4, 7)))
        for name, rows, value in (("liver", liver, 1), ("spleen", spleen, 255)):
            mask = np.zeros(SHAPE, np.uint8)
            mask[rows] = value
            write_volume(folder / f"{case}/{name}.nii.gz", mask, AFFINE)
    return source(folder, "abc")


def test_one_mask_file_for_each_structure(tmp_path: Path) -> None:
    raw = masks(tmp_path / "s", b=(slice(0, 5), slice(4, 7)))
    (raw / "c/liver.nii.gz").unlink()
    made = recipe(tmp_path / "r", **MASKS)
    assert made.classes == ("background", "liver", "spleen") == ("background", *made.masks)
    store, failed = run(made, raw, tmp_path / "o")
    assert "48 of its voxels are in liver.nii.gz too; correct the masks of liver and spleen" in failed["b"]
    assert "case 'c' has no mask liver" in failed["c"]
    assert store.cases["a"].label_files == ("a/liver.nii.gz", "a/spleen.nii.gz")
    labels = store.cases["a"].order.to_volume(store.read_case("a")[1])
    assert labels[:, 0, 0].tolist() == [1] * 4 + [2] * 3 + [0] * 2
    write_volume(raw / "a/liver.nii.gz", voxels_of("a/seg"), AFFINE)
    _, failed = run(made, raw, tmp_path / "o")
    assert "holds the values 0, 1, 2, wanted a mask: 0 and one other value" in failed["a"]


@pytest.mark.parametrize("spacing_mm", [None, [2, 1, 2]])
def test_structures_that_overlap_are_bits(tmp_path: Path, spacing_mm: Any) -> None:
    raw = masks(tmp_path / "s", b=(slice(0, 6), slice(4, 7)))
    made = recipe(tmp_path / "r", overlapping=True, spacing_mm=spacing_mm, **MASKS)
    store, failed = run(made, raw, tmp_path / "o")
    assert failed == {} and store.targets == ("liver", "spleen")
    assert store.regions == (Region("liver", (1, 3), 1), Region("spleen", (2, 3), 2))
    labels = store.cases["b"].order.to_volume(store.read_case("b")[1])
    if spacing_mm is None:
        assert labels[:, 0, 0].tolist() == [1] * 4 + [3] * 2 + [2] + [0] * 2
        assert store.cases["b"].label_voxels == {"background": 96, "liver": 288, "spleen": 144}
        assert store.cases["b"].codes == (0, 1, 2, 3)
    assert 3 in store.cases["b"].codes
    found = [examined.findings for examined in examine_store(tmp_path / "o")]
    assert not any(finding.severity == "error" for findings in found for finding in findings)


def test_folds_divide_the_subjects_to_learn_from(tmp_path: Path) -> None:
    raw = source(tmp_path / "s", "abcdef")
    store, _ = run(recipe(tmp_path / "r"), raw, tmp_path / "o", folds=2)
    learned = sorted(case.subject for case in (*store.cases_of("train"), *store.cases_of("val")))
    assert store.folds == fold_subjects(learned, 2)
    assert sorted(name for fold in store.folds for name in fold) == learned and len(store.cases_of("test")) == 1
    before = {case: (tmp_path / f"o/cases/{case}.bin").stat().st_mtime_ns for case in "abcdef"}
    folded = recipe(tmp_path / "f", splits={"folds": 3, "seed": 5})
    store, _ = run(folded, raw, tmp_path / "o")
    assert [case.subject for case in store.cases_of("val")] == list(store.folds[0]) and len(store.folds) == 3
    again, _ = run(folded, raw, tmp_path / "o", folds=2)
    assert [case.subject for case in again.cases_of("val")] == list(again.folds[0]) and len(again.folds) == 2
    assert before.keys() == again.cases.keys()


def test_folds_are_those_of_the_names_alone() -> None:
    names = [f"s{k}" for k in range(11)]
    drawn = assign(FoldedSplit(3, 0, 0.2), names)
    assert sorted(drawn.values()).count("test") == 2
    learned = [name for name, split in drawn.items() if split != "test"]
    folds = fold_subjects(learned, 3, 0)
    assert {len(fold) for fold in folds} == {3} and folds == fold_subjects(learned[::-1], 3, 0)
    assert [name for name in learned if drawn[name] == "val"] == sorted(folds[0], key=learned.index)
    for count in (0, 1, 10):
        with pytest.raises(InputError, match=f"got {count} folds of 9 subjects to learn from, wanted 2 to 9"):
            fold_subjects(learned, count)


def test_channels_of_a_table(tmp_path: Path) -> None:
    raw = source(tmp_path / "s", "ab")
    (tmp_path / "r").mkdir()
    rows = "".join(f"{c},{c},{c}/t1.nii.gz,{c}/t2.nii.gz,{c}/seg.nii.gz\n" for c in "ab")
    (tmp_path / "r/cases.csv").write_text(f"case,subject,image_t1,image_t2,label\n{rows}c,c,a/t1.nii.gz,,\n")
    made = recipe(tmp_path / "r", layout="table", image=None, label=None, cases="cases.csv")
    store, failed = run(made, raw, tmp_path / "o")
    assert list(store.cases) == ["a", "b"] and "case 'c' has nothing in image_t2" in failed["c"]


def test_a_changed_channel_is_converted_again(tmp_path: Path) -> None:
    raw, made = source(tmp_path / "s"), recipe(tmp_path / "r")
    run(made, raw, tmp_path / "o")
    write_volume(raw / "b/t2.nii.gz", voxels_of("new"), AFFINE)
    shutil.copy(raw / "c/t1.nii.gz", raw / "c/t2.nii.gz")
    results = {result.case: result for result in convert(made, raw, tmp_path / "o", workers=2)}
    assert {case: result.reused for case, result in results.items()} == {"a": True, "b": False} | {
        "c": False,
        "d": True,
    }
    told = [finding.message for finding in results["c"].stored.findings]
    assert told == ["the channels 't1' and 't2' hold the same voxels"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["T1w", "FLAIR", "t1gd", "T2w"], "recipe 'brats' has them in another order"),
        (["flair", "t1"], "has the channels flair, t1, recipe 'brats' has 4"),
    ],
)
def test_channels_that_dataset_json_has_otherwise(tmp_path: Path, names: list[str], told: str) -> None:
    described = {"channel_names": {str(k): name for k, name in enumerate(names)}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=told):
        list(convert(load_recipe("brats"), tmp_path, tmp_path / "o", workers=1))


def test_volumes_of_a_file_must_be_as_many_as_channels(tmp_path: Path, phantoms: Path) -> None:
    shutil.copytree(phantoms / "decathlon", tmp_path / "s")
    file = tmp_path / "s/imagesTr/BRATS_002.nii.gz"
    image = nib.load(file)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., :3], image.affine), file)
    _, failed = run(load_recipe("brats"), tmp_path / "s", tmp_path / "o")
    assert "holds 3 volumes, wanted 4, one for each channel (FLAIR, T1w, t1gd, T2w)" in failed["BRATS_002"]
    assert len(failed) == 1


@pytest.mark.parametrize("listed", ["rows", "dataset"])
def test_lists_of_nnunet_name_cases_of_several_channels(tmp_path: Path, phantoms: Path, listed: str) -> None:
    shutil.copytree(phantoms / "nnunet", tmp_path / "s")
    file, names = tmp_path / "s/dataset.json", [f"BRATS_00{k}" for k in (1, 2)]
    rows = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    images = {n: [f"imagesTr/{n}_{k:04d}.nii.gz" for k in range(4)] for n in names}
    named = {n: {"images": images[n], "label": f"labelsTr/{n}.nii.gz"} for n in names}
    named["BRATS_002"]["images"].pop()
    described = {"rows": {"training": rows}, "dataset": {"dataset": named}}[listed]
    file.write_text(json.dumps(json.loads(file.read_text()) | described | {"numTraining": 2}))
    cases = {case.id: case for case in find_cases(load_recipe("brats"), tmp_path / "s")}
    assert [image.name for image in cases["BRATS_001"].images] == [
        f"BRATS_001_{k:04d}.nii.gz" for k in range(4)
    ]
    assert cases["BRATS_001"].problem == ""
    if listed == "dataset":
        assert 'dataset: BRATS_002 wanted {"images": [4 paths], "label": path}' in cases["BRATS_002"].problem


@pytest.mark.parametrize("exchanged", [(), ("T1w", "t1gd"), ("FLAIR", "T1w"), ("T1w", "T2w")])
def test_exchanged_channels_are_told_and_no_others(tmp_path: Path, exchanged: tuple[str, ...]) -> None:
    list(make_brats(tmp_path / "s", cases=4, seed=2, size=(32, 32, 24), layout="nnunet"))
    made, wanted = load_recipe("brats"), []
    if exchanged:
        places = (made.channels.index(name) for name in exchanged)
        one, other = (tmp_path / f"s/imagesTr/BRATS_003_{place:04d}.nii.gz" for place in places)
        kept = one.read_bytes()
        shutil.copy(other, one)
        other.write_bytes(kept)
        names = " and ".join(exchanged)
        message = f"the channels {names} look exchanged: each looks like the other in most cases"
        wanted = [("BRATS_003", message)]
    found = [finding for each in examine_source(made, tmp_path / "s") for finding in each.findings]
    assert [(finding.case, finding.message) for finding in found] == wanted
    if exchanged == ("T1w", "t1gd"):
        run(made, tmp_path / "s", tmp_path / "o")
        assert [finding for each in examine_store(tmp_path / "o") for finding in each.findings] == found
