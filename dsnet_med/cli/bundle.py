"""`bundle run ...` as MONAI has it, with the defaults and the checks that MONAI leaves out."""

import os
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsnet_med import resources
from dsnet_med.errors import InputError, root_cause, unknown
from dsnet_med.resources import PACKAGE

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

_RUN_OPTIONS = (  # in the order in which MONAI takes them without a name
    "run_id",
    "init_id",
    "final_id",
    "meta_file",
    "config_file",
    "logging_file",
    "tracking",
    "args_file",
)


_EVALUATE = ("run", "run_workflow", "verify_net_in_out", "ckpt_export", "onnx_export", "trt_export")
_CONFIGURATIONS = (".json", ".yaml", ".yml", ".conf")
_ONCE = "Runs a bundle's code: of one that is not your own read configs and scripts, then say --trust.\n"


def usage(command: str) -> str:
    """What `COMMAND bundle --help` says."""
    return f"usage: {command} bundle COMMAND ... [--trust], for example: {command} bundle run training\n{_ONCE}"


def monai_command(arguments: list[str]) -> None:
    """`monai bundle ...`: the same as `python -m monai.bundle ...`, see `bundle_command`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage("monai"))
        return
    if arguments[0] != "bundle":
        raise unknown("command", arguments[0], ["bundle"])
    bundle_command(arguments[1:])


def bundle_command(arguments: list[str]) -> None:
    """Do what `python -m monai.bundle` does with `arguments`; `run` is `run_bundle`.

    A bundle that would run code, and is not the user's own, asks for `--trust`. Raises InputError.
    """
    if {"-h", "--help"} & set(arguments):
        arguments = [*(each for each in arguments[:1] if each[0] != "-"), "--help"]
    elif arguments[:1] == ["run"]:
        run_bundle(_options(arguments[1:]))
        return
    trust, arguments = "--trust" in arguments, [each for each in arguments if each != "--trust"]
    if not trust and arguments[:1] and arguments[0] in _EVALUATE and arguments[1:] != ["--help"]:
        named = [Path(each.rpartition("=")[2]) for each in arguments[1:]]
        files = [each for each in named if each.is_file() and each.suffix in _CONFIGURATIONS]
        _require_own(files or [Path("configs") / "inference.json"])
    sys.argv = ["monai.bundle", *arguments]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def run_bundle(options: dict[str, Any]) -> None:
    """Run a bundle's workflow with MONAI's `options` of `run`, and settings of the configuration among them.

    The configuration is what ./configs has for the run id, or for inference where none is given, and the
    bundle's root is where its file lies. Raises InputError for a run id or a setting that does not exist, both
    of which MONAI accepts in silence, for a file that is missing, and for parts that cannot be built.
    """
    from dsnet_med.cli.noise import quiet
    from dsnet_med.engine.overrides import as_written, lay_over, load, run_ids
    from dsnet_med.inference.trust import require_own

    quiet()
    trust = bool(options.pop("trust", False))
    given = {name: options.pop(name) for name in _RUN_OPTIONS if name in options}
    run_id = given.setdefault("run_id", "run")
    files = _named(given.pop("config_file")) if "config_file" in given else _found(run_id)
    if not trust:
        said = [given.get(name) for name in ("meta_file", "logging_file", "tracking", "args_file")]
        _require_own([*files, *(Path(each) for each in said if isinstance(each, str) and Path(each).is_file())])
        require_own(Path(str(options.get("bundle_root", "."))), (), "this")  # whose scripts a plug-in is
    given.pop("args_file", None)
    config = load(*files)
    if run_id not in run_ids(config):
        raise unknown("run id", run_id, run_ids(config))
    for name in {"init_id", "final_id"} & given.keys():
        if given[name] not in config:
            raise unknown(name, given[name], config)
    if config.get("bundle_root") == ".":
        lay_over(config, as_written({"bundle_root": _root(files[0])}))
    lay_over(config, as_written(options))
    _run(config, files[0].parent, given, modules=trust)


def _require_own(files: list[Path]) -> None:
    """Raise InputError unless the files, those beside them and scripts/ are this user's, or dsnet-med's own."""
    from dsnet_med.inference.safe_config import is_plain
    from dsnet_med.inference.trust import configured, require_own
    from dsnet_med.yaml_core import read_yaml

    plain = [file for file in files if file.is_file() and file.suffix != ".conf" and is_plain(read_yaml(file))]
    files = [file for file in files if file not in plain]
    for folder in dict.fromkeys(file.absolute().parent for file in files):
        root = folder.parent if folder.name == "configs" else folder
        beside = configured(root) if folder.name == "configs" else []
        require_own(root, [*files, *beside], "this")


def _run(config: dict[str, Any], folder: Path, given: dict[str, Any], *, modules: bool) -> None:
    from monai.bundle import ConfigWorkflow

    beside = {"meta_file": folder / "metadata.json", "logging_file": folder / "logging.conf"}
    defaults = {name: str(file) if file.is_file() else False for name, file in beside.items()}
    workflow = ConfigWorkflow(None, **{**defaults, **given}, **config)
    # Whose parent Python is to find modules in: what lies there takes the place of any library.
    workflow.config_root_path = folder if modules else resources.configs()
    try:
        _build(workflow, given["run_id"])
        workflow.run()
    except Exception as error:
        cause = root_cause(error)
        if not isinstance(cause, FileNotFoundError):
            raise
        hint = "; train first, or say where it is" if str(cause.filename).endswith("model.pt") else ""
        raise InputError(f"{cause.filename or cause}: there is no such file or folder{hint}") from error
    finally:
        workflow.finalize()


def _build(workflow: "ConfigWorkflow", run_id: str) -> None:
    """Initialise, and make what the run refers to: a wrong kind of value is told from a failure in the run."""
    from dsnet_med.engine.overrides import references

    try:
        workflow.initialize()
        for name in references({"run": workflow.parser[run_id]}):
            if isinstance(part := workflow.parser[name], dict) and "_target_" in part:
                workflow.parser.get_parsed_content(name)
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, InputError | FileNotFoundError):
            raise
        reason = f"{type(cause).__name__}: {cause}"
        raise InputError(
            f"the configuration cannot be built ({reason}); check what was changed in it"
        ) from error


def _options(arguments: list[str]) -> dict[str, Any]:
    """What `run` was given, by name: MONAI's own options as they are, values of the configuration as YAML."""
    from dsnet_med.engine.overrides import parse_value
    from dsnet_med.yaml_core import read_yaml

    bare: list[str] = []
    named: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, separator, text = rest.pop(0).partition("=")
        if not name.startswith("--"):
            bare.append(f"{name}{separator}{text}")
            continue
        if not separator:
            text = "true" if not rest or rest[0].startswith("--") else rest.pop(0)
        named[name[2:].replace("-", "_")] = text
    if len(bare) > len(_RUN_OPTIONS):
        raise InputError(f"got {' '.join(bare)}, wanted one run id, for example: bundle run training")
    options = {
        name: text if name in _RUN_OPTIONS and text[:1] not in ("[", "{") else parse_value(name, text)
        for name, text in {**dict(zip(_RUN_OPTIONS, bare, strict=False)), **named}.items()
    }
    defaults = read_yaml(Path(options["args_file"])) if "args_file" in options else {}
    return {**defaults, **options}


def _named(config_file: Any) -> list[Path]:
    """The files of `--config_file`, which is one or a list."""
    names = config_file if isinstance(config_file, list) else [config_file]
    if len(names) == 1 and not Path(names[0]).is_file():
        names = str(names[0]).split(",")
    files = [Path(name) for name in names]
    return [*_under(files[0]), files[0]] if len(files) == 1 else files


def _found(run_id: str) -> list[Path]:
    """The files in ./configs that have the run id; `run`, which all have, infers and never trains."""
    from dsnet_med.engine.overrides import load, run_ids

    stems = ("inference",) if run_id == "run" else ("train", "inference", "evaluate")
    found = [file for stem in stems for file in _configuration(Path("configs"), stem)]
    known: list[str] = []
    for file in found:
        files = [*_under(file), file]
        known += run_ids(load(*files))
        if run_id in known:
            return files
    if found:
        raise unknown("run id", run_id, set(known))
    here = Path.cwd()
    bundle = next((each for each in here.parents if (each / "configs" / "metadata.json").is_file()), None)
    hint = (
        f"change to {bundle}, the bundle that this folder lies in," if bundle else "change to a bundle folder"
    )
    raise InputError(f"no configs/{stems[0]}.yaml here; {hint} or give --config_file")


def _configuration(folder: Path, stem: str) -> list[Path]:
    return [file for ending in (".yaml", ".yml", ".json") if (file := folder / f"{stem}{ending}").is_file()][:1]


def _under(file: Path) -> list[Path]:
    """What a file is laid over: evaluate.yaml over the train.yaml beside it."""
    return _configuration(file.parent, "train") if file.stem == "evaluate" else []


def _root(file: Path) -> str:
    """The bundle's root, seen from here: the parent of `configs`, unless that lies in the installed package."""
    folder = file.absolute().parent
    return os.path.relpath(folder.parent) if folder.name == "configs" and PACKAGE not in folder.parents else "."
