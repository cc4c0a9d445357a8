"""`bundle run ...` as MONAI has it, with the defaults and the checks that MONAI leaves out."""

import runpy
import sys
from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError, unknown

_WORKFLOWS = ("train", "inference", "evaluate")
_RUN_OPTIONS = (
    "run_id",
    "init_id",
    "final_id",
    "meta_file",
    "config_file",
    "logging_file",
    "tracking",
    "args_file",
)


def monai_command(arguments: list[str]) -> None:
    """`monai bundle ...`: the same as `python -m monai.bundle ...`, see `bundle_command`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write("usage: monai bundle COMMAND ..., for example: monai bundle run training\n")
        return
    if arguments[0] != "bundle":
        raise unknown("command", arguments[0], ["bundle"])
    bundle_command(arguments[1:])


def bundle_command(arguments: list[str]) -> None:
    """Hand `arguments` to `monai.bundle`.

    For `run`, the configuration defaults to what ./configs has for the run id; a run id or an override that
    does not exist is an InputError, which MONAI itself would accept in silence; and values are not rewritten.
    """
    if arguments[:1] == ["run"] and not {"-h", "--help"} & set(arguments):
        arguments = ["run", *_checked(arguments[1:])]
    sys.argv = ["monai.bundle", *arguments]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def _checked(arguments: list[str]) -> list[str]:
    from dsnet_med.engine.compose import load, override

    positional, options = _parsed(arguments)
    run_id = options.get("run_id", positional[0] if positional else "run")
    if "args_file" in options:
        return arguments
    if "config_file" not in options:
        arguments = [*arguments, "--config_file", str([str(file) for file in _configuration(run_id)])]
        _, options = _parsed(arguments)
    config = load(*_files(options["config_file"]))
    runs = [name for name, value in config.items() if _is_run(name, value)]
    if run_id not in runs:
        raise unknown("run id", run_id, runs)
    for name in options:
        if name not in _RUN_OPTIONS:
            override(config, name, None)
    return _as_typed(arguments)


def _as_typed(arguments: list[str]) -> list[str]:
    """`arguments` whose values reach MONAI as they were typed, names with a # in them too."""
    from fire.parser import DefaultParseValue

    from dsnet_med.engine.compose import as_written

    positional, options = _parsed(arguments)
    for name, text in options.items():
        if not set(text) & set("#@%$"):
            continue
        value = DefaultParseValue(text) if text[0] in "[{('\"" else text
        options[name] = repr(value if name in _RUN_OPTIONS else as_written({name: value})[name])
    return [*positional, *(f"--{name}={value}" for name, value in options.items())]


def _parsed(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    positional: list[str] = []
    options: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--"):
            positional.append(argument)
            continue
        name, separator, value = argument[2:].partition("=")
        options[name] = value if separator else next(rest, "")
    return positional, options


def _configuration(run_id: str) -> list[Path]:
    """The file in ./configs that has the run id; before evaluate.yaml, an overlay, also train.yaml."""
    found = [
        path
        for stem in _WORKFLOWS
        for path in sorted(Path("configs").glob(f"{stem}.*"))
        if path.suffix in (".yaml", ".json")
    ]
    if not found:
        raise InputError("no configs/train.yaml here; change to a bundle folder or give --config_file")
    from dsnet_med.engine.compose import load

    file = next((path for path in found if run_id in load(path)), found[0])
    under = [path for path in found if path.stem == "train"] if file.stem == "evaluate" else []
    return [*under, file]


def _files(text: str) -> list[Path]:
    import yaml

    names: Any = yaml.safe_load(text) if text.startswith("[") else [text]
    files = [Path(name) for name in names]
    for file in files:
        if not file.is_file():
            raise InputError(f"no configuration file {file}")
    return files


def _is_run(name: str, value: Any) -> bool:
    return name not in ("imports", "initialize", "finalize") and (
        (isinstance(value, list) and any(str(item).startswith("$@") for item in value)) or str(value) == "%run"
    )
