"""YAML and JSON of strangers: whatever a few bytes claim to be, reading ends soon, in a value or one line."""

import os
from pathlib import Path

import pytest

from dsnet_med.errors import InputError
from dsnet_med.yaml_core import parse_yaml, read_yaml


def bomb(levels: int = 9, fan: int = 10) -> str:
    """Ten to the ninth values in half a kilobyte."""
    parts = ["&a0 [" + ", ".join("x" * fan) + "]"]
    parts += [f"&a{level} [" + ", ".join([f"*a{level - 1}"] * fan) + "]" for level in range(1, levels)]
    return "[" + ", ".join(parts) + "]"


def _merges(levels: int = 9) -> str:
    """A mapping that takes all of another ten times, and so on."""
    parts = ["a0: &a0 {x: 1}"]
    parts += [
        f"a{level}: &a{level}\n  <<: [" + ", ".join([f"*a{level - 1}"] * 10) + "]" for level in range(1, levels)
    ]
    return "\n".join(parts)


@pytest.mark.parametrize("old", [False, True], ids=["1.2", "1.1"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb(), "more than 100000 values"),
        (bomb(60), "more than 100000 values"),
        (_merges(), "more than 100000 values"),
        ("&a [*a]", "one that holds itself"),
        ("&a {b: *a}", "one that holds itself"),
        pytest.param("- a\n" * 120_000, "more than 100000 values", marks=pytest.mark.slow),
        ("[" * 900, "nested too deeply"),
        ("{a: " * 900, "nested too deeply"),
        ("#" * (1 << 20) + "\na", "more than 1 MB"),
        (f"a: {'1' * 5000}", "a number of 5000 digits"),
        (f"{'1' * 1000}: 2", "a number of 1000 digits"),
        ("a: 1\na: 2", "two values for a"),
        ("!!timestamp abc", "does not fit its tag"),
        ("!!bool abc", "does not fit its tag"),
        ("!!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: \x1b]0;renamed\x07", "special characters are not allowed"),
    ],
)
def test_what_claims_to_be_much_is_one_line(text: str, words: str, old: bool) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_yaml(text, old=old)
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()


def test_aliases_of_people_are_read() -> None:
    text = "liver: &window [-125, 275]\nspleen: *window\nboth: {<<: {a: 1}, b: 2}\n"
    for old in (False, True):
        assert parse_yaml(text, old=old) == {
            "liver": [-125, 275],
            "spleen": [-125, 275],
            "both": {"a": 1, "b": 2},
        }
    assert parse_yaml("[yes, 012, 1e-3]") == ["yes", 12, 0.001]
    assert parse_yaml("[yes, 012, 1e-3]", old=True) == [True, 10, "1e-3"]


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_what_is_no_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="it is a pipe, a socket or a device, wanted a file"):
        read_yaml(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(InputError, match="it is a pipe, a socket or a device"):
        read_yaml(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="directory"):
        read_yaml(tmp_path / name)


def test_json_is_bounded_too(tmp_path: Path) -> None:
    for text, words in (
        ("[" * 1_000_000, "nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", "a number of thousands of digits"),
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
    ):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=words) as caught:
            read_yaml(tmp_path / "a.json")
        assert len(str(caught.value)) < 400
