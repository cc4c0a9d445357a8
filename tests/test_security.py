"""SECURITY.md names a test for every sentence; each of them is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_sentence_has_a_test_that_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    named = re.findall(r"`(tests/\S+?\.py)::(\w+)`", text)
    assert len(rows) == len(named) > 10
    for file, test in named:
        functions = {
            node.name
            for node in ast.walk(ast.parse((ROOT / file).read_text()))
            if isinstance(node, ast.FunctionDef)
        }
        assert test in functions, f"{file}::{test}"
