"""The rows on natural images: found, counted, equal to the published figures, built by MONAI as by us."""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from cli.typed import run
from networks.counting import (
    NATURAL_CLASSES,
    NATURAL_KEYS,
    NATURAL_ROWS,
    NATURAL_TABLES,
    natural_multiply_accumulates,
)

from dsnet_med import resources
from dsnet_med.cli.app import app
from dsnet_med.errors import InputError
from dsnet_med.methods import build_network, method_ids, method_row, natural_method_ids
from dsnet_med.networks.plugins import DSM, FrequencyChannel

BOX_HEAD = 14_295_040_000 + 1_000 * (1024 * 81 + 1024 * 320)  # of 1000 regions: its two layers, and the last
COCO_SCALE = (
    0.8982  # what the published counts over COCO's images are of ours at 800x1280, but for the box head
)


def on_meta(row, **options):
    with torch.device("meta"):
        return build_network(row, in_channels=3, num_classes=NATURAL_CLASSES[row.partition("/")[0]], **options)


@cache
def arithmetic(row):
    """Of ours, in multiply-accumulates."""
    return natural_multiply_accumulates(on_meta(row), row.partition("/")[0])


def parameters(network):
    """Without an auxiliary head, as published."""
    total = sum(each.numel() for each in network.parameters())
    auxiliary = getattr(network, "auxiliary", None)
    return total - (sum(each.numel() for each in auxiliary.parameters()) if auxiliary else 0)


def published(row):
    card = method_row(row)["method_card"]
    figures = card["published"]
    return float(figures["parameters"][:-1]) * 1e6, float(figures["flops"][:-1]) * 1e9


def test_every_file_is_a_row():
    files = sorted(resources.configs().glob("natural/*/methods/*.yaml"))
    assert Counter(file.parents[1].name for file in files) == {"imagenet": 4, "cityscapes": 3, "coco": 4}
    assert [f"{file.parents[1].name}/{file.stem}" for file in files] == natural_method_ids()
    assert sorted(NATURAL_KEYS) == NATURAL_ROWS == natural_method_ids()
    assert not set(natural_method_ids()) & set(method_ids())


@pytest.mark.parametrize("row", NATURAL_ROWS)
def test_cards_carry_the_counts_of_the_reference(counts, row):
    card = method_row(row)["method_card"]
    assert card["id"] == row and card["task"] == row.partition("/")[0]
    assert [card["parameters"], card["flops"]] == counts[NATURAL_TABLES[card["task"]]][NATURAL_KEYS[row]]


@pytest.mark.parametrize("row", NATURAL_ROWS)
def test_parameters_and_arithmetic_are_those_on_the_card_to_the_last_digit(row):
    card = method_row(row)["method_card"]
    assert parameters(on_meta(row)) == card["parameters"]
    ours = arithmetic(row)
    assert ours < card["flops"] if "dsnet" in row else ours == card["flops"]


def test_the_table_in_the_documents_is_true():
    text = (Path(__file__).parents[2] / "docs" / "natural.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+/\w+)` \|(.*)\|$", text, re.MULTILINE)
    assert [row for row, _ in rows] == NATURAL_ROWS
    for row, cells in rows:
        card = method_row(row)["method_card"]
        ours = arithmetic(row) / 1e9
        printed = card["published"]
        counted = [
            f"{card['parameters']:,}",
            printed["parameters"],
            f"{card['flops'] / 1e9:.3f}",
            printed["flops"],
        ]
        expected = [card["plugin"], card["place"], *counted, f"{ours:.3f}"]
        assert [cell.strip() for cell in cells.split("|")] == expected


def test_the_table_of_speeds_has_every_row_with_its_parameters():
    text = (Path(__file__).parents[2] / "docs" / "natural.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \w+ \| `(\w+/\w+)` \| ([\d,]+) \| (\S+) \| [\d.]+ \| (\S+) \|", text, re.MULTILINE)
    cards = [method_row(row)["method_card"] for row in NATURAL_ROWS]
    assert rows == [
        (card["id"], f"{card['parameters']:,}", card["published"]["parameters"], card["published"]["flops"])
        for card in cards
    ]


@pytest.mark.parametrize("row", NATURAL_ROWS)
def test_the_printed_figures_are_these_but_where_the_documents_say_so(row):
    card = method_row(row)["method_card"]
    printed, flops = published(row)
    expected = card["parameters"]
    if row == "imagenet/fcanet50":
        expected += 2048 * 1000 + 1000  # a second classifier
    assert printed == pytest.approx(expected, abs=5.1e3 if row.startswith("cityscapes") else 3.1e3)
    here = card["flops"]
    if row.startswith("coco"):
        here = (here - BOX_HEAD) * COCO_SCALE + BOX_HEAD
    assert flops == pytest.approx(here, rel=1e-3 if row.startswith("coco") else 1.3e-4)


def test_the_auxiliary_head_of_cityscapes_counts_as_the_reference_says():
    network = on_meta("cityscapes/resnet50")
    assert sum(each.numel() for each in network.auxiliary.parameters()) == pytest.approx(2.3647e6, abs=50)
    assert sum(each.numel() for each in network.parameters()) == pytest.approx(49.4977e6, abs=50)


@pytest.mark.parametrize("row", NATURAL_ROWS)
def test_plugins_sit_where_the_card_says(row):
    plugins = {
        name.replace("body.", ""): module
        for name, module in on_meta(row).named_modules()
        if isinstance(module, DSM | FrequencyChannel)
    }
    blocks = dict(zip("1234", (3, 4, 6, 3), strict=True))
    place = method_row(row)["method_card"]["place"]
    if place == "none":
        assert not plugins
        return
    stages = "4" if place.startswith("stage 4") else "1234"
    layer = {"after conv1": "act1", "after conv2": "act2", "after conv3": "bn3"}[place.split(", ")[1]]
    expected = [f"backbone.layer{n}.{block}.{layer}.plugin" for n in stages for block in range(blocks[n])]
    assert list(plugins) == expected
    if "fcanet" in row:
        sizes = {name.split(".")[1]: tuple(module.cosines.shape) for name, module in plugins.items()}
        assert sizes == {
            "layer1": (256, 56, 56),
            "layer2": (512, 28, 28),
            "layer3": (1024, 14, 14),
            "layer4": (2048, 7, 7),
        }


@pytest.mark.parametrize("row", NATURAL_ROWS)
def test_monai_builds_the_same_network(row):
    from monai.bundle import ConfigParser

    values = {"in_channels": 3, "num_classes": 4, "pretrained": False, "width": 1 / 16}
    parser = ConfigParser({**values, "network_def": method_row(row)["network_def"]})
    theirs = parser.get_parsed_content("network_def").state_dict()
    ours = build_network(row, **values).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()
    }


def test_the_command_line_lists_them(capsys):
    rows = json.loads(run("methods", "--json").stdout)
    ids = [row["id"] for row in rows]
    assert ids == [*method_ids(), *natural_method_ids()]
    lines = run("methods").stdout.splitlines()
    assert sum(bool(re.match(r"(imagenet|cityscapes|coco)/", line)) for line in lines) == 11


def test_a_value_of_a_row_can_be_changed():
    network = on_meta("coco/resnet50", min_size=320, max_size=480)
    assert network.transform.min_size == (320,) and network.transform.max_size == 480


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "imagenet/dsnet50", "--data", "."], "did you mean 'imagenet/dsnet50_"),
        (["--method", "coco/resnet50", "--data", "absent"], "no data set at absent"),
        (["--method", "coco/resnet50", "--data", ".", "--plugin", "SE"], "got --plugin for coco/resnet50"),
        (["--method", "coco/resnet50", "--data", ".", "--set", "epoch=1"], "did you mean 'epochs'"),
        (["--method", "coco/resnet50", "--data", "."], "annotations/instances_val2017.json is missing"),
        (["--method", "imagenet/resnet50", "--data", "."], "train is missing"),
        (["--method", "cityscapes/resnet50", "--data", "."], "leftImg8bit/train is missing"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        app(["train", *arguments, "--out", "run"], standalone_mode=False)
    assert "\n" not in str(caught.value)
