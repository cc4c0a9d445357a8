"""What configurations name, found by `pydoc.locate` as MONAI does, whose answer depends on Python's version."""

from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigComponent, ConfigParser
from torch import nn

from dsnet_med import resources
from dsnet_med.methods import build_network, method_row, natural_method_ids, published_ids
from dsnet_med.networks import definition

FILES = sorted(path for path in resources.configs().rglob("*") if path.suffix in (".yaml", ".json"))
NARROW = {"in_channels": 3, "num_classes": 5, "width": 1 / 16, "pretrained": False}


def targets(node: Any) -> Iterator[str]:
    """Every `_target_` at any depth."""
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    if isinstance(node, dict) and "_target_" in node:
        yield node["_target_"]
    for part in parts:
        yield from targets(part)


def found(target: str) -> Any:
    return locate(ConfigComponent({"_target_": target}).resolve_module_name())


def test_there_are_configurations() -> None:
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(resources.configs()).as_posix())
def test_every_target_is_found_and_is_no_module(path: Path) -> None:
    for target in set(targets(yaml.safe_load(path.read_text(encoding="utf-8")))):
        place = found(target)
        assert callable(place), target
        assert not isinstance(place, ModuleType), target
        if target.startswith("dsnet_med."):
            assert definition.locate(target) is place


@pytest.mark.parametrize(
    "target",
    [  # what the run folders of earlier versions hold
        "dsnet_med.networks.backbones.resnet",
        "dsnet_med.networks.backbones.convnext",
        "dsnet_med.networks.backbones.mscan",
        "dsnet_med.networks.attach",
        "dsnet_med.evaluate.dice",
        "dsnet_med.methods.with_plugin",
        "dsnet_med.build_network",
    ],
)
def test_names_that_are_in_use_elsewhere_stay(target: str) -> None:
    assert callable(found(target)) and not isinstance(found(target), ModuleType)


@pytest.mark.parametrize("method", [*published_ids(), *natural_method_ids()])
def test_monai_builds_every_row_as_we_do(method: str) -> None:
    parser = ConfigParser({**NARROW, "network_def": method_row(method)["network_def"]})
    with torch.device("meta"):  # shapes say enough
        theirs: nn.Module = parser.get_parsed_content("network_def")
        ours = build_network(method, **NARROW)
    assert type(theirs) is type(ours)
    shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in (theirs, ours)]
    assert shapes[0] == shapes[1]
