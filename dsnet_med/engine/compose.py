"""From a method, a store and overrides to the configuration of one run: plain values, checked ids."""

import ast
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from dsnet_med import resources
from dsnet_med.engine.card import card_of
from dsnet_med.engine.data import (
    SELECT_ON,
    check_cases,
    checked_size,
    class_weights,
    open_store,
    reopen_store,
    slice_size,
    slice_weights,
    slices,
    split_cases,
)
from dsnet_med.engine.loggers import require_known
from dsnet_med.engine.overrides import MEANINGS, as_written, lay_over, layers, load, load_over
from dsnet_med.engine.patches import check_oversample, checked_patch, patch_size
from dsnet_med.engine.settings import check_channels, check_classes
from dsnet_med.errors import InputError, one_line, root_cause, unknown
from dsnet_med.methods import method_row, row_file
from dsnet_med.networks.definition import literal
from dsnet_med.prepare.store import Store
from dsnet_med.regions import as_dict

_SHARED = (  # what inference has to know of training
    *("num_classes", "in_channels", "size", "fit", "width", "batch_size", "method", "min_size", "max_size"),
)
_OF_THE_DATA = (
    "channel_names",
    "regions",
    "ignore",
    "spacing_mm",
)  # and of the row: what settings do not change


_SCHEDULE = (  # what a row may have of its own, and a comparison of equals not
    *(
        "optimizer",
        "lr_scheduler",
        "iterations",
        "epochs",
        "steps_per_epoch",
        "validate_every",
        "learning_rate",
    ),
    *("milestones", "warmup", "batch_size", "clip", "accumulate", "ema", "precision", "loss"),
)


def compose_train(
    method: str,
    data: Path,
    settings: Mapping[str, Any],
    overlays: Sequence[Path] = (),
    schedule_of: str | None = None,
) -> dict[str, Any]:
    """train.yaml with a task's, a data set's and a row's values over it, and what the data say written out.

    `method` is a row's id or file, `data` a store or, for natural images, the data set's folder; `overlays` are
    files laid over all of these. `schedule_of` is the row whose optimiser, schedule and loss take the place of
    the row's own. `settings` are ids, top-level or nested (`optimizer#lr`), with their values.
    Raises InputError for a row, a file or an id that does not exist, and for values that cannot be.
    """
    row = method_row(method)
    task = row["method_card"].get("task", "organs")
    store = reopen_store(str(data)) if task == "organs" else None
    if not data.is_dir():
        raise InputError(f"no data set at {data}: give the folder that holds it as published")
    parts = ["train.yaml", f"tasks/{task}.yaml", f"datasets/{store.recipe_id}.yaml" if store else ""]
    shared = [file for part in parts if (file := resources.configs() / part).is_file()]
    config = load(*shared)
    own = config["network_def"]  # the task's, whose values hold for every row: a detector's size of images
    config = load_over(config, *layers(row_file(method)))
    config["network_def"] |= {name: own[name] for name in own if name in row["network_def"] and name[0] != "_"}
    if schedule_of is not None:
        config = _scheduled(config, load(*shared), method_row(schedule_of), row_file(schedule_of))
    config["dataset_dir"] = literal(str(data.resolve()))
    if "method" in config:  # of a task's bundle, which builds what it names
        config["method"] = literal(row["method_card"]["id"])
    if store:
        config |= _of_store(store)
        if len(store.channels) > 1:
            config["in_channels"] = len(store.channels)
    before = deepcopy(config)
    config = load_over(config, *(layer for file in overlays for layer in layers(file)))
    lay_over(config, as_written(settings))
    if any(config[name] != before[name] for name in ("class_names", "num_classes")):
        known = store.classes if store else evaluated(before, "class_names")
        check_classes(config, known, store.num_outputs if store else len(known))
    counts = isinstance(config["iterations"], int) and isinstance(config["validate_every"], int)
    unsaid = "validate_every" not in settings and config["validate_every"] == before["validate_every"]
    if "iterations" in settings and unsaid and counts:
        config["validate_every"] = max(100, config["iterations"] // 10)  # ten validations
    for name in ("method_card", "task", "method", "store_id", "spatial_dims", *_OF_THE_DATA):
        if config.get(name) != before.get(name):
            raise InputError(f"got a value for {name}, which says what --method and --data are: change these")
    config["method_card"] = card_of(before["method_card"], before, config)
    config["loggers"] = require_known(config["loggers"])
    if store:
        _complete(config, before, store)
    return config


def _of_store(store: Store) -> dict[str, Any]:
    """What a store says of its classes and channels, as plain values."""
    return {
        "class_names": [literal(_plain_name(name)) for name in store.classes],
        "num_classes": store.num_outputs,
        "channel_names": [literal(_plain_name(name)) for name in store.channels],
        "regions": {_key(name): told for name, told in as_dict(store.regions).items()} or None,
        "ignore": store.ignore,
        "spacing_mm": list(store.spacing_mm) if store.spacing_mm else None,
    }


def _scheduled(
    config: Mapping[str, Any], shared: Mapping[str, Any], row: Mapping[str, Any], file: Path
) -> dict[str, Any]:
    """`config` with the schedule of another `row` of its task, in `file`."""
    if (task := row["method_card"].get("task", "organs")) != config["task"]:
        raise InputError(f"got a schedule of {task} for {config['task']}: choose rows of one task")
    other = load_over(shared, *layers(file))
    own = {name: value for name, value in config.items() if name not in _SCHEDULE}
    schedule = {name: other[name] for name in _SCHEDULE if name in other}
    if "deep_supervision" in (loss := config["loss"]):  # which a network's outputs say, not a schedule
        schedule["loss"] = schedule["loss"] | {"deep_supervision": loss["deep_supervision"]}
    other |= schedule
    same = all(config.get(name) == other.get(name) for name in _SCHEDULE)
    card = config["method_card"] if same else {**config["method_card"], "schedule": row["method_card"]["title"]}
    return {**own, **schedule, "method_card": card}


def evaluated(config: Mapping[str, Any], name: str) -> Any:
    """What an id of a configuration stands for; an InputError on the way there as it is."""
    try:
        return ConfigParser(dict(config)).get_parsed_content(name)
    except RuntimeError as error:  # MONAI's, around ours
        if isinstance(cause := root_cause(error), InputError):
            raise cause from error
        raise


def _cases(config: Mapping[str, Any], store: str, *, by_split: bool) -> Mapping[str, list[str]]:
    """The cases that a run will have. Raises InputError for what would stop it later."""
    if config["select_on"] not in SELECT_ON:
        raise unknown("select_on", str(config["select_on"]), SELECT_ON)
    if by_split:
        return split_cases(store, config["select_on"], config["fold"])
    if config["fold"] is not None:
        raise InputError(f"got fold={config['fold']} and cases of its own, wanted one of them: leave one out")
    try:
        cases: Mapping[str, list[str]] = evaluated(config, "cases")
    except RuntimeError as error:
        raise InputError(f"got cases={config['cases']}: {one_line(root_cause(error))}") from error
    check_cases(cases, store)
    return cases


def _complete(config: dict[str, Any], before: Mapping[str, Any], store: Store) -> None:
    """Write out what depends on the cases; `before` is what holds without settings. Raises InputError."""
    check_channels(config, store.channels)
    path = str(store.path)
    cases = _cases(config, path, by_split=config["cases"] == before["cases"])
    if config["fold"] is not None:  # else another preprocess --folds would change what a run goes on with
        config["cases"] = {side: [literal(name) for name in names] for side, names in cases.items()}
    said = config["size"] != before["size"] or isinstance(before["size"], list)
    if config["spatial_dims"] == 3:
        _complete_patches(config, path, cases["train"], said=said)
    else:
        _complete_slices(config, path, cases["train"], said=said)
    config["store_id"] = store.id


def _complete_slices(config: dict[str, Any], store: str, cases: Sequence[str], *, said: bool) -> None:
    """Write out the size of the slices, `said` by somebody or not. Raises InputError."""
    class_weights(config["class_weights"], store, cases)
    slice_weights(config["oversample"], store, slices(store, cases))
    if not said:
        config["size"] = slice_size(store, checked_size(config["largest_size"]))
    config["size"] = checked_size(config["size"])


def _complete_patches(config: dict[str, Any], store: str, cases: Sequence[str], *, said: bool) -> None:
    """Write out the size of the patches, `said` by somebody or not. Raises InputError."""
    class_weights(config["class_weights"], store, cases)
    check_oversample(config["oversample"])
    stride, largest = config["stride"], config["largest_size"]
    if not said:
        three = [largest] * 3 if type(largest) is int else largest
        if not isinstance(three, list) or len(three) != 3:
            raise InputError(f"got largest_size={largest}, wanted three sides, such as [128, 128, 128]")
        config["size"] = patch_size(store, cases, three, stride)
    config["size"] = checked_patch(config["size"], store, cases, stride)


def bundle_folder(task: str) -> Path:
    """Where the configurations of a task's bundle lie, beside what all tasks share."""
    return resources.configs() if task == "organs" else resources.configs() / "natural" / task / "configs"


def compose_inference(train: Mapping[str, Any]) -> dict[str, Any]:
    """inference.yaml for the network and the data of a composed train.yaml."""
    config = load(bundle_folder(train["task"]) / "inference.yaml")
    config |= {name: train[name] for name in _SHARED if name in config}
    if train["task"] != "organs":
        return config | {"network_def": train["network_def"]}
    store = open_store(plain(train["dataset_dir"]))
    config["class_names"] = plain_names(train)  # which `infer` reads as they are, and MONAI only counts
    config["slice_network"] = train["network_def"]
    rules = [rule.as_dict() for rule in store.intensities]
    config["intensity"] = rules[0] if len(rules) == 1 else rules
    config["slice_axis"] = store.slice_axis
    config["resample_channels"] = bool(store.recipe.get("resample_channels", False))
    config |= {name: train[name] for name in ("spatial_dims", "channel_names", "regions", "spacing_mm")}
    config["channel_names"] = [plain(name) for name in train["channel_names"]]
    if train["spatial_dims"] == 3:
        config["network_def"]["_target_"] = "dsnet_med.engine.inferers.WindowWise"
        del config["network_def"]["fit"]
    return config


def plain_names(train: Mapping[str, Any]) -> list[str]:
    """The names of the classes of a composed train.yaml, where they are literals."""
    return [plain(name) for name in train["class_names"]]


def plain(text: str) -> str:
    """What a `literal` is of."""
    return str(ast.literal_eval(text[1:])) if text.startswith(("$'", '$"')) else text


def literals(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with every text in them as a `literal`."""
    parts = ((name, literals(value) if isinstance(value, Mapping) else value) for name, value in values.items())
    return {name: literal(value) if isinstance(value, str) else value for name, value in parts}


def _key(name: str) -> str:
    if "#" in name or "::" in name:
        raise InputError(f"a region is called '{name}', and MONAI finds a meaning in # and ::, rename it")
    return _plain_name(name)


def _plain_name(name: str) -> str:
    if name[:1] in MEANINGS:  # in metadata.json, too, which others read as it is
        raise InputError(
            f"a class is called '{name}', and MONAI finds a meaning in a first {name[0]}: rename it"
        )
    return name
