"""YAML 1.2's core schema, by which 1e-3 is a number and `yes` is text; PyYAML alone reads YAML 1.1."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dsnet_med.errors import InputError, first_of, one_line

_SCHEMA = {  # https://yaml.org/spec/1.2.2/#103-core-schema, with Python's None, which people type beside True
    "null": (r"~|null|Null|NULL|None|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 -- PyYAML's

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise yaml.constructor.ConstructorError(
                problem=f"two values for {first_of(sorted(twice))}", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 takes for something else."""


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"\.(?=[ain])", "", str(loader.construct_scalar(node)).lower()))


for _kind, (_pattern, _first) in _SCHEMA.items():
    for _reader in (_Loader, _Dumper):
        _reader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def parse_yaml(text: str) -> Any:
    """The one value that `text` holds. Raises ValueError, of one line, where it is none."""
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"line {mark.line + 1 if mark else 1}: {one_line(str(error.problem))}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(one_line(error)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The ids and values of a configuration, YAML or JSON. Raises InputError for any other file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text) if path.suffix == ".json" else parse_yaml(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise InputError(f"{path} cannot be read as a configuration: {reason}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path} holds no settings: wanted lines of id: value")
    return values


def yaml_text(values: Mapping[str, Any]) -> str:
    """`values` as YAML that reads the same by 1.1, as MONAI does, and by 1.2."""
    text: str = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    return text
