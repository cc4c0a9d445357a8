"""Which label values are scored, and what they are called."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsnet_med.errors import InputError

LARGEST_LABEL = int(np.iinfo(np.uint16).max)


def label_names(labels: Mapping[Any, Any]) -> dict[int, str]:
    """Label value -> name in the order of the values, without the background.

    Takes `{1: "liver"}`, `{"1": "liver"}` (JSON keys) and `{"liver": 1}` (nnU-Net's order); the label 0 is the
    background whatever its name, and is left out. Raises InputError.
    """
    pairs = [_value_and_name(key, value) for key, value in labels.items()]
    names = {value: name for value, name in pairs if value != 0}
    if not names:
        raise InputError(f"labels {dict(labels)!r} name nothing but background; give {{1: 'liver', ...}}")
    if len({value for value, _ in pairs}) < len(pairs) or len(set(names.values())) < len(names):
        raise InputError(f"labels {dict(labels)!r} use one value or one name twice; give each its own")
    return dict(sorted(names.items()))


def read_label_names(path: Path) -> dict[int, str]:
    """`label_names` of a JSON file such as {"1": "liver"}, or of its key "labels" (a decathlon dataset.json).

    Raises InputError when the file is not of that form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f'{path}: not a file of labels ({error}); wanted JSON such as {{"1": "liver"}}'
        ) from error
    table = content.get("labels", content) if isinstance(content, dict) else None
    if not isinstance(table, dict):
        raise InputError(f'{path}: not a file of labels; wanted JSON such as {{"1": "liver"}}')
    try:
        return label_names(table)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _value_and_name(key: Any, value: Any) -> tuple[int, str]:
    for number, name in ((key, value), (value, key)):
        whole = _whole(number)
        if whole is not None and isinstance(name, str) and 0 <= whole <= LARGEST_LABEL:
            return whole, name
    raise InputError(
        f"label {key!r}: {value!r} is not a value of 0 to {LARGEST_LABEL} and a name; write 1: 'liver'"
    )


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, str, np.integer)):
        return None
    return int(value) if not isinstance(value, str) or value.strip().isdecimal() else None
