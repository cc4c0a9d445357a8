"""A plug-in by its name: one of ours, or a class in a stranger's file, which is code that this runs.

One of ours may have arguments: `SE(ratio=8)`.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from dsnet_med.errors import InputError, one_line, unknown
from dsnet_med.networks import plugins


def load_plugin(name: str) -> Callable[[int], nn.Module]:
    """The plug-in called `name`: "SE" is one of ours, "mine.py:Mine" what a Python file calls Mine.

    "SE(ratio=8)" is SE with an argument. A file is executed, once for each content; it may import what is
    installed, and no file beside it. Raises InputError for a name, a file or a class that does not exist, for a
    file that cannot be executed, and for arguments that the plug-in does not take.
    """
    if is_file(name):
        return _from_file(*_parts(name))
    base, arguments = with_arguments(name)
    plugin: Callable[[int], nn.Module] = getattr(plugins, base)
    return partial(plugin, **arguments) if arguments else plugin


def with_arguments(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the arguments in "SE(ratio=8)", one of our plug-ins.

    Raises InputError for a plug-in or an argument that does not exist, and for a value that is none.
    """
    base, bracket, inside = text.partition("(")
    if base not in plugins.__all__:
        raise unknown("plug-in", base, [*plugins.__all__, "FILE.py:CLASS"])
    if not bracket:
        return base, {}
    example = f"wanted {base}, or with arguments such as {_example(base)}"
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not inside.endswith(")"):
            raise InputError(f"got the plug-in '{text}', {example}")
        arguments = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"got the plug-in '{text}', whose arguments are no values: {example}") from error
    for name in arguments:
        if name not in (taken := _defaults(base)):
            raise unknown(f"argument of {base}", name, taken)
    return base, arguments


def plugin_text(name: str) -> str:
    """A plug-in as it is always written, without arguments that are the defaults. Raises as `load_plugin`."""
    load_plugin(name)
    return name if is_file(name) else text_of(*with_arguments(name))


def text_of(name: str, arguments: Mapping[str, Any]) -> str:
    """What `with_arguments` reads as one of our plug-ins with `arguments`."""
    defaults = _defaults(name)
    told = [
        f"{key}={value!r}".replace(" ", "") for key, value in arguments.items() if defaults.get(key) != value
    ]
    return f"{name}({','.join(told)})" if told else name


def _defaults(name: str) -> dict[str, Any]:
    """The arguments that one of our plug-ins takes beside the channels, with their defaults."""
    taken = inspect.signature(getattr(plugins, name)).parameters.values()
    return {each.name: each.default for each in taken if each.name != "channels"}


def _example(name: str) -> str:
    told = next((f"{key}={value!r}" for key, value in _defaults(name).items() if isinstance(value, int)), "")
    return f"{name}({told})" if told else "SE(ratio=8)"


def is_file(name: str) -> bool:
    """Whether `name` stands for a class in a file, rather than one of our plug-ins."""
    return ":" in name or "/" in name or name.endswith(".py")


def file_of(name: str) -> Path:
    """The file of "mine.py:Mine"; InputError where there is none, or the class is left out."""
    return _parts(name)[0]


def _parts(name: str) -> tuple[Path, str]:
    path, _, cls = name.rpartition(":")
    file = Path(path or name)
    if not file.is_file():
        raise InputError(
            f"no plug-in file at {file}: give the path of a Python file and a class, file.py:Class"
        )
    if not path or not cls:
        example = next(iter(_classes(file)), "Class")
        raise InputError(f"got '{name}', wanted a file and a class in it, for example {file}:{example}")
    return file, cls


def _from_file(file: Path, cls: str) -> Callable[[int], nn.Module]:
    module = _executed(file)
    plugin = getattr(module, cls, None)
    if plugin is None:
        raise unknown(f"class in {file}", cls, _classes(file))
    if not callable(plugin):
        raise InputError(
            f"'{cls}' in {file} is a {type(plugin).__name__}: a plug-in is a class, called with the channels"
        )
    found: Callable[[int], nn.Module] = plugin
    return found


def _executed(file: Path) -> ModuleType:
    content = file.read_bytes()
    name = f"{file.stem}_{sha256(content).hexdigest()[:12]}"  # the same content is the same class
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is no Python file: its name must end in .py")
    module = module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickles look for it
    try:
        code = SourceFileLoader(name, str(file)).source_to_code(content, str(file))
        exec(code, module.__dict__)  # noqa: S102 -- what was read, and not the bytecode that may lie beside it
    except (Exception, SystemExit) as error:  # whatever a stranger's file raises
        del sys.modules[name]
        raise InputError(f"{file} cannot be executed: {_reason(error)}") from error
    return module


def _classes(file: Path) -> list[str]:
    """The classes that a file defines, without running it; none where it cannot be read as Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def _reason(error: BaseException) -> str:
    where = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {where}{one_line(message)}"
