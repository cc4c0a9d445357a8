"""Which prediction belongs to which reference: by the cases that their file names say."""

import csv
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from dsnet_med.csv_cells import unshielded
from dsnet_med.errors import InputError, cannot_read, first_of, one_line
from dsnet_med.files import parse_json, read_text
from dsnet_med.find import FORMS, case_name, files_in, is_volume, mask_case
from dsnet_med.sniff import dicom_segmentation

# What tools and people add to a case's name to say what the file is; nnU-Net numbers a case's channels.
_ROLE = (
    r"(?:seg(?:mentation)?s?|pred(?:iction)?s?|gt|ground[_-]?truth|ref(?:erence)?s?|labels?|masks?|rtstruct|labelmap"
    r"|0000)"
)
_ADDED = re.compile(rf"(?:[._-]+{_ROLE})+$|^(?:{_ROLE}[._-]+)+", re.IGNORECASE)
REGRIDDED = ".regridded.nii.gz"  # a mask of `infer --regrid`, beside the one on the grid of its image
_KINDS = "*.nii.gz, *.nii, *.nrrd, *.mha or *.dcm"
_SLICER = ".seg.nrrd"

CaseOf = Callable[[Path], str | None]


@dataclass(frozen=True)
class Pair:
    """The two label maps of a case; without a `prediction` it is scored as one where nothing was predicted.

    `masks`: the reference is a file for each structure, by their names, and `reference` the first of them.
    """

    case: str
    prediction: Path | None
    reference: Path
    masks: tuple[tuple[str, Path], ...] = ()


class Pairing(NamedTuple):
    """The files of two folders by case.

    `missing` holds the reference of each case without a prediction; `failures` why a case that has a reference
    cannot be paired, `orphans` why a prediction cannot; `notes` what was paired although the names differ.
    """

    pairs: list[Pair]
    missing: dict[str, Path]
    failures: dict[str, str]
    orphans: dict[str, str]
    notes: list[str]


def pair_folders(
    prediction: Path,
    reference: Path,
    *,
    prediction_case: CaseOf = case_name,
    reference_case: CaseOf = case_name,
    cases: Iterable[str] | None = None,
    masks: Mapping[str, Mapping[str, Path]] | None = None,
) -> Pairing:
    """Pair the volumes of two folders (or two single files) by case, sorted by case.

    `prediction_case` and `reference_case` give a file's case; a reference file for which it is None is passed
    over. Files that nothing pairs by name are paired where their names differ only in what says prediction,
    reference or channel (`a_pred`, `a_gt`, `a_0000`, `a.seg`). `cases` names the only cases that count. `masks`
    are references of a file for each structure, by case. Raises InputError when a folder is missing or holds no
    volume, or `cases` names one without a reference.
    """
    if masks is None and prediction.is_file() and reference.is_file():
        return Pairing([Pair(str(prediction_case(prediction)), prediction, reference)], {}, {}, {}, [])
    predictions, doubles = _by_case(_volumes(prediction, "predictions"), prediction_case)
    return pair_files(
        predictions, reference, reference_case=reference_case, cases=cases, masks=masks, doubles=doubles
    )


def pair_files(
    files: Mapping[str, Path],
    reference: Path,
    *,
    reference_case: CaseOf = case_name,
    cases: Iterable[str] | None = None,
    masks: Mapping[str, Mapping[str, Path]] | None = None,
    doubles: Mapping[str, str] | None = None,
) -> Pairing:
    """Pair files, by their cases, with the references in a folder, as `pair_folders` does.

    `doubles` says of which cases there are two files. Raises InputError.
    """
    predictions, double_predictions = dict(files), dict(doubles or {})
    if masks is None:
        references, double_references = _by_case(_volumes(reference, "references"), reference_case)
    else:
        references, double_references = {case: next(iter(own.values())) for case, own in masks.items()}, {}
        names = dict.fromkeys(name for own in masks.values() for name in own)
        for case, own in masks.items():
            if lacking := [name for name in names if name not in own]:
                double_references[case] = (
                    f"case '{case}' has no mask of {first_of(lacking)}; add it, if only empty"
                )
    same = _alike(
        predictions.keys() - references.keys() - double_predictions.keys(),
        references.keys() - predictions.keys() - double_references.keys(),
    )
    notes = [
        f"{predictions[of_prediction].name} was paired with {references[of_reference].name}, as case '{case}'"
        for case, (of_prediction, of_reference) in same.items()
    ]
    for case, (of_prediction, of_reference) in same.items():
        predictions[case], references[case] = predictions.pop(of_prediction), references.pop(of_reference)
    counted = references.keys() if cases is None else _chosen(cases, references, reference_case, reference)
    failures = {case: why for case, why in (double_predictions | double_references).items() if case in counted}
    orphans = {
        case: f"{file}: no reference for case '{case}' in {reference}, which holds {_holds(reference)}"
        for case, file in sorted(predictions.items())
        if cases is None and case not in references
    }
    several = {file: tuple(own.items()) for own in (masks or {}).values() for file in list(own.values())[:1]}
    pairs = [
        Pair(case, predictions[case], references[case], several.get(references[case], ()))
        for case in sorted(counted & predictions.keys() - failures.keys())
    ]
    missing = {case: references[case] for case in sorted(counted - predictions.keys() - failures.keys())}
    return Pairing(pairs, missing, dict(sorted(failures.items())), orphans, notes)


def read_cases(path: Path) -> list[str]:
    """The cases that a file names: one a line, the column `case` of a CSV file, or the test cases of a
    training store's manifest.json. Raises InputError."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise cannot_read(path, error, f"cannot be read ({one_line(error)}); wanted one case a line") from error
    if path.suffix.lower() == ".json":
        return _test_cases(path, text)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines and "case" in next(csv.reader(lines[:1])):
        lines = [unshielded(row["case"].strip()) for row in csv.DictReader(lines) if row["case"]]
    elif broken := next((line for line in lines if "," in line), None):
        raise InputError(f"{path}: got the line '{broken}', wanted one case a line, or a CSV column 'case'")
    names = list(dict.fromkeys(lines))
    if not names:
        raise InputError(f"{path}: names no case; wanted one a line")
    return names


def require_one_file_per_case(cases: Iterable[str], labels: Mapping[int, str], where: Path) -> None:
    """Raise InputError where the files are one per organ (liver.nii.gz, spleen.nii.gz), not one per case."""
    if len(labels) < 2:
        return
    organs = {_plain(name) for name in labels.values()}
    of_subject: dict[str, set[str]] = {}
    for case in cases:
        subject, organ = _split_organ(_plain(case), organs)
        if organ:
            of_subject.setdefault(subject, set()).add(organ)
    for subject, found in of_subject.items():
        if len(found) > 1 or not subject:
            raise InputError(
                f"{where}: holds one file per organ ({first_of(sorted(found), 4)}), which would be "
                f"scored as cases of label {min(labels)}; combine each subject's into one label map first "
                "(docs/metrics.md, 'One file per organ', has the lines for it)"
            )


def listed_files(folder: Path) -> list[Path]:
    """The label maps in a folder, sorted; links that lead nowhere too, so that their case is not lost.

    DICOM segmentations and structure sets are among them; of the forms of one mask of `infer` the first.
    """
    files = [path for path in files_in(folder) if _is_label_map(path) and not _is_regridded(path)]
    by_case: dict[str, list[Path]] = {}
    for path in files:
        by_case.setdefault(mask_case(path), []).append(path)
    second = {
        path
        for case, forms in by_case.items()
        if len(forms) > 1 and (folder / f"{case}.json").is_file()
        for path in _second_forms(case, forms)
    }
    return [path for path in files if path not in second]


def _is_label_map(path: Path) -> bool:
    """Whether it has a volume's name, or is a DICOM segmentation; of a series' images none is."""
    may_be_dicom = path.suffix.lower() in ("", ".dcm", ".seg")
    return is_volume(path) or (may_be_dicom and dicom_segmentation(path) is not None)


def _second_forms(case: str, files: Sequence[Path]) -> list[Path]:
    names = [f"{case}{ending}" for ending in FORMS.values()]
    forms = sorted((path for path in files if path.name in names), key=lambda path: names.index(path.name))
    return forms[1:]


def _images_in(folder: Path) -> list[Path]:
    return [path for path in files_in(folder) if is_volume(path) and not path.name.lower().endswith(_SLICER)]


def find_images(
    folder: Path, cases: Collection[str], case_of: CaseOf = case_name, channel: int = 0
) -> dict[str, Path]:
    """The image of each of the cases, as far as the folder holds it: the file that `case_of` says is of it,
    that is named as it is (or with nnU-Net's `_0000`, of another `channel` with `_0001` and so on), else the
    only one whose name ends with it.

    Raises InputError where it holds none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    files = _images_in(folder)
    found = {}
    for case in sorted(cases):
        named = [file for file in files if case_name(file) in (case, f"{case}_{channel:04d}")]
        named = named if channel else [file for file in files if case_of(file) == case][-1:] or named
        candidates = named or [file for file in files if case_name(file).endswith(case)]
        if len(candidates) == 1:
            found[case] = candidates[0]
    if not found:
        raise InputError(
            f"{folder}: --images holds the image of no case (but {first_of((file.name for file in files), 4)}"
            f"); wanted one named as the case is, {min(cases)}.nii.gz or {min(cases)}_{channel:04d}.nii.gz"
        )
    return found


def _is_regridded(path: Path) -> bool:
    """Whether it is a second form of a mask of infer, on another grid."""
    case = path.name.removesuffix(REGRIDDED)
    return case != path.name and path.with_name(f"{case}.json").is_file()


def _alike(predictions: Iterable[str], references: Iterable[str]) -> dict[str, tuple[str, str]]:
    """case -> its names on both sides, which differ only in what _ADDED matches; unless several are alike."""
    left, right = _by_stripped(predictions), _by_stripped(references)
    return {
        case: (left[case][0], right[case][0])
        for case in sorted(left.keys() & right.keys())
        if len(left[case]) == len(right[case]) == 1
    }


def _by_stripped(cases: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for case in cases:
        found.setdefault(_ADDED.sub("", _ADDED.sub("", case)), []).append(case)
    found.pop("", None)
    return found


def _chosen(cases: Iterable[str], references: Mapping[str, Path], case_of: CaseOf, folder: Path) -> set[str]:
    chosen = set()
    for name in cases:
        found = next(
            (case for case in (name, case_of(Path(name)), case_name(Path(name))) if case in references), None
        )
        if found is None:
            near = get_close_matches(name, references, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise InputError(
                f"--cases names '{name}', which has no reference in {folder}: {hint}it holds "
                f"{first_of(sorted(references), 6)}"
            )
        chosen.add(found)
    return chosen


def _volumes(place: Path, role: str) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise InputError(f"{place}: no such folder or file; wanted the {role}, {_KINDS}")
    files = listed_files(place)
    if not files:
        raise InputError(f"{place}: no {_KINDS} files; wanted the {role}{_deeper(place)}")
    return files


def _deeper(folder: Path) -> str:
    """Where volumes lie instead, one folder down."""
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
    found = {path: files for path in inner[:1000] if (files := listed_files(path))}
    if not found:
        return ""
    first, files = next(iter(found.items()))
    if len(found) == 1:
        return f"; {len(files)} lie in {first}: give that folder"
    some = f"{first.name}/{files[0].name}"
    return f"; {len(found)} folders in it hold some ({some}): put them into one, named by case"


def _holds(place: Path) -> str:
    if place.is_file():
        return place.name
    return first_of((path.name for path in listed_files(place)), 4) + _deeper(place)


def _by_case(files: Sequence[Path], case_of: CaseOf) -> tuple[dict[str, Path], dict[str, str]]:
    found: dict[str, Path] = {}
    clashes: dict[str, str] = {}
    for path in files:
        case = case_of(path)
        if case in found:
            clashes[case] = f"case '{case}' has two files, {found[case]} and {path}; remove one"
        elif case is not None:
            found[case] = path
    return found, clashes


def _test_cases(path: Path, text: str) -> list[str]:
    try:
        content: Any = parse_json(text)
        names = [case["id"] for case in content["cases"] if case["split"] == "test"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a training store's manifest.json ({one_line(error)}); wanted that, or one case a line"
        ) from error
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: its store has no test cases; name the cases one a line")
    return names


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def _split_organ(name: str, organs: Iterable[str]) -> tuple[str, str]:
    """A file's name as subject and organ, either of them first; the longest organ that fits."""
    for organ in sorted(organs, key=len, reverse=True):
        for pattern in (rf"(?:(.*)_)?{organ}", rf"{organ}_(.*)"):
            if match := re.fullmatch(pattern, name):
                return match[1] or "", organ
    return name, ""
