"""Settings that people write, as `id=value` or in a file, laid over a configuration: none is dropped."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

from dsnet_med import resources
from dsnet_med.errors import InputError, unknown
from dsnet_med.networks.definition import literal, locate
from dsnet_med.yaml_core import parse_yaml, read_yaml

MEANINGS = ("$", "@", "%")  # of the first sign of a value
_PATHS = ("bundle_root", "checkpoint", "dataset_dir", "model_dir", "output_dir", "pretrained")
_COUNTS = {  # whole numbers, and the least of each
    **dict.fromkeys(
        ("iterations", "epochs", "validate_every", "checkpoint_every", "batch_size", "accumulate"), 1
    ),
    **dict.fromkeys(("workers", "seed"), 0),
}
_STAGES = ("imports", "initialize", "finalize")
_NOTES = ("method_card", "_meta_", *_STAGES)  # what the configuration itself does not refer to


def load(*files: Path) -> dict[str, Any]:
    """MONAI's merge of configuration files, in which later ones win; see `load_over`."""
    return load_over({}, *files)


def load_over(config: Mapping[str, Any], *files: Path) -> dict[str, Any]:
    """`config` with files laid over it: MONAI's merge, and `without` in a file drops ids of those before.

    A file that is not the package's own is laid over others with the checks of `lay_over`.
    """
    merged = deepcopy(dict(config))
    for file in files:
        values = read_yaml(file)
        without = values.pop("without", [])
        values.pop("laid_over", None)
        if not merged or resources.configs() in file.resolve().parents:
            list(_set_all(merged, values, checked=False))
        else:
            try:
                lay_over(merged, values)
            except InputError as error:
                raise InputError(f"{file}: {error}") from error
        for name in without:
            *parents, last = _keys(name)
            del _node(merged, parents)[last]
    return merged


def override(config: dict[str, Any], name: str, value: Any) -> None:
    """`lay_over` with one setting."""
    lay_over(config, {name: value})


def lay_over(config: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Set `iterations`, `optimizer#lr`, `train#handlers#0#print_lr` or the like in `config`.

    What is there can be set, what a `_target_` takes, and what the result refers to: as `@name`, or by a name
    that it is a part of. `+optimizer` adds to the mapping or list of that name, as MONAI's merge does;
    `handlers#+mine` is a new entry, in a list the last.

    Raises InputError for an unknown id or reference, a value of the wrong kind, and a count that is none.
    """
    missing = {name for name in references(config) if not _exists(config, name)}
    new = list(_set_all(config, settings, checked=True))
    read = references(config)
    users = (*read, *_NOTES, *run_ids(config))
    for name, added in new:
        if not any(_within(user, name) or (added and _within(name, user)) for user in users):
            *parents, last = _keys(name)
            node = _node(config, parents)
            del node[last]
            raise _unknown(node, last, parents)
    for name in sorted(read - missing):
        if not _exists(config, name):
            raise unknown("reference", f"@{name}", (f"@{each}" for each in {*config, *read} - {name}))
    _require_counts(config)


def references(config: Mapping[str, Any]) -> set[str]:
    """The ids that the values of a configuration refer to, as train#trainer."""
    found: set[str] = set()

    def collect(node: Any, path: str) -> None:
        if isinstance(node, dict | list):
            for _, name, value in ReferenceResolver.iter_subconfigs(path, node):
                collect(value, name)
        elif isinstance(node, str):
            text = ConfigParser.resolve_relative_ids(path, node)
            found.update(ReferenceResolver.match_refs_pattern(text))
            if text.startswith("%") and not ConfigParser.split_path_id(text[1:])[0]:
                found.add(text[1:])

    collect(dict(config), "")
    return {"#".join(_keys(name)) for name in found if not name.startswith("_meta_")}


def run_ids(config: Mapping[str, Any]) -> list[str]:
    """The ids that can be run: lists of expressions to which no value refers, and other names of such."""
    lists = {
        name: name
        for name, value in config.items()
        if isinstance(value, list) and value and all(str(item).startswith("$") for item in value)
    }
    aliases = {name: str(value)[1:] for name, value in config.items() if str(value)[1:] in lists}
    runs = {**lists, **aliases}
    read = references({name: value for name, value in config.items() if name not in runs})
    return [name for name, listed in runs.items() if listed not in (*_STAGES, *read)]


def _set_all(
    config: Any, settings: Mapping[str, Any], checked: bool, within: str = ""
) -> Iterator[tuple[str, bool]]:
    """Set all of `settings`; gives the ids that are new, and whether a + says so."""
    for name, value in settings.items():
        *parents, last = _keys(within + name.removeprefix("+"))
        new, last = last.startswith("+"), last.removeprefix("+")
        node, path = _node(config, parents, create=True), "#".join([*parents, last])
        if new and isinstance(node, list):
            node.append(value)
        elif new and last in node:
            raise InputError(f"got {name}, which is there already: leave out the + to change it")
        elif last not in _names(node):
            if not _takes(node, last):
                raise _unknown(node, last, parents)
            if not _in_component(config, parents):
                yield path, new or bool(within) or name.startswith("+")
            node[last] = value
        elif name.startswith("+"):
            yield from _add(config, path, node[_index(node, last)], value, checked)
        else:
            index = _index(node, last)
            node[index] = _fitting(path, node[index], value) if checked else value


def _add(config: Any, path: str, old: Any, value: Any, checked: bool) -> Iterator[tuple[str, bool]]:
    if isinstance(old, list) and isinstance(value, list):
        old.extend(value)
    elif isinstance(old, dict) and isinstance(value, Mapping):
        yield from _set_all(config, value, checked, f"{path}#")
    else:
        raise InputError(f"got +{path}={value}: a + adds a mapping to a mapping, or a list to a list")


def _in_component(config: Any, keys: Sequence[str]) -> bool:
    return any("_target_" in _node(config, keys[:depth]) for depth in range(1, len(keys) + 1))


def _keys(name: str) -> list[str]:
    return name.replace("::", "#").split("#")


def _within(name: str, other: str) -> bool:
    return f"{name}#".startswith(f"{other}#")


def _names(node: Any) -> list[str]:
    return [str(i) for i in range(len(node))] if isinstance(node, list) else list(node)


def _index(node: Any, key: str) -> Any:
    return int(key) if isinstance(node, list) else key


def _node(config: Any, keys: Sequence[str], create: bool = False) -> Any:
    """The mapping or list at a place, made where a function takes parts of any name. Raises InputError."""
    node = config
    for depth, key in enumerate(keys):
        if key not in _names(node):
            named, any_name = _arguments(node)
            if key not in named and not (create and any_name and "_target_" in node):
                raise _unknown(node, key, keys[:depth])
            node[key] = None if key in named else {}
        node = node[_index(node, key)]
        if not isinstance(node, dict | list):
            raise InputError(f"'{'#'.join(keys[: depth + 1])}' is a single value, which has no parts")
    return node


def _exists(config: Any, name: str) -> bool:
    node = config
    for key in _keys(name):
        if not isinstance(node, dict | list) or key not in _names(node):
            return False
        node = node[_index(node, key)]
    return True


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


def _fitting(name: str, old: Any, new: Any) -> Any:
    """`new` where it may stand in the place of `old`. Raises InputError for a value of another kind."""
    is_text = isinstance(new, str) and (new[:1] not in MEANINGS or new[:2] in ("$'", '$"'))
    if new is None or name.endswith("pretrained") or (isinstance(new, str) and not is_text):
        return new
    is_bool = isinstance(new, bool)
    match old:
        case bool() if not is_bool:
            wanted = "true or false"
        case int() | float() if is_text or (is_bool and not isinstance(old, bool)):
            wanted = "a number"
        case int() if isinstance(new, float) and new.is_integer():
            return int(new)
        case str() if "#" not in name and old[:1] not in MEANINGS and not isinstance(new, str):
            wanted = "text"
        case {"_target_": _} if not (isinstance(new, Mapping) and "_target_" in new):
            wanted = f"a mapping with a _target_; {name}#... or +{name} changes parts of it"
        case dict() if not isinstance(new, Mapping):
            wanted = "a mapping"
        case _:
            return new
    raise InputError(f"got {name}={new}, wanted {wanted}")


def _require_counts(config: Mapping[str, Any]) -> None:
    for name, least in _COUNTS.items():
        value = config.get(name, least)
        if value is None or (isinstance(value, str) and value[:1] in MEANINGS):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"got {name}={value}, wanted a whole number, at least {least}")


def from_anywhere(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the whole path of a file of pretrained weights, so that a run can go on in any folder."""
    file = settings.get("pretrained")
    whole = {"pretrained": str(Path(file).resolve())} if isinstance(file, str) and Path(file).is_file() else {}
    return {**settings, **whole}


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
    if not isinstance(value, str) or (value[:1] in MEANINGS and not _names_a_file(value, name)):
        return value
    return literal(value)


def _names_a_file(value: str, name: str) -> bool:
    return name in _PATHS and Path(value).exists()


def parse_settings(assignments: Sequence[str]) -> dict[str, Any]:
    """`id=value` texts as a dictionary; values are YAML 1.2 (1e-3, true, [64, 64]). Raises InputError."""
    settings = {}
    for text in assignments:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise InputError(f"got '{text}', wanted id=value, for example optimizer#lr=0.05")
        settings[name.strip()] = parse_value(name.strip(), value.strip())
    return settings


def parse_value(name: str, text: str) -> Any:
    """What `text` says as the value of the setting `name`. Raises InputError where it is not YAML.

    Text that YAML would not take whole is one all the same: MONAI's references and expressions, a path that
    looks like a number, what has a # in it.
    """
    if text.startswith(MEANINGS) or (text[:1] not in ("'", '"', "[", "{") and "#" in text):
        return text
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise InputError(f"'{name}={text}': the value is not valid YAML ({error})") from error
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return text if number and name in _PATHS else value
