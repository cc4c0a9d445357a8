"""What `infer` does: volumes of any kind through one or several runs, with progress, notes and failures."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from tqdm import tqdm

from dsnet_med.errors import CasesFailedError, InputError

if TYPE_CHECKING:
    from dsnet_med.inference import Predictor

_BAR = "{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]"  # parts of a case count: one takes minutes


@dataclass(frozen=True)
class ModelOptions:
    """How a predictor is made; the names are those of the options."""

    device: str = "auto"
    batch: int | None = None
    tta: bool = False
    precision: str = "float32"
    compiled: bool = False
    trust: bool = False
    keep_largest: str = ""
    fill_holes: str = ""
    smallest_ml: float = 0.0


@dataclass(frozen=True)
class CaseOptions:
    """What is read and written of every case."""

    formats: str = "nifti"
    probabilities: bool = False
    statistics: bool = False
    preview: bool = False
    overwrite: bool = False
    volume_index: int | None = None
    series: str | None = None
    regrid: bool = False


@dataclass
class _Tally:
    """What became of the cases so far."""

    failures: dict[str, str] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    kept: int = 0
    done: int = 0


def infer(
    models: Sequence[Path],
    inputs: Sequence[Path],
    out: Path,
    model_options: ModelOptions = ModelOptions(),
    options: CaseOptions = CaseOptions(),
) -> None:
    """Segment volumes with a run, or with the mean of several."""
    from dsnet_med.inference.outputs import Outputs
    from dsnet_med.inference.segment import Choice, segment_cases
    from dsnet_med.inference.sources import find_sources

    outputs = Outputs(
        tuple(_listed(options.formats)),
        options.probabilities,
        options.statistics,
        options.preview,
        options.overwrite,
        options.regrid,
    )
    sources = find_sources(inputs, out, lambda note: typer.echo(f"note: {note}", err=True))
    predictor = make_predictor(models, model_options)
    started, tally = time.monotonic(), _Tally()
    choice = Choice(options.volume_index, options.series)
    with tqdm(total=len(sources), desc="infer", unit="case", ncols=100, bar_format=_BAR) as shown:
        advance = partial(_advance, shown, tally.shares)
        for result in segment_cases(predictor, sources, out, outputs, choice, progress=advance):
            advance(result.case, 1 - tally.shares.get(result.case, 0.0))
            _count(tally, result)
    _conclude(tally, out, time.monotonic() - started)


def make_predictor(models: Sequence[Path], options: ModelOptions) -> "Predictor":
    """The predictor that the options describe; what it has to say goes to stderr."""
    from dsnet_med.inference import Predictor
    from dsnet_med.inference.postprocess import PostProcess

    predictor = Predictor.from_run(
        *models,
        device=options.device,
        batch_size=options.batch,
        mirror=options.tta,
        precision=options.precision,
        compile_networks=options.compiled,
        trust=options.trust,
        postprocess=PostProcess(
            tuple(_listed(options.keep_largest)), tuple(_listed(options.fill_holes)), options.smallest_ml
        ),
    )
    for notice in predictor.notices:
        typer.echo(f"note: {notice}", err=True)
    return predictor


def _advance(shown: "tqdm[Any]", shares: dict[str, float], case: str, share: float) -> None:
    """Move the bar by a share of a case."""
    shares[case] = shares.get(case, 0.0) + share
    shown.update(share)


def _count(tally: _Tally, result: Any) -> None:
    for note in result.notes:
        tqdm.write(f"note: {result.case}: {note}", file=sys.stderr)
    if result.error:
        tally.failures[result.case] = result.error
    tally.kept += result.kept
    tally.done += result.written


def _conclude(tally: _Tally, out: Path, seconds: float) -> None:
    finished = tally.done + tally.kept
    if len(tally.failures) == 1 and not finished:
        raise InputError(next(iter(tally.failures.values())))
    for case, reason in tally.failures.items():
        typer.echo(f"failed: {case}: {reason}", err=True)
    if tally.failures and not finished:
        raise InputError(f"none of {len(tally.failures)} cases could be segmented; the reasons are above")
    if tally.failures:
        raise CasesFailedError(tally.failures, listed=True)
    kept = f" ({tally.kept} were there already; --overwrite makes them anew)" if tally.kept else ""
    typer.echo(f"{finished} masks in {out}{kept}, {seconds:.1f} s")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
