"""Settings that people write, as `id=value` or in a file, laid over a configuration: none is dropped."""

import ast
import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver
from monai.bundle.utils import merge_kv

from dsnet_med import resources
from dsnet_med.engine.settings import check_settings
from dsnet_med.errors import InputError, unknown
from dsnet_med.find import require_file
from dsnet_med.networks.definition import literal, locate
from dsnet_med.yaml_core import parse_yaml, read_yaml

MEANINGS = ("$", "@", "%")  # of the first sign of a value
_PATHS = ("bundle_root", "checkpoint", "dataset_dir", "model_dir", "output_dir", "pretrained")
_STAGES = ("imports", "initialize", "finalize")
_UNREFERRED = ("method_card", "_meta_", *_STAGES)  # read by others than the configuration


def layers(file: Path) -> list[Path]:
    """A configuration file, after those of the package that it says it is `laid_over`."""
    require_file(file)
    under = [resources.configs() / str(name) for name in read_yaml(file).get("laid_over", [])]
    for each in under:
        require_file(each)
    return [*under, file]


def load(*files: Path) -> dict[str, Any]:
    """MONAI's merge of configuration files and what they are `laid_over`: later ones win; see `load_over`."""
    return load_over({}, *(layer for file in files for layer in layers(file)))


def load_over(config: Mapping[str, Any], *files: Path) -> dict[str, Any]:
    """`config` with files laid over it: MONAI's merge, and `without` in a file drops ids of those before.

    A file that is not the package's own is laid over others with the checks of `lay_over`.
    """
    merged = deepcopy(dict(config))
    for file in files:
        values = read_yaml(file)
        without = values.pop("without", [])
        values.pop("laid_over", None)
        parser = ConfigParser(merged)
        if merged and resources.configs() not in file.resolve().parents:
            try:
                lay_over(merged, values)
            except InputError as error:
                raise InputError(f"{file}: {error}") from error
        else:
            for name, value in values.items():
                merge_kv(parser, name, value)
        for name in without:
            parent, _, last = name.rpartition("#")
            del parser[parent][last]
    return merged


def override(config: dict[str, Any], name: str, value: Any) -> None:
    """`lay_over` with one setting."""
    lay_over(config, {name: value})


def lay_over(config: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Set `iterations`, `optimizer#lr`, `train#handlers#0#print_lr` or the like in `config`.

    What is there can be set, what a `_target_` takes, and what the result refers to. `+optimizer` adds to the
    mapping or list of that name, as MONAI's merge does; `handlers#+mine` is a new entry, in a list the last.

    Raises InputError for an unknown id or reference, a value of the wrong kind, and one that cannot be.
    """
    missing, new = _missing(config), dict[str, tuple[bool, InputError]]()
    for name, value in settings.items():
        new |= _lay(ConfigParser(config), name, value)
    users = (*references(config), *run_ids(config), *_UNREFERRED)
    for name, (added, error) in new.items():
        if not any(_within(user, name) or (added and _within(name, user)) for user in users):
            raise error
    for name in sorted(_missing(config) - missing):
        raise unknown("reference", f"@{name}", (f"@{each}" for each in {*config, *references(config)} - {name}))
    check_settings(config)


def references(config: Mapping[str, Any]) -> list[str]:
    """The ids that the values of a configuration refer to, as train#trainer, in order."""
    found: dict[str, None] = {}

    def collect(node: Any, path: str) -> None:
        if isinstance(node, dict | list):
            for _, name, value in ReferenceResolver.iter_subconfigs(path, node):
                collect(value, name)
        elif isinstance(node, str):
            text = ConfigParser.resolve_relative_ids(path, node)
            file, name = ConfigParser.split_path_id(text[1:]) if text.startswith("%") else ("", "")
            names = [*ReferenceResolver.match_refs_pattern(text), *([name] if name and not file else [])]
            found.update(
                dict.fromkeys("#".join(_keys(each)) for each in names if not each.startswith("_meta_"))
            )

    collect(dict(config), "")
    return list(found)


def run_ids(config: Mapping[str, Any]) -> list[str]:
    """The ids that can be run: lists of expressions to which no value refers, and other names of such."""
    lists = {
        name: name
        for name, value in config.items()
        if isinstance(value, list) and value and all(str(item).startswith("$") for item in value)
    }
    runs = lists | {
        name: str(value)[1:]
        for name, value in config.items()
        if str(value).startswith("%") and str(value)[1:] in lists
    }
    read = references({name: value for name, value in config.items() if name not in runs})
    return [name for name, listed in runs.items() if listed not in (*_STAGES, *read)]


def _lay(parser: ConfigParser, name: str, value: Any) -> dict[str, tuple[bool, InputError]]:
    """Set one value; the ids that are new by it, whether a + says so, and the error if nothing reads them."""
    *parents, last = _keys(name.removeprefix("+"))
    node = _along(parser.config, parents)[-1]
    if last.startswith("+"):  # handlers#+mine is +handlers with a part of that name
        if last[1:] in node:
            raise InputError(f"got {name}, which is there already: leave out the + to change it")
        value = [value] if isinstance(node, list) else {last[1:]: value}
        name, last, node = f"+{'#'.join(parents)}", parents.pop(), _along(parser.config, parents)[-1]
    added, keys, parts = name.startswith("+"), parents, {last: value}
    if added and last in _names(node):
        keys, node, parts = [*parents, last], node[_index(node, last)], value
        if isinstance(node, list) and isinstance(parts, list):
            merge_kv(parser, f"+{'#'.join(keys)}", parts)
            return {}
        if not (isinstance(node, dict) and isinstance(parts, Mapping)):
            raise InputError(f"got {name}={value}: a + adds a mapping to a mapping, or a list to a list")
    new = {}
    for key, part in parts.items():
        path = "#".join([*keys, key])
        if key in _names(node):
            parser.set(_fitting(path, node[_index(node, key)], part), path)
            continue
        if not _takes(node, key):
            raise _unknown(node, key, keys)
        if not any("_target_" in each for each in _along(parser.config, keys)):
            new[path] = added, _unknown(node, key, keys)
        parser.set(part, path)
    return new


def _along(config: Any, keys: Sequence[str]) -> list[Any]:
    """The mappings and lists on the way to a place, that one last; a function takes parts by any name."""
    nodes = [config]
    for depth, key in enumerate(keys):
        node, child = nodes[-1], None
        if key in _names(node):
            child = node[_index(node, key)]
        elif not _takes(node, key) or "_target_" not in node:
            raise _unknown(node, key, keys[:depth])
        elif key not in _arguments(node)[0]:
            child = {}
        if not isinstance(child, dict | list):
            raise InputError(f"'{'#'.join(keys[: depth + 1])}' is a single value, which has no parts")
        nodes.append(child)
    return nodes


def _missing(config: Mapping[str, Any]) -> set[str]:
    """What is referred to, and is not there."""
    parser = ConfigParser(dict(config))
    return {name for name in references(config) if name not in parser}


def _keys(name: str) -> list[str]:
    return list(ReferenceResolver.split_id(name))


def _within(name: str, other: str) -> bool:
    return f"{name}#".startswith(f"{other}#")


def _names(node: Any) -> list[str]:
    return [str(i) for i in range(len(node))] if isinstance(node, list) else list(node)


def _index(node: Any, key: str) -> Any:
    return int(key) if isinstance(node, list) else key


def _takes(node: Any, key: str) -> bool:
    """Whether a mapping may have a new part of that name."""
    named, any_name = _arguments(node)
    return any_name or key in named or (isinstance(node, dict) and key.startswith("_"))


def _arguments(node: Any) -> tuple[list[str], bool]:
    """The parts that a mapping or its `_target_` takes, and whether others, too (yes, where none can tell)."""
    try:
        parameters = inspect.signature(locate(node["_target_"])).parameters.values()
    except (KeyError, ImportError, AttributeError, TypeError, ValueError):  # MONAI's short names; compiled ones
        return [], isinstance(node, dict)
    named = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return named, any(each.kind is each.VAR_KEYWORD for each in parameters)


def _unknown(node: Any, name: str, parents: Sequence[str]) -> InputError:
    where = f" of '{'#'.join(parents)}'" if parents else ""
    known = {*_names(node), *_arguments(node)[0]}
    return unknown(f"setting{where}", name, (each for each in known if each[0] != "_"))


def _means(value: Any) -> bool:
    """Whether MONAI finds an expression, a reference or a macro in it, other than a `literal`."""
    if not isinstance(value, str) or not value.startswith(MEANINGS):
        return False
    try:
        return not isinstance(ast.literal_eval(value[1:]), str)
    except (ValueError, SyntaxError):
        return True


def _fitting(name: str, old: Any, new: Any) -> Any:
    """`new` where it may stand in the place of `old`. Raises InputError for a value of another kind."""
    if new is None or _means(new) or name.endswith("pretrained"):
        return new
    number = isinstance(new, int | float) and not isinstance(new, bool)
    match old:
        case bool() if not isinstance(new, bool):
            wanted = "true or false"
        case int() if isinstance(new, float) and new.is_integer():
            return int(new)
        case int() | float() if not isinstance(old, bool) and not number and not isinstance(new, list | dict):
            wanted = "a number"
        case str() if "#" not in name and not old.startswith(MEANINGS) and not isinstance(new, str):
            wanted = "text"
        case {"_target_": _} if not (isinstance(new, Mapping) and "_target_" in new):
            wanted = f"a mapping with a _target_; {name}#... or +{name} changes parts of it"
        case dict() if not isinstance(new, Mapping):
            wanted = "a mapping"
        case _:
            return new
    raise InputError(f"got {name}={new}, wanted {wanted}")


def as_written(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` for MONAI, which is to read text as it was written.

    What is an expression, a reference or a macro stays one, unless it names a file or folder that is there.
    """
    return {name: _as_written(value, name) for name, value in from_anywhere(settings).items()}


def _as_written(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_written(part, str(key)) for key, part in value.items()}
    if isinstance(value, list):
        return [_as_written(part, name) for part in value]
    if not isinstance(value, str) or (value[:1] in MEANINGS and not (name in _PATHS and Path(value).exists())):
        return value
    return literal(value)


def from_anywhere(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the whole path of a file of pretrained weights, so that a run can go on in any folder."""
    file = settings.get("pretrained")
    whole = {"pretrained": str(Path(file).resolve())} if isinstance(file, str) and Path(file).is_file() else {}
    return {**settings, **whole}


def parse_settings(assignments: Sequence[str]) -> dict[str, Any]:
    """`id=value` texts as a dictionary; values are YAML 1.2 (1e-3, true, [64, 64]). Raises InputError."""
    settings = {}
    for text in assignments:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not name:
            raise InputError(f"got '{text}', wanted id=value, for example optimizer#lr=0.05")
        settings[name] = parse_value(name, value)
    return settings


def parse_value(name: str, text: str) -> Any:
    """What `text` says as the value of the setting `name`. Raises InputError where it is not YAML.

    A path that looks like a number is text, and so is what YAML would cut at a #, or MONAI has a meaning for.
    """
    if text.startswith(MEANINGS) or ("#" in text and not text.startswith(("'", '"', "[", "{"))):
        return text
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise InputError(f"'{name}={text}': the value is not valid YAML ({error})") from error
    return text if name in _PATHS and type(value) in (int, float) else value
