"""A training run on natural images: its folder is the bundle of its task with every choice written out."""

import shutil
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from dsnet_med import resources
from dsnet_med.engine.card import card_of, titled
from dsnet_med.engine.compose import as_written, literals, load, override
from dsnet_med.engine.loggers import require_known
from dsnet_med.engine.train import count, describe, require_unused, run_workflow, versions, write_yaml
from dsnet_med.errors import InputError
from dsnet_med.files import require_writable, write_json
from dsnet_med.methods import method_row
from dsnet_med.networks.definition import literal

_SHARED = ("method", "width", "size", "min_size", "max_size")  # what inference has to know of training


def prepare_run(method: str, data: Path, run: Path, settings: Mapping[str, Any]) -> None:
    """Make `run` a copy of the bundle of the task of `method` that trains it on `data`.

    Raises InputError when a run in the folder has already begun to train, `data` is no folder, or a setting
    does not exist.
    """
    require_unused(run)
    if not data.is_dir():
        raise InputError(f"no data set at {data}: give the folder that holds it as published")
    source = resources.configs() / "natural" / method.partition("/")[0] / "configs"
    train, inference = load(source / "train.yaml"), load(source / "inference.yaml")
    train |= {"method": method, "dataset_dir": literal(str(data.resolve()))}
    row = deepcopy(train)
    for name, value in as_written(settings).items():
        override(train, name, value)
    card = titled(card_of(method_row(train["method"])["method_card"], row, train))
    require_known(train["loggers"])
    inference |= {name: train[name] for name in (*_SHARED, "network_def") if name in inference}
    require_writable(run / "configs")
    for name in ("evaluate.yaml", "logging.conf", "metadata.json"):
        shutil.copyfile(source / name, run / "configs" / name)
    write_yaml(run / "configs" / "inference.yaml", inference)
    written = {"method_card": literals(card), **train}
    write_yaml(run / "configs" / "train.yaml", written)  # last: the run is prepared


def train(run: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train a prepared run folder and return its summary, also written to summary.json.

    `settings` change this call only (`resume`, `device`).
    """
    started = time.monotonic()
    workflow = run_workflow(run, settings)
    content = workflow.parser.get_parsed_content
    network = content("network")
    summary = {
        "method": {**content("method_card"), "parameters": count(network)},
        "dataset": content("dataset_dir"),
        "seed": content("seed"),
        "iterations": content("iterations"),
        "batch_size": content("batch_size"),
        "width": content("width"),
        "pretrained": content("pretrained"),
        "parameters": count(network),
        "scores": content("validated").latest(),
        "best": content("checkpoints").best,
        "seconds": round(time.monotonic() - started, 1),
        "device": str(content("device")),
        "versions": versions(),
    }
    write_json(run / "summary.json", summary)
    _describe(
        run, summary["method"], content("class_names"), content("size") if "size" in workflow.parser else None
    )
    return summary


def _describe(run: Path, card: Mapping[str, Any], class_names: Sequence[str], size: int | None) -> None:
    """Write into metadata.json what is known once the data were read: the classes, and the size of images."""
    file = run / "configs" / "metadata.json"
    metadata = describe(file, card, class_names) | {"label_classes": f"{len(class_names)} classes"}
    if size:
        metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = [size, size]
    write_json(file, metadata)


def is_natural(run: Path) -> bool:
    """Whether a run folder is one of natural images; False where there is none."""
    config = run / "configs" / "train.yaml"
    return config.is_file() and "/" in str(load(config).get("method", ""))
