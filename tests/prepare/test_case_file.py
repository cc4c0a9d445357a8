"""The data file: several channels, patches, counts, every damaged bit noticed, and stores of format 2."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_store import CODES, store_of, store_of_before, voxels_of

from dsnet_med.errors import InputError
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.prepare.store import Store
from dsnet_med.prepare.stored_case import data_file
from dsnet_med.regions import parse

SHAPE = (4, 70, 150)  # three by three tiles, the last of them filled up
IMAGES, LABELS = voxels_of(SHAPE, 2)
WANTED = IMAGES.astype(np.float32) * np.float32(1 / 400)
BEFORE = voxels_of((4, 40, 9), 1)


@pytest.mark.parametrize(
    ("shape", "channels", "dtype", "tile", "tiles"),
    [
        ((3, 512, 512), 1, "uint16", (32, 64), (8, 16)),
        ((3, 35, 51), 4, "float32", (18, 52), (1, 2)),
        ((3, 240, 240), 4, "uint16", (30, 60), (4, 8)),
        ((3, 1, 1), 1, "float32", (1, 4), (1, 1)),
        ((3, 70, 150), 2, "uint16", (24, 52), (3, 3)),
    ],
)
def test_tiles_are_alike_and_hardly_larger_than_the_slice(
    tmp_path: Path, shape: Any, channels: int, dtype: str, tile: Any, tiles: Any
) -> None:
    images, labels = voxels_of(shape, channels)
    entry = store_of(tmp_path, images.astype(dtype), labels).cases["a"]
    assert (entry.tile, entry.tiles) == (tile, tiles)
    assert entry.unit.itemsize % 4 == 0
    assert entry.nbytes == data_file(tmp_path, "a").stat().st_size


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store_of(tmp_path_factory.mktemp("store"), IMAGES, LABELS)


@pytest.fixture
def before(tmp_path: Path) -> Store:
    return Store.open(store_of_before(tmp_path / "before", BEFORE[0][0], BEFORE[1]))


def padded(array: np.ndarray, start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    """The box of the last three axes, 0 outside, by the long way round."""
    out = np.zeros((*array.shape[:-3], *size), array.dtype)
    for place in np.ndindex(*size):
        at = tuple(np.add(start, place))
        if all(0 <= each < end for each, end in zip(at, array.shape[-3:], strict=True)):
            out[(..., *place)] = array[(..., *at)]
    return out


def test_slices_and_cases_have_every_channel(store: Store) -> None:
    images, labels = store.read_case("a")
    np.testing.assert_array_equal(images, WANTED)
    np.testing.assert_array_equal(labels, LABELS)
    for index in range(SHAPE[0]):
        image, label = store.read_slice("a", index)
        np.testing.assert_array_equal(image, WANTED[:, index])
        np.testing.assert_array_equal(label, LABELS[index])
        np.testing.assert_array_equal(store.read_label("a", index), LABELS[index])
        assert image.flags.writeable and label.flags.writeable


@given(
    st.tuples(st.integers(-6, 6), st.integers(-6, 75), st.integers(-6, 155)),
    st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 60)),
)
@settings(max_examples=60, deadline=None)
def test_any_patch_is_the_case_with_nothing_around(
    store: Store, start: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    image, label = store.read_patch("a", start, size)
    np.testing.assert_array_equal(image, padded(WANTED, start, size))
    np.testing.assert_array_equal(label, padded(LABELS, start, size))
    assert (image.dtype, label.dtype) == (np.float32, np.uint8)


def test_floats_keep_their_base_and_slope_for_each_channel(tmp_path: Path) -> None:
    images = np.random.default_rng(3).normal(size=(2, *SHAPE)).astype(np.float32)
    store = store_of(tmp_path, images, LABELS)
    entry = store.cases["a"].model_copy(update={"base": (0.5, 0.0), "slope": (2.0, 1.0)})
    store = store.model_copy(update={"cases": {"a": entry}})
    wanted = np.stack([(images[0] - np.float32(0.5)) * np.float32(2), images[1]])
    np.testing.assert_array_equal(store.read_case("a")[0], wanted)
    np.testing.assert_array_equal(store.read_patch("a", (1, 2, 3), (2, 40, 5))[0], wanted[:, 1:3, 2:42, 3:8])


def test_counts_are_those_of_every_label(store: Store) -> None:
    counts = store.code_counts("a")
    assert counts.shape == (SHAPE[0], 256)
    for index, label in enumerate(LABELS):
        np.testing.assert_array_equal(counts[index], np.bincount(label.ravel(), minlength=256))
    assert store.cases["a"].codes == CODES


def test_foreground_is_every_voxel_of_a_code_alike_and_every_code_alike(tmp_path: Path) -> None:
    labels = np.zeros((3, 4, 5), np.uint8)
    places = {(0, 1, 2): 1, (2, 0, 0): 1, (2, 3, 4): 1, (1, 2, 3): 3}
    for place, code in places.items():
        labels[place] = code
    store = store_of(tmp_path, np.zeros((1, 3, 4, 5), np.uint16), labels)
    random = np.random.RandomState(0)
    drawn = [store.foreground("a", random, (1, 2, 3)) for _ in range(3000)]
    share = {place: drawn.count(place) / len(drawn) for place in places}
    assert set(drawn) == set(places)
    assert share == pytest.approx(
        {place: 1 / 2 if code == 3 else 1 / 6 for place, code in places.items()}, abs=0.04
    )
    assert {store.foreground("a", random, [3]) for _ in range(5)} == {(1, 2, 3)}
    assert store.foreground("a", random, [2, 7]) is None


def test_every_flipped_bit_is_noticed_by_who_reads_it(tmp_path: Path) -> None:
    made = store_of(tmp_path, IMAGES, LABELS)
    entry, file, random = made.cases["a"], data_file(made.path, "a"), np.random.default_rng(0)
    good, size = file.read_bytes(), entry.slice_nbytes
    for number in range(200):
        store = Store.open(tmp_path)
        place = int(random.integers(len(good) if number % 2 else SHAPE[0] * size))
        content = bytearray(good)
        content[place] ^= 1 << int(random.integers(8))
        file.write_bytes(content)
        in_tables = place >= SHAPE[0] * size
        index, inside = (0, 0) if in_tables else divmod(place, size)
        column, row = divmod(inside // entry.unit.itemsize, entry.tiles[1])
        y, x = int(random.integers(SHAPE[1])), int(random.integers(SHAPE[2]))
        touched = (y // entry.tile[0], x // entry.tile[1]) == (row, column)
        reads: list[tuple[Callable[[], Any], bool]] = [
            (partial(store.read_slice, "a", index), True),
            (partial(store.read_label, "a", index), True),
            (partial(store.read_case, "a"), True),
            (partial(store.read_patch, "a", (index, y, x), (1, 1, 1)), touched),
            (partial(store.read_patch, "a", (0, 0, 0), SHAPE), True),
            (partial(store.code_counts, "a"), False),
        ]
        for read, wrong in reads:
            if wrong or in_tables:
                with pytest.raises(InputError, match=r"a\.bin: .* is not what was stored: damaged, cut short"):
                    read()
            else:
                read()
    file.write_bytes(good)


def test_a_shortened_and_an_exchanged_file_are_noticed_by_a_patch(tmp_path: Path) -> None:
    store, other = store_of(tmp_path / "1", IMAGES, LABELS), store_of(tmp_path / "2", IMAGES + 1, LABELS)
    file = data_file(store.path, "a")
    good, whole = file.read_bytes(), ((0, 0, 0), SHAPE)
    store.read_patch("a", *whole)  # its table is known from here on
    for content in (good[:-1], good[:100], b"", data_file(other.path, "a").read_bytes()):
        file.write_bytes(content)
        if content != good[:-1]:
            with pytest.raises(InputError, match=r"a\.bin: slice \d is not what was stored"):
                store.read_patch("a", *whole)
        with pytest.raises(InputError, match=r"a\.bin: its table of check sums is not what was stored"):
            Store.described(store.path).read_patch("a", *whole)
    file.write_bytes(good[:-1])
    with pytest.raises(InputError, match="run the same preprocess command again"):
        Store.open(store.path)


def test_the_manifest_says_what_is_trained_on_and_the_id_follows(tmp_path: Path) -> None:
    regions = parse({"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]})
    facts: list[dict[str, Any]] = [
        {},
        {"spacing_mm": (1.0, 1.0, 1.0)},
        {"regions": regions},
        {"ignore": True},
        {"channels": ("t1", "t2")},
    ]
    stores = [store_of(tmp_path / str(n), IMAGES, LABELS, **changes) for n, changes in enumerate(facts)]
    assert len({store.id for store in stores}) == len(stores)
    folded = store_of(tmp_path / "folds", IMAGES, LABELS, folds=(("a",), ("b", "c")))
    assert (folded.folds, folded.id) == ((("a",), ("b", "c")), stores[0].id)
    assert stores[1].spacing_mm == (1, 1, 1)
    assert (stores[2].regions, stores[2].targets, stores[2].num_outputs) == (
        regions,
        ("whole", "core", "enhancing"),
        3,
    )
    assert (stores[0].targets, stores[0].num_outputs) == (("edema", "core", "enhancing"), 4)
    assert stores[0].intensity == Intensity("window", -125, 275) == stores[0].intensities[1]
    assert store_of(tmp_path / "again", IMAGES, LABELS).id == stores[0].id
    assert store_of(tmp_path / "other", IMAGES ^ 1, LABELS).id != stores[0].id


def test_a_store_of_format_2_is_read_by_every_method_under_its_own_id(before: Store) -> None:
    images, labels = BEFORE
    wanted = images.astype(np.float32) * np.float32(0.0025)
    np.testing.assert_array_equal(before.read_case("a")[0], wanted)
    np.testing.assert_array_equal(before.read_case("a")[1], labels)
    np.testing.assert_array_equal(before.read_slice("a", 2)[0], wanted[:, 2])
    np.testing.assert_array_equal(before.read_label("a", 2), labels[2])
    image, label = before.read_patch("a", (-1, 30, 2), (3, 20, 4))
    np.testing.assert_array_equal(image, padded(wanted, (-1, 30, 2), (3, 20, 4)))
    np.testing.assert_array_equal(label, padded(labels, (-1, 30, 2), (3, 20, 4)))
    counts = np.array([np.bincount(each.ravel(), minlength=256) for each in labels])
    np.testing.assert_array_equal(before.code_counts("a"), counts)
    z, y, x = before.foreground("a", np.random.RandomState(0), [3]) or (0, 0, 0)
    assert labels[z, y, x] == 3
    assert (before.channels, before.intensities) == (("image",), (Intensity("window", -125, 275),))
    assert before.cases["a"].image_files == ("img/a.nii.gz",)
    assert (before.spacing_mm, before.regions, before.ignore, before.folds) == (None, (), False, ())
    assert before.id == "e0730dad6cd3f5ae"  # as the version that wrote such stores said


def test_damage_in_a_store_of_format_2_is_noticed_by_patches_and_counts(before: Store) -> None:
    file = data_file(before.path, "a")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the last label
    file.write_bytes(content)
    before.read_patch("a", (0, 0, 0), (3, 40, 9))
    for read in (lambda: before.read_patch("a", (3, 0, 0), (1, 1, 1)), lambda: before.code_counts("a")):
        with pytest.raises(InputError, match=r"a\.bin: slice 3 is not what was stored"):
            read()
