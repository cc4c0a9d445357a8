"""A seal notices every change of a JSON value, and none of its layout."""

import json

from hypothesis import given
from hypothesis import strategies as st

from dsnet_med.seal import SEAL, holds, sealed

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_VALUES = st.dictionaries(st.text(), st.recursive(_LEAVES, st.lists, max_leaves=8), max_size=4)


@given(_VALUES)
def test_a_sealed_value_holds_after_json(value: dict[str, object]) -> None:
    again = json.loads(json.dumps(sealed(value), indent=3))
    assert holds(again) is True


@given(_VALUES, st.data())
def test_a_flipped_bit_is_noticed(value: dict[str, object], data: st.DataObject) -> None:
    text = bytearray(json.dumps(sealed(value), indent=1).encode())
    bit = data.draw(st.integers(0, 8 * len(text) - 1))
    text[bit // 8] ^= 1 << bit % 8
    try:
        changed = json.loads(bytes(text))
    except ValueError:
        return
    if not isinstance(changed, dict) or changed == json.loads(json.dumps(sealed(value))):
        return  # white space alone
    assert holds(changed) is not True


def test_without_a_seal_nothing_is_known() -> None:
    assert holds({"a": 1}) is None
    assert list(sealed({SEAL: "old", "a": 1})) == ["a", SEAL]
