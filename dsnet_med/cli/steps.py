"""The commands on data, each with a progress bar on stderr and a closing line on stdout."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from tqdm import tqdm

from dsnet_med.cli.options import AsJson, Out, RequireGeometry, Workers
from dsnet_med.errors import CasesFailedError, InputError, first_of, unknown
from dsnet_med.files import locked, require_writable, write_text

if TYPE_CHECKING:
    from dsnet_med.prepare.convert_case import CaseResult
    from dsnet_med.prepare.findings import Finding

T = TypeVar("T")
_PHANTOMS = {  # and the folders that each writes
    "synapse": ("RawData",),
    "acdc": ("training", "testing"),
    "brats": ("dataset.json", "imagesTr", "labelsTr"),
    "imagenet": ("train", "val", "val.txt"),
    "cityscapes": ("leftImg8bit", "gtFine"),
    "coco": ("annotations", "train2017", "val2017"),
}
_PHANTOM_MARK = "phantom.txt"
_SHOWN_WARNINGS = 20
_SIZES = {2: "rows x columns such as 96x128", 3: "rows x columns x slices such as 96x96x24"}


def bar(results: Iterable[T], total: int | None, title: str) -> Iterable[T]:
    """`results` with a bar that shows how many there are and how long the rest will take."""
    return tqdm(results, total=total, desc=title, unit="case", ncols=100)


def phantom(
    dataset: Annotated[str, typer.Argument(help="synapse, acdc, brats, imagenet, cityscapes or coco")],
    out: Out,
    cases: Annotated[
        int,
        typer.Option(help="Volumes (synapse), patients (acdc, brats) or images to train on.", min=1),
    ] = 6,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    size: Annotated[
        str | None,
        typer.Option(help="Rows x columns x slices (96x96x24), of images rows x columns.", metavar="HxWxD"),
    ] = None,
    oblique: Annotated[bool, typer.Option(help="Tilt the grid against the patient's axes.")] = False,
    layout: Annotated[
        str | None, typer.Option(help="Of brats: decathlon (4-D files; default) or nnunet (a raw folder).")
    ] = None,
) -> None:
    """Make a synthetic data set in a real data set's raw layout."""
    if dataset not in _PHANTOMS:
        raise unknown("phantom", dataset, _PHANTOMS)
    volumes = dataset in ("synapse", "acdc", "brats")
    given: dict[str, Any] = {} if size is None else {"size": _size(size, 3 if volumes else 2)}
    if oblique:
        if dataset not in ("synapse", "acdc"):
            holds = "volumes on a straight grid" if volumes else "images"
            raise InputError(f"got --oblique for {dataset}, which holds {holds}: leave it out")
        given["oblique"] = True
    if layout is not None:
        if dataset != "brats":
            raise InputError(f"got --layout {layout} for {dataset}, which has one layout: leave it out")
        given["layout"] = layout
    with locked(out, "makes phantoms in"):
        _mark_phantom(dataset, out)
        _draw(dataset, out, cases, seed, given)


def _draw(dataset: str, out: Path, cases: int, seed: int, given: Mapping[str, Any]) -> None:
    from dsnet_med import phantoms

    if dataset in ("imagenet", "cityscapes", "coco"):
        images = getattr(phantoms, f"make_{dataset}")(out, images=cases, seed=seed, **given)
        drawn = list(bar(images, None, "phantom"))
        typer.echo(f"{len(drawn)} {dataset} images, {cases} of them to train on, in {out}")
        return
    make = getattr(phantoms, f"make_{dataset}")
    made = list(bar(make(out, cases=cases, seed=seed, **given), cases, "phantom"))
    typer.echo(f"{len(made)} {dataset} phantoms in {out}")


def _mark_phantom(dataset: str, out: Path) -> None:
    """Refuse to write among a real data set's files, which have the same names."""
    mark = out / _PHANTOM_MARK
    there = [name for name in _PHANTOMS[dataset] if (out / name).exists()]
    if there and not mark.is_file():
        raise InputError(f"{out / there[0]} is there already, and is no phantom; choose another --out")
    require_writable(out)
    write_text(mark, "Synthetic data made by `dsnet-med phantom`; running it here again replaces them.\n")


def _size(text: str, axes: int) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) != axes:
        raise InputError(f"got --size {text}, wanted {_SIZES[axes]}")
    return sizes


def preprocess(
    recipe: Annotated[str, typer.Argument(help="A data set (see `datasets`) or the path of a recipe.yaml.")],
    source: Annotated[Path, typer.Option(help="The raw data set.")],
    out: Out,
    workers: Workers = 2,
    exclude: Annotated[list[str] | None, typer.Option(help="A case to leave out; may be repeated.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler to use instead of local processes.")
    ] = None,
    require_geometry: RequireGeometry = False,
    folds: Annotated[
        int, typer.Option(help="Divide the subjects to learn from into so many folds.", min=0)
    ] = 0,
) -> None:
    """Turn raw volumes into a training store; finished cases are kept when run again."""
    from dsnet_med.prepare.cases import find_cases
    from dsnet_med.prepare.convert import convert
    from dsnet_med.prepare.recipe import for_source, load_recipe
    from dsnet_med.prepare.store import Store

    described = for_source(load_recipe(recipe), source)
    total = len(find_cases(described, source)) - len(set(exclude or ()))
    converted = convert(
        described,
        source,
        out,
        workers=workers,
        exclude=exclude or (),
        scheduler=scheduler,
        require_geometry=require_geometry,
        folds=folds,
    )
    results: dict[str, CaseResult] = {}
    try:
        for result in bar(converted, total, "preprocess"):
            results[result.case] = result
    except InputError:  # a full disk, say, for the manifest, which would have named them
        _told_failures(results)
        raise
    failures = {case: result.error for case, result in results.items() if result.error}
    store = Store.described(out)
    of_cases = (finding for case in store.cases.values() for finding in case.findings)
    warnings = _grouped((*store.findings, *of_cases))
    for line in warnings[:_SHOWN_WARNINGS]:
        typer.echo(line, err=True)
    if len(warnings) > _SHOWN_WARNINGS:
        typer.echo(f"and {len(warnings) - _SHOWN_WARNINGS} warnings more: dsnet-med check {out}", err=True)
    if len(results) == len(failures) == 1:
        raise InputError(next(iter(failures.values())))
    _told_failures(results)
    advice = "mend these and run the same command again, or leave them out with --exclude"
    if failures and len(failures) == len(results):
        raise InputError(f"none of {len(results)} cases could be converted; the reasons are above: {advice}")
    if failures:
        typer.echo(f"{len(failures)} of {len(results)} cases failed: {advice}", err=True)
        raise CasesFailedError(failures, listed=True)
    reused = sum(result.reused for result in results.values())
    slices = sum(case.shape[0] for case in store.cases.values())
    typer.echo(f"{len(results)} cases ({reused} already done), {slices} slices in {out}")


def _told_failures(results: Mapping[str, "CaseResult"]) -> None:
    for case, result in results.items():
        if result.error:
            typer.echo(f"failed: {case}: {result.error}", err=True)


def _grouped(findings: Iterable["Finding"], as_warnings: bool = True) -> list[str]:
    """One line for each thing that was found, with the cases that have it."""
    cases: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        severity = "warning" if as_warnings else finding.severity
        cases.setdefault((severity, finding.message), []).append(finding.case)
    return [
        f"{severity}: {': '.join(part for part in (first_of(who), message) if part)}"
        for (severity, message), who in cases.items()
    ]


def check(
    store: Annotated[Path | None, typer.Argument(help="A store to examine.")] = None,
    source: Annotated[Path | None, typer.Option(help="A raw data set to examine, with --recipe.")] = None,
    recipe: Annotated[str | None, typer.Option(help="The recipe that describes the raw data set.")] = None,
    workers: Workers = 2,
    as_json: AsJson = False,
) -> None:
    """Examine a raw data set or a store: labels, geometry, sides, duplicates, splits."""
    if (store is None) == (source is None) or (source is None) != (recipe is None):
        raise InputError("give either a store, or --source with --recipe")
    from dsnet_med.prepare.cases import find_cases
    from dsnet_med.prepare.doctor import examine_source
    from dsnet_med.prepare.doctor_store import examine_store
    from dsnet_med.prepare.recipe import for_source, load_recipe

    if source is None:
        examined, total = examine_store(Path(str(store)), workers=workers), None
    else:
        described = for_source(load_recipe(str(recipe)), source)
        total = len(find_cases(described, source)) + 1
        examined = examine_source(described, source, workers=workers)
    findings = [finding for part in bar(examined, total, "check") for finding in part.findings]
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        for line in _grouped(findings, as_warnings=False):
            typer.echo(line)
    errors = sum(finding.severity == "error" for finding in findings)
    if errors:
        raise InputError(f"{errors} errors, {len(findings) - errors} warnings")
    if not as_json:
        typer.echo(f"no errors, {len(findings)} warnings")
