"""The same store from a Dask cluster as from processes here."""

from pathlib import Path

import pytest
from distributed import LocalCluster

from dsnet_med.errors import InputError
from dsnet_med.phantoms import make_synapse
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.recipe import load_recipe
from dsnet_med.processes import on_cluster


def test_a_cluster_makes_the_same_store(tmp_path: Path) -> None:
    _, bad, _ = make_synapse(tmp_path / "raw", cases=3, seed=0, size=(64, 64, 16))
    (tmp_path / "raw" / "RawData" / "Training" / "label" / f"label{bad}.nii.gz").write_bytes(b"")
    recipe = load_recipe("synapse")
    with LocalCluster(n_workers=2, processes=False, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        far = {
            r.case: r.error
            for r in convert(recipe, tmp_path / "raw", tmp_path / "far", workers=1, scheduler=address)
        }
    near = {r.case: r.error for r in convert(recipe, tmp_path / "raw", tmp_path / "near", workers=1)}
    assert far == near
    assert [case for case, error in far.items() if error] == [bad]
    for file in (tmp_path / "near" / "cases").iterdir():
        assert (tmp_path / "far" / "cases" / file.name).read_bytes() == file.read_bytes()


def test_no_scheduler_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsnet_med.processes._CONNECT_SECONDS", 1)
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        next(on_cluster(str, [1], "tcp://127.0.0.1:9"))
