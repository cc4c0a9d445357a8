"""YAML 1.2's core schema, by which 1e-3 is a number and `yes` is text; PyYAML alone reads YAML 1.1."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dsnet_med.errors import InputError, one_line

_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_SCHEMA = {  # https://yaml.org/spec/1.2.2/#103-core-schema, with the None that people type beside True
    "null": ("~|null|Null|NULL|None|", ["~", "n", "N", ""]),
    "bool": ("true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": ("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (_FLOAT, list("-+.0123456789")),
    "merge": ("<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 -- PyYAML's own, filled below

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.MarkedYAMLError(problem=f"two values for {twice[0]}", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 takes for something else."""


for _kind, (_pattern, _first) in _SCHEMA.items():
    for _reader in (_Loader, _Dumper):
        _reader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), _first)
_Loader.add_constructor(
    "tag:yaml.org,2002:int", lambda _, node: int(node.value, {"0o": 8, "0x": 16}.get(node.value[:2], 10))
)
_Loader.add_constructor(
    "tag:yaml.org,2002:float", lambda _, node: float(re.sub(r"\.(?=[ain])", "", node.value.lower()))
)


def parse_yaml(text: str) -> Any:
    """The one value that `text` holds. Raises ValueError, of one line, where it is none."""
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"line {line}: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(one_line(error)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The ids and values of a configuration, YAML or JSON. Raises InputError for any other file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text) if path.suffix == ".json" else parse_yaml(text)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a configuration: {one_line(error)}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path} holds no settings: wanted lines of id: value")
    return values


def yaml_text(values: Mapping[str, Any]) -> str:
    """`values` as YAML that reads the same by 1.1, as MONAI does, and by 1.2."""
    return str(yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True))
