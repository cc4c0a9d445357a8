"""The store: slices come back bit for bit as normalisation makes them, from any thread or process."""

import json
import math
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sources import AFFINE, SHAPE, voxels_of, write_recipe, write_source, write_volume

from dsnet_med.errors import InputError
from dsnet_med.geometry import SliceOrder
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.intensity import Intensity, Scaling
from dsnet_med.prepare.recipe import load_recipe
from dsnet_med.prepare.store import MANIFEST, Store
from dsnet_med.prepare.stored_case import StoredCase, data_file, encode, encoding
from dsnet_med.seal import sealed

ORDER = SliceOrder.of(AFFINE)
INTEGERS = st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64])
NUMBERS = st.one_of(INTEGERS, st.sampled_from([np.float32, np.float64]))


def make_store(folder: Path, **changes: Any) -> Store:
    recipe = load_recipe(str(write_recipe(folder / "recipe", **changes)))
    results = list(convert(recipe, write_source(folder / "source"), folder / "store", workers=1))
    assert [result.error for result in results] == [None] * 3
    return Store.open(folder / "store")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def expected(case: str, rule: Intensity) -> tuple[np.ndarray, np.ndarray]:
    """What a case of `write_source` should read as, by the long way round."""
    image, raw = voxels_of(int(case))
    classes = np.select([raw == 6, raw == 1], [1, 2], 0).astype(np.uint8)
    return ORDER.to_slices(rule.fit(image).apply(image)), ORDER.to_slices(classes)


RULES: list[dict[str, Any]] = [
    {"window": [-125, 275]},
    {"unit_variance": [1, 99]},
    {"window": [-125.5, 275]},
    {"zscore": [1, 99]},
    {"zscore": {"foreground": True}},
]


@pytest.mark.parametrize("rule", RULES)
def test_slices_and_cases_read_as_normalisation_makes_them(tmp_path: Path, rule: dict[str, Any]) -> None:
    store = make_store(tmp_path, intensity=rule)
    image, classes = expected("0002", Intensity.from_recipe(rule))
    whole, whole_classes = store.read_case("0002")
    np.testing.assert_array_equal(whole, image[None])
    np.testing.assert_array_equal(whole_classes, classes)
    for index in range(len(image)):
        picture, labels = store.read_slice("0002", index)
        np.testing.assert_array_equal(picture, image[None, index])
        np.testing.assert_array_equal(labels, classes[index])
        assert (picture.dtype, labels.dtype) == (np.float32, np.uint8)


def test_integers_are_stored_in_two_bytes(store: Store, tmp_path: Path) -> None:
    case = store.cases["0001"]
    assert case.dtype == "uint16"
    assert case.tile == (SHAPE[1], -(-SHAPE[0] // 4) * 4)
    voxels = SHAPE[2] * math.prod(case.tile)
    assert data_file(store.path, "0001").stat().st_size == voxels * 3 + 4 * case.table_words


def test_float_images_keep_their_fractions(tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path / "recipe")))
    source = write_source(tmp_path / "source", ("0001",))
    image = np.random.default_rng(0).uniform(-200, 400, SHAPE)
    write_volume(source / "img/img0001.nii.gz", image)
    list(convert(recipe, source, tmp_path / "store", workers=1))
    store = Store.open(tmp_path / "store")
    scaled = recipe.intensity.fit(image).apply(image)
    np.testing.assert_array_equal(store.read_case("0001")[0], ORDER.to_slices(scaled)[None])
    assert store.cases["0001"].dtype == "float32"


@given(st.data(), NUMBERS, st.integers(-70000, 70000), st.integers(1, 140000), st.booleans())
def test_any_type_and_window_is_stored_without_loss(
    data: st.DataObject, dtype: type, low: int, width: int, half: bool
) -> None:
    bounds = {} if np.dtype(dtype).kind == "f" else {"min_value": -(2**20), "max_value": 2**20}
    if bounds:
        limits = np.iinfo(dtype)
        bounds = {key: int(np.clip(value, limits.min, limits.max)) for key, value in bounds.items()}
        elements = st.integers(**bounds)
    else:
        elements = st.floats(-1e5, 1e5, width=32)
    picture = data.draw(hnp.arrays(dtype, (2, 3), elements=elements))
    scaling = Intensity("window", low + 0.5 * half, low + width).fit(picture)
    stored_type, (base,) = encoding([picture.dtype], [scaling])
    stored = encode(picture, entry(stored_type, (scaling.low, scaling.high)))
    assert stored.dtype == np.dtype(stored_type)
    image = (stored.astype(np.float32) - np.float32(base)) * np.float32(scaling.slope)
    np.testing.assert_array_equal(image, scaling.apply(picture))


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.int8, -128, 127),
        (np.int8, -100, 90),
        (np.uint8, -5, 40),
        (np.int16, -30000, 30000),
        (np.uint8, 300, 400),
        (np.uint16, -125, 275),
        (np.int16, -40000, 20000),
    ],
)
def test_offsets_wider_than_half_the_type_do_not_wrap(dtype: type, low: int, high: int) -> None:
    limits = np.iinfo(dtype)
    picture = np.array([[limits.min, limits.max, 0]], dtype)
    expected = [[min(max(int(value), low), high) - low for value in picture[0]]]
    np.testing.assert_array_equal(encode(picture, entry("uint16", (low, high))), expected)


def test_windows_wider_than_sixteen_bits_are_stored_as_floats() -> None:
    integers = np.dtype(np.int32)
    assert encoding([integers], [Scaling(-5, 65530, 1)]) == ("uint16", (0,))
    assert encoding([integers], [Scaling(-5, 65531, 1)]) == ("float32", (-5,))
    assert encoding([integers], [Scaling(-5.5, 20, 1)]) == ("float32", (-5.5,))
    assert encoding([np.dtype(np.float32)], [Scaling(-5, 20, 1)]) == ("float32", (-5,))
    one, other = Scaling(-5, 20, 1), Scaling(3, 70003, 1)
    assert encoding([integers, integers], [one, one]) == ("uint16", (0, 0))
    assert encoding([integers, integers], [one, other]) == ("float32", (-5, 3))


def entry(dtype: str, clip: tuple[float, float]) -> StoredCase:
    return StoredCase(
        id="x",
        subject="x",
        split="train",
        shape=(1, 2, 3),
        spacing_mm=(1.0, 1.0, 1.0),
        native_shape=(3, 2, 1),
        affine=tuple(map(tuple, AFFINE.tolist())),
        order=ORDER,
        image_files=("i",),
        image_sha256=("",),
        label_files=("l",),
        label_sha256=("",),
        label_voxels={},
        dtype=dtype,
        base=(0.0,),
        slope=(1.0,),
        clip=(clip,),
        recipe_hash="",
    )


def test_manifest_entry_survives_json() -> None:
    case = entry("uint16", (-1.0, 2.0))
    assert StoredCase.model_validate_json(case.model_dump_json()) == case


def test_store_tells_what_inference_and_training_need(store: Store) -> None:
    assert (store.recipe_id, store.classes, store.slice_axis) == (
        "tiny",
        ("background", "liver", "spleen"),
        "superior",
    )
    assert store.intensity == Intensity("window", -125, 275)
    assert [[case.id for case in store.cases_of(split)] for split in ("train", "val", "test", "extra")] == [
        ["0001"],
        ["0002"],
        ["0003"],
        [],
    ]
    case = store.cases["0001"]
    assert case.shape == (SHAPE[2], SHAPE[1], SHAPE[0])
    assert case.native_shape == SHAPE
    assert case.spacing_mm == pytest.approx((3.0, 0.7, 0.8))
    np.testing.assert_allclose(np.asarray(case.affine), AFFINE, atol=1e-6)


def test_mask_goes_back_to_the_voxels_it_came_from(store: Store) -> None:
    case = store.cases["0003"]
    _, raw = voxels_of(3)
    native = case.order.to_volume(store.read_case("0003")[1])
    np.testing.assert_array_equal(native == 1, raw == 6)


def test_slices_are_the_callers_to_change(store: Store) -> None:
    image, labels = store.read_slice("0001", 0)
    image += 1
    labels += 1
    again, again_labels = store.read_slice("0001", 0)
    assert not np.array_equal(again, image)
    assert not np.array_equal(again_labels, labels)


def _total(work: tuple[Store, int]) -> float:
    store, index = work
    return float(store.read_slice("0001", index % SHAPE[2])[0].sum())


def test_threads_and_processes_read_the_same(store: Store) -> None:
    work = [(store, index) for index in range(40)]
    alone = [_total(item) for item in work]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(_total, work)) == alone
    # Not multiprocessing.Pool, which ends by a signal that a process waiting for a lock may never see.
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as processes:
        assert list(processes.map(_total, work)) == alone
    assert _total((pickle.loads(pickle.dumps(store)), 3)) == alone[3]


@pytest.mark.parametrize("index", [-1, SHAPE[2]])
def test_slices_outside_the_case_are_refused(store: Store, index: int) -> None:
    with pytest.raises(IndexError, match=rf"slice {index} of case '0001', which has {SHAPE[2]}"):
        store.read_slice("0001", index)


def test_unknown_names_get_a_suggestion(store: Store) -> None:
    with pytest.raises(InputError, match="unknown case '001': did you mean '0001'"):
        store.read_slice("001", 0)
    with pytest.raises(InputError, match="unknown split 'validation'"):
        store.cases_of("validation")


def test_folders_that_are_no_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a store, it holds no manifest\.json; make one"):
        Store.open(tmp_path)
    (tmp_path / "cases").mkdir()
    with pytest.raises(InputError, match="its preprocess run has not ended"):
        Store.open(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "\xff"])
def test_broken_manifests_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="not the manifest of a store"):
        Store.open(tmp_path)


def test_other_formats_are_refused(store: Store) -> None:
    store.model_copy(update={"format": 99}).write()
    with pytest.raises(InputError, match="a store of format 99, wanted 3"):
        Store.open(store.path)


def test_damaged_entries_are_refused(store: Store) -> None:
    manifest = json.loads((store.path / MANIFEST).read_text())
    del manifest["cases"][0]["shape"]
    for written in (manifest, sealed(manifest)):
        (store.path / MANIFEST).write_text(json.dumps(written))
        with pytest.raises(InputError, match="damaged"):
            Store.open(store.path)


def test_cut_and_missing_data_files_are_refused(store: Store) -> None:
    file = data_file(store.path, "0002")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="the same preprocess command again"):
        Store.open(store.path)
    with pytest.raises(InputError, match="cut short"):
        store.read_slice("0002", SHAPE[2] - 1)
    file.unlink()
    with pytest.raises(InputError, match="0 bytes, wanted"):
        Store.open(store.path)


def test_a_store_without_check_sums_is_refused_and_brought_up_by_preprocess(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    manifest = json.loads((store.path / MANIFEST).read_text()) | {"format": 1}
    del manifest["seal"]
    for entry in manifest["cases"]:
        del entry["tables_crc32"]
        (store.path / "cases" / f"{entry['id']}.json").write_text(json.dumps(entry | {"format": 1}))
    (store.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(
        InputError, match=r"a store of format 1, wanted 3 \(with check sums\); run preprocess again"
    ):
        Store.open(store.path)
    assert make_store(tmp_path) == store


def test_every_flipped_bit_of_the_manifest_that_changes_it_is_noticed(store: Store) -> None:
    random, file = np.random.default_rng(1), store.path / MANIFEST
    good, noticed = file.read_bytes(), 0
    for _ in range(200):
        content = bytearray(good)
        content[random.integers(len(content))] ^= 1 << int(random.integers(8))
        file.write_bytes(content)
        try:
            assert Store.open(store.path) == store, content  # as 1e-05 is 1E-05
        except InputError as error:
            noticed += "\n" not in str(error)
    assert noticed >= 195


def test_a_store_made_anew_of_other_volumes_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    opened = make_store(tmp_path)
    image, label = voxels_of(77, (9, 8, 5))
    write_volume(tmp_path / "source/img/img0001.nii.gz", image)
    write_volume(tmp_path / "source/label/label0001.nii.gz", label)
    recipe = load_recipe(str(tmp_path / "recipe" / "recipe.yaml"))
    list(convert(recipe, tmp_path / "source", tmp_path / "store", workers=1))
    for index in range(SHAPE[2]):
        for read in (opened.read_slice, opened.read_label):
            with pytest.raises(
                InputError, match="or changed since the store was opened; run preprocess, then this"
            ):
                read("0001", index)
    opened.read_case("0002")  # is as it was
    assert Store.open(opened.path).id != opened.id


def test_a_store_that_is_removed_while_it_is_open_is_one_line(store: Store) -> None:
    shutil.rmtree(store.path)
    with pytest.raises(InputError, match=r"0001\.bin: is no longer there; run preprocess"):
        store.read_slice("0001", 0)


def test_a_rule_of_before_is_read(tmp_path: Path) -> None:
    """It was called `zscore`."""
    store = make_store(tmp_path, intensity={"unit_variance": [1, 99]})
    manifest = json.loads((store.path / MANIFEST).read_text())
    manifest["intensities"] = [{"zscore": manifest["intensities"][0]["unit_variance"]}]
    (store.path / MANIFEST).write_text(json.dumps(sealed(manifest)))
    again = Store.open(store.path)
    assert (again.intensity, again.id) == (Intensity("unit_variance", 1, 99), store.id)
    np.testing.assert_array_equal(again.read_case("0001")[0], store.read_case("0001")[0])
