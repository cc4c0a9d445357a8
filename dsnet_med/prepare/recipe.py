"""A data set described as data: where its files lie, what its labels mean, how it is split.

A recipe is a folder of data_prep/ with a recipe.yaml, or a recipe.yaml of the user's own; docs/data.md
describes its keys. Every mistake in it is an InputError that names the key and the value.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dsnet_med import resources
from dsnet_med.errors import InputError, cannot_read, first_mistake, one_line, shown, unknown
from dsnet_med.files import read_text
from dsnet_med.geometry import SliceAxis
from dsnet_med.prepare import decathlon
from dsnet_med.prepare.intensity import IntensityRule
from dsnet_med.prepare.splits import SeededSplit, read_splits
from dsnet_med.yaml_core import parse_yaml

_MODALITIES = ("CT", "MR")
_LARGEST_LABEL = 65535
_FIELD = re.compile(r"\{[^{}]*\}")
_NOT_KEYS = {"hash", "path", "intensity_of", "notes"}
_FILES = ("splits", "cases")  # keys that may name a CSV file beside the recipe

Name = Annotated[str, Field(min_length=1)]


class Recipe(BaseModel):
    """One data set. `label_map` holds every legal raw label value; class id = position in `classes`.

    With `allow_empty`, label maps may be all background. `notes` say what dataset.json wants and does not get.
    Recipes that leave `classes` to a dataset.json have none until `for_source` has read it, and a rule for the
    intensities of each modality.
    """

    model_config = ConfigDict(frozen=True, str_strip_whitespace=True)

    id: Name
    title: str
    source: str
    licence: str
    citation: str = ""
    modality: Literal["CT", "MR", "dataset.json"]
    layout: Literal["pairs", "acdc", "decathlon", "table"]
    image: Annotated[str, Field(validate_default=True)] = ""
    label: Annotated[str, Field(validate_default=True)] = ""
    hash: str
    classes: tuple[Name, ...] = ()
    label_map: Annotated[dict[int, int], Field(validate_default=True)] = None  # type: ignore[assignment]
    intensity: IntensityRule
    slice_axis: SliceAxis = "superior"
    allow_empty: StrictBool = False
    sides: dict[Literal["left", "right"], tuple[str, ...]] = {"left": (), "right": ()}
    splits: dict[str, str] | SeededSplit
    cases: Path | None = None
    path: Path
    intensity_of: dict[str, IntensityRule] = {}
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Everything but where the recipe lies, as JSON takes it."""
        return self.model_dump(mode="json", exclude={"path", "cases", "intensity_of", "notes"})

    @field_validator("image", "label")
    @classmethod
    def _template(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("layout") != "pairs":
            return value
        others = [name for name in _FIELD.findall(value) if name != "{case}"]
        if value.count("{case}") > 1 or "*" in value or others:
            raise InputError(
                f"{info.field_name}: got '{value}', wanted one {{case}}, no other {{field}} and no '*'; where "
                "names hold more than that, use layout 'table', whose CSV file lists every case's files"
            )
        if "{case}" not in value or not value.endswith((".nii", ".nii.gz")):
            raise InputError(
                f"{info.field_name}: got '{value}', wanted a path with one {{case}} that ends in .nii.gz"
            )
        if value == info.data.get("image"):
            raise InputError(f"image and label are one template, '{value}'; give each its own")
        return value

    @field_validator("classes")
    @classmethod
    def _background_first(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(names) < 2 or names[0] != "background":
            raise InputError(f"classes: got {list(names)}, wanted background first and then at least one name")
        if len(set(names)) != len(names) or len(names) > 255:
            raise InputError("classes: wanted at most 255 names, each once")
        return names

    @field_validator("label_map", mode="before")
    @classmethod
    def _by_raw_value(cls, written: Any, info: ValidationInfo) -> dict[int, int]:
        """Raw value -> class id, from `class name: values`; left out, raw values are class ids."""
        classes = info.data.get("classes", ())
        if written is None:
            return {class_id: class_id for class_id in range(len(classes))}
        if not isinstance(written, Mapping):
            raise InputError(f"label_map: got {shown(written)}, wanted lines 'class name: raw label values'")
        label_map: dict[int, int] = {}
        for name, values in written.items():
            if name not in classes:
                raise unknown("class in label_map", str(name), classes)
            for raw in _raw_values(name, values):
                if raw in label_map:
                    other = classes[label_map[raw]]
                    raise InputError(f"label_map: raw value {raw} stands for {other} and {name}")
                label_map[raw] = classes.index(name)
        if missing := [name for name in classes if name not in written]:
            raise InputError(f"label_map: no raw value for {', '.join(missing)}")
        return dict(sorted(label_map.items()))

    @field_validator("sides")
    @classmethod
    def _of_classes(cls, sides: dict[Any, tuple[str, ...]], info: ValidationInfo) -> dict[Any, tuple[str, ...]]:
        for side, names in sides.items():
            for name in names:
                if name not in info.data.get("classes", ()):
                    raise unknown(f"class in sides.{side}", name, info.data.get("classes", ()))
        return {side: sides.get(side, ()) for side in ("left", "right")}

    @field_validator("splits", mode="before")
    @classmethod
    def _list_or_rule(cls, splits: Any) -> dict[str, str] | SeededSplit:
        if isinstance(splits, Path):
            return read_splits(splits)
        if isinstance(splits, Mapping) and set(splits) == {"seed", "val", "test"}:
            seed, val, test = (splits[name] for name in ("seed", "val", "test"))
            numbers = type(seed) is int and all(type(part) in (int, float) for part in (val, test))
            if numbers and min(val, test) >= 0 and val + test < 1:
                return SeededSplit(seed, float(val), float(test))
        raise InputError(
            f"splits: got {shown(splits)}, wanted a CSV file beside the recipe, or seed, val and test "
            "(fractions that leave some for training)"
        )

    @model_validator(mode="after")
    def _complete(self) -> "Recipe":
        if self.layout == "table" and self.cases is None:
            raise InputError("layout 'table' needs the key cases, the name of a CSV file beside the recipe")
        known = _MODALITIES if self.classes else (decathlon.FILE_NAME,)
        if self.modality not in known:
            raise unknown("modality", self.modality, known)
        return self


def recipe_ids() -> list[str]:
    """The recipes that come with dsnet-med: the folders of data_prep/ that hold a recipe.yaml."""
    return sorted(file.parent.name for file in resources.data_prep().glob("*/recipe.yaml"))


def load_recipe(name_or_path: str) -> Recipe:
    """The recipe of this id, or in this file or folder. Raises InputError with the nearest name."""
    path = _recipe_file(name_or_path)
    content = _read_keys(path)
    try:
        return _parse(path, content)
    except ValidationError as error:
        message = _told(error)
    except InputError as error:
        message = str(error)
    raise InputError(message if message.startswith(str(path.parent)) else f"{path}: {message}")


def for_source(recipe: Recipe, source: Path) -> Recipe:
    """`recipe` with classes, label values and modality from `source`/dataset.json where it leaves them to it.

    Other recipes come back as they are. Raises InputError for a missing or unusable dataset.json and for
    images of several channels.
    """
    if recipe.classes:
        return recipe
    description = decathlon.read_dataset_json(source)
    classes, label_map, notes = decathlon.described_classes(source, description.labels)
    modality = decathlon.described_modality(source, description.channels)
    told = json.dumps([classes, sorted(label_map.items()), modality])
    completed = {
        "title": str(description.name or recipe.title),
        "modality": modality,
        "intensity": recipe.intensity_of[modality],
        "classes": classes,
        "label_map": label_map,
        "notes": notes,
        "hash": hashlib.sha256(f"{recipe.hash}{told}".encode()).hexdigest(),
    }
    return recipe.model_copy(update=completed)


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
    try:
        content = parse_yaml(read_text(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as YAML ({error}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        mark = getattr(error.__cause__, "problem_mark", None)
        line = mark.get_snippet(indent=0).splitlines()[0] if mark else ""
        told = one_line(f"{error}: {line}" if line else error)
        otherwise = (
            f"cannot be read as YAML ({told}); text that begins with a sign, such as {{case}}, "
            "or holds ': ' needs quotes; tabs are no blanks"
        )
        raise cannot_read(path, error, otherwise) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no keys, wanted a recipe")
    return content


def _parse(path: Path, content: dict[str, Any]) -> Recipe:
    keys = Recipe.model_fields.keys() - _NOT_KEYS
    for key, value in content.items():
        if key not in keys:
            raise unknown("recipe key", str(key), keys)
        if value is None:
            raise InputError(f"{key}: has no value; give it one, or leave the key out")
    files = {key: path.parent / content[key] for key in _FILES if isinstance(content.get(key), str)}
    for key, file in files.items():
        if not file.is_file():
            raise InputError(f"{key}: {file} does not exist; it is looked for beside the recipe")
    digest = hashlib.sha256()
    for file in (path, *files.values()):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    given = content | files | {"path": path, "hash": digest.hexdigest()}
    if "classes" not in content and "layout" in content:
        if content["layout"] != "decathlon":
            raise InputError("the recipe lacks classes; only layout 'decathlon' takes them from dataset.json")
        rules = content.get("intensity")
        if not isinstance(rules, Mapping) or set(rules) != set(_MODALITIES):
            raise InputError(f"intensity: got {shown(rules)}, wanted one rule for CT and one for MR")
        given |= {"intensity": rules["CT"], "intensity_of": rules}
    return Recipe.model_validate(given)


def _told(error: ValidationError) -> str:
    """The first mistake that pydantic found, in one line."""
    mistakes = error.errors(include_url=False)
    if lacking := [str(mistake["loc"][0]) for mistake in mistakes if mistake["type"] == "missing"]:
        return f"the recipe lacks {', '.join(lacking)}"
    first = mistakes[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "literal_error":
        known = re.findall(r"'(.*?)'", first["ctx"]["expected"])
        return str(unknown(str(first["loc"][0]), str(first["input"]), known))
    message = first_mistake(error).replace("tuple", "list")  # which is what YAML has
    return message + ("; put it in quotes" if first["type"] == "string_type" else "")


def _raw_values(name: str, values: Any) -> list[int]:
    """`8`, `"9-13"` or a list of such, as integers."""
    if isinstance(values, list):
        return [raw for value in values for raw in _raw_values(name, value)]
    match = re.fullmatch(r"([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?", str(values).strip())
    if not match:
        raise InputError(
            f"label_map: {name} got {shown(values)}, wanted a number, a range '9-13' or a list of these"
        )
    low, high = int(match[1]), int(match[2] or match[1])
    if not low <= high <= _LARGEST_LABEL:
        raise InputError(f"label_map: {name} got {shown(values)}, wanted rising values up to {_LARGEST_LABEL}")
    return list(range(low, high + 1))
