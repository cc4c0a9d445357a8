"""metadata.json of a run or a bundle: what is true of it, under the names of MONAI's bundle specification.

Programs read it: MONAI Label and Deploy take the names of the classes and the number of axes from it, the Model
Zoo its versions and scores. https://docs.monai.io/en/latest/mb_specification.html
"""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import dsnet_med
from dsnet_med.engine.compose import evaluated, plain
from dsnet_med.engine.data import open_store
from dsnet_med.errors import InputError
from dsnet_med.files import read_json, write_json
from dsnet_med.inference.trust import is_noted, remember
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.prepare.store import Store

METADATA = "configs/metadata.json"
NOT_STATED = "not stated"
_APPS = {
    "monai-label": "0.8.5",
    "monai-deploy-app-sdk": "4.0.0",
    "3d-slicer": "through monai-label",
}  # as tested


def describe(
    template: Path, train: Mapping[str, Any], *, before: Mapping[str, Any] | None = None, **words: Any
) -> dict[str, Any]:
    """The metadata.json in `template` for a composed train.yaml; its data are asked for what they are.

    `before` is what the run's own metadata.json says, for what its store would have said where that is gone.
    `words` are keys that the caller knows better, such as name, authors, copyright, license, data_source,
    version or eval_metrics; one that is None is left as it is. Raises InputError for data that are no longer
    there and are asked for the classes.
    """
    metadata: dict[str, Any] = json.loads(template.read_text(encoding="utf-8"))
    metadata |= _versions(metadata["required_packages_version"])
    card, names = train["method_card"], [plain(str(name)) for name in evaluated(train, "class_names")]
    metadata |= {
        "name": str(card["id"]),
        "description": f"{card['title']}, trained by dsnet-med",
        "changelog": {metadata["version"]: f"trained by dsnet-med {dsnet_med.__version__}"},
        "authors": NOT_STATED,  # of the weights: the user's, whom a run does not know
        "copyright": NOT_STATED,
        "license": NOT_STATED,
    }
    image, pred = metadata["network_data_format"]["inputs"]["image"], _pred(metadata)
    if pred["format"] != "boxes":  # but a channel of logits for each class, or region
        outputs = list(train.get("regions") or names)
        pred |= {"num_channels": len(outputs), "channel_def": _numbered(outputs)}
    if train["task"] == "organs":
        mask = metadata["network_data_format"]["post_processed_outputs"]["pred"]
        mask |= {"channel_def": _numbered(names), "value_range": [0, len(names) - 1]}
        mask["dtype"] = "uint8" if len(names) <= 256 else "int16"
        metadata |= _of_volumes(train, names, image, before or {})
    else:
        metadata["label_classes"] = f"{len(names)} classes"
        if isinstance(train.get("size"), int):
            image["spatial_shape"] = [train["size"]] * 2
    told = {name: value for name, value in words.items() if value is not None}
    if "version" in told and "changelog" not in told:
        told["changelog"] = {told["version"]: metadata["changelog"][metadata["version"]]}
    return metadata | told


def note_scores(run: Path, scores: Mapping[str, Any]) -> None:
    """Write the scores of a finished training into a run's metadata.json, where it has one that can be read."""
    file = run / METADATA
    try:
        metadata, own = read_json(file), is_noted(file)
    except (OSError, ValueError):
        return
    if isinstance(metadata, dict):
        write_json(file, metadata | {"eval_metrics": dict(scores)})
        if own:  # what a stranger wrote into the rest of it does not become one's own
            remember([file])


def _versions(packages: Mapping[str, str]) -> dict[str, Any]:
    """The versions that are installed, of `packages` as well, without the local part, which names a build."""
    needed = {name: installed for name in packages if (installed := _installed(name)) is not None}
    names = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
    return {key: _installed(name) for key, name in names.items()} | {"required_packages_version": needed}


def _installed(name: str) -> str | None:
    if name == "dsnet-med":
        return dsnet_med.__version__
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def _pred(metadata: Mapping[str, Any]) -> dict[str, Any]:
    pred: dict[str, Any] = metadata["network_data_format"]["outputs"]["pred"]
    return pred


def _numbered(names: list[str]) -> dict[str, str]:
    return {str(label): name for label, name in enumerate(names)}


def _of_volumes(
    train: Mapping[str, Any], names: list[str], image: dict[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run on a store says of its data; completes `image`, the format of the input."""
    labels, regions = _told(names), list(train.get("regions") or ())
    said = {
        "label_classes": f"one class id per voxel: {labels}",
        "pred_classes": f"one channel of logits per class: {labels}",
        "supported_apps": _APPS,
    }
    if regions:
        said["pred_classes"] = f"one channel of logits per region, there where it is above 0: {_told(regions)}"
    store = _store(train)
    if store is None:
        kept = ("task", "data_source", "image_classes", "references")
        image |= before.get("network_data_format", {}).get("inputs", {}).get("image", {})
        return said | {name: before[name] for name in kept if name in before}
    recipe = store.recipe
    window = all(rule.kind == "window" for rule in store.intensities)
    modality = str(recipe.get("modality", NOT_STATED))
    several = len(store.channels) > 1
    scaled = list(dict.fromkeys(map(_scaled, store.intensities)))
    image |= {
        "format": "hounsfield" if window and modality == "CT" else "magnitude",
        "modality": modality,
        "num_channels": len(store.channels),
        "value_range": [0, 1] if window else [],
        "spacing": list(store.spacing_mm) if store.spacing_mm else _median_spacing(store),
        "channel_def": _numbered(list(store.channels)) if several else {"0": modality},
    }
    way = "slice by slice" if train.get("spatial_dims", 2) == 2 else "by windows of volumes"
    channels = f"{len(store.channels)} channels ({', '.join(store.channels)})" if several else "one channel"
    return said | {
        "task": f"Segmentation of {len(store.targets)} structures in {modality}, {way}",
        "data_source": _source(recipe),
        "image_classes": f"{channels}, {'; '.join(scaled)}",
        "references": [
            str(each) for each in (train["method_card"].get("paper"), recipe.get("citation")) if each
        ],
    }


def _told(names: list[str]) -> str:
    return ", ".join(f"{label} {name}" for label, name in _numbered(names).items())


def _scaled(rule: Intensity) -> str:
    """How a rule scales a channel, in words."""
    low, high = f"{rule.low:g}", f"{rule.high:g}"
    if rule.kind == "window":
        return f"intensities from {low} to {high} scaled to 0 to 1"
    clipped = f"clipped at its percentiles {low} and {high}, "
    if rule.kind == "unit_variance":
        return f"{clipped}shifted to a minimum of 0, divided by its deviation"
    of = " of what is not 0, which stays 0" if rule.foreground else ""
    return f"{clipped}brought to a mean of 0 and a deviation of 1{of}"


def _store(train: Mapping[str, Any]) -> Store | None:
    """The store of a run, where it still lies and is whole."""
    try:
        return open_store(plain(str(train["dataset_dir"])))
    except InputError:
        return None


def _median_spacing(store: Store) -> list[float]:
    """The median spacing of the cases in mm: between slices, rows and columns, as the axes of the input."""
    spacings = np.array([case.spacing_mm for case in store.cases.values()])
    return [round(float(each), 4) for each in np.median(spacings, axis=0)]


def _source(recipe: Mapping[str, Any]) -> str:
    """Where the data come from, by their recipe."""
    where = ": ".join(str(recipe[name]) for name in ("title", "source") if recipe.get(name))
    licence = f" ({recipe['licence']})" if recipe.get("licence") else ""
    return f"{where}{licence}" or NOT_STATED
