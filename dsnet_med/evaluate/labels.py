"""Which label values are scored, and what they are called."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsnet_med.errors import InputError, cannot_read, one_line, shown
from dsnet_med.files import parse_json, read_text

LARGEST_LABEL = int(np.iinfo(np.uint16).max)
_LABEL_FILES = (".json", ".txt", ".csv", ".tsv")
_LINE = re.compile(r"(\d+)\s*[\s,;:=]\s*(\S.*)")
_ITK_SNAP = re.compile(r'(\d+)(?:\s+\d+){3}\s+[\d.]+(?:\s+\d+){2}\s+"(.*)"')  # value, colour, three flags, name
_WANTED = 'wanted a labels.json such as {"1": "liver", "2": "spleen"}'


def label_names(labels: Mapping[Any, Any]) -> dict[int, str]:
    """Label value -> name in the order of the values, without the background.

    Takes `{1: "liver"}`, `{"1": "liver"}` (JSON keys) and `{"liver": 1}` (nnU-Net's order); the label 0 is the
    background whatever its name, and is left out. Raises InputError.
    """
    pairs = [_value_and_name(key, value) for key, value in labels.items()]
    names = {value: name for value, name in pairs if value != 0}
    if not names:
        raise InputError(f"labels {shown(dict(labels))} name nothing but background; give {{1: 'liver', ...}}")
    if len({value for value, _ in pairs}) < len(pairs) or len(set(names.values())) < len(names):
        raise InputError(f"labels {shown(dict(labels))} use one value or one name twice; give each its own")
    return dict(sorted(names.items()))


@dataclass(frozen=True)
class Labels:
    """What the values of label maps mean: those that are scored, and the one that counts for nothing."""

    names: dict[int, str]
    ignored: tuple[str, int] | None = None


def labels_of(table: Mapping[Any, Any]) -> Labels:
    """`label_names`, apart from the label that nnU-Net defines by its name: "ignore". Raises InputError."""
    regions = [key for key, value in table.items() if isinstance(value, (list, tuple))]
    if regions:
        raise InputError(
            f"labels {regions} are regions of several values, which are not scored yet; name single values"
        )
    pairs = dict(_value_and_name(key, value) for key, value in table.items())
    ignored = [(name, value) for value, name in pairs.items() if name.strip().lower() == "ignore" and value]
    if len(ignored) > 1:
        raise InputError(f"labels {shown(dict(table))} name two values 'ignore'; keep one")
    background = [value for value, name in pairs.items() if name.strip().lower() == "background" and value]
    if background:
        raise InputError(f"labels call the value {background[0]} 'background', which is always 0; correct them")
    rest = {key: value for key, value in table.items() if _value_and_name(key, value)[::-1] not in ignored}
    return Labels(label_names(rest), ignored[0] if ignored else None)


def read_labels_argument(text: str) -> Labels | None:
    """What `--labels` says: JSON itself, a file of it, or of lines such as `1 liver` or `1,liver`, or a folder
    with a labels.json or dataset.json. None where it is none of these (a recipe, then). Raises InputError."""
    if text.lstrip().startswith("{"):
        return _of_json(text, "--labels")
    path = Path(text)
    for name in ("labels.json", "dataset.json"):
        if path.is_dir() and (path / name).is_file() and not (path / "recipe.yaml").is_file():
            return read_label_file(path / name)
    return read_label_file(path) if path.suffix.lower() in _LABEL_FILES else None


def read_label_file(path: Path) -> Labels:
    """The labels of a JSON file such as {"1": "liver"}, or of its key "labels" (a decathlon or nnU-Net
    dataset.json), of a text file with a value and a name on each line, or of ITK-SNAP. Raises InputError."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise cannot_read(path, error, f"cannot be read ({one_line(error)}); {_WANTED}") from error
    if path.suffix.lower() == ".json":
        return _of_json(text, str(path))
    lines = [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
    of_itk_snap = any(map(_ITK_SNAP.fullmatch, lines))
    found = [(_ITK_SNAP if of_itk_snap else _LINE).fullmatch(line) for line in lines]
    wrong = next((line for line, match in zip(lines, found, strict=True) if match is None), None)
    if wrong is not None and wrong is not lines[0]:  # the first may be a heading
        raise InputError(f"{path}: got the line '{wrong}', wanted a value and a name; {_WANTED}")
    pairs = [(match[1], match[2].strip().strip('"')) for match in found if match]
    if not pairs or len(dict(pairs)) < len(pairs):
        raise InputError(f"{path}: no labels, or one value twice; {_WANTED}")
    return _named(dict(pairs), str(path))


def _of_json(text: str, where: str) -> Labels:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise InputError(f"{where}: not a table of labels ({one_line(error)}); {_WANTED}") from error
    table = content.get("labels", content) if isinstance(content, dict) else None
    if not isinstance(table, dict):
        raise InputError(f"{where}: not a table of labels; {_WANTED}")
    return _named(table, where)


def _named(table: Mapping[Any, Any], where: str) -> Labels:
    try:
        return labels_of(table)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _value_and_name(key: Any, value: Any) -> tuple[int, str]:
    for number, name in ((key, value), (value, key)):
        whole = _whole(number)
        if whole is not None and isinstance(name, str) and 0 <= whole <= LARGEST_LABEL:
            return whole, name
    raise InputError(
        f"label {shown(key)}: {shown(value)} is not a value of 0 to {LARGEST_LABEL} and a name; "
        "write 1: 'liver'"
    )


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, str, np.integer)):
        return None
    whole = not isinstance(value, str) or (value.strip().isdecimal() and len(value) < 20)
    return int(value) if whole else None
