"""Arithmetic of every row: the published form's, with the textbook plug-ins, and ours, which is less."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from networks.counting import TABLES, multiply_accumulates

from dsnet_med.methods import build_network, method_ids, method_row
from dsnet_med.networks import plugins
from dsnet_med.networks.definition import build

TEXTBOOKS = {file.stem for file in (Path(__file__).parent / "networks" / "textbook").glob("*.py")}
LEAN = {"fcn_dsm": 0.61, "dsnet_r50": 0.61}  # arithmetic over FCN's, ours to the published form's


def with_textbook_plugins(definition):
    """`definition` with every plug-in replaced by its direct form."""
    if not isinstance(definition, dict):
        return definition
    changed = {key: with_textbook_plugins(value) for key, value in definition.items()}
    package, _, name = str(changed.get("_target_", "")).rpartition(".")
    if package == plugins.__name__:
        file = getattr(plugins, name).__module__.rpartition(".")[2]
        assert file in TEXTBOOKS, f"no textbook form of {name}"
        changed["_target_"] = f"networks.textbook.{file}.Textbook{name}"
    return changed


def textbook_network(method, num_classes):
    values = {"in_channels": 3, "num_classes": num_classes, "pretrained": False, "width": 1.0}
    with torch.device("meta"):
        return build(with_textbook_plugins(method_row(method)["network_def"]), values)


def test_every_textbook_form_has_its_plugin():
    assert len(TEXTBOOKS) == 14
    for stem in TEXTBOOKS:
        assert import_module(f"dsnet_med.networks.plugins.{stem}")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("method", method_ids())
def test_arithmetic_of_the_textbook_form_is_the_published_one(counts, method, table):
    size, classes = TABLES[table]
    if method not in counts[table]:
        assert table.startswith("acdc") and "_b" in method  # the ACDC table has the ResNet rows only
        return
    count = multiply_accumulates(textbook_network(method, classes), size)
    assert count == pytest.approx(counts[table][method]["flops"], rel=1e-3)


@pytest.mark.parametrize("method", LEAN)
def test_ours_is_less(counts, method):
    table = counts["synapse_512x512_9_classes"]
    with torch.device("meta"):
        network = build_network(method, in_channels=3, num_classes=9)
    ours = multiply_accumulates(network, 512) - table["fcn"]["flops"]
    assert ours < LEAN[method] * (table[method]["flops"] - table["fcn"]["flops"])
