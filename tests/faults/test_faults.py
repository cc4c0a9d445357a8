"""Attacks in small numbers; benchmarks/faults.py makes the same ones in large."""

import random
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from crowds import crowd
from flips import flip_results, flip_store, flip_weights
from kills import kill_commands
from scene import Scene, make_scene
from starved import starve
from tally import Tally, flip_bit


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Raw data and a store."""
    return make_scene(tmp_path_factory.mktemp("prepared"), until="store")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """All, from raw data to scores."""
    return make_scene(tmp_path_factory.mktemp("scene"))


def _require_none_failed(tallies: Iterable[Tally], tried: int) -> None:
    for tally in tallies:
        assert not tally.failed, "\n".join(tally.examples)
        assert tally.tried >= tried, tally.kind


def test_bits_that_flip_in_a_store_are_noticed_and_mended(prepared: Scene, tmp_path: Path) -> None:
    _require_none_failed(flip_store(prepared, tmp_path, 40), 2)


def test_an_outcome_is_counted_as_what_it_is(tmp_path: Path) -> None:
    tally = Tally("kind")
    tally.add("noticed")
    tally.add("silent", "where")
    assert (tally.tried, tally.failed, tally.examples) == (2, 1, ["silent: where"])
    with pytest.raises(ValueError, match="other"):
        tally.add("other")


def test_one_bit_is_flipped(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    flip_bit(tmp_path / "file", random.Random(3))
    assert sum(each.bit_count() for each in (tmp_path / "file").read_bytes()) == 1


@pytest.mark.slow
def test_bits_that_flip_in_weights_and_scores_are_noticed(scene: Scene, tmp_path: Path) -> None:
    _require_none_failed(flip_weights(scene, tmp_path, 20), 20)
    _require_none_failed(flip_results(scene, tmp_path, 20), 20)


@pytest.mark.slow
def test_a_killed_command_ends_as_an_undisturbed_one(scene: Scene, tmp_path: Path) -> None:
    _require_none_failed(kill_commands(scene, tmp_path, 3), 3)


@pytest.mark.slow
def test_of_two_commands_at_once_one_has_the_folder(scene: Scene, tmp_path: Path) -> None:
    _require_none_failed(crowd(scene, tmp_path, 1), 1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits are set as Linux has them")
def test_want_of_means_is_told_by_its_name(scene: Scene, tmp_path: Path) -> None:
    _require_none_failed(starve(scene, tmp_path), 10)
