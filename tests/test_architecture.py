"""docs/architecture.md names files and what is in them; both are there."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`([a-z_/]+\.py)` ((?:`\w+`(?:, )?)+)")
STOPS = [
    (file, name)
    for file, names in NAMED.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    for name in re.findall(r"\w+", names)
]


def test_each_way_has_at_most_seven_stops():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [len(re.findall(r"^\| \d \|", way, re.M)) for way in text.split("\n**One ")[1:]] == [7, 7, 7, 7, 6]


@pytest.mark.parametrize(("file", "name"), STOPS)
def test_a_stop_is_there(file, name):
    module = "dsnet_med." + file.removesuffix(".py").replace("/", ".")
    assert getattr(import_module(module), name).__module__ == module
