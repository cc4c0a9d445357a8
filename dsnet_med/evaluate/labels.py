"""Which label values are scored, and what they are called."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dsnet_med.errors import InputError, cannot_read, first_of, one_line, shown, unknown
from dsnet_med.files import parse_json, read_text
from dsnet_med.regions import Region

LARGEST_LABEL = int(np.iinfo(np.uint16).max)
_LABEL_FILES = (".json", ".txt", ".csv", ".tsv")
_LINE = re.compile(r"(\d+)\s*[\s,;:=]\s*(\S.*)")
_ITK_SNAP = re.compile(r'(\d+)(?:\s+\d+){3}\s+[\d.]+(?:\s+\d+){2}\s+"(.*)"')  # value, colour, three flags, name
_WANTED = 'wanted a labels.json such as {"1": "liver", "2": "spleen"}'


@dataclass(frozen=True)
class Labels:
    """What is scored, and what the values of label maps mean.

    `names` has what is scored by its number in tables: the value of a class, or the place of a region, from 1.
    With `regions` each is the union of its values, of which others may have some too; `classes` then names the
    single values, where they have names. `ignored` is a label by its name and value: voxels that a reference
    gives it count for nothing.
    """

    names: dict[int, str]
    ignored: tuple[str, int] | None = None
    regions: tuple[Region, ...] = ()
    classes: dict[int, str] = field(default_factory=dict)

    @property
    def values(self) -> dict[int, str]:
        """The name of every value that a label map may hold beside background and the ignored one."""
        if not self.regions:
            return self.names
        codes = sorted({code for region in self.regions for code in region.codes} | self.classes.keys())
        return {code: self.classes.get(code, str(code)) for code in codes}

    @property
    def written(self) -> tuple[Region, ...]:
        """The regions as a predicted label map has them: with the values that only writing them made."""
        codes = set(self.values)
        return tuple(
            replace(region, codes=(*region.codes, *sorted(extra)))
            for region in self.regions
            for extra in [{r.value for r in self.regions if set(r.codes) <= set(region.codes)} - codes - {0}]
        )

    @property
    def ignored_value(self) -> int | None:
        """The value of the ignored label."""
        return self.ignored[1] if self.ignored else None


def label_names(labels: "Mapping[Any, Any] | Labels") -> dict[int, str]:
    """The names of what `labels_of` finds: number -> name, without the background. Raises InputError."""
    return labels_of(labels).names


def labels_of(labels: "Mapping[Any, Any] | Labels") -> Labels:
    """What a table of labels says; of Labels, themselves.

    Takes `{1: "liver"}`, `{"1": "liver"}` (JSON keys) and `{"liver": 1}` (nnU-Net's order); the label 0 is the
    background whatever its name, and is left out. One of several values, `{"whole": [1, 2], "core": 2}`, makes
    all of them regions, in their order. A label called "ignore" is none that is scored. Raises InputError.
    """
    if isinstance(labels, Labels):
        return labels
    if any(isinstance(value, (list, tuple)) for value in labels.values()):
        return _of_regions(labels)
    pairs = [_value_and_name(key, value) for key, value in labels.items()]
    if len({value for value, _ in pairs}) < len(pairs):
        raise InputError(f"labels {shown(dict(labels))} use one value twice; give each its own")
    ignored = _ignored(labels, dict(pairs))
    names = {value: name for value, name in pairs if value != 0 and (name, value) != ignored}
    if not names:
        raise InputError(f"labels {shown(dict(labels))} name nothing but background; give {{1: 'liver', ...}}")
    if len(set(names.values())) < len(names):
        raise InputError(f"labels {shown(dict(labels))} use one name twice; give each its own")
    return Labels(dict(sorted(names.items())), ignored)


def with_regions(labels: Labels, regions: Any, ignored: Any = None) -> Labels:
    """`labels`, which name single values, with regions of them: `{name: [values or names]}`, in their order.

    `ignored` is one more value that counts for nothing. Raises InputError.
    """
    if ignored is not None:
        value = _whole(ignored)
        if value is None or not 0 < value <= LARGEST_LABEL:
            raise InputError(f"ignore: got {shown(ignored)}, wanted a value from 1 to {LARGEST_LABEL}")
        if labels.ignored or value in labels.names:
            name = labels.ignored[0] if labels.ignored else labels.names[value]
            raise InputError(f"ignore: got {value}, but the labels have '{name}'; name one value, and no class")
        labels = replace(labels, ignored=("ignore", value))
    if regions is None:
        return labels
    if not isinstance(regions, Mapping) or not regions:
        raise InputError(f"regions: got {shown(regions)}, wanted {{name: [classes], ...}}")
    of_name = {name: value for value, name in labels.names.items()}
    found = []
    for name, written in regions.items():
        of = written.get("of") if isinstance(written, Mapping) else written
        codes = _codes(str(name), of, of_name, labels.ignored_value)
        if unknowns := [code for code in codes if code not in labels.names]:
            raise InputError(
                f"region '{name}' names the value {unknowns[0]}, which is none of {first_of(labels.names, 20)}"
            )
        found.append(Region(str(name), codes, 0))
    return labels_of_regions(found, labels.names, labels.ignored)


def labels_of_regions(
    regions: Sequence[Region], classes: Mapping[int, str], ignored: tuple[str, int] | None = None
) -> Labels:
    """Labels that score these regions, of values that `classes` names."""
    names = {place: region.name for place, region in enumerate(regions, start=1)}
    return Labels(names, ignored, tuple(regions), dict(classes))


def _of_regions(table: Mapping[Any, Any]) -> Labels:
    """A table some of whose labels have several values, as nnU-Net's dataset.json has them."""
    single = {name: value for name, value in table.items() if not isinstance(value, (list, tuple))}
    pairs = dict(_value_and_name(name, value) for name, value in single.items())
    ignored = _ignored(table, pairs)
    regions: list[Region] = []
    for key, written in table.items():
        value, name = _value_and_name(key, written) if key in single else (-1, str(key))
        if value == 0 or (name, value) == ignored:
            continue
        codes = _codes(name, [value] if key in single else written, {}, ignored[1] if ignored else None)
        regions.append(Region(name, codes, 0))
    if len({region.name for region in regions}) < len(regions):
        raise InputError(f"labels {shown(dict(table))} use one name twice; give each its own")
    return labels_of_regions(regions, {}, ignored)


def _codes(name: str, written: Any, of_name: Mapping[str, int], ignored: int | None) -> tuple[int, ...]:
    """The values of a region, given as such or as names of classes."""
    if not name.strip() or not isinstance(written, (list, tuple)) or not written:
        raise InputError(f"region '{name}': got {shown(written)}, wanted a list of values, such as [1, 3]")
    codes = [of_name.get(each, _whole(each)) if isinstance(each, str) else _whole(each) for each in written]
    for given, code in zip(written, codes, strict=True):
        if code is None and isinstance(given, str):
            raise unknown(f"class in region '{name}'", given, of_name)
        if code is None or not 0 < code <= LARGEST_LABEL:
            raise InputError(f"region '{name}': got {shown(given)}, wanted values from 1 to {LARGEST_LABEL}")
        if code == ignored:
            raise InputError(
                f"region '{name}' has the value {code}, which is ignored: take it out of one of both"
            )
    return tuple(sorted({code for code in codes if code is not None}))


def _ignored(table: Mapping[Any, Any], pairs: Mapping[int, str]) -> tuple[str, int] | None:
    """The label that nnU-Net defines by its name. Raises InputError for two, and for a background not 0."""
    ignored = [(name, value) for value, name in pairs.items() if name.strip().lower() == "ignore" and value]
    if len(ignored) > 1:
        raise InputError(f"labels {shown(dict(table))} name two values 'ignore'; keep one")
    background = [value for value, name in pairs.items() if name.strip().lower() == "background" and value]
    if background:
        raise InputError(f"labels call the value {background[0]} 'background', which is always 0; correct them")
    return ignored[0] if ignored else None


def read_labels_argument(text: str) -> Labels | None:
    """What `--labels` says: JSON itself, a file of it, or of lines such as `1 liver` or `1,liver`, or a folder
    with a labels.json or dataset.json. None where it is none of these (a recipe, then). Raises InputError."""
    if text.lstrip().startswith("{"):
        return _of_json(text, "--labels")
    path = Path(text)
    for name in ("labels.json", "dataset.json"):
        if path.is_dir() and (path / name).is_file() and not (path / "recipe.yaml").is_file():
            return read_label_file(path / name)
    return read_label_file(path) if path.suffix.lower() in _LABEL_FILES else None


def read_label_file(path: Path) -> Labels:
    """The labels of a JSON file such as {"1": "liver"}, or of its key "labels" (a decathlon or nnU-Net
    dataset.json), of a text file with a value and a name on each line, or of ITK-SNAP. Raises InputError."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise cannot_read(path, error, f"cannot be read ({one_line(error)}); {_WANTED}") from error
    if path.suffix.lower() == ".json":
        return _of_json(text, str(path))
    lines = [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
    of_itk_snap = any(map(_ITK_SNAP.fullmatch, lines))
    found = [(_ITK_SNAP if of_itk_snap else _LINE).fullmatch(line) for line in lines]
    wrong = next((line for line, match in zip(lines, found, strict=True) if match is None), None)
    if wrong is not None and wrong is not lines[0]:  # the first may be a heading
        raise InputError(f"{path}: got the line '{wrong}', wanted a value and a name; {_WANTED}")
    pairs = [(match[1], match[2].strip().strip('"')) for match in found if match]
    if not pairs or len(dict(pairs)) < len(pairs):
        raise InputError(f"{path}: no labels, or one value twice; {_WANTED}")
    return _named(dict(pairs), str(path))


def _of_json(text: str, where: str) -> Labels:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise InputError(f"{where}: not a table of labels ({one_line(error)}); {_WANTED}") from error
    table = content.get("labels", content) if isinstance(content, dict) else None
    if not isinstance(table, dict):
        raise InputError(f"{where}: not a table of labels; {_WANTED}")
    if table is content:
        return _named(table, where)
    return _named(table, where, content.get("regions"), content.get("ignore"))


def _named(table: Mapping[Any, Any], where: str, regions: Any = None, ignored: Any = None) -> Labels:
    try:
        found = labels_of(table)
        if found.regions and regions is not None:
            raise InputError("has labels of several values and regions, too; write all as regions")
        return with_regions(found, regions, ignored)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _value_and_name(key: Any, value: Any) -> tuple[int, str]:
    for number, name in ((key, value), (value, key)):
        whole = _whole(number)
        if whole is not None and isinstance(name, str) and 0 <= whole <= LARGEST_LABEL:
            return whole, name
    raise InputError(
        f"label {shown(key)}: {shown(value)} is not a value of 0 to {LARGEST_LABEL} and a name; "
        "write 1: 'liver'"
    )


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, str, np.integer)):
        return None
    whole = not isinstance(value, str) or (value.strip().isdecimal() and len(value) < 20)
    return int(value) if whole else None
