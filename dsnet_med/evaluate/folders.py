"""Scoring folders: files paired by case, read, checked and measured, in parallel, one result per case.

A case that cannot be scored carries the reason; the others are scored all the same.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.evaluate import inputs, stack
from dsnet_med.evaluate.inputs import LabelMap
from dsnet_med.evaluate.labels import label_names
from dsnet_med.evaluate.measure import Measure, measure_case
from dsnet_med.evaluate.protocols import Protocol, Record, find_protocols, record
from dsnet_med.evaluate.resample import onto_grid
from dsnet_med.evaluate.worst_slice import SlicePair, worst_slice
from dsnet_med.files import sha256
from dsnet_med.geometry import SliceOrder
from dsnet_med.volumes import GZIP_AT_MOST, Memory, Volume, case_name, is_volume, read_labels, require_same_grid
from dsnet_med.workers import in_parallel, on_cluster, peak_memory_bytes, workers_that_fit

LabelValues = Mapping[int, int]
RUN_FACTS = "run.json"  # in a folder of masks: which run made them
REGRIDDED = ".regridded.nii.gz"  # a mask of `infer --regrid`, beside the one on the grid of its image


@dataclass(frozen=True)
class Pair:
    """The two label maps of a case."""

    case: str
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class CaseScore:
    """What is known of one case after scoring; `error` says why there are no measures."""

    case: str
    prediction: Path
    reference: Path
    error: str | None = None
    measures: tuple[Measure, ...] = ()
    parts: stack.Parts | None = None
    worst: SlicePair | None = None
    shape: tuple[int, ...] = ()
    affine: NDArray[np.float64] = field(default_factory=lambda: np.eye(4), compare=False)
    spacing_mm: tuple[float, ...] = ()
    prediction_sha256: str = ""
    reference_sha256: str = ""
    reference_map: dict[int, int] | None = None
    resampled: str = ""
    peak_memory_bytes: int = 0

    def records(self, protocol: str = "strict") -> list[Record]:
        """This case under a protocol, one record per label; a stacked protocol judges the case by itself."""
        (chosen,) = find_protocols([protocol])
        return [record(measure, chosen) for measure in self.measures]


@dataclass(frozen=True)
class _Task:
    pair: Pair
    labels: dict[int, str]
    protocols: tuple[str, ...]
    nsd_tolerance_mm: float
    resample: bool
    threads: int
    reference_map: dict[int, int] | None


def pair_folders(
    prediction: Path,
    reference: Path,
    *,
    prediction_case: Callable[[Path], str] = case_name,
    reference_case: Callable[[Path], str | None] = case_name,
) -> tuple[list[Pair], list[str], dict[str, str]]:
    """Pair the volumes of two folders (or two single files) by case.

    `prediction_case` and `reference_case` give a file's case; a reference file for which it is None is passed
    over. Returns the pairs sorted by case, the cases with a reference and no prediction, and for every
    prediction that cannot be paired the reason. Raises InputError when a folder is missing or holds no volume.
    """
    if prediction.is_file() and reference.is_file():
        return [Pair(prediction_case(prediction), prediction, reference)], [], {}
    predictions, clashes = _by_case(_volumes(prediction, "predictions"), prediction_case)
    references, others = _by_case(_volumes(reference, "references"), reference_case)
    failures = clashes | others
    for case in predictions.keys() - references.keys() - failures.keys():
        failures[case] = f"{predictions[case]}: no reference for case '{case}' in {reference}"
    pairs = [
        Pair(case, predictions[case], references[case])
        for case in sorted(predictions.keys() & references.keys() - failures.keys())
    ]
    missing = sorted(references.keys() - predictions.keys() - failures.keys())
    return pairs, missing, dict(sorted(failures.items()))


def evaluate_pairs(
    pairs: Sequence[Pair],
    labels: Mapping[Any, Any],
    *,
    protocols: Sequence[str] = ("strict",),
    workers: int = 1,
    scheduler: str | None = None,
    reference_map: Callable[[Path], LabelValues | None] = lambda _: None,
    nsd_tolerance_mm: float = 1.0,
    resample: bool = False,
) -> Iterator[CaseScore]:
    """Score every pair once for all `protocols`; yields each case as it finishes, failed ones with their error.

    `reference_map` gives for a reference file the class of each of its raw values (None: they are classes
    already); a raw value it does not have fails that case. With `workers` above 1 that many processes share the
    cases, or fewer where memory is short; each holds one case at a time, and workers beyond the number of cases
    share a case's labels. `scheduler` is the address of a Dask cluster to use instead. With `resample` a
    prediction on another grid is brought onto its reference's (nearest neighbour). Raises InputError, before
    the first case, for wrong arguments.
    """
    names = label_names(labels)
    chosen = tuple(protocol.name for protocol in find_protocols(protocols))
    limit = inputs.tolerance(nsd_tolerance_mm)
    if workers < 1:
        raise InputError(f"workers is {workers}, wanted at least 1")
    threads = 1 if scheduler else max(1, workers // max(1, len(pairs)))
    tasks = [
        _Task(pair, names, chosen, limit, resample, threads, _as_dict(reference_map(pair.reference)))
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
    largest = max((_stored_bytes(pair.reference) + _stored_bytes(pair.prediction) for pair in pairs), default=0)
    return workers_that_fit(min(workers, len(pairs)), 150_000_000 + 3 * largest)


def mapped(volume: Volume, values: LabelValues | None) -> LabelMap:
    """The voxels of a label map with raw values replaced by classes. Raises InputError for unknown values."""
    voxels: LabelMap = volume.voxels
    if values is None:
        return voxels
    present = np.flatnonzero(np.bincount(voxels.ravel(order="K")))
    unknown = [int(value) for value in present if value not in values]
    if unknown:
        raise InputError(
            f"{volume.path}: label values {inputs.listed(unknown)} are none of the "
            f"{len(values)} that the label map knows; add them to it or correct the file"
        )
    table = np.zeros(int(present.max()) + 1, np.uint16)
    for value in present:
        table[value] = values[int(value)]
    return table.astype(np.uint8)[voxels] if table.max() <= 255 else table[voxels]


_memory = threading.local()  # of this process, and of each thread where a cluster's worker has several


def _score(task: _Task) -> CaseScore:
    pair = task.pair
    try:
        return _measured(task)
    except (InputError, MemoryError) as error:
        reason = str(error) or "not enough memory; use fewer workers"
    except Exception as error:  # one bad case must never stop the others
        reason = f"{pair.prediction}: {type(error).__name__}: {error}"
    return CaseScore(pair.case, pair.prediction, pair.reference, error=reason)


def _measured(task: _Task) -> CaseScore:
    pair = task.pair
    if not hasattr(_memory, "pair"):
        _memory.pair = Memory(), Memory()
    reference, prediction = (
        read_labels(path, memory)
        for path, memory in zip((pair.reference, pair.prediction), _memory.pair, strict=True)
    )
    prediction, resampled = _on_one_grid(reference, prediction, task.resample)
    classes = mapped(reference, task.reference_map)
    wanted = find_protocols(task.protocols)
    try:
        measured = measure_case(
            classes,
            prediction.voxels,
            reference.spacing_mm,
            task.labels,
            in_voxels=any(protocol.unit == "voxels" for protocol in wanted),
            nsd_tolerance_mm=task.nsd_tolerance_mm,
            threads=task.threads,
        )
    except InputError as error:
        raise InputError(f"{pair.prediction} against {pair.reference}: {error}") from error
    return CaseScore(
        pair.case,
        pair.prediction,
        pair.reference,
        measures=measured.measures,
        parts=_parts(task, classes, reference, prediction, wanted),
        worst=worst_slice(classes, prediction.voxels, reference.affine, measured.differing),
        shape=reference.shape,
        affine=reference.affine,
        spacing_mm=reference.spacing_mm,
        prediction_sha256=sha256(pair.prediction),
        reference_sha256=sha256(pair.reference),
        reference_map=task.reference_map,
        resampled=resampled,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _on_one_grid(reference: Volume, prediction: Volume, resample: bool) -> tuple[Volume, str]:
    """The prediction on the reference's grid, and what was done to bring it there. Raises InputError."""
    try:
        require_same_grid(reference, prediction)
    except InputError as error:
        if not resample:
            raise InputError(
                f"{error} (evaluate --resample brings the prediction onto the other grid)"
            ) from error
        return onto_grid(prediction, reference)
    return prediction, ""


def _parts(
    task: _Task, classes: LabelMap, reference: Volume, prediction: Volume, protocols: Sequence[Protocol]
) -> stack.Parts | None:
    if not any(protocol.stacked for protocol in protocols):
        return None
    order = SliceOrder.of(reference.affine, "coarsest")
    return stack.parts_of(order.to_slices(classes), order.to_slices(prediction.voxels), task.labels.keys())


def _answered(results: Iterator[tuple[_Task, CaseScore | None]]) -> Iterator[CaseScore]:
    for task, score in results:
        yield score or _lost(task.pair)


def _lost(pair: Pair) -> CaseScore:
    reason = f"{pair.prediction}: the process that scored it was killed; is there enough memory?"
    return CaseScore(pair.case, pair.prediction, pair.reference, error=reason)


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


def _volumes(place: Path, role: str) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise InputError(
            f"{place}: no such folder or file; wanted the {role}, *.nii.gz, *.nii, *.nrrd or *.mha"
        )
    files = sorted(
        path
        for path in place.iterdir()
        if is_volume(path) and path.is_file() and path.name[0] != "." and not _is_regridded(path)
    )
    if not files:
        raise InputError(f"{place}: no *.nii.gz, *.nii, *.nrrd or *.mha files; wanted the {role}")
    return files


def _is_regridded(path: Path) -> bool:
    """Whether it is a second form of a mask of infer, on another grid."""
    case = path.name.removesuffix(REGRIDDED)
    return case != path.name and path.with_name(f"{case}.json").is_file()


def _by_case(
    files: Sequence[Path], case_of: Callable[[Path], str | None]
) -> tuple[dict[str, Path], dict[str, str]]:
    found: dict[str, Path] = {}
    clashes: dict[str, str] = {}
    for path in files:
        case = case_of(path)
        if case in found:
            clashes[case] = f"case '{case}' has two files, {found[case]} and {path}; remove one"
        elif case is not None:
            found[case] = path
    return found, clashes


def _as_dict(values: LabelValues | None) -> dict[int, int] | None:
    return None if values is None else dict(values)
