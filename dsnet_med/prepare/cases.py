"""Finding the cases of a data set on disk, and a file's case id from its name.

The layouts: `pairs` (path templates with {case}), `acdc` (patient folders with an Info.cfg), `decathlon` and
`nnunet` (dataset.json, or imagesTr and labelsTr alone) and `table` (a CSV file that names every file).

What cannot be used is a case too, with its `problem`: a link to data that are not there, a name that makes no
case id, a patient without an Info.cfg. It fails alone and does not vanish.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath

from dsnet_med.errors import InputError, cannot_read, first_of, one_line
from dsnet_med.files import read_text
from dsnet_med.find import (
    absent,
    case_name,
    entries_of,
    folders_below,
    folders_in,
    is_dangling,
    is_file_or_dangling,
    is_folder,
    is_nifti,
    is_volume,
    the_volume,
)
from dsnet_med.prepare import decathlon
from dsnet_med.prepare.recipe import TASK_FOLDERS, Recipe
from dsnet_med.prepare.splits import assign, read_table

_CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+\-]*")
_ACDC_LABEL = re.compile(r"(?P<case>patient\d+_frame\d+)_(gt|GT)\.nii(\.gz)?")
_ACDC_FOLDERS = ("training", "testing", "database/training", "database/testing")  # database: in its archive
_NIFTI_END = r"(?i:\.nii(?:\.gz)?)"
_LEVELS, _LOOKED_AT, _SHOWN = 3, 300, 6
_HOLDS = {  # what a source holds, in words for messages; pairs have their template
    "acdc": "training/patientNNN/Info.cfg",
    "decathlon": "imagesTr/<case>.nii.gz",
    "nnunet": "imagesTr/<case>_0000.nii.gz",
    "table": "the files that the table lists",
}


@dataclass(frozen=True)
class RawCase:
    """One volume as it was published.

    `images` is one file, 4-D where the recipe has several channels, or one for each channel; `labels` is one
    label map, or a mask for each structure. It is empty where there is no such file, and `wanted` then says
    where it was looked for. `problem` says why the case cannot be used, as far as names and links tell.
    """

    id: str
    subject: str
    split: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...] = ()
    wanted: Path | None = None
    problem: str = ""

    @property
    def image(self) -> Path:
        """The first image: what a message calls the case."""
        return self.images[0]


def find_cases(recipe: Recipe, source: Path) -> list[RawCase]:
    """The cases under `source`, sorted by id, each with its split.

    A case that the recipe's split list does not name is `extra`. A missing label file gives no `labels`: what
    that means depends on the split, so the reader decides. Raises InputError for a missing source and for no
    cases at all.
    """
    holds = _HOLDS.get(recipe.layout, recipe.image_templates[0])
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder that holds {holds}")
    cases = sorted(_each_once(_FINDERS[recipe.layout](recipe, source)), key=lambda case: case.id)
    if not cases:
        raise InputError(f"{source}: holds no {holds}{_hint(recipe, source)}")
    # Cases that come without labels by design are extra already and take no share of a seeded split.
    splits = assign(recipe.splits, {case.subject for case in cases if not case.split})
    return [case if case.split else replace(case, split=splits[case.subject]) for case in cases]


def stray_labels(recipe: Recipe, source: Path) -> list[Path]:
    """Label files that belong to none of the images, sorted."""
    files: list[Path] = []
    if recipe.layout == "pairs":
        files = [file for matches in _pair_files(recipe, source)[1] for _, file in matches]
    elif recipe.layout == "acdc":
        entries = [the_volume(entry) for patient in _patients(source) for entry in _listed(patient)]
        files = [entry for entry in entries if _ACDC_LABEL.fullmatch(entry.name)]
    elif recipe.layout in TASK_FOLDERS:
        files = [entry for entry in map(the_volume, _listed(source / "labelsTr")) if is_volume(entry)]
    return sorted(set(files) - {label for case in find_cases(recipe, source) for label in case.labels})


def masks_in(recipe: Recipe, folder: Path) -> dict[str, dict[str, Path]]:
    """The mask files below `folder` by case and structure, of a recipe with a file for each structure.

    The folder is the source, or any that the templates' first parts lead to. A case may lack some. Raises
    InputError where no file is found.
    """
    parts = [PurePosixPath(template).parts for template in recipe.label_templates]
    depths = range(max(map(len, parts)))
    for depth in depths:
        tails = ["/".join(own[depth:]) for own in parts]
        if (
            not all(tails)
            or not all("{case}" in tail for tail in tails)
            or len({own[:depth] for own in parts}) > 1
        ):
            break
        found = [_grouped(_matches(folder, tail)) for tail in tails]
        if any(found):
            cases = sorted({case for of_mask in found for case in of_mask})
            files = [
                list(zip(recipe.masks, (of_mask.get(case) for of_mask in found), strict=True)) for case in cases
            ]
            return {
                case: {name: own[0] for name, own in each if own}
                for case, each in zip(cases, files, strict=True)
            }
    raise InputError(f"{folder}: holds no masks {first_of(recipe.label_templates)}; give the folder that does")


def case_of_image(recipe: Recipe, file: Path) -> str:
    """The case id of an image, or of a label map that was predicted from it, from the file's name.

    A name that does not follow the recipe's template is itself the case id, without .nii.gz.
    """
    named = _case_of(recipe, file, "image") if recipe.layout in ("pairs", "table") else None
    return named or case_name(file)


def case_of_label(recipe: Recipe, file: Path) -> str | None:
    """The case id of one of the data set's own label files, or None where the name is not that of one."""
    if not is_nifti(file) or file.name.startswith("."):
        return None
    if recipe.layout in ("pairs", "table"):
        return _case_of(recipe, file, "label")
    if recipe.layout == "acdc":
        match = _ACDC_LABEL.fullmatch(file.name)
        return match["case"] if match else None
    return case_name(file)


def _case_of(recipe: Recipe, file: Path, key: str) -> str | None:
    """The case of a file by its name and the folders above, up to {case} or until one row of the table fits."""
    if recipe.layout == "pairs":
        templates = recipe.image_templates if key == "image" else recipe.label_templates
        return next((case for each in templates if (case := _by_template(each, file))), None)
    columns = _image_columns(recipe) if key == "image" else ("label",)
    named = [(row["case"], row[column]) for row in _table(recipe) for column in columns if row[column]]
    for depth in range(1, len(file.parts) + 1):
        tail = file.parts[-depth:]
        matches = {case for case, name in named if PurePosixPath(name).parts[-depth:] == tail}
        if len(matches) <= 1:
            return next(iter(matches), None)
    return None


def _by_template(template: str, file: Path) -> str | None:
    parts = PurePosixPath(template).parts
    depth = next(n for n in range(1, len(parts) + 1) if "{case}" in parts[-n])
    match = _pattern("/".join(parts[-depth:])).fullmatch("/".join(file.parts[-depth:]))
    return match["case"] if match else None


def _find_pairs(recipe: Recipe, source: Path) -> Iterator[RawCase]:
    images, labels = ([_grouped(matches) for matches in every] for every in _pair_files(recipe, source))
    for case in sorted({case for of_channel in images for case in of_channel}):
        own = [of_channel.get(case, []) for of_channel in images]
        marked = [of_mask.get(case, []) for of_mask in labels]
        wanted = [source / template.replace("{case}", case) for template in recipe.label_templates]
        problem = _incomplete(
            case,
            "channel",
            recipe.channels,
            own,
            [source / template.replace("{case}", case) for template in recipe.image_templates],
        )
        if any(marked):
            problem = problem or _incomplete(case, "mask", recipe.masks, marked, wanted)
        if twice := next((files for files in marked if len(files) > 1), None):
            problem = f"{' and '.join(map(str, twice))} are labels of one case; remove one"
        files = tuple(files[0] for files in marked) if all(marked) else ()
        first = tuple(files[0] for files in own if files)
        yield RawCase(case, case, "", first, files, wanted[0], problem)
        for twin in own[0][1:]:  # of which `_each_once` makes a problem
            yield RawCase(case, case, "", (twin,))


def _grouped(matches: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    of_case: dict[str, list[Path]] = defaultdict(list)
    for case, file in matches:
        of_case[case].append(file)
    return of_case


def _incomplete(
    case: str, what: str, names: Sequence[str], files: Sequence[list[Path]], wanted: Sequence[Path]
) -> str:
    """Which of several files of a case are not there, as a problem; none where all are."""
    lacking = [f"{name} ({file})" for name, own, file in zip(names, files, wanted, strict=False) if not own]
    return f"case '{case}' has no {what} {', '.join(lacking)}; add it, or exclude the case" if lacking else ""


_Matches = list[tuple[str, Path]]


def _pair_files(recipe: Recipe, source: Path) -> tuple[list[_Matches], list[_Matches]]:
    """The images of each channel and the labels, or masks of each structure, with their cases.

    They lie where the templates say or, where no image is there, are found by name: mirrors of a data set keep
    its files' names and change its folders. Names tell files apart where all templates say more than {case}.
    """
    templates = (*recipe.image_templates, *recipe.label_templates)
    channels = len(recipe.image_templates)
    found = [list(_matches(source, template)) for template in templates]
    names = [PurePosixPath(template).name for template in templates]
    telling = len(set(names)) == len(names) and all(re.search(r"[^.{]\{case\}|\{case\}[^.]", n) for n in names)
    if not any(found[:channels]) and telling:
        folders = [source, *folders_in(source)]
        by_name = [[match for folder in folders for match in _matches(folder, name)] for name in names]
        if all(by_name):
            found = by_name
    # In one folder, `{case}.nii.gz` also matches the labels `{case}_seg.nii.gz`: the longer name decides.
    taken: set[Path] = set()
    for place in sorted(range(len(templates)), key=lambda place: -len(templates[place])):
        found[place] = [match for match in found[place] if match[1] not in taken]
        taken.update(
            file for _, file in found[place] if is_volume(file)
        )  # no case's folder, which is all of it
    return found[:channels], found[channels:]


def _matches(source: Path, template: str) -> Iterator[tuple[str, Path]]:
    """The entries that a template stands for, each with its case: compressed or not, none of them hidden."""
    *folders, name = PurePosixPath(template).parts
    places = [("", source)]
    for part in folders:
        if "{case}" not in part:
            places = [(case, place / part) for case, place in places]
            continue
        inside = [entry for _, place in places for entry in _listed(place) if _may_be_folder(entry)]
        places = [(match["case"], entry) for entry in inside if (match := _pattern(part).fullmatch(entry.name))]
    pattern = _pattern(name)
    for case, place in places:
        try:
            entries = _listed(place)
        except InputError:
            if not case:
                raise
            yield case, place  # which that case will say
            continue
        if case and is_dangling(place):
            yield case, place
        for entry in entries:
            if match := pattern.fullmatch(entry.name):
                yield case or match["case"], the_volume(entry)


def _pattern(template: str) -> re.Pattern[str]:
    stem = template.removesuffix(".gz").removesuffix(".nii")
    end = "" if stem == template else _NIFTI_END
    return re.compile("(?P<case>[^/]+)".join(re.escape(part) for part in stem.split("{case}")) + end)


def _may_be_folder(entry: Path) -> bool:
    return is_folder(entry) or is_dangling(entry)  # which may stand for one


def _listed(folder: Path) -> list[Path]:
    return entries_of(folder) if is_folder(folder) else []


def _patients(source: Path) -> list[Path]:
    folders = [entry for part in _ACDC_FOLDERS for entry in _listed(source / part)]
    return [folder for folder in folders if folder.name.startswith("patient") and _may_be_folder(folder)]


def _find_acdc(recipe: Recipe, source: Path) -> Iterator[RawCase]:  # noqa: ARG001 - one signature for all layouts
    for folder in _patients(source):
        patient = folder.name
        try:
            frames, entries = _acdc_frames(folder / "Info.cfg"), entries_of(folder)
        except InputError as error:
            yield RawCase(patient, patient, "", (folder,), problem=str(error))
            continue
        for case in [f"{patient}_frame{frame:02d}" for frame in sorted(set(frames))]:
            image, label = (_named(entries, name) for name in (case, f"{case}_gt"))
            wanted = folder / f"{case}_gt.nii.gz"
            images = (image or folder / f"{case}.nii.gz",)
            yield RawCase(case, patient, "", images, (label,) if label else (), wanted)


def _named(entries: list[Path], name: str) -> Path | None:
    """The volume of this name, in capitals or not, compressed or not."""
    pattern = re.compile(f"(?i:{re.escape(name)}){_NIFTI_END}")
    return next((the_volume(entry) for entry in entries if pattern.fullmatch(entry.name)), None)


def _acdc_frames(path: Path) -> list[int]:
    """The frame numbers of end-diastole and end-systole."""
    try:
        text = read_text(path)
    except (OSError, ValueError, MemoryError) as error:
        gone = isinstance(error, FileNotFoundError)
        reason = absent(path) if gone else cannot_read(path, error, one_line(error))
        raise InputError(f"{reason}; ACDC names each patient's ED and ES frame in it") from error
    frames = dict(re.findall(r"^\s*(ED|ES)\s*:\s*(\d+)\s*$", text, re.MULTILINE))
    if len(frames) < 2:
        raise InputError(f"{path}: wanted the lines 'ED: <frame>' and 'ES: <frame>'")
    return [int(frame) for frame in frames.values()]


def _find_task(recipe: Recipe, source: Path) -> Iterator[RawCase]:
    for case in decathlon.listed_cases(source, recipe.channels):
        images, label = tuple(map(_written, case.images)), _written(case.label) if case.label else None
        split = "" if case.label or case.problem else "extra"
        present = (label,) if label and (is_folder(label) or is_file_or_dangling(label)) else ()
        problem = case.problem
        if not problem and len(images) not in (1, len(recipe.channels)):
            names = ", ".join(file.name for file in images)
            wanted = f"{len(recipe.channels)} ({', '.join(recipe.channels)})"
            problem = f"case '{case.case}' has {len(images)} channels ({names}), wanted {wanted}"
        yield RawCase(case.case, case.case, split, images, present, label, problem)


def _written(path: Path) -> Path:
    """`path`, or the same volume compressed or not, where that is there instead."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    forms = (path, plain, Path(f"{plain}.gz"))
    return the_volume(next((file for file in forms if is_folder(file) or is_file_or_dangling(file)), path))


def _find_table(recipe: Recipe, source: Path) -> Iterator[RawCase]:
    columns = _image_columns(recipe)
    for row in _table(recipe):
        images = [row[column] for column in columns]
        if PurePosixPath(images[0]).name.startswith("._"):  # what macOS leaves beside files, never an image
            continue
        label = source / row["label"]
        leaving = [name for name in (*images, row["label"]) if decathlon.leaves(name)]
        problem = f"{recipe.cases}: '{leaving[0]}' leaves the source folder" if leaving else ""
        if lacking := [column for column in columns if not row[column]]:
            problem = f"{recipe.cases}: case '{row['case']}' has nothing in {', '.join(lacking)}"
        present = (label,) if row["label"] and not problem and is_file_or_dangling(label) else ()
        files = tuple(source / name for name in images)
        yield RawCase(row["case"], row["subject"] or row["case"], "", files, present, label, problem)


_FINDERS = {
    "pairs": _find_pairs,
    "acdc": _find_acdc,
    "decathlon": _find_task,
    "nnunet": _find_task,
    "table": _find_table,
}


def _image_columns(recipe: Recipe) -> tuple[str, ...]:
    several = len(recipe.channels) > 1
    return tuple(f"image_{name}" for name in recipe.channels) if several else ("image",)


def _table(recipe: Recipe) -> list[dict[str, str]]:
    return read_table(recipe.cases or Path(), ("case", "subject", *_image_columns(recipe), "label"))


def _each_once(cases: Iterable[RawCase]) -> Iterator[RawCase]:
    """Each case id once, with what makes it unusable: a name, several files of it, what its paths lead to."""
    of_id: dict[str, list[RawCase]] = defaultdict(list)
    for case in cases:
        of_id[case.id].append(case)
    for case, *twins in of_id.values():
        problem = case.problem
        if not problem and not _CASE_ID.fullmatch(case.id):
            problem = f"{case.image}: case id '{case.id}' needs letters, digits, '_', '-', '+' or '.' only"
        elif twins:
            files = " and ".join(str(twin.image) for twin in (case, *twins))
            problem = f"{files} have one case id, '{case.id}'; remove one"
        unusable = next(filter(None, map(_unusable, (*case.images, *case.labels))), "")
        yield replace(case, problem=problem or unusable)


def _unusable(path: Path) -> str:
    """Why an entry that is there cannot be a volume's file, as far as can be told without opening it."""
    if is_dangling(path):
        return str(absent(path))
    try:
        if path.is_dir():
            entries_of(path)  # says so where it cannot be listed
            return f"{path}: is a folder that does not hold just one volume, wanted a file"
        return f"{path}: is neither a file nor a folder" if path.exists() and not path.is_file() else ""
    except InputError as error:
        return str(error)
    except OSError as error:
        return str(cannot_read(path, error, "cannot be read"))


def _hint(recipe: Recipe, source: Path) -> str:
    """Where the data set lies instead, some folders further in or out; else what lies here."""
    below = islice(folders_below(source, _LEVELS), _LOOKED_AT)
    for folder in (*below, *islice(source.absolute().parents, _LEVELS)):
        with suppress(InputError):
            found = () if recipe.layout == "table" else _FINDERS[recipe.layout](recipe, folder)
            # Further out, only what holds the source's own files is the data set that was meant.
            inside = folder.is_relative_to(source)
            if any(inside or case.image.is_relative_to(source.absolute()) for case in found):
                return f"; give {folder} instead"
    names = [entry.name for entry in entries_of(source)]
    return f"; it holds {first_of(names, _SHOWN)}" if names else "; it is empty"
