"""What the plug-ins of trained networks compute on volumes, and what becomes of the masks without them.

Two passes over the cases for each run. The first measures the network as it is, and sums up what the second
needs: mean gates, and gates to give to other images. The second runs each case once for every intervention.
One volume is in memory at a time; what has to outlast a pass lies in files.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import dsnet_med
from dsnet_med.errors import CasesFailedError, InputError, one_line, unknown
from dsnet_med.evaluate.labels import Labels
from dsnet_med.evaluate.results import Kind, require_replaceable, together, without_nan
from dsnet_med.explain.content import LEAVES_OUT, run_content
from dsnet_med.explain.decided import Decided, Scored, raw_classes, scores_of
from dsnet_med.explain.effects import between, summarise
from dsnet_med.explain.records import EVERY, INTACT, KINDS, Altered, CaseMasks, Score
from dsnet_med.explain.references import References, labels_of_run, paired
from dsnet_med.explain.report import explain_html
from dsnet_med.explain.shown import PICTURES, Shown, attributed, plain_name, slices_to_show, write_pictures
from dsnet_med.explain.subject import Plan, Subject
from dsnet_med.explain.tables import SCORES, WHERE, write_scores, write_where
from dsnet_med.explain.where import Where
from dsnet_med.explain.where import summarise as where_acts
from dsnet_med.files import locked, read_json, staging, write_text
from dsnet_med.geometry import SliceOrder
from dsnet_med.inference.channels import load_channels
from dsnet_med.inference.predictor import Predictor
from dsnet_med.inference.probabilities import on_disk
from dsnet_med.inference.source import Source
from dsnet_med.inference.sources import find_sources, require_there
from dsnet_med.volumes import Volume, write_image

EXPLAINED, SCHEMA, MAPS, PAGE = "explain.json", 1, "maps", "report.html"
EXPLANATION = Kind(
    "explain",
    {EXPLAINED: {"schema", "runs", "between", "files"}},
    (EXPLAINED, "scores.csv", "where.csv", PAGE),
    "replace it with --overwrite",
    (f"{PICTURES}/*.png", f"{MAPS}/*.nii.gz"),
)
Find = Callable[[Sequence[Source], Sequence[Predictor]], References]


@dataclass(frozen=True)
class Asked:
    """What is asked for beside the interventions: `pictures` slices of maps, maps as files, one organ."""

    pictures: int = 2
    save_maps: bool = False
    organ: str | None = None


def explain(
    runs: Sequence[Path | str | Predictor],
    inputs: Sequence[Path | str],
    out: Path | str,
    reference: Path | str | Find | None = None,
    *,
    interventions: Sequence[str] = KINDS,
    each: bool = True,
    shuffles: int = 4,
    organ: str | None = None,
    pictures: int = 2,
    save_maps: bool = False,
    cases: Sequence[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    precision: str = "float32",
    trust: bool = False,
    overwrite: bool = False,
    command: Sequence[str] = (),
    tell: Callable[[float, float], None] = lambda _done, _all: None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write explain.json, scores.csv, where.csv, report.html and pictures of the runs' plug-ins to `out`.

    `runs` are folders that `train` wrote, or predictors of networks of one's own, not compiled and without
    fused norms. `inputs` are volumes as `infer` takes them. `reference` is a folder of label maps whose values
    are the runs' class ids, or a function that finds the references of cases. `interventions` are of identity,
    mean, other and shuffled, on all plug-ins together and, with `each`, on each of several. `cases` names the
    only inputs that count. `tell` is told how many inferences are done of how many; `note` what a reader should
    know. Returns what explain.json holds. Raises InputError, and CasesFailedError when some cases could not be
    explained; the others are written.
    """
    for kind in interventions:
        if kind not in KINDS:
            raise unknown("intervention", kind, KINDS)
    plan = Plan(tuple(kind for kind in KINDS if kind in interventions), each, shuffles, seed)
    out = Path(out)
    with locked(out, "explains into"):
        require_replaceable(out, overwrite=overwrite, kind=EXPLANATION)
        names = short_names(runs)
        predictors = [
            run
            if isinstance(run, Predictor)
            else Predictor.from_run(
                run, device=device, batch_size=batch_size, precision=precision, trust=trust, fuse=False
            )
            for run in runs
        ]
        _require_alike(predictors, names)
        sources = _chosen([Path(path) for path in inputs], out, predictors[0], cases, note)
        references = _references(reference, sources, predictors)
        labels = references.labels or labels_of_run(predictors[0])
        if organ is not None and organ not in labels.names.values():
            raise unknown("organ", organ, list(labels.names.values()))
        content: dict[str, Any] = {}
        with ExitStack() as stack:
            made = stack.enter_context(together(out, EXPLAINED, content, EXPLANATION))
            held = stack.enter_context(staging(out))
            work = _Work(
                plan,
                Asked(pictures, save_maps, organ),
                labels,
                references,
                sources,
                len(runs) > 1,
                made,
                held,
                tell,
            )
            subjects = [
                stack.enter_context(Subject(name, _place(run), predictor, plan, len(sources)))
                for name, run, predictor in zip(names, runs, predictors, strict=True)
            ]
            work.planned = sum(subject.inferences * len(sources) for subject in subjects)
            described = [work.explained(subject) for subject in subjects]
            if len(work.failed) == len(sources):
                raise InputError(f"no case could be explained: {next(iter(work.failed.values()))}")
            content |= {
                "schema": SCHEMA,
                "dsnet_med": dsnet_med.__version__,
                "command": list(command),
                "cases": [source.case for source in sources if source.case not in work.failed],
                "failed": [{"case": case, "reason": reason} for case, reason in work.failed.items()],
                "reference": bool(references.pairs),
                "protocol": "strict",
                "labels": {str(number): name for number, name in labels.names.items()},
                "spatial_dims": 3 if predictors[0].models[0].is_3d else 2,
                "images": sum(subjects[0].images.values()),
                "seed": seed,
                "shuffles": shuffles,
                "leaves_out": [
                    *LEAVES_OUT,
                    *(
                        f"{name} ({each['class']}) of {run['name']}, which cannot be measured: {each['reason']}"
                        for run in described
                        for name, each in run["not_measured"].items()
                    ),
                ],
                "runs": described,
            }
            work.finish(content, subjects)
        for subject in subjects:
            for line in subject.notices:
                note(line)
    if work.failed:
        raise CasesFailedError(work.failed)
    held_there: dict[str, Any] = read_json(out / EXPLAINED)
    return held_there


@dataclass
class _Work:
    """What is the same for all runs, and what is gathered of them."""

    plan: Plan
    asked: Asked
    labels: Labels
    references: References
    sources: Sequence[Source]
    several: bool
    made: Path
    held: Path
    tell: Callable[[float, float], None]
    planned: float = 1.0
    done: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    scores: list[Score] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    slices: dict[str, list[int]] = field(default_factory=dict)
    rows: list[Any] = field(default_factory=list)

    def advance(self, share: float) -> None:
        self.done += share
        self.tell(self.done, self.planned)

    def explained(self, subject: Subject) -> dict[str, Any]:
        """Both passes over the cases; what explain.json says of the run, without its effects."""
        for source in self._left():
            self._tried(source, partial(self._first, subject, source))
        where = Where()
        for source in self._left() if subject.targets() else []:
            self._tried(source, partial(self._second, subject, where, source))
        self.rows += where.rows()
        return run_content(subject) | {"attribution": self._attributed(subject)}

    def _attributed(self, subject: Subject) -> dict[str, Any] | None:
        """What the organ that is asked for was found by, in the case where it is largest."""
        organ, sizes = self.asked.organ, dict[str, float]()
        for score in self.scores:
            if score.kind == INTACT and score.run == subject.name and score.label == organ:
                sizes[score.case] = score.size_ml
        if organ is None or not sizes:
            return None
        case = max(sizes, key=sizes.__getitem__)
        (source,) = (each for each in self.sources if each.case == case)
        channels, _ = self._read(subject, source)
        ids = Decided.load(self.held, f"{case}.intact").ids
        return attributed(self.made, subject, channels, ids, (organ, case, self._value_of(subject, organ)))

    def _value_of(self, subject: Subject, organ: str) -> int:
        """What an organ is called in a label map that the run writes."""
        by_name = {region.name: region.value for region in subject.predictor.regions}
        return by_name.get(organ) or subject.predictor.class_names.index(organ)

    def _left(self) -> list[Source]:
        return [source for source in self.sources if source.case not in self.failed]

    def _tried(self, source: Source, work: Callable[[], None]) -> None:
        """Do one case; whatever goes wrong is said of it, and what was counted of it is dropped."""
        try:
            work()
        except Exception as error:  # one bad case never stops the others
            reason = (
                str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line(error)}"
            )
            where = str(source.where)
            self.failed[source.case] = reason if reason.startswith(where) else f"{where}: {reason}"
            self.scores = [score for score in self.scores if score.case != source.case]

    def _read(self, subject: Subject, source: Source) -> tuple[tuple[Volume, ...], Scored]:
        predictor = subject.predictor
        channels = load_channels(source, predictor.channel_names, resample=predictor.resample_channels)
        first = channels[0]
        reference = self.references.of(source.case, first, self.labels, self.held)
        return channels, Scored(subject.name, source.case, first.affine, self.labels, reference)

    def _first(self, subject: Subject, source: Source) -> None:
        """One case through the network as it is, and with all plug-ins replaced by the identity."""
        channels, scored = self._read(subject, source)
        case, plain = source.case, None
        if not subject.forms and not subject.watched.unmeasured:
            subject.probe(case, channels, lambda _: None)
        if "identity" in self.plan.kinds and subject.targets():
            (identity,) = (each for each in subject.interventions(EVERY) if each.kind == "identity")
            plain = subject.altered(case, channels, identity, self.advance).decided
        maps = self._room_for_maps(subject, case, channels[0])
        taking = subject.intact(case, channels, self.advance, plain, maps)
        masks = scored.masks(raw_classes(taking.decided, subject.predictor))
        self.scores += scores_of(masks, masks.intact, ("", INTACT, 0))
        taking.decided.save(self.held, f"{case}.intact")
        if plain is not None and taking.of_plain is not None:
            mask = scored.altered(raw_classes(plain, subject.predictor))
            self.scores += scores_of(masks, mask, (EVERY, "identity", 0))
            plain.save(self.held, f"{case}.plain")
            np.save(self.held / f"{case}.of_plain.npy", taking.of_plain)
        if maps is not None:
            self._show(subject, channels[0], masks, maps)

    def _second(self, subject: Subject, where: Where, source: Source) -> None:
        """One case through the network once for every other intervention."""
        channels, scored = self._read(subject, source)
        case, plain = source.case, None
        masks = scored.masks(raw_classes(Decided.load(self.held, f"{case}.intact"), subject.predictor))
        if "identity" in self.plan.kinds:
            plain = Decided.load(self.held, f"{case}.plain")
            mask = scored.altered(raw_classes(plain, subject.predictor))
            strength = plain.probability - np.load(self.held / f"{case}.of_plain.npy")
            where.add(masks, Altered(EVERY, "identity", 0, mask, strength))
        for target in subject.targets():
            for intervention in subject.interventions(target):
                kind, draw = intervention.kind, intervention.draw
                if target == EVERY and kind == "identity":
                    continue
                counted = plain if target == EVERY and kind == "shuffled" else None
                taking = subject.altered(case, channels, intervention, self.advance, counted)
                mask = scored.altered(raw_classes(taking.decided, subject.predictor))
                self.scores += scores_of(masks, mask, (target, kind, draw))
                if counted is not None and taking.of_plain is not None:
                    strength = counted.probability - taking.of_plain
                    where.add(masks, Altered(target, kind, draw, mask, strength))

    def _room_for_maps(self, subject: Subject, case: str, volume: Volume) -> Any:
        """Where the maps of a case go, (M, X, Y, Z), None where nobody looks at them."""
        if not subject.maps or not (self.asked.save_maps or self._pictures_of(case)):
            return None
        kind: Any = np.float32 if self.asked.save_maps else np.float16
        return on_disk(self.held, (len(subject.maps), *volume.shape), kind, "C")

    def _pictures_of(self, case: str) -> int:
        """How many slices of a case are shown."""
        cases = [source.case for source in self.sources]
        count = self.asked.pictures
        return count // len(cases) + (cases.index(case) < count % len(cases))

    def _show(self, subject: Subject, volume: Volume, masks: CaseMasks, maps: Any) -> None:
        """Keep the maps of some slices, of every run the same, and write all where asked for."""
        case, order = masks.case, SliceOrder.of(volume.affine, subject.predictor.slice_axis)
        outlines = (masks.reference or masks.intact).painted()
        stack, labels = order.to_slices(volume.voxels), order.to_slices(outlines)
        _, *size = order.spacing_mm(volume.affine)
        if case not in self.slices:
            self.slices[case] = slices_to_show(labels, self._pictures_of(case))
        pictured = subject.pictured()
        for index in self.slices[case]:
            image, outline = np.array(stack[index], np.float32), np.array(labels[index])
            for (plugin, name), each in zip(subject.maps, maps, strict=True):
                if plugin in pictured:
                    values = np.array(order.to_slices(each)[index], np.float32)
                    of = (subject.name, case, plugin, name, index)
                    self.shown.append(Shown(*of, image, values, outline, (size[0], size[1])))
        if self.asked.save_maps:
            (self.made / MAPS).mkdir(exist_ok=True)
            for (plugin, name), each in zip(subject.maps, maps, strict=True):
                before = f"{subject.name}_" if self.several else ""
                file = plain_name(f"{before}{case}_{plugin}_{name}") + ".nii.gz"
                write_image(self.made / MAPS / file, np.array(each, np.float32), volume.affine)

    def finish(self, content: dict[str, Any], subjects: Sequence[Subject]) -> None:
        """Everything that follows from the scores, tables, pictures and the page."""
        names = dict(self.labels.names)
        organs = list(names.values())
        write_scores(self.made / SCORES, self.scores)
        self.rows = [row for row in self.rows if row.case not in self.failed]
        if self.rows:
            write_where(self.made / WHERE, self.rows)
        entries = write_pictures(self.made, self.shown, names)
        for run, subject in zip(content["runs"], subjects, strict=True):
            own = summarise(self.scores, subject.name, organs)
            own["where"] = where_acts(self.rows, self.scores, subject.name, organs) if self.rows else None
            own["pictures"] = [
                {key: value for key, value in entry.items() if key != "run"}
                for entry in entries
                if entry["run"] == subject.name
            ]
            run.update(own)
        content["between"] = between(self.scores, [subject.name for subject in subjects], organs)
        drawn = {file.relative_to(self.made).as_posix(): file for file in (self.made / PICTURES).glob("*.png")}
        pictures = {name: file.read_bytes() for name, file in drawn.items()}
        write_text(self.made / PAGE, explain_html(without_nan(content), pictures))


def short_names(runs: Sequence[Path | str | Predictor]) -> list[str]:
    """A name for each run: as much of its path's end as tells it from the others; of a predictor its title.

    Raises InputError for none, and for one that is given twice.
    """
    parts = [(run.title,) if isinstance(run, Predictor) else Path(run).resolve().parts for run in runs]
    if not parts:
        raise InputError("got no run; give the folder that train wrote")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError("got one run twice; give each once, and predictors titles of their own")


def _place(run: Path | str | Predictor) -> str:
    return "" if isinstance(run, Predictor) else str(run)


def _require_alike(predictors: Sequence[Predictor], names: Sequence[str]) -> None:
    first = predictors[0]
    for predictor, name in zip(predictors[1:], names[1:], strict=True):
        for what in ("class_names", "regions", "channel_names"):
            if getattr(predictor, what) != getattr(first, what):
                raise InputError(
                    f"{name} and {names[0]} differ in {what}: {getattr(predictor, what)} and "
                    f"{getattr(first, what)}; runs side by side are of one data set"
                )


def _chosen(
    inputs: Sequence[Path],
    out: Path,
    predictor: Predictor,
    cases: Sequence[str] | None,
    note: Callable[[str], None],
) -> list[Source]:
    """The inputs that count. Raises InputError."""
    require_there(inputs)
    sources = find_sources(inputs, out, note, predictor.channel_names)
    if cases is None:
        return sources
    known = {source.case: source for source in sources}
    for case in cases:
        if case not in known:
            raise unknown("case in --cases", case, list(known))
    return [known[case] for case in dict.fromkeys(cases)]


def _references(
    reference: Path | str | Find | None, sources: Sequence[Source], predictors: Sequence[Predictor]
) -> References:
    if reference is None:
        return References()
    if callable(reference):
        return reference(sources, predictors)
    return paired(sources, Path(reference), labels_of_run(predictors[0]))
