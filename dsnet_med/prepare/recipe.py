"""A data set described as data: where its files lie, what its labels mean, how it is split.

A recipe is a folder of data_prep/ with a recipe.yaml, or a recipe.yaml of the user's own; docs/data.md
describes its keys. Every mistake in it is an InputError that names the key and the value.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

from dsnet_med import resources
from dsnet_med.errors import InputError, unknown
from dsnet_med.geometry import SliceAxis
from dsnet_med.prepare import decathlon
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.prepare.recipe_yaml import read_yaml
from dsnet_med.prepare.splits import SeededSplit, read_splits

LAYOUTS = ("pairs", "acdc", "decathlon", "table")
MODALITIES = ("CT", "MR")
_REQUIRED = ("id", "title", "source", "licence", "modality", "layout", "intensity", "splits")
_OPTIONAL = (
    "citation",
    "image",
    "label",
    "cases",
    "classes",
    "label_map",
    "slice_axis",
    "sides",
    "allow_empty",
)
_LARGEST_LABEL = 65535
_FIELD = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class Recipe:
    """One data set. `label_map` holds every legal raw label value; class id = position in `classes`.

    With `allow_empty`, label maps may be all background. `notes` say what dataset.json wants and does not get.
    Recipes that leave `classes` to a dataset.json have none until `for_source` has read it.
    """

    id: str
    title: str
    source: str
    licence: str
    modality: str
    layout: str
    image: str
    label: str
    classes: tuple[str, ...]
    label_map: dict[int, int]
    intensity: Intensity
    slice_axis: SliceAxis
    left: tuple[str, ...]
    right: tuple[str, ...]
    splits: dict[str, str] | SeededSplit
    path: Path
    hash: str
    citation: str = ""
    cases: Path | None = None
    intensity_of: dict[str, Intensity] = field(default_factory=dict)
    allow_empty: bool = False
    notes: tuple[str, ...] = ()

    @property
    def is_published(self) -> bool:
        """Whether the recipe comes with dsnet-med, its split list with it."""
        return self.path.is_relative_to(resources.data_prep())

    def as_dict(self) -> dict[str, Any]:
        """Everything but where the recipe lies, as JSON takes it."""
        splits = self.splits
        rule = vars(splits) if isinstance(splits, SeededSplit) else dict(splits)
        plain = ("id", "title", "source", "licence", "citation", "modality", "layout", "image", "label", "hash")
        return {name: getattr(self, name) for name in plain} | {
            "classes": list(self.classes),
            "label_map": {str(raw): class_id for raw, class_id in self.label_map.items()},
            "intensity": self.intensity.as_dict(),
            "slice_axis": self.slice_axis,
            "allow_empty": self.allow_empty,
            "sides": {"left": list(self.left), "right": list(self.right)},
            "splits": rule,
        }


def recipe_ids() -> list[str]:
    """The recipes that come with dsnet-med: the folders of data_prep/ that hold a recipe.yaml."""
    return sorted(file.parent.name for file in resources.data_prep().glob("*/recipe.yaml"))


def load_recipe(name_or_path: str) -> Recipe:
    """The recipe of this id, or in this file or folder. Raises InputError with the nearest name."""
    path = _recipe_file(name_or_path)
    content = _read_keys(path)
    try:
        return _parse(path, content)
    except InputError as error:
        message = str(error)
        raise error if message.startswith(str(path.parent)) else InputError(f"{path}: {message}") from error


def for_source(recipe: Recipe, source: Path) -> Recipe:
    """`recipe` with classes, label values and modality from `source`/dataset.json where it leaves them to it.

    Other recipes come back as they are. Raises InputError for a missing or unusable dataset.json and for
    images of several channels.
    """
    if recipe.classes:
        return recipe
    description = decathlon.read_dataset_json(source)
    classes, label_map, notes = decathlon.described_classes(source, description)
    modality = decathlon.described_modality(source, description)
    told = json.dumps([classes, sorted(label_map.items()), modality])
    return replace(
        recipe,
        title=str(description.get("name") or recipe.title),
        modality=modality,
        intensity=recipe.intensity_of[modality],
        classes=classes,
        label_map=label_map,
        notes=notes,
        hash=hashlib.sha256(f"{recipe.hash}{told}".encode()).hexdigest(),
    )


def _recipe_file(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    if (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.suffix in (".yaml", ".yml") or len(path.parts) != 1:
        raise InputError(f"{path}: no such recipe file; known recipes: {', '.join(recipe_ids())}")
    if name_or_path not in recipe_ids():
        raise unknown("recipe", name_or_path, recipe_ids())
    return resources.data_prep() / name_or_path / "recipe.yaml"


def _read_keys(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no keys, wanted a recipe with {', '.join(_REQUIRED)}")
    return content


def _parse(path: Path, content: dict[str, Any]) -> Recipe:
    _check_keys(content)
    layout = _choice(content, "layout", LAYOUTS)
    classes = _classes(content)
    intensity_of = _intensities(content)
    label_map = _label_map(content, classes)
    sides = _sides(content, classes)
    templates = {key: _template(content, key, layout) for key in ("image", "label")}
    if layout == "pairs" and templates["image"] == templates["label"]:
        raise InputError(f"image and label are one template, '{templates['image']}'; give each its own")
    parts = _attached_files(path, content)
    return Recipe(
        id=_text(content, "id"),
        title=_text(content, "title"),
        source=_text(content, "source"),
        licence=_text(content, "licence"),
        citation=_text(content, "citation"),
        modality=_choice(content, "modality", MODALITIES if classes else (decathlon.FILE_NAME,)),
        layout=layout,
        image=templates["image"],
        label=templates["label"],
        classes=classes,
        label_map=label_map,
        intensity=next(iter(intensity_of.values())),
        slice_axis=cast(SliceAxis, _choice(content, "slice_axis", get_args(SliceAxis), "superior")),
        left=sides["left"],
        right=sides["right"],
        splits=_splits(path, content["splits"]),
        path=path,
        hash=_hash(path, *parts.values()),
        cases=parts.get("cases"),
        intensity_of=intensity_of,
        allow_empty=_flag(content, "allow_empty"),
    )


def _check_keys(content: dict[str, Any]) -> None:
    for key in content:
        if key not in _REQUIRED + _OPTIONAL:
            raise unknown("recipe key", str(key), _REQUIRED + _OPTIONAL)
    missing = [key for key in _REQUIRED if key not in content]
    if missing:
        raise InputError(f"the recipe lacks {', '.join(missing)}")
    if content["layout"] == "table" and "cases" not in content:
        raise InputError("layout 'table' needs the key cases, the name of a CSV file beside the recipe")
    if "classes" not in content and content["layout"] != "decathlon":
        raise InputError("the recipe lacks classes; only layout 'decathlon' can take them from dataset.json")


def _text(content: dict[str, Any], key: str) -> str:
    value = content.get(key, "")
    if not isinstance(value, str) or (key == "id" and not value):
        raise InputError(f"{key}: got {value!r}, wanted text")
    return value.strip()


def _choice(content: dict[str, Any], key: str, known: tuple[str, ...], default: str = "") -> str:
    value = content.get(key, default)
    if value not in known:
        raise unknown(key, str(value), known)
    return str(value)


def _template(content: dict[str, Any], key: str, layout: str) -> str:
    if isinstance(content.get(key), Mapping):  # what YAML makes of {case} alone
        raise InputError(f'{key}: got {content[key]!r}, which needs quotes: "{{case}}.nii.gz"')
    value = _text(content, key)
    if layout != "pairs":
        return value
    others = [field for field in _FIELD.findall(value) if field != "{case}"]
    if value.count("{case}") > 1 or "*" in value or others:
        raise InputError(
            f"{key}: got '{value}', wanted one {{case}}, no other {{field}} and no '*'; "
            "where names hold more than that, use layout 'table', whose CSV file lists every case's files"
        )
    if "{case}" not in value or not value.endswith((".nii", ".nii.gz")):
        raise InputError(f"{key}: got '{value}', wanted a path with one {{case}} that ends in .nii.gz")
    return value


def _flag(content: dict[str, Any], key: str) -> bool:
    value = content.get(key, False)
    if not isinstance(value, bool):
        raise InputError(f"{key}: got {value!r}, wanted true or false")
    return value


def _classes(content: dict[str, Any]) -> tuple[str, ...]:
    names = content.get("classes", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError(
            f"classes: got {names!r}, wanted a list of names; put numbers, true, false and null in quotes"
        )
    if "classes" in content and (len(names) < 2 or names[0] != "background"):
        raise InputError(f"classes: got {names!r}, wanted background first and then at least one name")
    if len(set(names)) != len(names) or len(names) > 255:
        raise InputError("classes: wanted at most 255 names, each once")
    return tuple(names)


def _label_map(content: dict[str, Any], classes: tuple[str, ...]) -> dict[int, int]:
    """Raw value -> class id, from `class name: values`; left out, raw values are class ids."""
    written = content.get("label_map", {name: class_id for class_id, name in enumerate(classes)})
    if not isinstance(written, Mapping):
        raise InputError(f"label_map: got {written!r}, wanted lines 'class name: raw label values'")
    label_map: dict[int, int] = {}
    for name, values in written.items():
        if name not in classes:
            raise unknown("class in label_map", str(name), classes)
        for raw in _raw_values(str(name), values):
            if raw in label_map:
                raise InputError(f"label_map: raw value {raw} stands for {classes[label_map[raw]]} and {name}")
            label_map[raw] = classes.index(name)
    missing = [name for name in classes if name not in written]
    if missing:
        raise InputError(f"label_map: no raw value for {', '.join(missing)}")
    return dict(sorted(label_map.items()))


def _raw_values(name: str, values: Any) -> list[int]:
    """`8`, `"9-13"` or a list of such, as integers."""
    if isinstance(values, list):
        return [raw for value in values for raw in _raw_values(name, value)]
    first, _, last = str(values).partition("-")
    bounds = first.strip(), (last or first).strip()
    if isinstance(values, bool) or not all(bound.isascii() and bound.isdigit() for bound in bounds):
        raise InputError(
            f"label_map: {name} got {values!r}, wanted a number, a range '9-13' or a list of these"
        )
    low, high = int(bounds[0]), int(bounds[1])
    if not low <= high <= _LARGEST_LABEL:
        raise InputError(f"label_map: {name} got {values!r}, wanted rising values up to {_LARGEST_LABEL}")
    return list(range(low, high + 1))


def _intensities(content: dict[str, Any]) -> dict[str, Intensity]:
    """The rule of each modality: one for all, or `{CT: ..., MR: ...}` where dataset.json names the modality."""
    rule = content["intensity"]
    if "classes" in content:
        return {str(content["modality"]): Intensity.from_dict(rule)}
    if not isinstance(rule, Mapping) or set(rule) != set(MODALITIES):
        raise InputError(f"intensity: got {rule!r}, wanted one rule for CT and one for MR")
    return {modality: Intensity.from_dict(rule[modality]) for modality in MODALITIES}


def _sides(content: dict[str, Any], classes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    sides = content.get("sides", {})
    if not isinstance(sides, Mapping):
        raise InputError(f"sides: got {sides!r}, wanted left: [...] and right: [...]")
    for side, names in sides.items():
        if side not in ("left", "right"):
            raise unknown("side", str(side), ("left", "right"))
        if not isinstance(names, list):
            raise InputError(f"sides: {side} got {names!r}, wanted a list of class names")
        for name in names:
            if name not in classes:
                raise unknown(f"class in sides.{side}", str(name), classes)
    return {side: tuple(sides.get(side, ())) for side in ("left", "right")}


def _splits(path: Path, splits: Any) -> dict[str, str] | SeededSplit:
    if isinstance(splits, str):
        return read_splits(path.parent / splits)
    wanted = (
        "wanted a CSV file beside the recipe, or seed, val and test (fractions that leave some for training)"
    )
    if not isinstance(splits, Mapping) or set(splits) != {"seed", "val", "test"}:
        raise InputError(f"splits: got {splits!r}, {wanted}")
    seed, val, test = splits["seed"], splits["val"], splits["test"]
    numbers = all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in (seed, val, test))
    if not numbers or not isinstance(seed, int) or min(val, test) < 0 or val + test >= 1:
        raise InputError(f"splits: got {dict(splits)!r}, {wanted}")
    return SeededSplit(seed, float(val), float(test))


def _attached_files(path: Path, content: dict[str, Any]) -> dict[str, Path]:
    """The CSV files that belong to the recipe, by their key."""
    names = {key: content[key] for key in ("splits", "cases") if isinstance(content.get(key), str)}
    files = {key: path.parent / name for key, name in names.items()}
    for key, file in files.items():
        if not file.is_file():
            raise InputError(f"{key}: {file} does not exist; it is looked for beside the recipe")
    return files


def _hash(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
