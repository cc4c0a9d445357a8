"""A check sum inside a JSON file, by which a bit that changed later is noticed.

It guards against accidents, not against people: who changes a file on purpose can seal it again.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "seal"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` with a last key `seal`: a hash of all the other keys and values, however they are laid out."""
    content = {name: each for name, each in json.loads(json.dumps(value)).items() if name != SEAL}
    return content | {SEAL: _hash(content)}


def holds(value: Mapping[str, Any]) -> bool | None:
    """Whether a value read from JSON is as it was sealed; None where it has no seal."""
    if SEAL not in value:
        return None
    return bool(value[SEAL] == _hash({name: each for name, each in value.items() if name != SEAL}))


def _hash(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
