"""Arithmetic of every row: the published form's, with the textbook plug-ins, and ours, which is less."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from networks.counting import CASES, TABLES, multiply_accumulates
from networks.direct import TEXTBOOKS, direct_network

from dsnet_med.methods import build_network, method_row, published_ids

LEAN = {"fcn_dsm": 0.61, "dsnet_r50": 0.61}  # arithmetic over FCN's, ours to the published form's


def on_meta(method, num_classes):
    with torch.device("meta"):
        return direct_network(method, num_classes=num_classes)


def test_every_textbook_form_has_its_plugin():
    assert len(TEXTBOOKS) == 14
    for stem in TEXTBOOKS:
        assert import_module(f"dsnet_med.networks.plugins.{stem}")


@pytest.mark.parametrize(("table", "method"), CASES)
def test_arithmetic_of_the_textbook_form_is_the_published_one(counts, method, table):
    size, classes = TABLES[table]
    count = multiply_accumulates(on_meta(method, classes), size)
    assert count == pytest.approx(counts[table][method]["flops"], rel=1e-3)


@pytest.mark.parametrize("method", LEAN)
def test_ours_is_less(counts, method):
    table = counts["synapse_512x512_9_classes"]
    with torch.device("meta"):
        network = build_network(method, in_channels=3, num_classes=9)
    ours = multiply_accumulates(network, 512) - table["fcn"]["flops"]
    assert ours < LEAN[method] * (table[method]["flops"] - table["fcn"]["flops"])


def test_the_table_in_the_documents_is_true():
    text = (Path(__file__).parents[1] / "docs" / "networks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert sorted(row[0] for row in rows) == published_ids()
    for method, *figures in rows:
        card = method_row(method)["method_card"]
        with torch.device("meta"):
            network = build_network(method, in_channels=3, num_classes=9)
        here = multiply_accumulates(network, 512) / 1e9
        assert figures == [f"{card['parameters']:,}", f"{card['flops'] / 1e9:.1f}", f"{here:.1f}"], method
