"""One training run: its folder is a MONAI bundle, and training it is running that bundle."""

import json
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from dsnet_med import resources
from dsnet_med.engine import distributed
from dsnet_med.engine.card import titled
from dsnet_med.engine.compose import (
    bundle_folder,
    compose_inference,
    compose_train,
    literals,
    plain,
)
from dsnet_med.engine.data import require_store
from dsnet_med.engine.draws import kept_generators
from dsnet_med.engine.metadata import describe
from dsnet_med.engine.overrides import as_written, load, override
from dsnet_med.engine.plugin_choice import PluginChoice
from dsnet_med.engine.session import BEGUN
from dsnet_med.engine.stopping import in_words
from dsnet_med.errors import InputError, StoppedError, first_of, root_cause
from dsnet_med.files import require_writable, write_json, write_text
from dsnet_med.inference.record import RECORD
from dsnet_med.inference.trust import configured, remember, require_own
from dsnet_med.methods import method_row
from dsnet_med.networks.definition import literal
from dsnet_med.yaml_core import yaml_text

_CONFIG = Path("configs") / "train.yaml"
_WRITTEN = (
    "summary.json",
    RECORD,
    *(f"configs/{name}" for name in ("train.yaml", "inference.yaml", "evaluate.yaml", "metadata.json")),
)
_MAY_CHANGE = (
    "workers",
    "loggers",
    "checkpoint_every",
    "profile",
)  # when a run goes on: no number depends on it


def prepare(
    method: str,
    data: Path,
    run: Path,
    settings: Mapping[str, Any],
    *,
    overlays: Sequence[Path] = (),
    plugin: PluginChoice | None = None,
    schedule_of: str | None = None,
) -> None:
    """Make `run` a bundle folder that trains `method` on `data`: configs/ with every value written out.

    `method` is a row's id or file. `plugin` puts a plug-in into its network; the plug-in's file, being code,
    becomes part of the folder. `schedule_of` is another row whose optimiser, schedule and loss it is to have.

    Raises InputError when a run in the folder has already begun to train, a setting does not exist or cannot
    be, or the plug-in does not fit the network.
    """
    require_unused(run)
    train = compose_train(method, data, settings, overlays, schedule_of)
    if plugin:
        plugin.check(train)
        train = plugin.add_to(train)
    train["method_card"] = titled(train["method_card"])
    require_writable(run / "configs")
    if plugin:
        plugin.copy_into(run)
    write_yaml(run / "configs" / "inference.yaml", compose_inference(train))
    source = bundle_folder(train["task"])
    for name in ("evaluate.yaml", "logging.conf"):
        shutil.copyfile(source / name, run / "configs" / name)
    metadata = describe(source / "metadata.json", train)
    write_json(run / "configs" / "metadata.json", metadata)
    written = yaml_text({**train, "method_card": literals(train["method_card"])})
    remember(_own_files(run, plugin), written)
    write_text(run / _CONFIG, written)  # last: its presence says that the run is prepared


def _own_files(run: Path, plugin: PluginChoice | None) -> list[Path]:
    """What `prepare` has written so far and will be executed; not what else may lie in the folder."""
    names = ("inference.yaml", "evaluate.yaml", "metadata.json", "logging.conf")
    return [*(run / "configs" / name for name in names), *(plugin.copies_in(run) if plugin else ())]


def require_unused(run: Path) -> None:
    """Raise InputError when a run in the folder has already begun to train, or somebody's files lie there."""
    if any((run / name).exists() for name in BEGUN[1:]):
        raise InputError(f"{run} already holds a run; go on with --resume or choose another --out")
    for name in _WRITTEN:
        if (run / name).exists() and b"dsnet" not in (run / name).read_bytes():  # as all of ours have it
            raise InputError(
                f"{run / name} is there already, and was not written by train; choose another --out"
            )


def reopen(
    run: Path,
    settings: Mapping[str, Any],
    *,
    method: str | None = None,
    data: Path | None = None,
    overlays: Sequence[Path] = (),
    trust: bool = False,
) -> None:
    """Check that a run can go on as told, and write into it what may change: more iterations, a store's place.

    What is said again and is as the run has it is taken as said. Raises InputError for what cannot be honoured,
    and for a run that this user's `train` did not make, unless `trust` is given.
    """
    if not (run / _CONFIG).is_file():
        raise InputError(f"{run}: nothing to resume, it holds no {_CONFIG}; train without --resume")
    if not trust:
        require_own(run, configured(run), "going on with it")
    config = _loaded(run / _CONFIG)
    if method is not None:
        has, wanted = plain(config["method_card"]["id"]), method_row(method)["method_card"]["id"]
        if has != wanted and not has.startswith(f"{wanted}+"):  # its plug-in
            raise _cannot(run, f"--method {method}", f"it trains {has}")
    changed = deepcopy(config)
    if data is not None and literal(str(data.resolve())) != config["dataset_dir"]:
        changed["dataset_dir"] = literal(str(data.resolve()))
    for name, value in as_written(settings).items():
        override(changed, name, value)
        if changed != config and name.partition("#")[0] not in (*_MAY_CHANGE, "iterations", "dataset_dir"):
            raise _cannot(run, f"{name}={value}", "a run goes on with the settings that it began with")
    if overlays and load(run / _CONFIG, *overlays) != config:
        raise _cannot(run, f"--overlay {overlays[0]}", "a run goes on with the settings that it began with")
    before, after = config["iterations"], changed["iterations"]
    if isinstance(before, int) and isinstance(after, int) and after < before:
        raise _cannot(run, f"--iterations {after}", f"it was to make {before}; more are possible, not fewer")
    require_store(plain(changed["dataset_dir"]), changed.get("store_id"))
    if changed != config:
        if not trust:
            remember((), yaml_text(changed))
        write_yaml(run / _CONFIG, changed)


def _loaded(file: Path) -> dict[str, Any]:
    """A run's configuration. Raises InputError where it lacks what a run cannot go on without."""
    config = load(file)
    card = config.get("method_card")
    texts = config.get("dataset_dir"), card.get("id") if isinstance(card, dict) else None
    if not all(isinstance(each, str) for each in texts) or "iterations" not in config:
        raise InputError(f"{file}: says too little to go on with; give a run that train made")
    return config


def _cannot(run: Path, what: str, why: str) -> InputError:
    return InputError(f"got {what} with --resume, which {run} cannot honour: {why}; leave it out")


def train(run: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train a prepared run folder to its end; what its summary.json says, in the first of several processes.

    `settings` change this call only (`resume`, `device`). Raises InputError where the folder is not prepared or
    a setting is of the wrong kind.
    """
    config = run / _CONFIG
    if not config.is_file():
        raise InputError(f"{run}: nothing to resume, it holds no {_CONFIG}; train without --resume")
    workflow = ConfigWorkflow(str(config), workflow_type="train", bundle_root=literal(str(run)), **settings)
    workflow.config_root_path = resources.configs()  # whose parent Python looks for modules in; not in a run
    with in_words(), kept_generators():
        try:
            _build(workflow)
            workflow.run()
            main = distributed.is_main()
            if main:
                _require_whole(run, workflow)
        except Exception as error:
            if isinstance(
                cause := root_cause(error), InputError | StoppedError
            ):  # which MONAI wraps in its own
                raise cause from error
            raise
        finally:
            workflow.finalize()
    summary: dict[str, Any] = {}
    if main:
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return summary


def _require_whole(run: Path, workflow: ConfigWorkflow) -> None:
    """Raise StoppedError where a file that belongs to a finished run has gone meanwhile."""
    checkpoints = workflow.parser.get_parsed_content("checkpoints")
    files = [run / name for name in ("configs/train.yaml", "configs/inference.yaml", *BEGUN[:2])]
    gone = [file.name for file in (*files, checkpoints.model, checkpoints.last) if not file.is_file()]
    if gone:
        raise StoppedError(
            f"{run}: {first_of(gone)} went while it trained, and what is left is no run: train again, into a "
            "folder that nothing removes"
        )


def _build(workflow: ConfigWorkflow) -> None:
    """Initialise and make all parts, so that a value of the wrong kind is told from a failure in training."""
    try:
        workflow.initialize()
        workflow.parser.get_parsed_content("train#trainer")
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, InputError | StoppedError):
            raise
        reason = f"{type(cause).__name__}: {cause}"
        raise InputError(
            f"the configuration cannot be built ({reason}); check what --set changed, or resume a run with the "
            "version of dsnet-med that began it"
        ) from error


def write_yaml(path: Path, config: Mapping[str, Any]) -> None:
    """Write a configuration to `path`, whole or not at all."""
    write_text(path, yaml_text(config), durable=True)
