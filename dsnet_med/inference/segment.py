"""Many cases through one predictor: the next is read and the last is written while the network works.

One bad case never stops the others, and finished cases are kept.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError, one_line
from dsnet_med.files import output_error, remove_partial, require_writable
from dsnet_med.inference.output_folder import claim, conclude, name_classes
from dsnet_med.inference.outputs import NEEDS_DICOM, Identity, Outputs, identity, is_finished, write_case
from dsnet_med.inference.predictor import Predictor
from dsnet_med.inference.probabilities import on_disk
from dsnet_med.inference.sources import Source, load
from dsnet_med.volumes import Volume


@dataclass(frozen=True)
class Segmented:
    """What became of one case: an `error`, or a mask with `notes` on it; `kept` when it was there already.

    `written` is true beside an error that concerns one format alone: the mask is there in another.
    """

    case: str
    error: str | None = None
    notes: tuple[str, ...] = ()
    kept: bool = False
    written: bool = False


@dataclass(frozen=True)
class Choice:
    """Which volume of an input: one of a 4-D file or series, one of several DICOM series."""

    volume_index: int | None = None
    series: str | None = None


Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class _Work:
    """What is the same for all cases."""

    predictor: Predictor
    out: Path
    outputs: Outputs
    choice: Choice
    progress: Progress


@dataclass
class _Loaded:
    """A case that has been looked at: its facts, and its volume unless it is finished or failed."""

    source: Source
    facts: Identity
    volume: Volume | None = None
    error: str | None = None
    kept: bool = False


def segment_cases(
    predictor: Predictor,
    sources: Sequence[Source],
    out: Path,
    outputs: Outputs = Outputs(),  # noqa: B008 -- frozen
    choice: Choice = Choice(),
    *,
    progress: Progress = lambda _case, _share: None,
) -> Iterator[Segmented]:
    """Write the files of every source into `out`; one result per case.

    `progress` is told the case and each share of it that the network has done. labels.json says what the
    classes are called, run.json which run made the masks, statistics.csv what is in them. Raises InputError
    when the folder cannot be written, holds masks with other labels, or an input lies in it.
    """
    was_there = out.exists()
    try:
        require_writable(out)
        remove_partial(out)
        _require_apart(sources, out)
        claim(out, predictor.class_names, statistics=outputs.statistics, overwrite=outputs.overwrite)
        work = _Work(predictor, out, outputs, choice, progress)
        yield from _overlapped(work, sources)
        conclude(out, predictor.class_names, statistics=outputs.statistics)
    finally:
        if not was_there:
            with suppress(OSError):  # which says that it holds something
                out.rmdir()


def _require_apart(sources: Sequence[Source], out: Path) -> None:
    """Raise InputError for an input in `out`, whether it lies there or is a link to what does."""
    place = out.resolve()
    for source in sources:
        if any(place in (file.parent.resolve(), file.resolve().parent) for file in source.files):
            raise InputError(
                f"{out} holds the input {source.where.name}, which could be overwritten; choose another --out"
            )


def _overlapped(work: _Work, sources: Sequence[Source]) -> Iterator[Segmented]:
    """Each case loaded, segmented and written, in three threads; at most three cases are in memory."""
    with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(1) as writer:
        waiting = iter(sources)
        writing: Future[Segmented] | None = None
        ahead = _submit(loader, work, waiting)
        while ahead is not None:
            loaded = ahead.result()
            ahead = _submit(loader, work, waiting)
            done = _segment(work, loaded, writer)
            if writing is not None:
                yield writing.result()
            writing = done
        if writing is not None:
            yield writing.result()


def _submit(loader: ThreadPoolExecutor, work: _Work, waiting: Iterator[Source]) -> "Future[_Loaded] | None":
    source = next(waiting, None)
    return None if source is None else loader.submit(_load, work, source)


def _load(work: _Work, source: Source) -> _Loaded:
    loaded, choice = _Loaded(source, {}), work.choice
    try:
        if source.refused is not None:
            raise InputError(source.refused)
        loaded.facts = identity(source, work.predictor, settings_of(work.predictor, choice))
        if not work.outputs.overwrite and is_finished(work.out, loaded.facts, work.outputs):
            loaded.kept = True
        elif source.kind != "dicom" and not work.outputs.more_than_dicom:
            loaded.error = f"{source.where}: {NEEDS_DICOM}"
        else:
            loaded.volume = load(source, choice.volume_index, choice.series)
    except Exception as error:  # of one case, whatever it is: the others go on
        loaded.error = _reason(source, error)
    return loaded


def _segment(work: _Work, loaded: _Loaded, writer: ThreadPoolExecutor) -> "Future[Segmented]":
    """Segment what was loaded, and hand it over to be written."""
    case, volume = loaded.source.case, loaded.volume
    predictor, out, outputs = work.predictor, work.out, work.outputs
    loaded.volume = None  # let go once it is written
    if volume is None:
        return _settled(Segmented(case, loaded.error, kept=loaded.kept))
    stack = ExitStack()
    try:
        kept = None
        if outputs.probabilities:
            kept = stack.enter_context(on_disk(out, (len(predictor.class_names), *volume.shape)))
        mask = predictor.segment(volume, kept, partial(work.progress, case))
    except Exception as error:
        stack.close()
        return _settled(Segmented(case, _reason(loaded.source, error)))

    def write() -> Segmented:
        with stack:
            try:
                failed = write_case(out, loaded.facts, mask, predictor, outputs)
                name_classes(out, predictor.class_names)
            except OSError as error:
                return Segmented(case, str(output_error(out / case, error)))
            except Exception as error:
                return Segmented(case, _reason(loaded.source, error))
            return Segmented(case, failed, (*mask.notes, *mask.notices), written=True)

    return writer.submit(write)


def _reason(source: Source, error: Exception) -> str:
    """What went wrong with one case, in one line that names it."""
    match error:
        case InputError():
            reason = str(error)
        case OSError():  # a file that went away or cannot be read
            reason = f"cannot be read ({error.strerror or error})"
        case MemoryError():
            reason = "does not fit into memory; close other programs, or use a machine with more"
        case _:
            reason = f"{type(error).__name__}: {one_line(error)}"
    where = str(source.where)
    return reason if reason.startswith((where, str(source.files[0]))) else f"{where}: {reason}"


def _settled(result: Segmented) -> "Future[Segmented]":
    future: Future[Segmented] = Future()
    future.set_result(result)
    return future


def settings_of(predictor: Predictor, choice: Choice) -> dict[str, Any]:
    """What of a predictor and a choice changes a mask, as JSON holds it."""
    clean = predictor.postprocess
    return {
        "mirror": predictor.mirror,
        "precision": str(predictor.members[0].precision).removeprefix("torch."),
        "keep_largest": list(clean.keep_largest),
        "fill_holes": list(clean.fill_holes),
        "smallest_ml": clean.smallest_ml,
        "volume_index": choice.volume_index,
        "series": choice.series,
    }
