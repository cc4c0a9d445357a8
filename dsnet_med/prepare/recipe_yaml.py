"""YAML as people mean it: no `yes` that is true, no 010 that is eight, no key twice, and mistakes by line.

YAML 1.1, which PyYAML follows, has these traps; YAML 1.2 has done away with most of them. Here true and false
are the only truth values, numbers are decimal without leading zeros, and everything else is text.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from dsnet_med.errors import InputError, one_line
from dsnet_med.files import read_text

_SCALARS = {
    "bool": (r"true|false|True|False|TRUE|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?",
        "-+.0123456789",
    ),
    "null": (r"null|~|", ["n", "~", ""]),
    "merge": (r"<<", "<"),
}
_BARE_TEMPLATE = re.compile(r"^\s*[\w.]+\s*:\s+(?P<value>[{\[*&%@`!|>][^#\n]*?)\s*(?:#.*)?$")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's scalars, and each key once."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 -- PyYAML's own attribute

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = None if key_node.tag.endswith(":merge") else self.construct_object(key_node, deep=True)
            if key is not None and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice; keep one", key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep)


for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def read_yaml(path: Path) -> Any:
    """What a YAML file says. Raises InputError, with the line and what to do, for one that cannot be read."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({one_line(error)}); save it as UTF-8") from error
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({_explained(text, error)})") from error


def _explained(text: str, error: Exception) -> str:
    """The line that is wrong and, where it is a known trap, how to write it."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return one_line(error)
    lines = text.splitlines()
    problem = one_line(getattr(error, "problem", None) or error)
    # The parser may notice a value without quotes only on the next line.
    for number in (mark.line, mark.line - 1):
        line = lines[number] if 0 <= number < len(lines) else ""
        bare = _BARE_TEMPLATE.match(line)
        if bare and not _is_whole(bare["value"]):
            return f'line {number + 1}: {bare["value"]} needs quotes: "{bare["value"]}"'
    line = lines[mark.line] if mark.line < len(lines) else ""
    where = f"line {mark.line + 1}"
    if "'\\t'" in problem:
        return f"{where}: holds a tab, where YAML takes blanks only"
    if "mapping values are not allowed" in problem:
        return f"{where}: a value that holds ': ' needs quotes: {one_line(line)}"
    return f"{where}: {problem}: {one_line(line)}" if line.strip() else f"{where}: {problem}"


def _is_whole(value: str) -> bool:
    """Whether a value that begins with a sign of YAML's means itself: complete, or a list of several lines."""
    if value.count("[") + value.count("{") > value.count("]") + value.count("}"):
        return True
    try:
        yaml.safe_load(value)
    except yaml.YAMLError:
        return False
    return not value.startswith(("%", "@", "`"))
