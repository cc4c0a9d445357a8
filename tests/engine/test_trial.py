"""trial.yaml: the same trial goes on, a larger one extends it, another one is refused with the difference."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsnet_med.engine.arms import parse_arms
from dsnet_med.engine.cells import Cell, cases_of, run_folder
from dsnet_med.engine.trial import TRIAL, Trial, again, hash_of, planned, read_trial, require_own_trial, written
from dsnet_med.errors import InputError
from dsnet_med.files import sha256
from dsnet_med.prepare.store import Store

GIVEN: dict[str, Any] = {
    **{"baseline": "fcn", "seeds": (0, 1), "folds": 0, "settings": {"iterations": 9}, "equal": False},
    **{"primary": "dice", "margin": 0.01, "threads": 1, "placebos": {}},
}


def trial_of(store: Path, arms: str = "fcn,fcn+SE@layer4.*.act2", **changes: Any) -> Trial:
    return planned(parse_arms(arms), Store.open(store), **(GIVEN | changes))


def test_the_file_says_what_the_trial_is(store: Path, tmp_path: Path) -> None:
    trial = written(tmp_path, trial_of(store))
    assert read_trial(tmp_path) == trial == trial_of(store)
    assert hash_of(tmp_path) == sha256(tmp_path / TRIAL)
    assert str(store) not in (tmp_path / TRIAL).read_text(encoding="utf-8")
    before = (tmp_path / TRIAL).read_bytes()
    assert written(tmp_path, trial_of(store)) == written(tmp_path, again(trial)) == trial
    assert (tmp_path / TRIAL).read_bytes() == before


def test_seeds_and_arms_extend_it(store: Path, tmp_path: Path) -> None:
    written(tmp_path, trial_of(store))
    first = hash_of(tmp_path)
    more = written(tmp_path, trial_of(store, "fcn,fcn+SE@layer4.*.act2,fcn+ECA@layer4.*.act2", seeds=(2, 1, 0)))
    assert more.extended == (
        "arm fcn+ECA@layer4.*.act2, seed 2 came later, when the trial had 2 arms and 2 seeds",
    )
    assert more.seeds == (0, 1, 2)
    assert hash_of(tmp_path) != first
    assert written(tmp_path, replace(more, extended=())) == more  # the same command again


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"margin": 0.02}, "margin was 0.01, now 0.02"),
        ({"primary": "nsd"}, "primary was 'dice', now 'nsd'"),
        ({"settings": {"iterations": 8}}, "settings.iterations was 9, now 8"),
        ({"settings": {"iterations": 9, "width": 0.5}}, "settings.width was None, now 0.5"),
        ({"equal": True}, "equal was False, now True"),
        ({"seeds": (0,)}, "has seed 1, which was not asked for"),
        ({"baseline": "fcn+SE@layer4.*.act2"}, "baseline was 'fcn'"),
    ],
)
def test_another_trial_is_refused_with_the_difference(
    changes: dict[str, Any], said: str, store: Path, tmp_path: Path
) -> None:
    written(tmp_path, trial_of(store))
    before = (tmp_path / TRIAL).read_bytes()
    with pytest.raises(InputError) as refused:
        written(tmp_path, trial_of(store, **changes))
    assert said in str(refused.value)
    assert (tmp_path / TRIAL).read_bytes() == before


def test_another_store_and_other_versions_are_refused(store: Path, tmp_path: Path) -> None:
    trial = written(tmp_path, trial_of(store))
    with pytest.raises(InputError, match="the store has changed since the trial began"):
        written(tmp_path, replace(trial, manifest_sha256="0" * 64))
    with pytest.raises(InputError, match="the trial was begun with other versions"):
        written(tmp_path, replace(trial, versions={**trial.versions, "torch": "1.0"}))


def test_a_plug_in_of_ones_own_is_kept_and_its_change_is_noticed(store: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "mine.py", tmp_path / "trial"
    mine.write_text("from torch.nn import Identity\n\n\nclass Mine(Identity):\n    pass\n", encoding="utf-8")
    arms = f"fcn,fcn+{mine}:Mine@layer4.*.act2"
    trial = written(out, trial_of(store, arms))
    assert trial.arms[1].plugin == f"{out.resolve() / 'files' / 'mine.py'}:Mine"
    assert (out / "files" / "mine.py").read_bytes() == mine.read_bytes()
    mine.write_text(mine.read_text(encoding="utf-8") + "# other\n", encoding="utf-8")
    with pytest.raises(InputError, match="plugin_sha256"):
        written(out, trial_of(store, arms))


def test_a_strangers_trial_asks_for_trust(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "mine"))
    mine, out = tmp_path / "mine.py", tmp_path / "trial"
    mine.write_text("from torch.nn import Identity\n\n\nclass Mine(Identity):\n    pass\n", encoding="utf-8")
    written(out, trial_of(store, f"fcn,fcn+{mine}:Mine@layer4.*.act2"))
    require_own_trial(out)
    (out / "files" / "mine.py").write_text("raise SystemExit\n", encoding="utf-8")
    with pytest.raises(InputError, match="--trust"):
        require_own_trial(out)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another's"))
    with pytest.raises(InputError, match="--trust"):
        require_own_trial(out)


def test_folds_part_the_subjects(store: Path) -> None:
    trial, opened = trial_of(store, folds=2), Store.open(store)
    tested = [cases_of(opened, trial, fold)["test"] for fold in range(2)]
    learnt = {case.id for split in ("train", "val") for case in opened.cases_of(split)}
    assert sorted(tested[0] + tested[1]) == sorted(learnt)
    for fold in range(2):
        parts = cases_of(opened, trial, fold)
        assert all(parts.values())
        assert sorted(case for own in parts.values() for case in own) == sorted(learnt)
    assert len(trial.cells()) == 2 * 2 * 2


def test_shards_are_all_cells_once(store: Path) -> None:
    cells = trial_of(store, seeds=(0, 1, 2)).cells()
    shards = [cells[shard::4] for shard in range(4)]
    assert sorted((cell for own in shards for cell in own), key=repr) == sorted(cells, key=repr)


@given(st.text(max_size=40), st.text(max_size=40))
def test_two_arms_never_share_a_folder(one: str, other: str) -> None:
    folders = [run_folder(Path("trial"), Cell(arm, 0)) for arm in (one, other)]
    assert (folders[0] == folders[1]) == (one == other)
    assert all(
        len(folder.parts) == len(Path("trial/runs/a/seed-0").parts) for folder in folders if one and other
    )
