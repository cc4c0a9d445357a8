"""What `explain` does on the terminal: which files are the references, a bar, what was found in a few lines."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from tqdm import tqdm

from dsnet_med.cli.inferring import matched
from dsnet_med.cli.naming import Naming, naming_of, values_of
from dsnet_med.errors import CasesFailedError, InputError, first_of, unknown
from dsnet_med.evaluate.labels import Labels
from dsnet_med.evaluate.pairing import Pair, read_cases

if TYPE_CHECKING:
    from dsnet_med.evaluate.segments import LabelValues
    from dsnet_med.explain.references import References
    from dsnet_med.inference import Predictor
    from dsnet_med.inference.source import Source

_BAR = "{l_bar}{bar}| {n:.1f}/{total:.0f} [{elapsed}<{remaining}]"


@dataclass(frozen=True)
class Options:
    """How the runs are explained; the names are those of `explain`."""

    interventions: Sequence[str]
    each: bool = True
    shuffles: int = 4
    organ: str | None = None
    pictures: int = 2
    save_maps: bool = False
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    precision: str = "float32"
    trust: bool = False
    overwrite: bool = False


def explain(
    models: Sequence[Path],
    inputs: Sequence[Path],
    out: Path,
    options: Options,
    *,
    reference: Path | None = None,
    labels: str | None = None,
    cases: Path | None = None,
    as_json: bool = False,
) -> None:
    """Explain runs, and say what was found."""
    from dsnet_med.explain.run import explain as explained

    if labels is not None and reference is None:
        raise InputError("got --labels without --reference: they say what the values of references mean")
    failed: CasesFailedError | None = None
    with tqdm(total=1.0, desc="explain", unit="inference", ncols=100, bar_format=_BAR, delay=1e-3) as shown:

        def tell(done: float, planned: float) -> None:
            shown.total = planned
            shown.update(min(done, planned) - shown.n)

        try:
            explained(
                matched(models),
                inputs,
                out,
                None if reference is None else _finder(reference, labels),
                **asdict(options),
                cases=None if cases is None else read_cases(cases),
                command=["dsnet-med", *sys.argv[1:]],
                tell=tell,
                note=lambda line: tqdm.write(f"note: {line}", file=sys.stderr),
            )
        except CasesFailedError as error:
            failed = error
    content = json.loads((out / "explain.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    else:
        for line in headlines(content):
            typer.echo(line)
        typer.echo(f"report in {out / 'report.html'}")
    if failed is not None:
        raise failed


def headlines(content: Mapping[str, Any]) -> list[str]:
    """What was found, a line each."""
    lines = []
    for run in content["runs"]:
        for name, plugin in run["plugins"].items():
            energy = plugin["energy_changed"]["mean"]
            constant = plugin["not_constant"]
            words = "" if constant is None else f", {constant:.1%} of it differs from image to image"
            lines.append(
                f"{run['name']}: {name} ({plugin['class']}) changes {energy:.2%} of its input's energy{words}"
            )
        lines += [
            f"{run['name']}: {name} ({each['class']}) is not measured and not replaced: {each['reason']}"
            for name, each in run["not_measured"].items()
        ]
        depends = run["image_dependence"] or {}
        lines += [f"{run['name']}: {depends['words']}"] if depends.get("words") else []
        lines += [f"{run['name']}: {line}" for line in run.get("notes", [])]
    return lines


def _finder(
    reference: Path, labels: str | None
) -> "Callable[[Sequence[Source], Sequence[Predictor]], References]":
    """Finds the references of cases as `evaluate` does."""

    def find(sources: "Sequence[Source]", predictors: "Sequence[Predictor]") -> "References":
        from dsnet_med.explain.references import labels_of_run, paired

        own = labels_of_run(predictors[0])
        naming = _naming(labels, predictors[0], own)
        masks = naming.masks_in(reference) if naming.masks_in else None
        by_name = _by_name(naming, own)

        def values(pairs: Sequence[Pair]) -> "Callable[[Path], LabelValues | None]":
            if by_name is not None:
                return lambda _: by_name
            alone = [Pair(pair.case, None, pair.reference, pair.masks) for pair in pairs]
            return values_of(alone, [], naming).of

        return paired(
            sources,
            reference,
            naming.labels if by_name is None else own,
            image_case=naming.prediction_case,
            reference_case=naming.reference_case,
            masks=masks,
            values=values,
        )

    return find


def _naming(labels: str | None, predictor: "Predictor", own: Labels) -> Naming:
    """What `--labels` says, else the recipe that the run was trained by where it is one of ours, else the run.

    Raises InputError where the run calls its classes otherwise.
    """
    from dsnet_med.prepare.recipe import load_recipe, recipe_ids

    if labels is None:
        recipe = predictor.facts[0].get("recipe") if predictor.facts else None
        known = recipe if recipe in recipe_ids() and load_recipe(recipe).classes else None
        naming = naming_of(known) if known else None
        return naming if naming is not None and naming.labels.names == own.names else Naming(own)
    naming = naming_of(labels)
    if strange := [name for name in naming.labels.names.values() if name not in own.names.values()]:
        raise unknown(f"label in --labels {labels}", strange[0], list(own.names.values()))
    return naming


def _by_name(naming: Naming, own: Labels) -> "dict[int, int] | None":
    """The class of each value that a table of labels names; None where it numbers classes as the run does."""
    names, ids = naming.labels.names, {name: number for number, name in own.names.items()}
    if naming.recipe is not None or naming.labels.regions or own.regions:
        if naming.labels.names != own.names:
            raise InputError(
                f"--labels has {first_of(names.values())} in this order, and the run "
                f"{first_of(own.names.values())}; leave --labels out, or give the run's own recipe"
            )
        return None
    if all(own.names.get(value) == name for value, name in names.items()):
        return None
    return {0: 0} | {value: ids[name] for value, name in names.items()}
