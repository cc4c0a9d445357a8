"""Many cases through one predictor: the next is read and the last is written while the network works.

One bad case never stops the others, and finished cases are kept.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dsnet_med.errors import InputError, one_line
from dsnet_med.files import output_error, remove_partial, require_writable
from dsnet_med.inference.mask import Mask, labels_of
from dsnet_med.inference.output_folder import claim, conclude, name_classes
from dsnet_med.inference.outputs import NEEDS_DICOM, Outputs, write_case
from dsnet_med.inference.predictor import Predictor
from dsnet_med.inference.probabilities import on_disk
from dsnet_med.inference.sidecar import Identity, digests_of, is_finished, read_sidecar, require_free
from dsnet_med.inference.sources import Source, load
from dsnet_med.volumes import Volume

Progress = Callable[[str, float], None]
Step = TypeVar("Step")


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
        if not outputs.overwrite:
            claim(out, predictor.class_names, statistics=outputs.statistics)
        with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(1) as hasher, ThreadPoolExecutor(1) as writer:
            work = _Work(predictor, out, outputs, choice, progress, hasher)
            writing: Future[Segmented] | None = None
            for loaded in _one_ahead(loader, work.load, sources):
                done = writer.submit(work.segment(loaded))
                if writing is not None:  # at most three cases are in memory
                    yield writing.result()
                writing = done
            if writing is not None:
                yield writing.result()
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


def _one_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Source], Step], sources: Sequence[Source]
) -> Iterator[Step]:
    """`function` of each source, begun while the result for the one before is used."""
    futures = (pool.submit(function, source) for source in sources)
    future = next(futures, None)
    while future is not None:
        result, future = future.result(), next(futures, None)
        yield result


@dataclass(frozen=True)
class _Loaded:
    """A case that is to be segmented: its volume, and what makes its mask another."""

    source: Source
    volume: Volume
    wanted: Identity


@dataclass(frozen=True)
class _Work:
    """The steps of one case; each turns what goes wrong into the case's result."""

    predictor: Predictor
    out: Path
    outputs: Outputs
    choice: Choice
    progress: Progress
    hasher: ThreadPoolExecutor

    def load(self, source: Source) -> "_Loaded | Segmented":
        return _attempted(source, lambda: self._load(source))

    def segment(self, loaded: "_Loaded | Segmented") -> Callable[[], Segmented]:
        """What is left to do once the network has run: to write the case."""
        if isinstance(loaded, Segmented):
            return lambda: loaded
        mask = _attempted(loaded.source, lambda: self._segment(loaded))
        if isinstance(mask, Segmented):
            return lambda: mask
        source, wanted = loaded.source, loaded.wanted
        return lambda: _attempted(source, lambda: self._write(source, wanted, mask))

    def _load(self, source: Source) -> "_Loaded | Segmented":
        if source.refused is not None:
            raise InputError(source.refused)
        digests = self.hasher.submit(digests_of, source.files)  # while it is read
        endings, sidecar = self.outputs.endings, read_sidecar(self.out, source.case)
        if not self.outputs.overwrite and sidecar is None:
            require_free(self.out, source.case, endings)
        elif not self.outputs.overwrite and sidecar is not None:
            counted = not self.outputs.statistics or "statistics" in sidecar
            if is_finished(self.out, self._identity(source, digests.result()), endings, sidecar) and counted:
                return Segmented(source.case, kept=True)
        if source.kind != "dicom" and not self.outputs.more_than_dicom:
            raise InputError(f"{source.where}: {NEEDS_DICOM}")
        volume = load(source, self.choice.volume_index, self.choice.series)
        return _Loaded(source, volume, self._identity(source, digests.result()))

    def _identity(self, source: Source, digests: dict[str, Any]) -> Identity:
        clean = self.predictor.postprocess
        settings = {
            "mirror": self.predictor.mirror,
            "precision": str(self.predictor.models[0].precision).removeprefix("torch."),
            "keep_largest": list(clean.keep_largest),
            "fill_holes": list(clean.fill_holes),
            "smallest_ml": clean.smallest_ml,
            "volume_index": self.choice.volume_index,
            "series": self.choice.series,
        }
        return {
            "case": source.case,
            "labels": labels_of(self.predictor.class_names),
            "input": digests,
            "model": list(self.predictor.fingerprints),
            "settings": settings,
        }

    def _segment(self, loaded: _Loaded) -> Mask:
        probabilities = None
        if self.outputs.probabilities:
            shape = (len(self.predictor.class_names), *loaded.volume.shape)
            probabilities = on_disk(self.out, shape)
        shown = partial(self.progress, loaded.source.case)
        return self.predictor.segment(loaded.volume, probabilities, shown)

    def _write(self, source: Source, wanted: Identity, mask: Mask) -> Segmented:
        try:
            failed = write_case(self.out, wanted, mask, self.predictor, self.outputs)
            name_classes(self.out, self.predictor.class_names)
        except OSError as error:
            raise output_error(self.out / source.case, error) from error
        return Segmented(source.case, failed, (*mask.notes, *mask.notices), written=True)


def _attempted(source: Source, step: Callable[[], Step]) -> "Step | Segmented":
    """What a step gives; where it fails, whatever it is, the result of the case in one line that names it."""
    try:
        return step()
    except InputError as error:
        reason = str(error)
    except OSError as error:  # a file that went away or cannot be read
        reason = f"cannot be read ({error.strerror or error})"
    except MemoryError:
        reason = "does not fit into memory; close other programs, or use a machine with more"
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
    where = str(source.where)
    named = reason.startswith((where, str(source.files[0])))
    return Segmented(source.case, reason if named else f"{where}: {reason}")
