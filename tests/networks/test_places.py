"""The places of docs/plugins.md: every pattern of its table names something, and takes a plug-in."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch

from dsnet_med.methods import build_network, dimensions, method_ids, published_ids, with_plugin
from dsnet_med.networks import plugins
from dsnet_med.networks.attaching import matching, plugins_of

DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"
NARROW = {"unet": 1 / 8, "dynunet": 1 / 8, "segresnet": 1 / 4, "swinunetr": 1 / 4}


def places():
    """(row, pattern) of the table."""
    text = DOCS.read_text().partition("## Where to put it")[2].partition("### In three")[0]
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`"):
            found += [(row, cells[2].strip("`")) for row in re.findall(r"`(\w+)`", cells[0])]
    return found


def network_of(row):
    name = row.rpartition("_")[0]
    if name in NARROW:
        return build_network(row, num_classes=2, width=NARROW[name])
    with torch.device("meta"):
        return build_network(row, num_classes=2)


@cache
def names_of(row):
    return network_of(row)


def test_every_row_beside_the_published_ones_has_places():
    assert {row for row, _ in places()} == set(method_ids()) - set(published_ids())


@pytest.mark.parametrize(("row", "pattern"), places())
def test_every_pattern_names_something(row, pattern):
    network = names_of(row)
    tried = (pattern, f"backbone.{pattern}", f"network.{pattern}")
    assert any(matching(network, each) for each in tried)


@pytest.mark.parametrize(
    ("row", "pattern"), [(row, pattern) for row, pattern in places() if row.endswith("_2d")]
)
def test_every_place_of_a_monai_network_takes_a_plugin(row, pattern):
    assert dimensions(row) == 2
    network = with_plugin(network_of(row), "SE", pattern)
    added = plugins_of(network).values()
    assert added and all(isinstance(each, plugins.SE) for each in added)
    outputs = network.train()(torch.randn(2, 1, 64, 64))
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    assert logits.shape == (2, 2, 64, 64)
    logits.square().mean().backward()
    assert all(p.grad is not None for each in added for p in each.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("row", "pattern"), [each for each in places() if not each[0].endswith("_2d")])
def test_every_other_place_takes_a_plugin(row, pattern):
    network = network_of(row) if row.endswith("_3d") else build_network(row, num_classes=2)
    assert plugins_of(with_plugin(network, "SE", pattern))
