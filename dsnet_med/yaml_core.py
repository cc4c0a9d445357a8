"""YAML 1.2's core schema, by which 1e-3 is a number and `yes` is text; PyYAML alone reads YAML 1.1.

What strangers write stays small: aliases stand for at most 100,000 values, however few bytes they take.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dsnet_med.errors import InputError, cannot_read, one_line
from dsnet_med.files import parse_json, read_bytes

_LARGEST, _MOST_VALUES, _LONGEST_NUMBER = 1 << 20, 100_000, 400
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_SCHEMA = {  # https://yaml.org/spec/1.2.2/#103-core-schema, with the None that people type beside True
    "null": ("~|null|Null|NULL|None|", ["~", "n", "N", ""]),
    "bool": ("true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": ("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (_FLOAT, list("-+.0123456789")),
    "merge": ("<<", ["<"]),
}


class _OldLoader(yaml.SafeLoader):
    """YAML 1.1, within bounds: a key stands once, and no number has more digits than any can mean."""

    composed = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.composed += 1
        if self.composed > _MOST_VALUES:  # before the rest is read, at 15,000 values a second
            raise ValueError(f"more than {_MOST_VALUES} values")
        return super().compose_node(parent, index)

    def construct_document(self, node: yaml.Node) -> Any:
        _count(node, {})
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [name for name, times in names.items() if times > 1 and name != "<<"]:
            raise yaml.MarkedYAMLError(problem=f"two values for {twice[0]}", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        number = isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float"))
        if number and len(node.value) > _LONGEST_NUMBER:
            raise yaml.MarkedYAMLError(
                problem=f"a number of {len(node.value)} digits", problem_mark=node.start_mark
            )
        return super().construct_object(node, deep)


class _Loader(_OldLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 -- PyYAML's own, filled below


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


def _count(node: yaml.Node, counted: dict[int, int]) -> int:
    """How many values a node and its parts are once every alias is replaced by what it stands for."""
    if id(node) in counted:
        return counted[id(node)]
    counted[id(node)] = _MOST_VALUES + 1  # of one that holds itself
    parts = node.value if isinstance(node, yaml.CollectionNode) else ()
    flat = (each for part in parts for each in (part if isinstance(part, tuple) else (part,)))
    total = counted[id(node)] = 1 + sum(_count(each, counted) for each in flat)
    if total > _MOST_VALUES:
        raise yaml.MarkedYAMLError(
            problem=f"more than {_MOST_VALUES} values, or one that holds itself", problem_mark=node.start_mark
        )
    return total


def parse_yaml(text: str, *, old: bool = False) -> Any:
    """The one value that `text` holds, by YAML 1.2, or 1.1 (`old`), as MONAI reads it.

    Raises ValueError, of one line, where it is none, and where it is nested too deeply or holds too much.
    """
    if len(text) > _LARGEST:
        raise ValueError(f"more than {_LARGEST >> 20} MB of YAML")
    try:
        return (_OldLoader if old else _Loader)(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"line {line}: {one_line(str(error.problem))}") from error
    except RecursionError:
        raise ValueError("nested too deeply") from None  # thousands of frames are no help
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(one_line(error)) from error
    except Exception as error:  # of constructors, which get whatever text stands behind a tag
        raise ValueError(f"a value that does not fit its tag ({one_line(error)})") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The ids and values of a configuration, YAML or JSON. Raises InputError for any other file."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
        values = parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except (OSError, ValueError) as error:
        raise cannot_read(path, error, f"cannot be read as a configuration: {one_line(error)}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path} holds no settings: wanted lines of id: value")
    return values


def yaml_text(values: Mapping[str, Any]) -> str:
    """`values` as YAML that reads the same by 1.1, as MONAI does, and by 1.2."""
    return str(yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True))
