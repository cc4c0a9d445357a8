"""One export from beginning to end: a folder is made aside, compared, and moved to its place when whole."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dsnet_med import resources
from dsnet_med.engine.export import card as cards
from dsnet_med.engine.export.card import Words
from dsnet_med.engine.export.certificate import (
    CERTIFICATE,
    TORCHSCRIPT,
    WEIGHTS,
    Reference,
    compared_graph,
    described,
    examined,
    hashes,
)
from dsnet_med.engine.export.folder import (
    Run,
    handed_out,
    joined,
    read_run,
    require_portable,
    write_folder,
    write_large_files,
)
from dsnet_med.engine.export.formats import FORMATS, graph_of, missing_packages, why, write_torchscript
from dsnet_med.engine.export.inputs import Input, made_up_images, real, sizes_around
from dsnet_med.engine.metadata import describe
from dsnet_med.engine.scripted import scripted, traced
from dsnet_med.errors import InputError, unknown
from dsnet_med.extras import missing
from dsnet_med.files import LOCK, locked, output_error, staging, write_json
from dsnet_med.inference.bundle_reader import Model, load_model
from dsnet_med.inference.trust import configured, remember
from dsnet_med.prepare.store import Store
from dsnet_med.seal import sealed

KNOWN = ("bundle", "onnx", "pt2", "torchscript")
Tell = Callable[[str], None]
_DEFAULT = Words()
_OF_MONAI_LABEL = ("deepgrow", "deepedit", "detection", "classification")
_AT_ONCE = 8  # slices of a volume in TorchScript


@dataclass(frozen=True)
class Exported:
    """What became of an export: the certificate, and why each form that was asked for is not there."""

    certificate: Mapping[str, Any]
    failed: Mapping[str, str]
    notes: Sequence[str]


def checked_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """`formats`, each once, `bundle` always among them. Raises InputError for one that does not exist."""
    for name in formats:
        if name not in KNOWN:
            raise unknown("format", name, KNOWN)
    return tuple(name for name in KNOWN if name == "bundle" or name in formats)


def export(
    folders: Sequence[Path],
    out: Path,
    formats: Sequence[str] | None = None,
    words: Words = _DEFAULT,
    *,
    scores: Path | None = None,
    trust: bool = False,
    tell: Tell = lambda _: None,
) -> Exported:
    """Export the run in a folder, or several as an ensemble, to `out`, which holds nothing yet.

    `formats` beside the bundle itself: onnx, pt2, torchscript; all that can be made here where None is given. A
    form that cannot be written, or that gives other logits than the run, is left out, and the certificate says
    why. `scores` is a summary.json of `evaluate` for the model card. `tell` hears what is being done.

    Raises InputError for folders that are no runs on volumes, runs that cannot be one ensemble, a full
    folder, formats or licences that cannot be had, code that is not trusted, and a bundle that MONAI or
    PyTorch does not open again as it was.
    """
    wanted = checked_formats(KNOWN if formats is None else formats)
    words.checked()
    measured = None if scores is None else cards.read_scores(scores)
    _require_plain_name(out)
    with locked(out, "exports into"):
        if left := [path.name for path in out.iterdir() if path.name != LOCK]:
            raise InputError(f"{out} is not empty, it holds {sorted(left)[0]}; choose another --out")
        runs = [read_run(folder, lambda each: load_model(each, trust=trust), trust=trust) for folder in folders]
        model = joined(runs)
        if measured is not None and scores is not None:
            cards.require_of_model(measured, model, scores)
        gone = _missing(wanted, asked=formats is not None)
        store = _store_of(runs[0])
        facts = cards.facts_of(model.facts, store)
        told = cards.Told(words, facts, _metadata(runs, model, words, facts, measured), measured)
        inputs = _real_inputs(runs, store, model)
        with staging(out) as place:
            tell("bundle")
            write_folder(runs, model, told.metadata, place)
            remember(configured(place))
            possible = [each for each in wanted if each not in gone]
            reason = _add_torchscript(model, place) if "torchscript" in possible else None
            reference = Reference.of(place, inputs)
            results, failed = _compare(place, reference, tell)
            failed |= {"torchscript": reason} if reason else {}
            graphs, others = _add_graphs(possible, reference, place, tell)
            results, failed = results | graphs, failed | others
            certificate = _describe(place, results, {**gone, **failed}, told)
            require_portable(place, runs)
            _move(place, out)
    notes = [] if store else ["the run's store is not there, or another: compared on made-up slices alone"]
    notes += [f"{name} is left out: {reason}" for name, reason in gone.items()]
    return Exported(certificate, failed, notes)


def _require_plain_name(out: Path) -> None:
    """Raise InputError for a folder that MONAI Label takes for another kind of model by its name."""
    if found := [word for word in _OF_MONAI_LABEL if word in out.resolve().name.lower()]:
        raise InputError(
            f"got --out {out}: MONAI Label takes a bundle with '{found[0]}' in its name for another kind of "
            "model; choose another name"
        )


def _missing(wanted: Sequence[str], *, asked: bool) -> dict[str, str]:
    """The formats whose packages are not installed. Raises InputError where one was `asked` for."""
    gone: dict[str, str] = {}
    for form in FORMATS:
        if form.name in wanted and (lacking := missing_packages(form)):
            error = missing(lacking[0], f"the format {form.name}")
            if asked:
                raise error
            gone[form.name] = str(error)
    return gone


class _Graphs:
    """The graphs of a model, each made when first asked for: any size, or the trained one alone."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.made: dict[bool, torch.export.ExportedProgram] = {}

    def of(self, *, any_size: bool) -> torch.export.ExportedProgram:
        if any_size not in self.made:
            example = made_up_images(self.model.size, 1, len(self.model.channel_names))
            self.made[any_size] = graph_of(handed_out(self.model), example, any_size=any_size)
        return self.made[any_size]


def _add_graphs(
    formats: Sequence[str], reference: Reference, place: Path, tell: Tell
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write the forms of the graph, for any size or else the trained one; what came of each, or why nothing."""
    graphs, results, failed = _Graphs(reference.model), dict[str, Any](), dict[str, str]()
    tried = (True, False) if reference.model.spatial_dims == 2 else (False,)  # windows always have one size
    for form in FORMATS:
        for any_size in tried if form.name in formats else ():
            tell(form.name)
            file = place / form.file
            try:
                form.write(graphs.of(any_size=any_size), file)
                result = compared_graph(place, reference, form, any_size=any_size)
            except Exception as error:  # whatever an exporter raises for a stranger's network
                result = {"holds": False, "why": why(error)}
            if result["holds"]:
                results[form.name] = result
                failed.pop(form.name, None)
                break
            failed[form.name] = result["why"]
            file.unlink(missing_ok=True)
    return results, failed


def _add_torchscript(model: Model, place: Path) -> str | None:
    """Write model.ts with what MONAI Deploy reads in it; why not, where it cannot be written."""
    names = ("inference.json", "metadata.json")
    extra = {name: (place / "configs" / name).read_text(encoding="utf-8") for name in names}
    try:
        if model.spatial_dims == 3:
            script = traced(model.network, model.size, model.in_channels)
        else:
            regions = bool(model.regions)
            script = scripted(
                model.network, model.size, model.fit, _AT_ONCE, model.in_channels, regions=regions
            )
        write_torchscript(script, extra, place / TORCHSCRIPT)
    except Exception as error:  # whatever tracing and scripting raise
        return why(error)
    return None


def _compare(place: Path, reference: Reference, tell: Tell) -> tuple[dict[str, Any], dict[str, str]]:
    """What came of each form that is no graph, and why each of those that differ, which are removed, does."""
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, result in examined(place, reference):
        tell(name)
        if result["holds"]:
            results[name] = result
        elif name in ("bundle", *WEIGHTS):
            raise InputError(
                f"the bundle would not give what the run gives ({name}: {result['why']}); nothing is written"
            )
        else:
            failed[name] = result["why"]
            (place / result["file"]).unlink()
    return results, failed


def _metadata(
    runs: Sequence[Run], model: Model, words: Words, facts: cards.Facts, scores: Mapping[str, Any] | None
) -> dict[str, Any]:
    """metadata.json of the bundle: that of its first run as this version writes it, with the user's words."""
    first = runs[0].configs
    told: dict[str, Any] = {"authors": words.author, "copyright": words.author, "license": words.licence_name}
    told["data_source"] = words.data_source or facts.recipe.get("source")
    if scores is not None:
        told["eval_metrics"] = {
            f"mean_{name}": value for name, value in scores["mean"].items() if value is not None
        }
    elif "eval_metrics" in first.get("metadata", {}):
        told["eval_metrics"] = first["metadata"]["eval_metrics"]
    if len(runs) > 1:
        told |= {"name": "ensemble", "description": f"{model.title}, trained by dsnet-med"}
    told = {name: value for name, value in told.items() if value}
    if "train" not in first:
        return first["metadata"] | told
    return describe(resources.configs() / "metadata.json", first["train"], before=first.get("metadata"), **told)


def _store_of(run: Run) -> Store | None:
    """The store that a run was trained on, where it still lies there as it was."""
    try:
        store = Store.open(run.store) if run.store else None
    except InputError:  # damaged: it is not needed
        return None
    return store if store is not None and store.id == run.model.facts.get("store_id", store.id) else None


def _real_inputs(runs: Sequence[Run], store: Store | None, model: Model) -> list[Input]:
    """Slices of the cases that picked the checkpoint, or else of any that the store has."""
    if store is None:
        return []
    cases = runs[0].model.facts.get("cases")
    held = cases.get("val") if isinstance(cases, Mapping) else None
    return list(real(store, [*(held or ()), *store.cases], sizes_around(model.size)))


def _describe(
    place: Path, results: Mapping[str, Any], left_out: Mapping[str, str], told: cards.Told
) -> Mapping[str, Any]:
    """Write what is read by people, then the certificate, which has the hash of every file."""
    write_large_files(place)
    cards.write_licences(place, told.words, told.facts)
    model = load_model(place, trust=True)
    content = described(results, left_out, model)
    cards.write_card(place, model, told, content)
    certificate = sealed({**content, "files": hashes(place)})
    cards.write_page(place, certificate)
    write_json(place / CERTIFICATE, certificate)
    return certificate


def _move(place: Path, out: Path) -> None:
    """Move what is whole to where it belongs, the certificate last: what has none is no bundle."""
    try:
        for path in sorted(place.iterdir(), key=lambda path: path.name == CERTIFICATE):
            shutil.move(path, out / path.name)
    except OSError as error:
        raise output_error(out, error) from error
