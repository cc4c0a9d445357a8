"""A bundle's folder from a run's: its configurations as JSON, weights, words, and nothing of this machine."""

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dsnet_med import resources
from dsnet_med.engine.compose import plain
from dsnet_med.engine.export.formats import Plain
from dsnet_med.engine.export.upgrade import as_now
from dsnet_med.errors import InputError
from dsnet_med.files import parse_json, read_text, sha256, write_json, write_text
from dsnet_med.inference.bundle_reader import Model
from dsnet_med.inference.record import recorded
from dsnet_med.inference.trust import configured, require_own
from dsnet_med.networks.checkpoint import write_pickle, write_safetensors
from dsnet_med.networks.ensemble import Ensemble
from dsnet_med.seal import sealed
from dsnet_med.yaml_core import read_yaml

_LARGE_BYTES = 25 << 20  # what the Model Zoo takes as one file
_SCRIPT = re.compile(r"scripts/[A-Za-z0-9_]+\.py")
_STORE = "store"
_AGREED = (  # by the members of an ensemble
    *("class_names", "slice_axis", "size", "fit", "in_channels", "intensity", "intensities", "channel_names"),
    *("spacing_mm", "regions"),
)


@dataclass(frozen=True)
class Run:
    """A run's folder, its configurations as they are written, and its model."""

    folder: Path
    configs: dict[str, dict[str, Any]]  # train, inference, evaluate, metadata
    model: Model

    @property
    def store(self) -> Path | None:
        """The store that it was trained on, where it still lies."""
        text = self.configs.get("train", {}).get("dataset_dir")
        folder = Path(plain(text)) if isinstance(text, str) else None
        return folder if folder is not None and (folder / "manifest.json").is_file() else None


def read_run(folder: Path, load: Callable[[Path], Model], *, trust: bool = False) -> Run:
    """A run on volumes, or an exported bundle.

    Raises InputError for a folder that is neither, a run of natural images, and one that is not the user's own
    unless `trust` is given: comparing the bundle executes its configurations.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of a run")
    configs = {}
    for name in ("train", "inference", "evaluate", "metadata"):
        file = next(
            (file for kind in ("yaml", "json") if (file := folder / "configs" / f"{name}.{kind}").is_file()),
            None,
        )
        if file is not None:
            configs[name] = parse_json(read_text(file)) if file.suffix == ".json" else read_yaml(file)
    if "inference" not in configs:
        raise InputError(f"{folder}: not a run folder, it has no configs/inference.yaml; give what train wrote")
    task = configs.get("train", {}).get("task", "organs")
    if task != "organs" or "slice_network" not in configs["inference"]:
        raise InputError(f"{folder}: is of {task}; export knows networks for volumes, give a run on a store")
    if not trust:
        require_own(folder, configured(folder), "exporting it")
    return Run(folder, configs, load(folder))


def joined(runs: Sequence[Run]) -> Model:
    """The model that several runs make: the mean of their probabilities decides.

    Raises InputError where they cannot be one.
    """
    first = runs[0].model
    if len(runs) == 1:
        return first
    for run in runs[1:]:
        for what in _AGREED:
            got, wanted = getattr(run.model, what), getattr(first, what)
            if got != wanted:
                raise InputError(
                    f"{run.folder} and {runs[0].folder} differ in {what}: {got} and {wanted}; an exported "
                    "ensemble has one, so give runs that agree, or export each"
                )
    network = Ensemble([run.model.network for run in runs], bool(first.regions)).eval()
    return replace(first, network=network, facts=_facts_of(runs))


def _facts_of(runs: Sequence[Run]) -> dict[str, Any]:
    """What summary.json says of an ensemble: that of its first run, with the methods and seeds of all."""
    facts = dict(runs[0].model.facts)
    names = ("method", "seed", "iterations", "parameters", "store_id", "best")
    members = [
        {"title": run.model.title, **{name: run.model.facts[name] for name in names if name in run.model.facts}}
        for run in runs
    ]
    title = f"ensemble of {len(runs)}: " + ", ".join(dict.fromkeys(run.model.title for run in runs))
    method = {"id": "ensemble", "title": title}
    if len(store_ids := {member.get("store_id") for member in members}) > 1:
        facts.pop("store_id", None)
        facts["store_ids"] = sorted(map(str, store_ids))
    parameters = sum(member.get("parameters", 0) for member in members)
    kept = {
        name: facts[name]
        for name in facts
        if name not in ("best", "scores", "seconds", "seed", "parameters", "weights")
    }
    return kept | {"method": method, "parameters": parameters, "members": members}


def write_folder(runs: Sequence[Run], model: Model, metadata: Mapping[str, Any], out: Path) -> None:
    """Write what every exported bundle has but its words and further forms into the empty folder `out`.

    Raises InputError where something of this machine would go along.
    """
    _copy_scripts(runs, out)
    configs = _configs(runs)
    for name, config in configs.items():
        write_json(out / "configs" / f"{name}.json", config)
    write_json(out / "configs" / "metadata.json", dict(metadata))
    shutil.copyfile(resources.configs() / "logging.conf", out / "configs" / "logging.conf")
    weights = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    facts = {name: value for name, value in model.facts.items() if name not in ("weights", "seal")}
    facts = _portable(facts)
    write_json(out / "summary.json", sealed(facts))
    known = {name: facts[name] for name in ("seed", "store_id") if name in facts}
    if isinstance(facts.get("method"), dict):
        known["method"] = facts["method"].get("id")
    (out / "models").mkdir()
    with recorded(out, weights, known):
        write_safetensors(out / "models" / "model.safetensors", weights, {})
        with (out / "models" / "model.pt").open("wb") as stream:
            write_pickle(weights, stream)


def handed_out(model: Model) -> Plain:
    """The network of a model as it is handed out."""
    return Plain(model.network, model.in_channels).eval().requires_grad_(False)


def _configs(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """The configurations of a bundle: of an ensemble, which is not trained as one, that for inference alone."""
    own = {name: config for name, config in runs[0].configs.items() if name != "metadata"}
    configs = {name: _portable(as_now(name, config)) for name, config in own.items()}
    inference = configs["inference"] | {"bundle_root": "."}
    if len(runs) > 1:
        members = [_with_values(run.configs["inference"]) for run in runs]
        inference["slice_network"] = {"_target_": "dsnet_med.networks.Ensemble", "networks": members}
        if inference.get("regions"):
            inference["slice_network"]["regions"] = True
        return {"inference": _portable(inference)}
    configs["inference"] = inference
    if "train" in configs:
        others = {
            "bundle_root": ".",
            "dataset_dir": _STORE,
            "store_id": None,
            "loggers": ["none"],
            "resume": False,
        }
        configs["train"] |= {name: value for name, value in others.items() if name in configs["train"]}
    return configs


def _with_values(inference: Mapping[str, Any]) -> Any:
    """The network of a configuration with its own plain values in place of what refers to them."""
    outputs = len(inference.get("regions") or inference["class_names"])
    counted = {"num_classes": outputs, "pretrained": False}
    values = {name: value for name, value in inference.items() if isinstance(value, int | float)} | counted

    def filled(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: filled(value) for key, value in node.items()}
        if isinstance(node, list):
            return [filled(value) for value in node]
        return values.get(node[1:], node) if isinstance(node, str) and node.startswith("@") else node

    return filled(inference["slice_network"])


def _portable(value: Any) -> Any:
    """A configuration without absolute paths: of a file elsewhere its name is left."""
    if isinstance(value, Mapping):
        return {key: _portable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_portable(each) for each in value]
    if isinstance(value, str) and Path(plain(value)).is_absolute():
        return Path(plain(value)).name or "."
    return value


def _copy_scripts(runs: Sequence[Run], out: Path) -> None:
    """Take along the files of plug-ins that the configurations name, and no others. InputError for a clash."""
    for run in runs:
        for name in sorted(set(_SCRIPT.findall(json.dumps(run.configs["inference"])))):
            source, target = run.folder / name, out / name
            if not source.is_file():
                raise InputError(f"{source}: is not there, and the run's network needs it; restore it")
            if target.is_file() and sha256(target) != sha256(source):
                raise InputError(
                    f"{source}: another run has another file of this name; rename one of the plug-ins"
                )
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)


def write_large_files(out: Path, url_of: Callable[[str], str] = lambda _: "") -> None:
    """List the files that are too large for the Model Zoo in large_files.yml, as it wants them; or nothing."""
    large = [path for path in sorted((out / "models").iterdir()) if path.stat().st_size > _LARGE_BYTES]
    if large:
        names = [path.relative_to(out).as_posix() for path in large]
        entries = [
            {"path": name, "url": url_of(name), "hash_val": sha256(out / name), "hash_type": "sha256"}
            for name in names
        ]
        comment = "# Upload these files, write their addresses here, and leave them out of a pull request.\n"
        write_text(out / "large_files.yml", comment + yaml.safe_dump({"large_files": entries}, sort_keys=False))


def require_portable(out: Path, runs: Sequence[Run]) -> None:
    """Raise InputError where a file of the bundle names a place on this machine, or the machine."""
    places = {str(run.folder.resolve().parent) for run in runs} | {str(run.folder.resolve()) for run in runs}
    places |= {str(Path.home()), str(out.resolve()), str(resources.configs().resolve().parent)}
    places |= {str(run.store.resolve()) for run in runs if run.store}
    names = sorted(place for place in places if place.count("/") > 1) + [socket.gethostname()] * (
        len(socket.gethostname()) > 6
    )
    for path in sorted(out.rglob("*")):
        if path.is_file() and (found := next(_found(path, names), None)):
            raise InputError(
                f"{path.relative_to(out)} would name {found}, a place on this machine: change the "
                "setting of the run that does, and export again"
            )


def _found(path: Path, names: Sequence[str]) -> Iterator[str]:
    content = path.read_bytes()
    yield from (name for name in names if name.encode() in content)
