"""Scoring pairs of files: read, checked and measured, in parallel, one result per case.

A case that cannot be scored carries the reason; the others are scored all the same.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, one_line, unknown
from dsnet_med.evaluate import arrays
from dsnet_med.evaluate.arrays import LabelMap
from dsnet_med.evaluate.classes import Classes, exclusive, measured, scored
from dsnet_med.evaluate.labels import Labels, labels_of
from dsnet_med.evaluate.measurements import LabelMeasurement
from dsnet_med.evaluate.pairing import Pair
from dsnet_med.evaluate.pooled_volumes import CaseBorders, borders_of_case
from dsnet_med.evaluate.protocols import Protocol, Record, find_protocols, record
from dsnet_med.evaluate.resample import onto_grid
from dsnet_med.evaluate.segments import LabelValues, classes_of
from dsnet_med.files import read_json, sha256
from dsnet_med.find import mask_case
from dsnet_med.geometry import SliceOrder
from dsnet_med.processes import in_parallel, on_cluster, peak_memory_bytes, workers_that_fit
from dsnet_med.segmentations import Layered, read_pair
from dsnet_med.sniff import GZIP_AT_MOST
from dsnet_med.volumes import Volume, files_of, require_same_grid

Missing = Literal["refuse", "zero", "ignore"]
MISSING: tuple[Missing, ...] = get_args(Missing)
MOST_BITS = 16  # regions that fit a voxel of a picture
RUN_FACTS = "run.json"  # in a folder of masks: which run made them


@dataclass(frozen=True)
class CaseScore:
    """What is known of one case after scoring; `error` says why there are no measures.

    `unpredicted` says why a case counts as one where nothing was predicted; `task` is how it was read.
    `borders` are what a stacked protocol needs, by label; labels that exclude each other share one.
    """

    case: str
    prediction: Path | None
    reference: Path
    error: str | None = None
    unpredicted: str = ""
    notes: tuple[str, ...] = ()
    measures: tuple[LabelMeasurement, ...] = ()
    borders: Mapping[int, CaseBorders] = field(default_factory=dict)
    ignored_voxels: int = 0
    shape: tuple[int, ...] = ()
    affine: NDArray[np.float64] = field(default_factory=lambda: np.eye(4), compare=False)
    spacing_mm: tuple[float, ...] = ()
    prediction_sha256: str = ""
    reference_sha256: str = ""
    reference_map: LabelValues | None = None
    prediction_map: LabelValues | None = None
    masks: tuple[tuple[str, Path], ...] = ()
    resampled: str = ""
    peak_memory_bytes: int = 0
    task: "_Task | None" = field(default=None, compare=False, repr=False)

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def records(self, protocol: str = "strict") -> list[Record]:
        """This case under a protocol, one record per label; a stacked protocol judges the case by itself."""
        (chosen,) = find_protocols([protocol])
        return [record(measure, chosen) for measure in self.measures]


@dataclass(frozen=True)
class _Rules:
    """What is the same for every case."""

    labels: Labels
    protocols: tuple[Protocol, ...]
    nsd_tolerance_mm: float
    resample: bool
    drop_outside: bool
    missing: Missing
    threads: int


@dataclass(frozen=True)
class _Task:
    pair: Pair
    rules: _Rules
    reference_map: LabelValues | None
    prediction_map: LabelValues | None


@dataclass(frozen=True)
class _Maps:
    """The two files of a case on the reference's grid, as classes, and what is known of them."""

    reference: Volume
    classes: Classes
    predicted: Classes
    notes: tuple[str, ...]
    resampled: str
    prediction_sha256: str
    ignored_voxels: int


def missing_rule(text: str) -> Missing:
    """The rule of this name for references without a prediction. Raises InputError."""
    if text not in MISSING:
        raise unknown("rule for missing predictions", text, MISSING)
    return text


def evaluate_pairs(
    pairs: Sequence[Pair],
    labels: Mapping[Any, Any] | Labels,
    *,
    protocols: Sequence[str] = ("strict",),
    workers: int = 1,
    scheduler: str | None = None,
    reference_map: Callable[[Path], LabelValues | None] = lambda _: None,
    prediction_map: Callable[[Path], LabelValues | None] = lambda _: None,
    nsd_tolerance_mm: float = 1.0,
    resample: bool = False,
    drop_outside: bool = False,
    missing: Missing = "refuse",
) -> Iterator[CaseScore]:
    """Score every pair once for all `protocols`; yields each case as it finishes, failed ones with their error.

    `reference_map` and `prediction_map` give for a file the class of each of its raw values (None: they are
    classes already); a raw value it does not have fails that case. `labels` are as `labels_of` takes them:
    regions are scored each, and voxels that a reference gives the ignored label count for nothing. A pair
    without a prediction is scored as one that is empty; under `missing` "zero" so is one whose prediction
    cannot be scored. With `workers` above 1 that many processes share the cases, or fewer where memory is
    short; each holds one case at a time, and workers beyond the number of cases share a case's labels.
    `scheduler` is the address of a Dask cluster to use instead. With `resample` a prediction on another grid is
    brought onto its reference's (nearest neighbour), unless more than a thousandth of its labelled voxels lie
    outside and `drop_outside` does not let them go. Raises InputError, before the first case, for wrong
    arguments.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}, wanted at least 1")
    rules = _Rules(
        labels_of(labels),
        find_protocols(protocols),
        arrays.tolerance(nsd_tolerance_mm),
        resample,
        drop_outside,
        missing,
        threads=1 if scheduler else max(1, workers // max(1, len(pairs))),
    )
    tasks = [
        _Task(
            pair,
            rules,
            reference_map(pair.reference),
            None if pair.prediction is None else prediction_map(pair.prediction),
        )
        for pair in pairs
    ]
    if scheduler:
        return _answered(on_cluster(_score, tasks, scheduler))
    fitting = workers_for(pairs, workers)
    return _answered(in_parallel(_score, tasks, fitting)) if fitting > 1 else map(_score, tasks)


def workers_for(pairs: Sequence[Pair], workers: int) -> int:
    """How many of `workers` processes there is a case and memory for: at least one.

    A process needs some 150 MB, and of its largest case the two label maps and what their borders take.
    """
    largest = max((_stored_bytes(pair.reference) for pair in pairs), default=0)
    return workers_that_fit(min(workers, len(pairs)), 150_000_000 + 6 * largest)


def maps_of(score: CaseScore) -> tuple[LabelMap, LabelMap]:
    """Reference and prediction of a case that was scored, read again as they were scored.

    Classes in the axis order of the reference's file, of those that overlap the last; regions as bits, the n-th
    as the n-th. Raises InputError, also where a file changed since.
    """
    if score.task is None:
        raise InputError(f"{score.case}: was not scored from files, so there is nothing to show")
    maps = _read(score.task)
    then = (score.reference_sha256, score.prediction_sha256 if score.task.pair.prediction else "")
    if (digest_of(maps.reference.digests), maps.prediction_sha256) != then:
        raise InputError(f"{score.case}: its files changed since they were scored")
    labels = score.task.rules.labels
    if not labels.regions:
        return maps.classes.painted(), maps.predicted.painted()
    if len(labels.regions) > MOST_BITS:
        raise InputError(f"more than {MOST_BITS} regions have no pictures")
    return maps.classes.bits(list(labels.names)), maps.predicted.bits(list(labels.names))


def _score(task: _Task) -> CaseScore:
    pair = task.pair
    try:
        return _measured(task)
    except (InputError, MemoryError) as error:
        reason = str(error) or "not enough memory; use fewer workers"
    except Exception as error:  # one bad case must never stop the others
        reason = f"{pair.prediction or pair.reference}: {type(error).__name__}: {error}"
    if task.rules.missing == "zero" and pair.prediction is not None:
        empty = _score(replace(task, pair=replace(pair, prediction=None)))
        if empty.error is None:
            found = volume_sha256(pair.prediction) if pair.prediction.is_file() else ""
            return replace(empty, prediction=pair.prediction, prediction_sha256=found, unpredicted=reason)
    return CaseScore(pair.case, pair.prediction, pair.reference, error=reason)


def _read(task: _Task) -> _Maps:
    """Raises InputError."""
    pair, rules = task.pair, task.rules
    both = read_pair(pair.reference, pair.prediction, dict(pair.masks))
    reference = both[0].volume
    classes, notes = _classes(both[0], rules, task.reference_map)
    predicted = Classes((np.zeros(reference.shape, np.uint8, order="F"),))
    resampled = digest = ""
    if both[1] is not None and pair.prediction is not None:
        digest = digest_of(both[1].volume.digests)
        given, resampled = _on_one_grid(reference, both[1], rules)
        predicted, more = _classes(given, rules, task.prediction_map)
        notes += (*more, *_guessed(pair.prediction))
    by_name = classes.by_name or predicted.by_name
    if task.reference_map is not None and task.prediction_map is None and not by_name:
        _require_classes(pair, reference.voxels, classes.painted(), predicted.painted())
    try:
        classes, predicted, ignored = scored(classes, predicted, rules.labels)
    except InputError as error:
        raise InputError(f"{pair.prediction} against {pair.reference}: {error}") from error
    return _Maps(reference, classes, predicted, notes, resampled, digest, ignored)


def _measured(task: _Task) -> CaseScore:
    pair, rules, maps = task.pair, task.rules, _read(task)
    reference = maps.reference
    pooled = any(protocol.stacked for protocol in rules.protocols)
    try:
        measures = measured(
            maps.classes,
            maps.predicted,
            reference.affine[:3, :3],
            rules.labels.names,
            in_voxels=any(protocol.unit == "voxels" for protocol in rules.protocols),
            nsd_tolerance_mm=rules.nsd_tolerance_mm,
            threads=rules.threads,
        )
    except InputError as error:
        raise InputError(f"{pair.prediction} against {pair.reference}: {error}") from error
    return CaseScore(
        pair.case,
        pair.prediction,
        pair.reference,
        unpredicted="" if pair.prediction else "no prediction",
        notes=maps.notes,
        measures=measures,
        borders=_borders(maps, rules.labels.names) if pooled else {},
        ignored_voxels=maps.ignored_voxels,
        shape=reference.shape,
        affine=reference.affine,
        spacing_mm=reference.spacing_mm,
        prediction_sha256=maps.prediction_sha256,
        reference_sha256=digest_of(reference.digests),
        reference_map=task.reference_map,
        prediction_map=task.prediction_map,
        masks=pair.masks,
        resampled=maps.resampled,
        peak_memory_bytes=peak_memory_bytes(),
        task=task,
    )


def _borders(maps: _Maps, labels: Mapping[int, str]) -> dict[int, CaseBorders]:
    """What a stacked protocol needs of a case, by label."""
    order = SliceOrder.of(maps.reference.affine, "coarsest")
    found: dict[int, CaseBorders] = {}
    for own in exclusive(maps.classes, maps.predicted, labels):
        sides = (
            each.label_map(own) if each.parts else each.layers[0] for each in (maps.classes, maps.predicted)
        )
        found |= dict.fromkeys(own, borders_of_case(*(order.to_slices(side) for side in sides)))
    return found


def digest_of(digests: Mapping[Path, str]) -> str:
    """The SHA-256 of a volume's file; of a header and its voxels, that of theirs one after the other."""
    each = list(digests.values())
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def volume_sha256(path: Path) -> str:
    """The same of a volume that need not be one."""
    return digest_of({file: sha256(file) for file in files_of(path)})


def _on_one_grid(reference: Volume, prediction: Layered, rules: _Rules) -> tuple[Layered, str]:
    """The prediction on the reference's grid, and what was done to bring it there. Raises InputError."""
    try:
        require_same_grid(reference, prediction.volume)
    except InputError as error:
        if not rules.resample:
            raise InputError(
                f"{error} (evaluate --resample brings the prediction onto the other grid)"
            ) from error
        layers = [replace(prediction.volume, voxels=layer) for layer in prediction.layers]
        moved = [onto_grid(layer, reference, drop_outside=rules.drop_outside) for layer in layers]
        return prediction.on(moved[0][0], (layer.voxels for layer, _ in moved)), moved[0][1]
    return prediction, ""


def _require_classes(pair: Pair, raw: LabelMap, classes: LabelMap, predicted: LabelMap) -> None:
    """Raise InputError where both maps hold the same values before the reference's are mapped, and not after.

    Then either the prediction holds the data set's own values or the reference holds class ids already. Every
    fourth voxel along an axis tells.
    """
    every = (slice(None, None, 4 if raw.size > 1_000_000 else 1),) * raw.ndim
    if raw.shape != predicted.shape:
        return
    as_they_are, after = _agreement(raw[every], predicted[every]), _agreement(classes[every], predicted[every])
    if as_they_are > 0.5 and as_they_are > 2 * after:
        raise InputError(
            f"{pair.prediction} agrees with {pair.reference} value for value (mean Dice {as_they_are:.2f}), "
            f"and not once the reference's raw values are mapped to classes ({after:.2f}): one of the two is "
            "taken for the other kind; put a labels.json of values and names beside the files, or give it as "
            "--labels"
        )


def _agreement(one: LabelMap, other: LabelMap) -> float:
    """The mean Dice over all values but 0 that either map holds; 0 where there are none."""
    high = int(max(one.max(initial=0), other.max(initial=0))) + 1
    a, b = (np.bincount(each.ravel(), minlength=high) for each in (one, other))
    both = np.bincount(one[one == other].ravel(), minlength=high)
    found = np.flatnonzero(a + b)
    found = found[found > 0]
    return float((2 * both[found] / (a + b)[found]).mean()) if len(found) else 0.0


def _classes(given: Layered, rules: _Rules, values: LabelValues | None) -> tuple[Classes, tuple[str, ...]]:
    """What a file holds, and what a reader has to know of it, each note with its name. Raises InputError."""
    classes, notes = classes_of(given, rules.labels, values)
    return classes, tuple(f"{given.volume.path.name}: {note}" for note in (*given.volume.notes, *notes))


def _guessed(prediction: Path) -> tuple[str, ...]:
    """What `infer` had to guess of the geometry of the image that a mask was made of: its CASE.json has it."""
    try:
        guessed = read_json(prediction.with_name(f"{mask_case(prediction)}.json"))["unstated"]
    except (OSError, ValueError, LookupError, TypeError):  # none, or somebody's
        return ()
    if not isinstance(guessed, list):
        return ()
    return tuple(f"{prediction.name}: made of an image of which {one_line(str(line))}" for line in guessed[:4])


def _answered(results: Iterator[tuple[_Task, CaseScore | None]]) -> Iterator[CaseScore]:
    for task, score in results:
        pair = task.pair
        yield score or CaseScore(
            pair.case,
            pair.prediction,
            pair.reference,
            error=f"{pair.prediction or pair.reference}: the process that scored it was killed; "
            "is there enough memory?",
        )


def _stored_bytes(path: Path) -> int:
    """The size of the file's content: where it is compressed, what gzip says of it in the last 4 bytes."""
    try:
        size = path.stat().st_size
        if path.suffix != ".gz":
            return size
        with path.open("rb") as stream:
            stream.seek(-4, os.SEEK_END)
            return min(int.from_bytes(stream.read(4), "little"), GZIP_AT_MOST * size)
    except OSError:  # the case fails by itself, with a line of its own
        return 0
