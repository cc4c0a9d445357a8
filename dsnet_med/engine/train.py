"""One training run: its folder is a MONAI bundle, and training it is running that bundle."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import torch
import yaml
from monai.bundle import ConfigWorkflow
from torch import nn

import dsnet_med
from dsnet_med import resources
from dsnet_med.engine.card import titled
from dsnet_med.engine.compose import compose_inference, compose_train, literals, plain_names
from dsnet_med.engine.data import open_store
from dsnet_med.engine.plugged import Plugged
from dsnet_med.errors import InputError, root_cause
from dsnet_med.files import require_writable, write_json, write_text
from dsnet_med.inference.trust import sign
from dsnet_med.networks.definition import literal

_WRITTEN = (
    "summary.json",
    *(f"configs/{name}" for name in ("train.yaml", "inference.yaml", "evaluate.yaml", "metadata.json")),
)


def prepare_run(
    method: str, store: Path, run: Path, settings: Mapping[str, Any], plugged: Plugged | None = None
) -> None:
    """Make `run` a bundle folder that trains `method` on `store`: configs/ with every value written out.

    `plugged` puts a plug-in into the method's network; its file, which is code, becomes part of the folder.

    Raises InputError when a run in the folder has already begun to train, a setting does not exist, or the
    plug-in does not fit the network.
    """
    require_unused(run)
    train = compose_train(method, store, settings)
    if plugged:
        plugged.check(train)
        train = plugged.add_to(train)
    train["method_card"] = titled(train["method_card"])
    opened = open_store(str(store))
    require_writable(run / "configs")
    if plugged:
        plugged.copy_into(run)
    write_yaml(run / "configs" / "inference.yaml", compose_inference(train, opened))
    if plugged:
        sign(run)  # its file will be executed
    for name in ("evaluate.yaml", "logging.conf"):
        shutil.copyfile(resources.configs() / name, run / "configs" / name)
    write_json(
        run / "configs" / "metadata.json",
        describe(resources.configs() / "metadata.json", train["method_card"], plain_names(train)),
    )
    written = {**train, "method_card": literals(train["method_card"])}
    write_yaml(run / "configs" / "train.yaml", written)  # last: its presence says that the run is prepared


def require_unused(run: Path) -> None:
    """Raise InputError when a run in the folder has already begun to train, or somebody's files lie there."""
    if (run / "metrics.jsonl").exists() or (run / "models").exists():
        raise InputError(f"{run} already holds a run; go on with --resume or choose another --out")
    for name in _WRITTEN:
        if (run / name).exists() and b"dsnet" not in (run / name).read_bytes():  # as all of ours have it
            raise InputError(
                f"{run / name} is there already, and was not written by train; choose another --out"
            )


def train(run: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train a prepared run folder and return its summary, also written to summary.json.

    `settings` change this call only (`resume`, `device`).
    """
    started = time.monotonic()
    workflow = run_workflow(run, settings)
    return summarise(workflow, run, time.monotonic() - started)


def run_workflow(run: Path, settings: Mapping[str, Any]) -> ConfigWorkflow:
    """Run the training of a prepared run folder to its end; `settings` change this call only.

    Raises InputError where the folder is not prepared or a setting is of the wrong kind.
    """
    config = run / "configs" / "train.yaml"
    if not config.is_file():
        raise InputError(f"{run}: nothing to resume, it holds no configs/train.yaml; train without --resume")
    workflow = ConfigWorkflow(str(config), workflow_type="train", bundle_root=literal(str(run)), **settings)
    _build(workflow)
    workflow.run()
    workflow.finalize()
    return workflow


def _build(workflow: ConfigWorkflow) -> None:
    """Initialise and make all parts, so that a value of the wrong kind is told from a failure in training."""
    try:
        workflow.initialize()
        workflow.parser.get_parsed_content("train#trainer")
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, InputError):
            raise cause from error
        reason = f"{type(cause).__name__}: {cause}"
        raise InputError(f"the configuration cannot be built ({reason}); check what --set changed") from error


def summarise(workflow: ConfigWorkflow, run: Path, seconds: float) -> dict[str, Any]:
    """What a reader of the run's numbers has to know, written to summary.json."""
    content = workflow.parser.get_parsed_content
    store = open_store(content("dataset_dir"))
    network = content("network")
    summary = {
        "method": {**content("method_card"), "parameters": count(network)},
        "recipe": store.recipe_id,
        "recipe_hash": store.manifest["recipe_hash"],
        "store_findings": store.manifest.get("findings", []),
        "seed": content("seed"),
        "iterations": content("iterations"),
        "batch_size": content("batch_size"),
        "size": content("size"),
        "width": content("width"),
        "pretrained": content("pretrained"),
        "parameters": count(network),
        "select_on": content("select_on"),
        "cases": content("cases"),
        "best": content("checkpoints").best,
        "seconds": round(seconds, 1),
        "device": str(content("device")),
        "versions": versions(),
    }
    write_json(run / "summary.json", summary)
    return summary


def count(network: nn.Module) -> int:
    """The number of parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def versions() -> dict[str, str]:
    """The versions of what a run's numbers depend on."""
    return {"dsnet-med": dsnet_med.__version__, "monai": monai.__version__, "torch": torch.__version__}


def describe(template: Path, card: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """The metadata.json in `template` for the row of this method card and for these classes."""
    metadata: dict[str, Any] = json.loads(template.read_text(encoding="utf-8"))
    output = metadata["network_data_format"]["outputs"]["pred"]
    if output["format"] != "boxes":  # but a channel of logits for each class
        output |= {"num_channels": len(class_names), "channel_def": dict(enumerate(class_names))}
    return metadata | {"name": str(card["id"]), "description": f"{card['title']}, trained by dsnet-med"}


def write_yaml(path: Path, config: Mapping[str, Any]) -> None:
    """Write a configuration to `path`, whole or not at all."""
    write_text(path, yaml.safe_dump(dict(config), sort_keys=False, width=110, allow_unicode=True))
