"""What `compare` does: a trial planned, its cells run side by side, scored and analysed."""

import json
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import typer
from tqdm import tqdm

from dsnet_med.errors import CasesFailedError, InputError
from dsnet_med.files import locked, remove_partial

if TYPE_CHECKING:
    from dsnet_med.engine.arms import Arm
    from dsnet_med.engine.cells import Task
    from dsnet_med.engine.trial import Cell, Trial
    from dsnet_med.processes import Places

_LOOK_EVERY_S = 1.0
_NAMES = 50  # letters that leave room for a bar
_BAR = "{l_bar}{bar}| [{elapsed}<{remaining}]{postfix}"


@dataclass(frozen=True)
class Request:
    """What was asked for; None and empty are options that were not given."""

    methods: str = ""
    data: Path | None = None
    seeds: str = ""
    baseline: str | None = None
    placebos: bool = False
    equal: bool = False
    folds: int = 0
    margin: float | None = None
    primary: str | None = None
    iterations: int | None = None
    settings: Sequence[str] = ()


@dataclass(frozen=True)
class Means:
    """How and where cells are run: nothing of it changes a result."""

    jobs: int | None = None
    per_gpu: int = 1
    device: str = "auto"
    scheduler: str | None = None
    shard: str = ""
    trust: bool = False


def compare(out: Path, request: Request, means: Means, *, dry_run: bool = False, as_json: bool = False) -> None:
    """Run the trial in `out`, or what is left of it, and analyse what is there."""
    shard = _shard(means.shard)
    with ExitStack() as held:
        # Started first: they import while this process looks at what is asked for.
        places = held.enter_context(_places(means)) if means.jobs and not means.scheduler else None
        from dsnet_med.engine import cells
        from dsnet_med.engine.trial import TRIAL, read_trial, written
        from dsnet_med.evaluate.trial_output import require_own

        trial = _trial(out, request, means)
        if dry_run:
            _tell_plan(trial, means, as_json)
            return
        held.enter_context(locked(out, "compares in", shared=f"{shard[1]} shards" if shard[1] > 1 else ""))
        require_own(out)
        remove_partial(out)
        known = {arm.name for arm in read_trial(out).arms} if (out / TRIAL).exists() else set()
        cells.require_trainable(out, trial, known)
        trial = written(out, trial)
        for line in trial.extended:
            typer.echo(f"extended: {line}", err=True)
        cells.write_test_cases(out, trial)
        own = trial.cells()[shard[0] :: shard[1]]
        failures = _run(out, trial, own, means, places, held)
        _analyse(out, trial, as_json)
    if failures:
        for cell, reason in failures.items():
            typer.echo(f"failed: {cell}: {reason}", err=True)
        typer.echo("the same command goes on with these", err=True)
        raise CasesFailedError(failures, listed=True)


def analyse_scores(
    scores: Path, out: Path, request: Request, means: Means, *, dry_run: bool = False, as_json: bool = False
) -> None:
    """Analyse a table of scores, wherever they were made."""
    from dsnet_med.cli.analysing import analyse_file

    told = replace(request, baseline=None, margin=None, primary=None)
    if told != Request() or means != Means() or dry_run:
        raise InputError(
            "got --scores with options of a trial that is run; it takes --out, --baseline, --margin, --primary"
        )
    primary = request.primary or "dice"
    with locked(out, "compares in"):
        results = analyse_file(scores, out, request.baseline, _margin(request), primary, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(results, indent=2))


def _trial(out: Path, request: Request, means: Means) -> "Trial":
    """The trial that was asked for, or the one that lies in `out`. Raises InputError."""
    import torch

    from dsnet_med.engine.arms import parse_arms, placebos_of
    from dsnet_med.engine.data import reopen_store
    from dsnet_med.engine.overrides import parse_settings
    from dsnet_med.engine.trial import TRIAL, again, planned, read_trial, require_own_trial

    if not request.methods:
        if request != Request():
            raise InputError(
                "give --methods with the arms, or --out alone to go on with the trial that lies there"
            )
        trial = read_trial(out)
        if not means.trust:
            require_own_trial(out)
        return again(trial)
    if request.data is None or not request.seeds:
        raise InputError("give --data and --seeds, too (or --scores FILE.csv to analyse scores)")
    arms = parse_arms(request.methods)
    added, placebos, notes = placebos_of(arms)
    if request.placebos:
        for note in notes:
            typer.echo(f"note: {note}", err=True)
        arms = [*arms, *added]
    names = {arm.name for arm in arms}
    placebos = {
        arm: own for arm, every in placebos.items() if (own := [each for each in every if each in names])
    }
    settings = parse_settings(request.settings)
    if request.iterations is not None:
        settings["iterations"] = request.iterations
    known = read_trial(out) if (out / TRIAL).is_file() else None
    return planned(
        arms,
        reopen_store(str(request.data)),
        baseline=request.baseline or arms[0].name,
        seeds=_seeds(request.seeds),
        folds=request.folds,
        settings=settings,
        equal=request.equal,
        primary=request.primary or "dice",
        margin=_margin(request),
        threads=known.threads if known else max(1, torch.get_num_threads() // (means.jobs or 1)),
        placebos=placebos,
    )


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"got --seeds {text}, wanted whole numbers with commas, such as 0,1,2")
    return [int(part) for part in parts]


def _margin(request: Request) -> float:
    """The margin of indifference, which has a default for measures from 0 to 1 alone. Raises InputError."""
    from dsnet_med.evaluate.measures import find_measure

    measure = find_measure(request.primary or "dice")
    if request.margin is not None:
        if not 0 <= request.margin < (measure.most or float("inf")):
            raise InputError(
                f"got --margin {request.margin}, wanted a difference in {measure.title}, from 0 up"
            )
        return request.margin
    if measure.most is None:
        raise InputError(
            f"give --margin, too: how many {measure.unit} of {measure.title} make no difference to you"
        )
    return 0.01


def _shard(text: str) -> tuple[int, int]:
    """Which of how many parts, from 0; the whole where nothing is said."""
    if not text:
        return 0, 1
    part, _, whole = text.partition("/")
    if not (part.isdecimal() and whole.isdecimal() and 1 <= int(part) <= int(whole)):
        raise InputError(f"got --shard {text}, wanted I/N with I from 1 to N, such as 2/8")
    return int(part) - 1, int(whole)


def _places(means: Means) -> "Places":
    from dsnet_med.processes import Places

    return Places(means.jobs or _as_many_as_fit(means), get_ready)


def _as_many_as_fit(means: Means) -> int:
    """A cell at a time on the CPU; on every GPU as many as are asked for."""
    from dsnet_med.inference.hardware import choose_device

    if choose_device(means.device).type == "cpu":
        return 1
    import torch

    return torch.cuda.device_count() * means.per_gpu


def get_ready(_: int) -> None:
    """Import what cells need, without a word and without bars: a trial has one of its own."""
    os.environ["TQDM_DISABLE"] = "1"
    from dsnet_med.cli.noise import quiet

    quiet()
    quietly = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(quietly, stream.fileno())
    import dsnet_med.engine.cells  # noqa: F401


def _run(
    out: Path,
    trial: "Trial",
    own: "Sequence[Cell]",
    means: Means,
    places: "Places | None",
    held: ExitStack,
) -> dict[str, str]:
    """Run the cells that are not done, the cost of their arms first; why some failed, by name."""
    from dsnet_med.engine.cells import Task, cost_file, is_done, run_alone, run_folder, run_task
    from dsnet_med.processes import on_cluster

    left = [cell for cell in own if not is_done(run_folder(out, cell))]
    if kept := len(own) - len(left):
        typer.echo(f"{kept} of {len(own)} cells were done before", err=True)
    if not left:
        return {}
    first = {cell.arm: cell for cell in reversed(left) if not cost_file(out, cell.arm).is_file()}
    measured = [Task(out, cell, means.device, cost=True) for cell in reversed(first.values())]
    tasks = [Task(out, cell, means.device, trust=means.trust) for cell in left]
    if means.scheduler:
        for each in measured:  # one after the other: they would disturb each other
            for task, told in on_cluster(run_alone, [each], means.scheduler):
                _note_cost(task, told)
        with _bar(out, trial, own, []):
            return _failures(on_cluster(run_alone, tasks, means.scheduler))
    places = places or held.enter_context(_places(means))
    for task in measured:
        for _, told in places.run(run_task, [task], begun=lambda _: None):
            _note_cost(task, told)
    running: list[Cell] = []
    with _bar(out, trial, own, running):
        return _failures(places.run(run_task, tasks, begun=lambda task: running.append(task.cell)), running)


def _note_cost(task: "Task", told: str | None) -> None:
    if told != "":
        typer.echo(f"note: what {task.cell.arm} costs was not measured: {told or 'killed'}", err=True)


def _failures(
    results: "Iterator[tuple[Task, str | None]]", running: "list[Cell] | None" = None
) -> dict[str, str]:
    failures = {}
    for task, told in results:
        if running:
            running.remove(task.cell)
        if told is None:
            failures[task.cell.name] = "its process was killed; is there enough memory?"
        elif told:
            failures[task.cell.name] = told
        if told != "":
            tqdm.write(f"failed: {task.cell.name}: {failures[task.cell.name]}", file=sys.stderr)
    return failures


@contextmanager
def _bar(out: Path, trial: "Trial", own: "Sequence[Cell]", running: "Sequence[Cell]") -> Iterator[None]:
    """One bar over all cells, each as long as its arm is expected to take."""
    from dsnet_med.engine.cells import read_cost, run_folder, share_done

    costs = {arm.name: read_cost(out, arm.name) for arm in trial.arms}
    known = [cost["estimated_seconds"] for cost in costs.values() if cost]
    usual = sum(known) / len(known) if known else 1.0
    weights = {name: float(cost.get("estimated_seconds", usual)) for name, cost in costs.items()}
    total, ended = sum(weights[cell.arm] for cell in own), threading.Event()

    shares = dict.fromkeys(own, 0.0)

    def done() -> float:
        for cell in (cell for cell, share in shares.items() if share < 1):  # what is done is not read again
            shares[cell] = share_done(run_folder(out, cell), costs[cell.arm].get("iterations", 1))
        return sum(weights[cell.arm] * share for cell, share in shares.items())

    def look() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            names = ", ".join(cell.name for cell in list(running))
            shown.set_postfix_str(names if len(names) < _NAMES else f"{len(running)} runs", refresh=False)
            shown.update(max(0.0, done() - shown.n))

    with tqdm(total=total, initial=done(), desc="compare", ncols=100, bar_format=_BAR) as shown:
        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
        shown.update(max(0.0, done() - shown.n))


def _tell_plan(trial: "Trial", means: Means, as_json: bool) -> None:
    """Print the matrix, what each arm costs and about how long it takes; nothing is kept."""
    from dsnet_med.engine import cells
    from dsnet_med.engine.cells import Task
    from dsnet_med.engine.trial import Cell, written

    with TemporaryDirectory() as place:
        folder = Path(place)
        cells.require_trainable(folder, trial)
        written(folder, trial)
        fold = 0 if trial.folds else None
        for arm in trial.arms:
            task = Task(folder, Cell(arm.name, trial.seeds[0], fold), means.device, cost=True)
            _note_cost(task, cells.run_task(0, task))
        costs = {arm.name: cells.read_cost(folder, arm.name) for arm in trial.arms}
    each = len(trial.cells()) // len(trial.arms)
    jobs = means.jobs or _as_many_as_fit(means)
    seconds = each * sum(cost.get("estimated_seconds", 0.0) for cost in costs.values()) / jobs
    if as_json:
        plan = {"cells": len(trial.cells()), "jobs": jobs, "estimated_seconds": seconds, "arms": costs}
        typer.echo(json.dumps({**plan, "seeds": trial.seeds, "folds": len(trial.folds)}, indent=2))
        return
    typer.echo(f"{'arm':<44} runs  parameters      GMAC   s/step   h/run")
    for name, cost in costs.items():
        parameters = cost.get("parameters")
        numbers = [cost.get(part) for part in ("macs", "seconds_per_step", "estimated_seconds")]
        told = [f"{'-':>10}" if parameters is None else f"{parameters:>10,}"]
        told += [
            f"{number / unit:>8.3f}" if number is not None else f"{'-':>8}"
            for number, unit in zip(numbers, (1e9, 1, 3600), strict=True)
        ]
        typer.echo(f"{name:<44} {each:>4}  {'  '.join(told)}")
    folds = f" x {len(trial.folds)} folds" if trial.folds else ""
    typer.echo(
        f"{len(trial.arms)} arms x {len(trial.seeds)} seeds{folds} = {len(trial.cells())} cells, {jobs} at a "
        f"time: about {_duration(seconds)}, from a few timed steps; several at a time share the machine"
    )


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _analyse(out: Path, trial: "Trial", as_json: bool) -> None:
    """Write scores.csv, results.json, tables and report of all cells that are done; say what was found."""
    from dsnet_med.cli.analysing import tell
    from dsnet_med.engine import cells
    from dsnet_med.engine.trial import hash_of
    from dsnet_med.evaluate.analysis import analyse
    from dsnet_med.evaluate.trial_output import write_trial
    from dsnet_med.evaluate.trial_report import trial_html

    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[str, Any]] = {}
    done = [cell for cell in trial.cells() if cells.is_done(cells.run_folder(out, cell))]
    for cell in done:
        run = cells.run_folder(out, cell)
        rows += cells.rows_of(run, cell)
        fold = "" if cell.fold is None else f"-fold-{cell.fold}"
        curves.setdefault(cell.arm, {})[f"{cell.seed}{fold}"] = cells.curve_of(run)
    if trial.baseline not in curves:
        typer.echo(
            f"{len(done)} of {len(trial.cells())} cells are done, none of the baseline {trial.baseline}: "
            "nothing to compare yet"
        )
        return
    left = len(trial.cells()) - len(done)
    costs = {arm: _shown_cost(cells.read_cost(out, arm)) for arm in curves}
    results = analyse(
        rows,
        trial.baseline,
        trial.margin,
        primary=trial.primary,
        placebos=trial.placebos,
        costs=costs,
        trial=hash_of(out),
    )
    results["left_out"] = [
        *results["left_out"],
        *([f"{left} of {len(trial.cells())} runs are not done"] if left else []),
    ]
    results["notes"] = [*results["notes"], *(f"extended: {line}" for line in trial.extended)]
    page = trial_html(
        results, rows, curves=curves, run=_facts(trial), commands=[_command(trial), "dsnet-med verify ."]
    )
    write_trial(out, rows, results, html=page)
    if as_json:
        typer.echo(json.dumps(results, indent=2))
        return
    tell(results)
    typer.echo(f"{len(done)} of {len(trial.cells())} cells; report in {out / 'report.html'}")


def _shown_cost(cost: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cost.items() if name not in ("iterations", "estimated_seconds")}


def _facts(trial: "Trial") -> dict[str, str]:
    """What was run, for the report."""
    settings = ", ".join(f"{name}={value}" for name, value in trial.settings.items())
    return {
        "data": f"{trial.recipe}, store {trial.store_id}",
        "scored on": f"{len(trial.folds)} folds of the training cases"
        if trial.folds
        else "the store's test cases",
        "settings": settings or "as published",
        "schedules": f"all as {trial.baseline}'s" if trial.equal else "each row's own",
        "threads of a run": str(trial.threads),
        "versions": ", ".join(f"{name} {version}" for name, version in trial.versions.items()),
    }


def _command(trial: "Trial") -> str:
    """The command that runs the trial again, elsewhere."""
    parts = ["dsnet-med", "compare", "--methods", ",".join(map(_spec, trial.arms))]
    parts += ["--data", "STORE", "--seeds", ",".join(map(str, trial.seeds)), "--baseline", trial.baseline]
    parts += ["--margin", f"{trial.margin:g}", "--primary", trial.primary, "--out", "DIR"]
    parts += ["--equal"] * trial.equal + (["--folds", str(len(trial.folds))] if trial.folds else [])
    for name, value in trial.settings.items():
        parts += ["--set", f"{name}={json.dumps(value) if not isinstance(value, str) else value}"]
    return shlex.join(parts)


def _spec(arm: "Arm") -> str:
    """How an arm is typed."""
    method, plugin = Path(arm.method).name, Path(arm.plugin or "").name
    counted = f"({arm.counting})" if arm.counting else ""
    return f"{method}+{plugin}{counted}@{arm.at}" if plugin else method
