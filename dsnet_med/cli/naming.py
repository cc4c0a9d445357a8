"""What the files of an evaluation mean: which case each is of, and whether it holds class ids or raw values.

A recipe's data set may number its organs otherwise than the classes made of them (Synapse's liver is 6, the
class liver 5). What a folder holds is decided from what it says of itself, in this order: a labels.json or
CASE.json as `infer` writes them; names that only the data set's own label files have; for references, values
that only one of both kinds has. Where nothing tells, references are refused; predictions are class ids.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from dsnet_med.errors import InputError, cannot_read, one_line, want_of_means
from dsnet_med.evaluate.labels import Labels, label_names, labels_of_regions, read_labels_argument
from dsnet_med.evaluate.pairing import CaseOf, Pair
from dsnet_med.evaluate.segments import label_called
from dsnet_med.files import read_json
from dsnet_med.find import case_name, mask_case
from dsnet_med.regions import IGNORED
from dsnet_med.segmentations import names_in
from dsnet_med.volumes import read_labels

if TYPE_CHECKING:
    from dsnet_med.prepare.recipe import Recipe

ValueMap = Mapping[int, int]
_SAYS_LABELS = "labels.json"


@dataclass(frozen=True)
class Naming:
    """How files name their cases and what their values mean; `recipe` where a recipe says it.

    `masks_in` finds the references in a folder where they are files of their own for each structure.
    """

    labels: Labels
    prediction_case: CaseOf = case_name
    reference_case: CaseOf = case_name
    masks_in: "Callable[[Path], Mapping[str, Mapping[str, Path]]] | None" = None
    recipe: "Recipe | None" = None


@dataclass(frozen=True)
class Values:
    """Which files hold raw values, by folder or file, and a line on what was decided and why."""

    maps: dict[Path, ValueMap] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def of(self, file: Path) -> ValueMap | None:
        """The class of each raw value of `file`; None where it holds class ids."""
        return self.maps.get(file)


def naming_of(labels: str) -> Naming:
    """What `--labels` says: names as JSON or in a file, or a recipe by its id or path. Raises InputError."""
    given = read_labels_argument(labels)
    return Naming(given) if given is not None else _by_recipe(labels)


def values_of(pairs: Sequence[Pair], missing: Iterable[Path], naming: Naming) -> Values:
    """Which files hold the raw values of the recipe's data set. Raises InputError where nothing tells."""
    recipe, found = naming.recipe, Values()
    if recipe is None or all(raw == value for raw, value in recipe.label_map.items()):
        return found
    references = [*(pair.reference for pair in pairs), *missing]
    predictions = [pair.prediction for pair in pairs if pair.prediction is not None]
    references, predictions = (
        [file for file in files if not _tells_by_name(file, naming.labels)]
        for files in (references, predictions)
    )
    for files, role in ((references, "reference"), (predictions, "prediction")):
        for folder in dict.fromkeys(file.parent for file in files):
            own = [file for file in files if file.parent == folder]
            raw, why = _holds_raw(own, folder, recipe, role)
            if raw:
                found.maps.update(dict.fromkeys(own, recipe.label_map))
            held = f"raw values of '{recipe.id}', mapped to its classes" if raw else "class ids"
            found.notes.append(f"{role}s in {folder}: taken as {held}: {why}")
    return found


def _tells_by_name(file: Path, labels: Labels) -> bool:
    """Whether a file calls its segments as the labels are called: then its values mean nothing."""
    try:
        known = (labels.names, labels.values)
        return any(label_called(name, each) is not None for name in names_in(file) for each in known)
    except InputError:  # its case fails by itself, with its line
        return False


def _by_recipe(name: str) -> Naming:
    from dsnet_med.prepare.cases import case_of_image, case_of_label, masks_in
    from dsnet_med.prepare.recipe import load_recipe

    try:
        recipe = load_recipe(name)
    except InputError as error:
        raise InputError(
            f'{error} (--labels takes a recipe, or a labels.json such as {{"1": "liver", "2": "spleen"}})'
        ) from error
    if not recipe.classes:
        raise InputError(f"recipe '{recipe.id}' names no classes; give the task's dataset.json as --labels")
    return Naming(
        _scored(recipe),
        prediction_case=lambda file: _case_of_prediction(recipe, file),
        reference_case=lambda file: (
            case_of_label(recipe, _as_nifti(file)) or case_of_image(recipe, _as_nifti(file))
        ),
        masks_in=(lambda folder: masks_in(recipe, folder)) if recipe.masks else None,
        recipe=recipe,
    )


def _scored(recipe: "Recipe") -> Labels:
    """What a recipe scores: its regions, else its classes. Structures that overlap freely are classes here: a
    label map of a prediction has the last of them, files that name their segments have each whole."""
    classes = {i: name for i, name in enumerate(recipe.classes) if i > 0}
    ignored = ("ignore", IGNORED) if recipe.ignore else None
    if recipe.overlapping or not recipe.regions:
        return Labels(classes, ignored)
    return labels_of_regions(recipe.regions, classes, ignored)


def _case_of_prediction(recipe: "Recipe", file: Path) -> str:
    """The case of a mask: named as its image, or as the data set's own label of it."""
    from dsnet_med.prepare.cases import case_of_image, case_of_label

    file = _as_nifti(file)
    case = case_of_image(recipe, file)
    return (case_of_label(recipe, file) or case) if case == case_name(file) else case


def _as_nifti(file: Path) -> Path:
    """A mask in one of the other forms of `infer`, as the NIfTI file that recipes know the names of."""
    case = mask_case(file)
    return file if case == case_name(file) and file.suffix != ".dcm" else file.with_name(f"{case}.nii.gz")


def _holds_raw(files: Sequence[Path], folder: Path, recipe: "Recipe", role: str) -> tuple[bool, str]:
    """Whether the files of one folder hold raw values, and how that is known."""
    classes = {i: name for i, name in enumerate(recipe.classes) if i > 0}
    for said in (folder / _SAYS_LABELS, *(folder / f"{mask_case(file)}.json" for file in files[:1])):
        if (names := _said(said)) is not None:
            return _by_names(names, said, recipe, classes), f"{said.name} beside them says so"
    if all(_is_own_name(recipe, file) for file in files):
        if role == "reference" or _is_whole_name(recipe, files[0]):
            return True, f"{files[0].name} is the name of one of the data set's own label files"
        return _by_values(files, folder, recipe, classes, role)
    if role == "prediction" or not any(_matches(recipe, file) for file in files):
        return False, "neither their names nor a labels.json beside them say otherwise"
    return _by_values(files, folder, recipe, classes, role)


def _said(path: Path) -> dict[int, str] | None:
    """The values and names of a labels.json, or of a case's sidecar; None where there is none."""
    if not path.is_file():
        return None
    try:
        content: Any = read_json(path)
        table = content.get("labels", content)
        return label_names(table) if isinstance(table, dict) else None
    except (OSError, ValueError, AttributeError) as error:
        if path.name != _SAYS_LABELS and not want_of_means(error):
            return None  # a JSON file of somebody's
        raise cannot_read(
            path, error, f"not a table of labels ({one_line(error)}); correct it or remove it"
        ) from error


def _by_names(names: Mapping[int, str], where: Path, recipe: "Recipe", classes: Mapping[int, str]) -> bool:
    raw = {value: recipe.classes[k] for value, k in recipe.label_map.items() if 0 < k < len(recipe.classes)}
    as_classes = {value for value, name in names.items() if classes.get(value) == name}
    as_raw = {value for value, name in names.items() if raw.get(value) == name}
    if as_classes == names.keys() or as_raw == names.keys():
        return as_classes != names.keys()
    value = min(names.keys() - as_classes)
    raise InputError(
        f"{where}: calls the value {value} '{names[value]}', the recipe '{recipe.id}' calls the class {value} "
        f"'{classes.get(value, 'nothing')}'; give it as --labels if it is right, or correct it"
    )


def _by_values(
    files: Sequence[Path], folder: Path, recipe: "Recipe", classes: Mapping[int, str], role: str
) -> tuple[bool, str]:
    """What the values of the files say, where some are no class ids or no raw values. Raises InputError."""
    values: set[int] = set()
    for file in files:
        try:
            values |= set(np.unique(read_labels(file).voxels).tolist()) - {0}
        except InputError:  # its case fails by itself, with its line
            continue
        ids = {*classes, IGNORED} if recipe.ignore else {*classes}
        no_class, no_raw = values - ids, values - recipe.label_map.keys()
        if no_class and not no_raw:
            return True, f"the value {min(no_class)} is no class"
        if no_raw and not no_class:
            return False, f"the value {min(no_raw)} is none of the data set's"
    raise InputError(
        f"{folder}: cannot tell whether these {role}s hold class ids of '{recipe.id}' or its data set's own "
        f"values: their values are both; put a {_SAYS_LABELS} of values and names beside them, or give one as "
        "--labels"
    )


def _is_own_name(recipe: "Recipe", file: Path) -> bool:
    """Whether the file has a name that only the data set's label files have, no image and so no mask of one."""
    if not _matches(recipe, file):
        return False
    if recipe.layout == "pairs":
        images = {_literal(template) for template in recipe.image_templates}
        telling = all(_literal(template) not in {"", *images} for template in recipe.label_templates)
        return telling or _is_whole_name(recipe, file)
    return recipe.layout == "acdc" or _is_whole_name(recipe, file)


def _literal(template: str) -> str:
    """What a template's file name holds beside the case: what tells labels from images."""
    return PurePosixPath(template).name.removesuffix(".gz").removesuffix(".nii").replace("{case}", "")


def _matches(recipe: "Recipe", file: Path) -> bool:
    from dsnet_med.prepare.cases import case_of_label

    return case_of_label(recipe, file) is not None


def _is_whole_name(recipe: "Recipe", file: Path) -> bool:
    """Whether the file lies in the folders, and has the name, that the recipe gives to label files."""
    own = file.resolve().parts[:-1]
    if recipe.layout in ("decathlon", "nnunet"):
        return own[-1:] in (("labelsTr",), ("labelsTs",))
    folders = PurePosixPath(recipe.label_templates[0]).parts[:-1]
    if recipe.layout != "pairs" or not folders or len(own) < len(folders):
        return False
    return all("{" in a or a == b for a, b in zip(folders, own[-len(folders) :], strict=True))
