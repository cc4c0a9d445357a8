"""Build a network from its `network_def`, in the part of MONAI's config language that method rows use.

`_target_` names what to call, `_mode_: callable` hands it over with its arguments bound instead of calling
it, and a string "@name" stands for a value. MONAI's parser reads the same rows in the bundle; this one needs
no MONAI, whose import takes longer than all the rest.
"""

import re
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from dsnet_med.errors import unknown

_SIGNS = "#@%$"


def build(definition: Any, values: Mapping[str, Any]) -> Any:
    """The object that `definition` describes; raises InputError for a reference that is not in `values`."""
    if isinstance(definition, str) and definition.startswith("@"):
        return _value(definition[1:], values)
    if isinstance(definition, list):
        return [build(item, values) for item in definition]
    if not isinstance(definition, dict):
        return definition
    built = {key: build(item, values) for key, item in definition.items() if key not in ("_target_", "_mode_")}
    if "_target_" not in definition:
        return built
    target = locate(definition["_target_"])
    return partial(target, **built) if definition.get("_mode_") == "callable" else target(**built)


def _value(name: str, values: Mapping[str, Any]) -> Any:
    if name not in values:
        raise unknown("reference in a network_def", f"@{name}", (f"@{known}" for known in values))
    return values[name]


def locate(target: str) -> Any:
    """What "package.module.name" names; raises ImportError, AttributeError or ValueError where there is none.

    `pydoc.locate` and `pkgutil.resolve_name` are not used: where a package has a function and a module of one
    name, which of the two they give depends on Python's version.
    """
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def literal(text: str) -> str:
    """What MONAI's configuration language reads as `text`: an expression where it would find a meaning in it.

    "#" separates the parts of an id there, wherever it stands; "@" refers, "%" includes, "$" evaluates.
    """
    if not any(sign in text for sign in _SIGNS):
        return text
    return "$" + re.sub(f"[{_SIGNS}]", lambda sign: f"\\x{ord(sign[0]):02x}", repr(text))
