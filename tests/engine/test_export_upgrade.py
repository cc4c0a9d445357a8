"""Runs of before, exported today."""

from typing import Any

from dsnet_med import resources
from dsnet_med.engine.export.upgrade import as_now
from dsnet_med.yaml_core import read_yaml


def _shipped(name: str) -> dict[str, Any]:
    return read_yaml(resources.configs() / f"{name}.yaml")


def test_what_is_written_today_stays_as_it_is() -> None:
    for name in ("train", "inference", "evaluate"):
        assert as_now(name, _shipped(name)) == _shipped(name)


def test_runs_of_before_take_files_and_give_integers() -> None:
    before = _shipped("train")
    before["initialize"] = before["initialize"][1:]
    assert as_now("train", before) == _shipped("train")
    before = _shipped("inference")
    before["postprocessing"]["transforms"][0] = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
    assert as_now("inference", before)["postprocessing"]["transforms"][0]["dtype"].startswith("$torch.uint8")
