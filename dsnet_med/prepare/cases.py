"""Finding the cases of a data set on disk, and a file's case id from its name.

Four layouts: `pairs` (two path templates with {case}), `acdc` (patient folders with an Info.cfg), `decathlon`
(dataset.json, or imagesTr and labelsTr alone) and `table` (a CSV file that names every file).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from dsnet_med.errors import InputError
from dsnet_med.prepare import decathlon
from dsnet_med.prepare.recipe import Recipe
from dsnet_med.prepare.splits import assign, read_table
from dsnet_med.volumes import case_name, is_nifti

_CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+\-]*")
_ACDC_LABEL = re.compile(r"(?P<case>patient\d+_frame\d+)_gt\.nii(\.gz)?")
_TABLE_COLUMNS = ("case", "subject", "image", "label")
_DECATHLON_FOLDERS = {"imagesTr": "labelsTr", "imagesTs": "labelsTs"}


@dataclass(frozen=True)
class RawCase:
    """One volume as it was published. `label` is None where there is no such file."""

    id: str
    subject: str
    split: str
    image: Path
    label: Path | None


def find_cases(recipe: Recipe, source: Path) -> list[RawCase]:
    """The cases under `source`, sorted by id, each with its split.

    A case that the recipe's split list does not name is `extra`. A missing label file gives `label=None`: what
    that means depends on the split, so the reader decides. Raises InputError for a missing source, no cases at
    all, or two files with one case id.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder that holds {_example(recipe)}")
    cases = sorted(_FINDERS[recipe.layout](recipe, source), key=lambda case: case.id)
    if not cases:
        raise InputError(f"{source}: holds no {_example(recipe)}{_hint(recipe, source)}")
    _require_unique(cases)
    # Cases that come without labels by design are extra already and take no share of a seeded split.
    splits = assign(recipe.splits, {case.subject for case in cases if not case.split})
    return [case if case.split else replace(case, split=splits[case.subject]) for case in cases]


def stray_labels(recipe: Recipe, source: Path) -> list[Path]:
    """Label files that belong to none of the images, sorted."""
    used = {case.label for case in find_cases(recipe, source)}
    return sorted(set(_label_files(recipe, source)) - used)


def case_of_image(recipe: Recipe, file: Path) -> str:
    """The case id of an image, or of a label map that was predicted from it, from the file's name.

    A name that does not follow the recipe's template is itself the case id, without .nii.gz.
    """
    if recipe.layout == "pairs":
        return _case_in(recipe.image, file) or case_name(file)
    if recipe.layout == "table":
        return _listed_case(recipe, file, "image") or case_name(file)
    return case_name(file)


def case_of_label(recipe: Recipe, file: Path) -> str | None:
    """The case id of one of the data set's own label files, or None where the name is not that of one."""
    if not is_nifti(file) or file.name.startswith("."):
        return None
    if recipe.layout == "pairs":
        return _case_in(recipe.label, file)
    if recipe.layout == "table":
        return _listed_case(recipe, file, "label")
    if recipe.layout == "acdc":
        match = _ACDC_LABEL.fullmatch(file.name)
        return match["case"] if match else None
    return case_name(file)


def _find_pairs(recipe: Recipe, source: Path) -> Iterator[RawCase]:
    # In one folder, `{case}.nii.gz` also matches the labels `{case}_seg.nii.gz`: the longer name decides.
    longer = len(recipe.label) > len(recipe.image)
    labels = set(_volumes(source, recipe.label)) if longer else set()
    for image in _volumes(source, recipe.image):
        case = _case_in(recipe.image, image)
        if case and image not in labels:
            yield RawCase(case, case, "", image, _existing(source / recipe.label.format(case=case)))


def _find_acdc(recipe: Recipe, source: Path) -> Iterator[RawCase]:  # noqa: ARG001 - one signature for all layouts
    for folder in sorted(source.glob("*ing/patient*")):
        if folder.parent.name in ("training", "testing") and folder.is_dir():
            yield from _acdc_patient(folder)


def _acdc_patient(folder: Path) -> Iterator[RawCase]:
    patient = folder.name
    for frame in sorted(set(_acdc_frames(folder / "Info.cfg"))):
        case = f"{patient}_frame{frame:02d}"
        image = folder / f"{case}.nii.gz"
        yield RawCase(case, patient, "", _existing(image) or image, _existing(folder / f"{case}_gt.nii.gz"))


def _acdc_frames(path: Path) -> tuple[int, int]:
    """The frame numbers of end-diastole and end-systole."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise InputError(f"{path}: {reason}; ACDC names each patient's ED and ES frame in it") from error
    frames = {key: re.search(rf"^\s*{key}\s*:\s*(\d+)\s*$", text, re.MULTILINE) for key in ("ED", "ES")}
    diastole, systole = frames["ED"], frames["ES"]
    if not diastole or not systole:
        raise InputError(f"{path}: wanted the lines 'ED: <frame>' and 'ES: <frame>'")
    return int(diastole[1]), int(systole[1])


def _find_decathlon(recipe: Recipe, source: Path) -> Iterator[RawCase]:  # noqa: ARG001
    if (source / decathlon.FILE_NAME).is_file():
        pairs, unlabelled = decathlon.listed_files(source)
    else:
        pairs, unlabelled = _decathlon_folders(source)
    for image, label in pairs:
        yield RawCase(case_name(image), case_name(image), "", image, _existing(label))
    for image in unlabelled:
        yield RawCase(case_name(image), case_name(image), "extra", image, None)


def _decathlon_folders(source: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    images = list(_volumes(source, "imagesTr/{case}.nii.gz"))
    pairs = [(image, source / "labelsTr" / f"{case_name(image)}.nii.gz") for image in images]
    return pairs, list(_volumes(source, "imagesTs/{case}.nii.gz"))


def _find_table(recipe: Recipe, source: Path) -> Iterator[RawCase]:
    for row in _table(recipe):
        image, label = (_inside(source, row[key], recipe.cases) for key in ("image", "label"))
        yield RawCase(row["case"], row["subject"] or row["case"], "", image, label if label.is_file() else None)


_FINDERS = {"pairs": _find_pairs, "acdc": _find_acdc, "decathlon": _find_decathlon, "table": _find_table}


def _table(recipe: Recipe) -> list[dict[str, str]]:
    if recipe.cases is None:
        raise InputError(f"{recipe.path}: layout 'table' needs the key cases")
    return read_table(recipe.cases, _TABLE_COLUMNS)


def _inside(source: Path, name: str, table: Path | None) -> Path:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(f"{table}: '{name}' leaves the source folder; wanted a path relative to it")
    return source / name


def _require_unique(cases: Iterable[RawCase]) -> None:
    seen: dict[str, RawCase] = {}
    for case in cases:
        if not _CASE_ID.fullmatch(case.id):
            raise InputError(
                f"{case.image}: case id '{case.id}' needs letters, digits, '_', '-', '+' or '.' only"
            )
        if case.id in seen:
            raise InputError(
                f"{seen[case.id].image} and {case.image} have one case id, '{case.id}'; remove one"
            )
        seen[case.id] = case


def _volumes(source: Path, template: str) -> Iterator[Path]:
    """The files that a template stands for, compressed or not, without hidden ones."""
    stem = template.removesuffix(".gz")
    for pattern in (stem, f"{stem}.gz"):
        for file in sorted(source.glob(pattern.replace("{case}", "*"))):
            if file.is_file() and not file.name.startswith("."):
                yield file


def _existing(path: Path) -> Path | None:
    """`path`, or the same volume not compressed, or None."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    return next((file for file in (path, plain, Path(f"{plain}.gz")) if file.is_file()), None)


def _case_in(template: str, file: Path) -> str | None:
    """What {case} stands for, as far up the path as the template needs to be looked at to see it."""
    parts = PurePosixPath(template).parts
    depth = next(n for n in range(1, len(parts) + 1) if "{case}" in parts[-n])
    before, after = "/".join(parts[-depth:]).removesuffix(".gz").removesuffix(".nii").split("{case}")
    pattern = rf"{re.escape(before)}(?P<case>[^/]+){re.escape(after)}\.nii(\.gz)?"
    match = re.fullmatch(pattern, "/".join(file.parts[-depth:]))
    return match["case"] if match else None


def _listed_case(recipe: Recipe, file: Path, key: str) -> str | None:
    """The case whose row ends in the same folders and name as `file`, as many as it takes to find only one."""
    rows = [row for row in _table(recipe) if row[key]]
    for depth in range(1, len(file.parts) + 1):
        tail = file.parts[-depth:]
        matches = [row["case"] for row in rows if PurePosixPath(row[key]).parts[-depth:] == tail]
        if len(matches) <= 1:
            return matches[0] if matches else None
    return None


def _label_files(recipe: Recipe, source: Path) -> Iterator[Path]:
    if recipe.layout == "pairs":
        yield from _volumes(source, recipe.label)
    elif recipe.layout == "acdc":
        yield from _volumes(source, "training/patient*/{case}_gt.nii.gz")
        yield from _volumes(source, "testing/patient*/{case}_gt.nii.gz")
    elif recipe.layout == "decathlon":
        yield from _volumes(source, "labelsTr/{case}.nii.gz")


def _example(recipe: Recipe) -> str:
    """What a source of this recipe holds, in words for messages."""
    names = {
        "pairs": recipe.image,
        "acdc": "training/patientNNN/Info.cfg",
        "decathlon": "imagesTr/<case>.nii.gz",
        "table": "the files that the table lists",
    }
    return names[recipe.layout]


def _hint(recipe: Recipe, source: Path) -> str:
    """Where to look instead, when the source was given too deep or too high by some folders."""
    example = PurePosixPath(_example(recipe))
    patterns = {"acdc": "training/patient*", "decathlon": "imagesTr/*.nii*"}
    pattern = patterns.get(recipe.layout, str(example).replace("{case}", "*"))
    if next(source.glob(f"*/{pattern}"), None):
        inner = next(source.glob(f"*/{pattern}"))
        return f"; give {inner.parents[len(PurePosixPath(pattern).parts) - 1]} instead"
    parts = PurePosixPath(pattern).parts
    for level in range(1, len(parts)):
        if next(source.glob("/".join(parts[level:])), None):
            return f"; give the folder that holds {'/'.join(parts[:level])}"
    return ""
