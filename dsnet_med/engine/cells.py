"""One run of a trial from its configuration to its scores; each step that was done before is left as it is.

A cell's folder is a run folder: trained as `train` does, its test cases segmented into masks/ as `infer` does,
and scored into scores/ as `evaluate` does. A cell that was killed goes on from its last checkpoint.
"""

import csv
import io
import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dsnet_med.csv_cells import unshielded
from dsnet_med.engine.arms import Arm
from dsnet_med.engine.compose import evaluated
from dsnet_med.engine.cost import measure_cost
from dsnet_med.engine.data import fold_of, hold_out, open_store
from dsnet_med.engine.overrides import load
from dsnet_med.engine.plugin_choice import PluginChoice
from dsnet_med.engine.run import prepare, train
from dsnet_med.engine.scored_cases import image_files, labels_of_store, overlaps, write_scored_case
from dsnet_med.engine.session import BEGUN
from dsnet_med.engine.trial import MEASURED, Cell, Trial, read_trial
from dsnet_med.errors import InputError, StoppedError, cannot_read, one_line, root_cause, want_of_means
from dsnet_med.evaluate.pairing import Pair
from dsnet_med.evaluate.protocols import PROTOCOLS
from dsnet_med.evaluate.results import write_results
from dsnet_med.evaluate.score_folders import RUN_FACTS, evaluate_pairs
from dsnet_med.evaluate.summary import summarise
from dsnet_med.evaluate.trial_output import run_place
from dsnet_med.files import read_json, read_text, staging, write_json
from dsnet_med.inference import Predictor
from dsnet_med.inference.outputs import Outputs
from dsnet_med.inference.segment import segment_cases
from dsnet_med.inference.sources import find_sources
from dsnet_med.inference.trust import configured, require_own
from dsnet_med.prepare.store import Store
from dsnet_med.seal import SEAL, holds, sealed

_COST, _MASKS, _SCORES, _SUMMARY = "cost.json", "masks", "scores", "summary.json"
_TEST, _TRAINING = Path("cases"), 0.9  # the share of a cell's work that training is, for the bar
_PAGE_MB = 4.0  # of a cell's report: a trial has many
_START_S = 3.0  # that a cell takes beside its steps and slices
_TEXTS = ("case", "label", "name", "note")


@dataclass(frozen=True)
class Task:
    """A cell to be run, or the cost of an arm to be measured, in the trial of `folder`.

    `trust` lets a run that lies there and was made by somebody else execute its code.
    """

    folder: Path
    cell: Cell
    device: str = "auto"
    cost: bool = False
    trust: bool = False


def run_folder(folder: Path, cell: Cell) -> Path:
    """Where the run of a cell lies."""
    return folder / run_place(cell.arm, cell.seed, cell.fold)


def write_test_cases(folder: Path, trial: Trial) -> None:
    """The images and references of all cases that are scored, out of the store, in `folder`/cases."""
    store = Store.open(trial.store)
    scored = {case for cell in trial.cells() for case in cases_of(store, trial, cell.fold)["test"]}
    for name in sorted(scored):
        images, label = test_files(folder, name, store)
        if not label.is_file():  # written last
            write_scored_case(store, store.cases[name], images[0].parent, label)


def test_files(folder: Path, case: str, store: Store) -> tuple[list[Path], Path]:
    """Where the images of a case, one for each channel, and its reference lie."""
    images = image_files(folder / _TEST / "images", case, store)
    return images, folder / _TEST / "labels" / f"{case}.nii.gz"


def cases_of(store: Store, trial: Trial, fold: int | None) -> dict[str, list[str]]:
    """The cases to train on, to pick the checkpoint on, and to be scored on, in neither of the others.

    Of folds, the subjects of one are scored, and a part of the others picks the checkpoint, as in `train`.
    """
    if fold is None:
        return {"test": [case.id for case in store.cases_of("test")]}
    others, own = fold_of(store, trial.folds, fold)
    train_cases, val = hold_out(others)
    parts = {"train": train_cases, "val": val, "test": own}
    return {name: sorted(case.id for case in cases) for name, cases in parts.items()}


def prepare_cell(trial: Trial, cell: Cell, run: Path, device: str = "cpu") -> None:
    """Make `run` the run folder of a cell. Raises InputError where the arm cannot be trained so."""
    arm = trial.arm(cell.arm)
    settings: dict[str, Any] = {**trial.settings, "seed": cell.seed}
    if device == "cpu":
        settings.setdefault("workers", 0)  # the cores are busy with training; no number depends on it
    if cell.fold is not None:
        cases = cases_of(open_store(str(trial.store)), trial, cell.fold)
        settings["cases"] = {name: cases[name] for name in ("train", "val")}
    baseline = trial.arm(trial.baseline).method if trial.equal else None
    prepare(arm.method, trial.store, run, settings, plugin=choice_of(arm), schedule_of=baseline)


def choice_of(arm: Arm) -> PluginChoice | None:
    """The plug-in that an arm puts into its row."""
    return PluginChoice(arm.plugin, arm.at, arm.counting) if arm.plugin and arm.at else None


def require_trainable(folder: Path, trial: Trial, known: Collection[str] = ()) -> None:
    """Raise InputError for an arm, but the `known` ones, that cannot be trained so, before anything is."""
    fold = 0 if trial.folds else None
    with staging(folder) as place:
        for number, arm in enumerate(arm for arm in trial.arms if arm.name not in known):
            try:
                prepare_cell(trial, Cell(arm.name, trial.seeds[0], fold), place / str(number))
            except InputError as error:
                raise InputError(f"arm {arm.name}: {error}") from error


def run_task(place: int, task: Task) -> str:
    """Run a cell to its scores, or measure; what went wrong, in one line, "" where nothing did."""
    try:
        trial = read_trial(task.folder)
        device = _own_device(task.device, place)
        if device == "cpu":
            torch.set_num_threads(trial.threads)
        if task.cost:
            _measure(task.folder, trial, task.cell, device)
        else:
            _run(task.folder, trial, task.cell, device, task.trust)
    except Exception as error:  # one bad cell must never stop the others
        cause = root_cause(error)
        told = cause if isinstance(cause, InputError | StoppedError) else None
        return one_line(str(told) if told else want_of_means(cause) or f"{type(cause).__name__}: {cause}")
    return ""


def run_alone(task: Task) -> str:
    """`run_task` on a cluster's worker."""
    return run_task(0, task)


def _own_device(name: str, place: int) -> str:
    """The device of one of several processes side by side: the GPUs by turns."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{place % torch.cuda.device_count()}" if name == "cuda" else name


def _run(folder: Path, trial: Trial, cell: Cell, device: str, trust: bool) -> None:
    run = run_folder(folder, cell)
    if is_done(run):
        return
    if not (run / "configs" / "train.yaml").is_file():
        prepare_cell(trial, cell, run, device)
    elif not trust:
        require_own(run, configured(run), "going on with it")
    if not _is_whole(run / _SUMMARY):
        begun = any((run / name).exists() for name in BEGUN)
        train(run, {"resume": begun, "device": f"$engine.distributed.device('{device}')"})
    store = open_store(str(trial.store))
    cases = cases_of(store, trial, cell.fold)["test"]
    _segment(folder, run, cases, store, device)
    _score(folder, run, cases, store)


def _segment(folder: Path, run: Path, cases: Sequence[str], store: Store, device: str) -> None:
    predictor = Predictor.from_run(run, device=device, trust=True)  # it was made, or looked at, by `_run`
    files = [file for case in cases for file in test_files(folder, case, store)[0]]
    sources = find_sources(files, channels=store.channels)
    outputs = Outputs(("seg.nrrd",) if overlaps(store) else ("nifti",))
    results = segment_cases(predictor, sources, run / _MASKS, outputs)
    failed = {each.case: each.error for each in results if each.error}
    if failed:
        raise StoppedError(f"{len(failed)} cases could not be segmented: {next(iter(failed.values()))}")


def _score(folder: Path, run: Path, cases: Sequence[str], store: Store) -> None:
    labels, ending = labels_of_store(store), ".seg.nrrd" if overlaps(store) else ".nii.gz"
    files = {case: test_files(folder, case, store) for case in cases}
    pairs = [Pair(case, run / _MASKS / f"{case}{ending}", files[case][1]) for case in cases]
    protocols = ("strict", *(name for name in PROTOCOLS if name != "strict"))
    scores = list(evaluate_pairs(pairs, labels, protocols=protocols))
    if failed := [score.error for score in scores if score.error]:
        raise StoppedError(f"{len(failed)} cases could not be scored: {failed[0]}")
    facts = read_json(run / _MASKS / RUN_FACTS)
    images = {case: own[0] for case, (own, _) in files.items()}
    window = (store.intensity.low, store.intensity.high) if store.intensity.kind == "window" else None
    summary = summarise(scores, labels, protocols)
    write_results(
        run / _SCORES,
        scores,
        summary,
        labels,
        images=images,
        run=facts,
        window=window,
        page_mb=_PAGE_MB,
    )


def is_done(run: Path) -> bool:
    """Whether a cell's run is trained and scored."""
    return _is_whole(run / _SUMMARY) and _is_whole(run / _SCORES / _SUMMARY)


def rows_of(run: Path, cell: Cell) -> list[dict[str, Any]]:
    """The scores of a cell that is done, a row for each case and label, under every protocol that scores cases.

    Raises InputError where its tables cannot be read.
    """
    rows = _table(run / _SCORES / "cases.csv")
    for protocol, measures in MEASURED.items():
        if protocol == "strict":
            continue
        for row, other in zip(rows, _table(run / _SCORES / f"cases_{protocol}.csv"), strict=True):
            row |= {f"{measure}_{protocol}": other[measure] for measure in measures}
    fold = "" if cell.fold is None else cell.fold
    return [{"method": cell.arm, "seed": cell.seed, "fold": fold, **row} for row in rows]


def _table(file: Path) -> list[dict[str, Any]]:
    """A table of `evaluate`: texts as texts, numbers as numbers, None where nothing is counted."""
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(file), newline="")))
        return [{name: _value(name, cell) for name, cell in row.items()} for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise cannot_read(file, error, f"is no table of scores ({one_line(error)})") from error


def _value(name: str, cell: str) -> Any:
    if name in _TEXTS:
        return unshielded(cell)
    return float(cell) if cell else None


def curve_of(run: Path) -> list[tuple[int, float]]:
    """The validations of a run: after how many steps which mean Dice."""
    lines = map(json.loads, read_text(run / "metrics.jsonl").splitlines())
    return [(line["iteration"], line["val_mean_dice"]) for line in lines if "val_mean_dice" in line]


def share_done(run: Path, iterations: int) -> float:
    """About which share of a cell's work is done, from 0 to 1, by the files that it leaves."""
    if is_done(run):
        return 1.0
    with suppress(OSError, ValueError, LookupError, TypeError):
        step = json.loads((run / "metrics.jsonl").read_bytes().splitlines()[-1])["iteration"]
        return _TRAINING * min(1.0, float(step) / iterations)
    return 0.0


def _measure(folder: Path, trial: Trial, cell: Cell, device: str) -> None:
    with staging(folder) as place:
        prepare_cell(trial, cell, place / "run", device)
        cost = measure_cost(place / "run", device)
        config = load(place / "run" / "configs" / "train.yaml")
        iterations, every, split = (
            evaluated(config, name) for name in ("iterations", "validate_every", "cases")
        )
    store = open_store(str(trial.store))
    validated = sum(store.cases[case].shape[0] for case in split["val"]) * max(1, iterations // every)
    tested = sum(store.cases[case].shape[0] for case in cases_of(store, trial, cell.fold)["test"])
    seconds = iterations * cost["seconds_per_step"] + (validated + tested) * cost["ms_per_slice"] / 1000
    told = {**cost, "iterations": iterations, "estimated_seconds": seconds + _START_S}
    write_json(cost_file(folder, cell.arm), sealed(told))


def cost_file(folder: Path, arm: str) -> Path:
    """Where the cost of an arm is kept."""
    return (folder / run_place(arm, 0)).with_name(_COST)


def read_cost(folder: Path, arm: str) -> dict[str, Any]:
    """What an arm costs, {} where it was not measured."""
    try:
        content = read_json(cost_file(folder, arm))
    except (OSError, ValueError):
        return {}
    whole = isinstance(content, dict) and holds(content)
    return {name: value for name, value in content.items() if name != SEAL} if whole else {}


def _is_whole(summary: Path) -> bool:
    try:
        content = read_json(summary)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and holds(content) is True
