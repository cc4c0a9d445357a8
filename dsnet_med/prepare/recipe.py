"""A data set described as data: where its files lie, what its labels mean, how it is split.

A recipe is a folder of data_prep/ with a recipe.yaml, or a recipe.yaml of the user's own; docs/data.md
describes its keys. Every mistake in it is an InputError that names the key and the value.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dsnet_med import regions as regions_of
from dsnet_med import resources
from dsnet_med.errors import InputError, cannot_read, first_mistake, one_line, shown, unknown
from dsnet_med.files import read_text
from dsnet_med.geometry import SliceAxis
from dsnet_med.prepare import decathlon
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.prepare.recipe_values import (
    Splits,
    intensity_rules,
    raw_values,
    require_different,
    require_names,
    require_template,
    spacing,
    split_rule,
)
from dsnet_med.prepare.splits import FoldedSplit
from dsnet_med.regions import IGNORED, Region
from dsnet_med.yaml_core import parse_yaml

TASK_FOLDERS = ("decathlon", "nnunet")  # the layouts that a dataset.json describes
_MODALITIES = ("CT", "MR")
_NOT_KEYS = {"hash", "path", "intensity_of", "notes", "grid_mm"}
_FILES = ("splits", "cases")  # keys that may name a CSV file beside the recipe


def _written_intensity(rule: Intensity | dict[str, Intensity]) -> dict[str, Any]:
    """One rule, or that of each channel, as recipes hold it."""
    if isinstance(rule, dict):
        return {name: each.as_dict() for name, each in rule.items()}
    return rule.as_dict()


Name = Annotated[str, Field(min_length=1)]
Spacing = tuple[float, float, float]


class Recipe(BaseModel):
    """One data set. `label_map` holds every legal raw label value; class id = position in `classes`.

    `image` is a template, or one for each of several `channels`; `label` one, or one for each structure whose
    masks are files of their own. Where these may share voxels they are `overlapping`, and a stored label has a
    bit for each. `regions` are made of class ids. Voxels with a value of `ignore` get the class id IGNORED.
    With `allow_empty`, label maps may be all background. `notes` say what dataset.json wants and does not get;
    `grid_mm` is what `spacing_mm` comes to, slices, rows and columns, where cases are resampled.
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
    layout: Literal["pairs", "acdc", "decathlon", "nnunet", "table"]
    channels: tuple[Name, ...] = ("image",)
    image: Annotated[str | dict[str, str], Field(validate_default=True)] = ""
    label: Annotated[str | dict[str, str], Field(validate_default=True)] = ""
    hash: str
    classes: tuple[Name, ...] = ()
    ignore: tuple[int, ...] = ()
    overlapping: StrictBool = False
    label_map: Annotated[dict[int, int], Field(validate_default=True)] = None  # type: ignore[assignment]
    regions: Annotated[
        tuple[Region, ...], Field(validate_default=True), PlainSerializer(regions_of.as_dict)
    ] = ()
    intensity: Annotated[Any, PlainSerializer(_written_intensity)]
    spacing_mm: Literal["median"] | Spacing | None = None
    resample_channels: StrictBool = False
    slice_axis: SliceAxis = "superior"
    allow_empty: StrictBool = False
    sides: dict[Literal["left", "right"], tuple[str, ...]] = {"left": (), "right": ()}
    splits: Splits
    cases: Path | None = None
    path: Path
    intensity_of: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    grid_mm: Spacing | None = None

    @property
    def intensities(self) -> tuple[Intensity, ...]:
        """The rule of each channel, in their order."""
        if isinstance(self.intensity, dict):
            return tuple(self.intensity[name] for name in self.channels)
        return (self.intensity,) * len(self.channels)

    @property
    def image_templates(self) -> tuple[str, ...]:
        """The template of each channel's image, of layout pairs."""
        return (
            tuple(self.image[name] for name in self.channels) if isinstance(self.image, dict) else (self.image,)
        )

    @property
    def label_templates(self) -> tuple[str, ...]:
        """The template of the label map, or of each structure's masks, of layout pairs."""
        return tuple(self.label[name] for name in self.masks) if isinstance(self.label, dict) else (self.label,)

    @property
    def masks(self) -> tuple[str, ...]:
        """The structures that have mask files of their own; none where one file holds a label map."""
        return self.classes[1:] if isinstance(self.label, dict) else ()

    def as_dict(self) -> dict[str, Any]:
        """Everything but where the recipe lies, as JSON takes it."""
        return self.model_dump(mode="json", exclude={"path", "cases", "intensity_of", "notes", "grid_mm"})

    @field_validator("channels")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or len(set(names)) != len(names):
            raise InputError(f"channels: got {list(names)}, wanted at least one name, each once")
        return names

    @field_validator("image", "label", mode="before")
    @classmethod
    def _template(cls, value: Any, info: ValidationInfo) -> Any:
        key, channels = str(info.field_name), info.data.get("channels", ("image",))
        texts = list(value.values()) if isinstance(value, Mapping) else [value]
        if not texts or not all(isinstance(text, str) for text in texts):
            each = "channel" if key == "image" else "structure"
            wanted = f"a template such as '{key}s/{{case}}.nii.gz', or one for each {each}"
            raise InputError(f"{key}: got {shown(value)}, wanted {wanted}")
        if info.data.get("layout") != "pairs":
            if isinstance(value, Mapping):
                raise InputError(
                    f"{key}: got {shown(value)}, a template for each, which only layout 'pairs' takes"
                )
            return value
        if key == "image" and isinstance(value, Mapping):
            require_names("image", value, channels)
        elif key == "image" and len(channels) > 1:
            raise InputError(f"image: got '{value}', wanted a template for each of {', '.join(channels)}")
        for text in texts:
            require_template(key, text)
        images = info.data.get("image", "") if key == "label" else ""
        before = list(images.values()) if isinstance(images, dict) else [images]
        require_different(before, texts)
        return value

    @field_validator("classes")
    @classmethod
    def _background_first(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(names) < 2 or names[0] != "background":
            raise InputError(f"classes: got {list(names)}, wanted background first and then at least one name")
        if len(set(names)) != len(names) or len(names) > IGNORED:
            raise InputError("classes: wanted at most 255 names, each once")
        if isinstance(label := info.data.get("label"), dict):
            require_names("label", label, names[1:])
        return names

    @field_validator("ignore", mode="before")
    @classmethod
    def _raw_values(cls, written: Any) -> tuple[int, ...]:
        return tuple(
            sorted(set(raw_values("ignore:", list(written) if isinstance(written, tuple) else written)))
        )

    @field_validator("overlapping")
    @classmethod
    def _of_masks(cls, overlapping: bool, info: ValidationInfo) -> bool:
        if overlapping and not isinstance(info.data.get("label"), dict):
            raise InputError("overlapping: got true, which needs a label template for each structure")
        return overlapping

    @field_validator("label_map", mode="before")
    @classmethod
    def _by_raw_value(cls, written: Any, info: ValidationInfo) -> dict[int, int]:
        """Raw value -> class id, from `class name: values`; left out, raw values are class ids."""
        classes, ignore = info.data.get("classes", ()), info.data.get("ignore", ())
        masks = isinstance(info.data.get("label"), dict)
        if masks and (written is not None or ignore):
            key = "ignore" if ignore else "label_map"
            raise InputError(f"{key}: mask files have no values to map; leave it out, or give one label map")
        if written is None:
            codes = 1 << min(len(classes) - 1, 8) if info.data.get("overlapping") else len(classes)
            label_map = {class_id: class_id for class_id in range(codes)}
        elif not isinstance(written, Mapping):
            raise InputError(f"label_map: got {shown(written)}, wanted lines 'class name: raw label values'")
        else:
            label_map = _raw_to_class(written, classes)
        for raw in ignore:
            if raw in label_map:
                name = classes[label_map[raw]]
                raise InputError(f"ignore: raw value {raw} stands for the class {name}; it cannot be both")
            label_map[raw] = IGNORED
        return dict(sorted(label_map.items()))

    @field_validator("regions", mode="before")
    @classmethod
    def _of_class_ids(cls, written: Any, info: ValidationInfo) -> tuple[Region, ...]:
        classes = info.data.get("classes", ())
        if info.data.get("overlapping"):
            if written:
                raise InputError(
                    "regions: got some of structures that are overlapping, which are regions themselves"
                )
            return regions_of.of_structures(classes[1:])
        if isinstance(written, tuple):
            return written
        if not classes:
            raise InputError(
                "regions: got some without classes, which dataset.json gives; name the classes too"
            )
        return regions_of.parse(written, classes)

    @field_validator("intensity", mode="before")
    @classmethod
    def _rules(cls, written: Any, info: ValidationInfo) -> Any:
        return intensity_rules(written, info.data.get("channels", ("image",)))

    @field_validator("spacing_mm", mode="before")
    @classmethod
    def _millimetres(cls, written: Any) -> Any:
        return spacing(written)

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
    def _list_or_rule(cls, splits: Any) -> Splits:
        return split_rule(splits)

    @model_validator(mode="after")
    def _complete(self) -> "Recipe":
        if self.layout == "table" and self.cases is None:
            raise InputError("layout 'table' needs the key cases, the name of a CSV file beside the recipe")
        if self.layout == "acdc" and len(self.channels) > 1:
            raise InputError(f"channels: got {len(self.channels)}, layout 'acdc' has one")
        if self.resample_channels and len(self.channels) == 1 and self.classes:
            raise InputError("resample_channels: got true for one channel; leave it out")
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
    """`recipe` with what it leaves to `source`/dataset.json: classes, values, regions, channels, modality.

    Other recipes come back as they are, but for a note where dataset.json calls the channels by other names.
    Raises InputError for a missing or unusable dataset.json, and for one of other channels.
    """
    if recipe.classes:
        return _compared(recipe, source)
    description = decathlon.read_dataset_json(source)
    described = decathlon.described_labels(source, description)
    channels = decathlon.described_channels(source, description.channels)
    of_channel = {name: decathlon.modality_of(name) for name in channels}
    modality = "CT" if "CT" in of_channel.values() else "MR"
    rules = {name: recipe.intensity_of[each] for name, each in of_channel.items()}
    label_map = described.label_map | dict.fromkeys(described.ignore, IGNORED)
    told: list[Any] = [described.classes, sorted(label_map.items()), modality]
    if len(channels) > 1 or described.regions:
        told += [channels, regions_of.as_dict(described.regions)]
    completed = {
        "title": str(description.name or recipe.title),
        "modality": modality,
        "channels": channels if len(channels) > 1 else recipe.channels,
        "intensity": rules if len(channels) > 1 else rules[channels[0]],
        "classes": described.classes,
        "ignore": described.ignore,
        "label_map": label_map,
        "regions": described.regions,
        "hash": hashlib.sha256(f"{recipe.hash}{json.dumps(told)}".encode()).hexdigest(),
    }
    return recipe.model_copy(update=completed)


def with_folds(recipe: Recipe, count: int) -> Recipe:
    """`recipe` with another number of folds, where its splits are folds already; `count` 0 changes nothing."""
    if not count or not isinstance(recipe.splits, FoldedSplit):
        return recipe
    return recipe.model_copy(update={"splits": replace(recipe.splits, folds=count)})


def _compared(recipe: Recipe, source: Path) -> Recipe:
    """The recipe, after a look at the channels that a dataset.json describes. Raises InputError."""
    described = bool(recipe.intensity_of)  # by that dataset.json
    if described or recipe.layout not in TASK_FOLDERS or not (source / decathlon.FILE_NAME).is_file():
        return recipe
    channels = decathlon.read_dataset_json(source).channels
    theirs = [str(name) for name in channels.values()]
    told = f"{source / decathlon.FILE_NAME}: has the channels {', '.join(theirs)}, recipe '{recipe.id}'"
    ours, wanted = [name.lower() for name in recipe.channels], ", ".join(recipe.channels)
    if not theirs or (len(theirs) == len(ours) == 1) or [name.lower() for name in theirs] == ours:
        return recipe
    if len(theirs) != len(ours):
        raise InputError(f"{told} has {len(ours)} ({wanted}); give a recipe that names them in channels")
    if sorted(name.lower() for name in theirs) == sorted(ours):
        raise InputError(
            f"{told} has them in another order ({wanted}); order its channels as they lie in the files"
        )
    said = ", ".join(theirs)
    note = f"{decathlon.FILE_NAME} calls the channels {said}, the recipe {wanted}: taken in that order"
    if note in recipe.notes:
        return recipe
    return recipe.model_copy(update={"notes": (*recipe.notes, note)})


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
    return Recipe.model_validate(given | _classes_elsewhere(content))


def _classes_elsewhere(content: dict[str, Any]) -> dict[str, Any]:
    """What stands for `classes` in a recipe without them: its structures, or rules for a dataset.json's."""
    if "classes" in content or "layout" not in content:
        return {}
    if isinstance(label := content.get("label"), Mapping):
        return {"classes": ["background", *label]}
    if content["layout"] not in TASK_FOLDERS:
        raise InputError(
            "the recipe lacks classes; only layouts 'decathlon' and 'nnunet' take them from dataset.json"
        )
    for key in ("channels", "ignore", "label_map", "regions"):
        if key in content:
            raise InputError(f"{key}: got {shown(content[key])} without classes, which dataset.json gives")
    rules = content.get("intensity")
    if not isinstance(rules, Mapping) or set(rules) != set(_MODALITIES):
        raise InputError(f"intensity: got {shown(rules)}, wanted one rule for CT and one for MR")
    of_modality = {name: Intensity.from_recipe(rule) for name, rule in rules.items()}
    return {"intensity": of_modality["CT"], "intensity_of": of_modality}


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


def _raw_to_class(written: Mapping[Any, Any], classes: tuple[str, ...]) -> dict[int, int]:
    """Raw value -> class id, from `class name: values`. Raises InputError."""
    label_map: dict[int, int] = {}
    for name, values in written.items():
        if name not in classes:
            raise unknown("class in label_map", str(name), classes)
        for raw in raw_values(f"label_map: {name}", values):
            if raw in label_map:
                other = classes[label_map[raw]]
                raise InputError(f"label_map: raw value {raw} stands for {other} and {name}")
            label_map[raw] = classes.index(name)
    if missing := [name for name in classes if name not in written]:
        raise InputError(f"label_map: no raw value for {', '.join(missing)}")
    return label_map
