"""Many cases through one predictor: the next is read and the last is written while the network works.

One bad case never stops the others, and finished cases are kept.
"""

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dsnet_med.errors import InputError, one_line, want_of_means
from dsnet_med.files import locked, output_error, remove_partial
from dsnet_med.inference.channels import load_channels
from dsnet_med.inference.itk_snap import write_label_descriptions
from dsnet_med.inference.mask import labels_of
from dsnet_med.inference.output_folder import claim, conclude, name_classes
from dsnet_med.inference.outputs import NEEDS_DICOM, Outputs, write_case
from dsnet_med.inference.predictor import Predictor
from dsnet_med.inference.probabilities import Probabilities, on_disk
from dsnet_med.inference.sidecar import (
    SIDECAR,
    Identity,
    Sidecar,
    input_of,
    is_finished,
    read_sidecar,
    require_free,
)
from dsnet_med.inference.source import Source
from dsnet_med.volumes import Volume, digests_of

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Segmented:
    """What became of one case: an `error`, or a mask with `notes` on it; `kept` when it was there already.

    `written` is true beside an error that concerns one format alone: the mask is there in another. `lost` is
    true where the files of a case that had ended well are not there any more at the end.
    """

    case: str
    error: str | None = None
    notes: tuple[str, ...] = ()
    kept: bool = False
    written: bool = False
    lost: bool = False


@dataclass(frozen=True)
class Choice:
    """Which volume of an input: one of a 4-D file or series, one of several DICOM series.

    `require_geometry` refuses those whose headers do not say where they lie and how large they are.
    """

    volume_index: int | None = None
    series: str | None = None
    require_geometry: bool = False


def segment_cases(
    predictor: Predictor,
    sources: Sequence[Source],
    out: Path,
    outputs: Outputs = Outputs(),  # noqa: B008 -- frozen
    choice: Choice = Choice(),
    *,
    progress: Progress = lambda _case, _share: None,
) -> Iterator[Segmented]:
    """Write the files of every source into `out`; one result per case, and another where it is lost afterwards.

    `progress` is told the case and each share of it that the network has done. labels.json says what the
    classes are called, run.json which run made the masks, statistics.csv what is in them. Raises InputError
    when the folder cannot be written, holds masks with other labels, or an input lies in it.
    """
    work = _Work(predictor, out, outputs, choice, progress)
    # Several processes may share the work on many inputs, if their masks are of one kind.
    with locked(out, "segments into", shared="" if outputs.overwrite else json.dumps(work.kind())):
        remove_partial(out)
        _require_apart(sources, out)
        if not outputs.overwrite:
            claim(out, predictor.class_names, statistics=outputs.statistics, label_file=outputs.label_file)
        ended = []
        for result in _overlapped(work, sources):
            ended.append(result)
            yield result
        there = conclude(out, predictor.class_names, statistics=outputs.statistics)
        if outputs.label_file and there:
            write_label_descriptions(out, predictor.class_names)
        yield from _lost(out, ended, there, outputs)


def _lost(
    out: Path, ended: Sequence[Segmented], there: Mapping[str, set[str]], outputs: Outputs
) -> Iterator[Segmented]:
    """The cases that had ended well and whose files are not all there, as they were written."""
    for result in ended:
        wanted = [ending for ending in outputs.endings if not (result.error and ending in outputs.dispensable)]
        gone = [ending for ending in wanted if ending not in there.get(result.case, ())]
        if (result.written or result.kept) and gone:
            name = f"{result.case}{gone[0] if result.case in there else SIDECAR}"
            why = f"{out / name} was removed or changed while infer worked; run the same command again"
            yield Segmented(result.case, why, lost=True)


def _require_apart(sources: Sequence[Source], out: Path) -> None:
    """Raise InputError for an input in `out`, whether it lies there or is a link to what does."""
    place = out.resolve()
    for source in sources:
        if any(place in (file.parent.resolve(), file.resolve().parent) for file in source.files):
            raise InputError(
                f"{out} holds the input {source.where.name}, which could be overwritten; choose another --out"
            )


def _overlapped(work: "_Work", sources: Sequence[Source]) -> Iterator[Segmented]:
    """Each case read, segmented and written, in three threads; at most three cases are in memory."""
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        cases = (work.case(source) for source in sources)
        reading = ((case, reader.submit(_advanced, case)) for case in cases)
        ahead, writing = next(reading, None), None
        while ahead is not None:
            case, read = ahead
            result = read.result()
            ahead = next(reading, None)
            result = result or _advanced(case)
            written = writer.submit(_advanced, case, result)
            if writing is not None:
                yield from filter(None, [writing.result()])
            writing = written
        if writing is not None:
            yield from filter(None, [writing.result()])


Steps = Generator[None, None, Segmented]


def _advanced(case: Steps, result: Segmented | None = None) -> Segmented | None:
    """The next step of a case is done; its result where there is one, or was one already."""
    if result is None:
        try:
            next(case)
        except StopIteration as ended:
            result = ended.value
    return result


@dataclass(frozen=True)
class _Work:
    """What is the same for all cases."""

    predictor: Predictor
    out: Path
    outputs: Outputs
    choice: Choice
    progress: Progress

    def case(self, source: Source) -> Steps:
        """One case in three steps, between which another thread may take over: read, segmented, written.

        Whatever goes wrong is its result, in one line that names it.
        """
        try:
            if source.refused is not None:
                raise InputError(source.refused)
            if self._is_finished(source):
                return Segmented(source.case, kept=True)
            if source.kind != "dicom" and not self.outputs.more_than_dicom:
                raise InputError(f"{source.where}: {NEEDS_DICOM}")
            channels = load_channels(
                source,
                self.predictor.channel_names,
                self.choice.volume_index,
                self.choice.series,
                hashed=True,
                resample=self.predictor.resample_channels,
            )
            if self.choice.require_geometry:
                for volume in channels:
                    volume.require_geometry()
            yield
            probabilities: Probabilities | None = None
            if self.outputs.probabilities:
                probabilities = on_disk(self.out, (len(self.predictor.output_names), *channels[0].shape))
            mask = self.predictor.segment(channels, probabilities, partial(self.progress, source.case))
            yield
            try:
                identity = self._identity(source, _digests(source, channels))
                failed = write_case(self.out, identity, mask, self.predictor, self.outputs)
                name_classes(self.out, self.predictor.class_names)
            except OSError as error:
                raise output_error(self.out / source.case, error) from error
            return Segmented(source.case, failed, (*mask.notes, *mask.notices), written=True)
        except Exception as error:
            return Segmented(source.case, _reason(source, error))

    def _is_finished(self, source: Source) -> bool:
        """Whether nothing is left to do. Raises InputError for files that must not be replaced."""
        sidecar, endings = read_sidecar(self.out, source.case), self.outputs.endings
        if self.outputs.overwrite:
            return False
        if sidecar is None:
            require_free(self.out, source.case, endings)
            return False
        identity = self._identity(source, digests_of(source.files))
        finished = is_finished(self.out, identity, endings, sidecar)
        return finished and self._says_enough(sidecar)

    def _says_enough(self, sidecar: Sidecar) -> bool:
        """Whether the sidecar has what is asked for now: earlier runs, and earlier versions, wrote less."""
        stated = not self.choice.require_geometry or sidecar.get("unstated") == []
        return stated and (not self.outputs.statistics or "statistics" in sidecar)

    def kind(self) -> Identity:
        """What all masks of this work have in common: labels, model, settings."""
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
            "labels": labels_of(self.predictor.class_names),
            "model": list(self.predictor.fingerprints),
            "settings": settings,
        }

    def _identity(self, source: Source, digests: Mapping[Path, str]) -> Identity:
        kind = self.kind()
        return {"case": source.case, "labels": kind.pop("labels"), "input": input_of(digests), **kind}


def _digests(source: Source, channels: Sequence[Volume]) -> Mapping[Path, str]:
    """The digest of every file of a source, in its order."""
    every = {file: digest for volume in channels for file, digest in volume.digests.items()}
    return {file: every[file] for file in source.files if file in every} | every


def _reason(source: Source, error: Exception) -> str:
    match error:
        case InputError():
            reason = str(error)
        case MemoryError():
            reason = "does not fit into memory; close other programs, or use a machine with more"
        case _ if means := want_of_means(error):
            reason = f"cannot be segmented: {means}"
        case OSError():  # a file that went away or cannot be read
            reason = f"cannot be read ({error.strerror or error})"
        case _:
            reason = f"{type(error).__name__}: {one_line(error)}"
    where = str(source.where)
    return reason if reason.startswith((where, str(source.files[0]))) else f"{where}: {reason}"
