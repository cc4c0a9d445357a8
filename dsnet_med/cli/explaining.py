"""What `explain` does on the terminal: which files are the references, a bar, what was found in a few lines."""

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from tqdm import tqdm

from dsnet_med.cli.inferring import matched
from dsnet_med.cli.naming import Naming, naming_of, values_of
from dsnet_med.errors import CasesFailedError, InputError
from dsnet_med.evaluate.labels import Labels
from dsnet_med.evaluate.pairing import Pair, read_cases

if TYPE_CHECKING:
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
    with tqdm(total=1.0, desc="explain", unit="inference", ncols=100, bar_format=_BAR) as shown:

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
            if "not_measured" in plugin:
                lines.append(
                    f"{run['name']}: {name} ({plugin['class']}) is not measured: {plugin['not_measured']}"
                )
                continue
            energy = plugin["energy_changed"]["mean"]
            constant = plugin["not_constant"]
            words = "" if constant is None else f", {constant:.1%} of it differs from image to image"
            lines.append(
                f"{run['name']}: {name} ({plugin['class']}) changes {energy:.2%} of its input's energy{words}"
            )
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

        def values(pairs: Sequence[Pair]) -> Any:
            alone = [Pair(pair.case, None, pair.reference, pair.masks) for pair in pairs]
            return values_of(alone, [], naming).of

        return paired(
            sources,
            reference,
            naming.labels,
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
    from dsnet_med.prepare.recipe import recipe_ids

    if labels is None:
        recipe = predictor.facts[0].get("recipe") if predictor.facts else None
        known = naming_of(recipe) if recipe in recipe_ids() and _has_classes(recipe) else None
        return known if known is not None and known.labels.names == own.names else Naming(own)
    naming = naming_of(labels)
    differ = [
        f"{value} is '{name}' there and '{own.names.get(value, 'nothing')}' here"
        for value, name in naming.labels.names.items()
        if own.names.get(value) != name
    ]
    if differ:
        raise InputError(f"--labels {shlex.quote(labels)} and the run name classes otherwise: {differ[0]}")
    return naming


def _has_classes(recipe: str) -> bool:
    from dsnet_med.prepare.recipe import load_recipe

    return bool(load_recipe(recipe).classes)
