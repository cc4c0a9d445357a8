"""What `infer` does: volumes of any kind through one or several runs, with progress, notes and failures."""

import glob
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from tqdm import tqdm

from dsnet_med.errors import CasesFailedError, InputError, StoppedError

if TYPE_CHECKING:
    from dsnet_med.inference import Predictor
    from dsnet_med.inference.segment import Segmented

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
    require_geometry: bool = False


def infer(
    models: Sequence[Path],
    inputs: Sequence[Path],
    out: Path,
    model_options: ModelOptions = ModelOptions(),
    options: CaseOptions = CaseOptions(),
) -> None:
    """Segment volumes with a run, or with the mean of several."""
    from dsnet_med.inference.outputs import Outputs
    from dsnet_med.inference.segment import Choice, Segmented, segment_cases
    from dsnet_med.inference.sources import find_sources, require_there

    outputs = Outputs(
        tuple(_listed(options.formats)),
        options.probabilities,
        options.statistics,
        options.preview,
        options.overwrite,
        options.regrid,
    )
    require_there(inputs)
    predictor = make_predictor(models, model_options)
    names = predictor.channel_names
    sources = find_sources(inputs, out, lambda note: typer.echo(f"note: {note}", err=True), names)
    started, shares, results = time.monotonic(), defaultdict[str, float](float), dict[str, Segmented]()
    choice = Choice(options.volume_index, options.series, options.require_geometry)
    try:
        with tqdm(total=len(sources), desc="infer", unit="case", ncols=100, bar_format=_BAR) as shown:

            def advance(case: str, share: float) -> None:
                shares[case] += share
                shown.update(share)

            for result in segment_cases(predictor, sources, out, outputs, choice, progress=advance):
                advance(result.case, 1 - shares[result.case])
                for note in result.notes:
                    tqdm.write(f"note: {result.case}: {note}", file=sys.stderr)
                results[result.case] = result  # a second one where it was lost
    except InputError:  # what concerns all cases hides none of them
        _list_failures(results.values())
        raise
    _conclude(list(results.values()), out, time.monotonic() - started)


def make_predictor(models: Sequence[Path], options: ModelOptions) -> "Predictor":
    """The predictor that the options describe; what it has to say goes to stderr."""
    from dsnet_med.inference import Predictor
    from dsnet_med.inference.postprocess import PostProcess

    predictor = Predictor.from_run(
        *matched(models),
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


def matched(models: Sequence[Path]) -> list[Path]:
    """The model folders, patterns such as `runs/fold-*` replaced by what they match."""
    found = []
    for model in models:
        if model.exists() or not glob.has_magic(str(model)):
            found.append(model)
            continue
        matches = sorted(map(Path, glob.glob(str(model))))  # noqa: PTH207 -- takes absolute patterns
        if not matches:
            raise InputError(f"--model {model}: matches no folder")
        found += matches
    return found


def _conclude(results: "Sequence[Segmented]", out: Path, seconds: float) -> None:
    failures = {result.case: result.error for result in results if result.error}
    kept = sum(result.kept for result in results)
    finished = kept + sum(result.written for result in results)
    lost = any(result.lost for result in results)
    if len(failures) == 1 and not finished and not lost:
        raise InputError(next(iter(failures.values())))
    _list_failures(results)
    if failures and not finished and not lost:
        raise InputError(f"none of {len(failures)} cases could be segmented; the reasons are above")
    if failures and not finished:
        raise StoppedError(f"none of {len(failures)} masks is there any more; the reasons are above")
    if failures:
        raise CasesFailedError(failures, listed=True)
    there = f" ({kept} were there already; --overwrite makes them anew)" if kept else ""
    typer.echo(f"{finished} masks in {out}{there}, {seconds:.1f} s")


def _list_failures(results: "Iterable[Segmented]") -> None:
    for result in results:
        if result.error:
            typer.echo(f"failed: {result.case}: {result.error}", err=True)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
