"""Training on images and labels that a tool hands over as files.

MONAI Label trains a bundle by putting its own values into train.yaml: train#dataset#data and
validate#dataset#data become lists of {"image": path, "label": path}, train#trainer#max_epochs a number, device
a text, and a CheckpointLoader goes before our handlers. `take` says the same in the terms of this train.yaml: a
store made of the files, its cases, and as many steps as the epochs have. The store lies in the bundle's folder,
in `handed_over`. Read for this: monailabel 0.8.5, tasks/train/bundle.py.
"""

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from dsnet_med import resources
from dsnet_med.engine import distributed
from dsnet_med.engine.data import hold_out, training_items
from dsnet_med.engine.overrides import MEANINGS, load
from dsnet_med.engine.session import reading
from dsnet_med.errors import InputError, first_of, shown
from dsnet_med.find import case_name
from dsnet_med.inference.bundle_reader import settings_of
from dsnet_med.networks.definition import literal
from dsnet_med.prepare.cases import RawCase
from dsnet_med.prepare.convert import convert_given
from dsnet_med.prepare.recipe import Recipe
from dsnet_med.prepare.store import Store

STORE = "handed_over"
_TRAIN, _VALIDATE, _EPOCHS = "train#dataset#data", "validate#dataset#data", "train#trainer#max_epochs"
_logger = logging.getLogger(__name__)


def take() -> None:
    """Take up what a tool has put into the configuration whose `initialize` calls this; else do nothing.

    Raises InputError for items that are no files of images with labels, and for labels that are none of the
    network's classes.
    """
    parser = reading()
    device = parser.get("device")
    if isinstance(device, str) and device[:1] not in MEANINGS:
        _update(parser, {"device": f"$torch.device({device!r})"})
    if not _is_handed(parser.get(_TRAIN)):
        return
    if distributed.world_size() > 1:
        raise InputError("got images and labels to train on with several processes; wanted one")
    folder = Path(parser.get_parsed_content("bundle_root")).resolve()
    if parser.get("task", "organs") != "organs":
        raise InputError(f"{folder}: trains on a store alone; give dataset_dir")
    if len(parser.get("channel_names", ("image",))) > 1 or parser.get("regions") or parser.get("spacing_mm"):
        raise InputError(
            f"{folder}: was trained on several channels, regions or resampled cases, which a list of images "
            "does not say; make a store with preprocess and give it as dataset_dir"
        )
    cases = _cases(parser.get(_TRAIN), _given(parser.get(_VALIDATE)))
    store = _store(folder, cases)
    sides = {side: [case.id for case in store.cases_of(side)] for side in ("train", "val")}
    if not sides["val"]:
        _logger.warning("One volume was handed over: it is trained and validated on. Label a second one.")
        sides["val"] = sides["train"]
    items = training_items(str(store.path), sides["train"], parser.get("spatial_dims", 2))
    template = load(resources.configs() / "train.yaml")
    pairs = {
        "dataset_dir": literal(str(store.path)),
        "store_id": store.id,
        "cases": {side: [literal(name) for name in names] for side, names in sides.items()},
        "resume": False,
        "session#replaces": True,
        _TRAIN: template["train"]["dataset"]["data"],
        _VALIDATE: template["validate"]["dataset"]["data"],
        "train#handlers": [_strict(handler) for handler in parser.get("train#handlers")],
    }
    _update(parser, pairs | _length(parser, len(items)))


def _is_handed(data: Any) -> bool:
    return isinstance(data, Sequence) and not isinstance(data, str) and any(map(_is_file_item, data))


def _is_file_item(item: Any) -> bool:
    return isinstance(item, Mapping) and "image" in item and "case" not in item


def _given(data: Any) -> list[Any]:
    """The items to validate on; none where the configuration still says its own."""
    return list(data) if isinstance(data, Sequence) and not isinstance(data, str) else []


def _cases(train: Sequence[Any], val: Sequence[Any]) -> list[RawCase]:
    """The items as cases, each with a name and a side; where none is to validate on, some are held out."""
    names: set[str] = set()
    cases = [_case(item, side, names) for side, items in (("train", train), ("val", val)) for item in items]
    if not val and len(cases) > 1:
        held_out = {case.id for case in hold_out(cases)[1]}
        cases = [_on_side(case, "val" if case.id in held_out else "train") for case in cases]
    return cases


def _case(item: Any, side: str, names: set[str]) -> RawCase:
    image, label = (item.get(key) for key in ("image", "label")) if isinstance(item, Mapping) else (None, None)
    if not isinstance(image, str | Path) or not isinstance(label, str | Path):
        raise InputError(f"got {shown(item)} to train on, wanted {{image: a file, label: its label map}}")
    image, label = Path(image).absolute(), Path(label).absolute()
    if missing := next((path for path in (image, label) if not path.exists()), None):
        raise InputError(f"{missing}: no such file, which was handed over to train on")
    plain = re.sub(r"[^A-Za-z0-9_.+\-]", "_", case_name(image)).lstrip("_.+-") or "case"
    name = next(n for n in (plain, *(f"{plain}-{k}" for k in range(2, len(names) + 3))) if n not in names)
    names.add(name)
    return RawCase(name, name, side, (image,), (label,))


def _on_side(case: RawCase, side: str) -> RawCase:
    return replace(case, split=side)


def _store(folder: Path, cases: list[RawCase]) -> Store:
    """The store of these cases in the bundle's folder, with the intensities and slices of its inference."""
    settings = settings_of(folder)
    folders = [str(file.parent) for case in cases for file in (*case.images, *case.labels)]
    source = Path(os.path.commonpath(folders))
    told = repr((settings["class_names"], settings["intensities"][0], settings["slice_axis"]))
    recipe = Recipe.model_validate(
        {
            "id": STORE,
            "title": "Images and labels that were handed over",
            "source": "the tool that trains the bundle",
            "licence": "that of the images",
            "modality": "CT" if settings["intensities"][0].kind == "window" else "MR",
            "layout": "pairs",
            "image": "images/{case}.nii.gz",
            "label": "labels/{case}.nii.gz",
            "hash": hashlib.sha256(told.encode()).hexdigest(),
            "classes": settings["class_names"],
            "intensity": settings["intensities"][0].as_dict(),
            "slice_axis": settings["slice_axis"],
            "allow_empty": True,
            "splits": {"seed": 0, "val": 0.15, "test": 0},
            "path": folder / STORE,
        }
    )
    try:
        return convert_given(recipe, source, folder / STORE, cases)
    except InputError as error:
        classes = first_of((f"{k} {name}" for k, name in enumerate(recipe.classes)), 20)
        raise InputError(f"{error} (handed over to train a network of the classes {classes})") from error


def _length(parser: ConfigParser, items: int) -> dict[str, Any]:
    """As many steps as there are in the epochs that were asked for; one is a pass over all slices or cases."""
    epochs = parser.get(_EPOCHS)
    if type(epochs) is not int:
        return {}
    if epochs < 1:
        raise InputError(f"got max_epochs={epochs}, wanted at least 1")
    steps = -(-items // parser.get_parsed_content("batch_size"))
    return {"iterations": epochs * steps, "validate_every": steps, "epoch_length": steps}


def _strict(handler: Any) -> Any:
    """A CheckpointLoader that does not pass over weights of another network."""
    loads = isinstance(handler, Mapping) and str(handler.get("_target_", "")).endswith("CheckpointLoader")
    return {**handler, "strict": True} if loads else handler


def _update(parser: ConfigParser, pairs: Mapping[str, Any]) -> None:
    parser.update(dict(pairs))
    parser.parse(reset=True)
