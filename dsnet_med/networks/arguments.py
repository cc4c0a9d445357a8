"""The arguments of plug-ins, checked: one line that says what was got and wanted, before anything is built."""

import math
from collections.abc import Collection, Iterable
from numbers import Integral, Real
from typing import Any

from dsnet_med.errors import InputError, shown, unknown


def whole_numbers(owner: str, *, at_least: int = 1, at_most: int = 2**31 - 1, **values: Any) -> None:
    """Raise InputError for one of `values` that is no int from `at_least` to `at_most`."""
    for name, value in values.items():
        if not _is_whole(value) or not at_least <= value <= at_most:
            top = f" and at most {at_most}" if _is_whole(value) and value > at_most else ""
            raise _wrong(owner, name, value, f"a whole number, at least {at_least}{top}")


def blocks(owner: str, layers: Any, stages: int = 4) -> tuple[int, ...]:
    """`layers`; InputError unless it is a number of blocks, at least 1, for each of the stages."""
    if (
        not isinstance(layers, Collection)
        or len(layers) != stages
        or not all(map(_is_whole, layers))
        or min(layers) < 1
    ):
        raise _wrong(owner, "layers", layers, f"the blocks of {stages} stages, such as {[2] * stages}")
    return tuple(layers)


def odd_numbers(owner: str, **values: Any) -> None:
    """Raise InputError for one of `values` that is no odd int from 1 on."""
    for name, value in values.items():
        if not _is_whole(value) or value < 1 or value % 2 == 0:
            raise _wrong(owner, name, value, "an odd number, such as 3 or 7")


def shares(owner: str, *, at_most: float = 1, **values: Any) -> None:
    """Raise InputError for one of `values` that is no number above 0 and up to `at_most`."""
    for name, value in values.items():
        number = float(value) if isinstance(value, Real) else math.nan
        if value is True or not 0 < number <= at_most:
            raise _wrong(owner, name, value, f"a number above 0 and at most {at_most}, such as 0.25")


def flags(owner: str, **values: Any) -> None:
    """Raise InputError for one of `values` that is neither True nor False."""
    for name, value in values.items():
        if type(value) is not bool:
            raise _wrong(owner, name, value, "True or False")


def callables(owner: str, **values: Any) -> None:
    """Raise InputError for one of `values` that cannot be called with a number of channels."""
    for name, value in values.items():
        if not callable(value):
            raise _wrong(owner, name, value, "a class or function that is called with the channels")


def one_of(kind: str, value: Any, known: Iterable[str]) -> str:
    """`value`; InputError where it is no name of `known`."""
    if not isinstance(value, str) or value not in (options := list(known)):
        raise unknown(kind, value if isinstance(value, str) else repr(value), list(known))
    return options[options.index(value)]


def names_of(owner: str, name: str, value: Any, known: Collection[str]) -> tuple[str, ...]:
    """`value`; InputError unless it is several of the `known` names, or one."""
    if isinstance(value, str) or not isinstance(value, Collection) or not value:
        raise _wrong(owner, name, value, f'names, such as ("{next(iter(known))}",)')
    return tuple(one_of(f"{name} of {owner}", each, known) for each in value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _wrong(owner: str, name: str, value: Any, wanted: str) -> InputError:
    return InputError(f"{owner} got {name}={shown(value)} and wants {wanted}")
