"""report.html of an evaluation and of a comparison: single files that need no network, from jinja2's templates.

Every number of an evaluation's report is that of the summary's first protocol. The templates lie in templates/.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import inf, isnan
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dsnet_med.evaluate import overlay
from dsnet_med.evaluate.agreement import volumes_of
from dsnet_med.evaluate.case_view import Window
from dsnet_med.evaluate.comparison import HIGHER_IS_BETTER, rankings
from dsnet_med.evaluate.measurements import TOLERANCES_MM
from dsnet_med.evaluate.pages import rendered
from dsnet_med.evaluate.pictures import Wanted, at_worst, at_worst_of, pictures_of
from dsnet_med.evaluate.plots import bland_altman, paired
from dsnet_med.evaluate.protocols import PROTOCOLS, Protocol, Record
from dsnet_med.evaluate.score_folders import CaseScore
from dsnet_med.evaluate.stacks import PAGE_MB
from dsnet_med.evaluate.strips import distance_axis, share_axis, strip
from dsnet_med.evaluate.summary import by_protocol, case_mean
from dsnet_med.organs import organ_of

_METRIC_NAMES = {"dice": "Dice", "hd95_mm": "HD95, mm", "hd95_voxels": "HD95, voxels", "nsd": "NSD"}
_DIGITS = {"dice": 3, "hd95_mm": 2, "hd95_voxels": 2, "nsd": 3}
_ORGAN_PICTURES = 16
_LISTED_ORGANS = 14  # beside a case's pictures, the worst of them


def report_and_images(
    scores: Iterable[CaseScore],
    summary: Mapping[str, Any],
    labels: Mapping[int, str],
    *,
    images: Mapping[str, Path] | None = None,
    run: Mapping[str, Any] | None = None,
    overlays: int = 4,
    window: Window | None = None,
    page_mb: float = PAGE_MB,
    out: Path | None = None,
    files: Sequence[str] = ("cases.csv", "summary.json"),
) -> tuple[str, dict[str, str]]:
    """The report of an evaluation, and the SHA-256 of every image that it shows, by case.

    `images` maps cases to the volumes shown beneath the overlays of the `overlays` worst cases, and of the
    worst case of each organ; `window` are the intensities shown black and white. `run` holds facts worth
    showing (method, seed, how the checkpoint was selected). `out` is where the page will lie: its links to the
    cases' files, and to the `files` beside it, are relative to it.
    """
    protocol = PROTOCOLS[summary["protocol"]]
    every = list(scores)
    cases = _worst_first(every, protocol)
    organs = _worst_of_organs(cases, labels, protocol)
    pictured = [each["name"] for each in organs if each["case"]][:_ORGAN_PICTURES] if overlays else []
    shown = pictures_of(_wanted(cases[:overlays], organs, pictured), labels, images or {}, window, page_mb)
    method = (run or {}).get("method")
    words = "1 organ" if len(labels) == 1 else f"{len(labels)} organs"
    page = rendered(
        "report.html",
        title=f"Segmentation scores: {method}" if method else "Segmentation scores",
        subtitle=f"{words}, protocol {protocol.name}, counting {summary['headline']}",
        files=files,
        summary=summary,
        protocol=protocol,
        protocols=[(PROTOCOLS[name], entry) for name, entry in by_protocol(summary).items()],
        cases=cases,
        pictures=[(shown.pictures[case["name"]], case) for case in cases[:overlays]],
        organs=organs,
        organ_pictures=[
            (shown.pictures[("organ", each["name"])], each) for each in organs if each["name"] in pictured
        ],
        shown=shown,
        page_mb=page_mb,
        colour_table=overlay.colours_of(labels),
        looks=_looks(),
        strips=_strips([case["records"] for case in cases], labels, protocol),
        tolerances=[f"{each:g}" for each in TOLERANCES_MM],
        plots=bland_altman(volumes_of(every, labels), summary["volumes"]) if cases else {},
        links=_links([case["score"] for case in cases], images or {}, out),
        listed=_LISTED_ORGANS,
        colours=_colours(labels),
        differences=overlay.DIFFERENCES,
        run=run,
    )
    return page, shown.image_sha256


def comparison_and_images(
    comparison: Mapping[str, Any],
    links: Mapping[str, str],
    scores: Mapping[str, Sequence[CaseScore]] | None = None,
    labels: Mapping[int, str] | None = None,
    *,
    images: Mapping[str, Path] | None = None,
    window: Window | None = None,
    overlays: int = 4,
    page_mb: float = PAGE_MB,
) -> tuple[str, dict[str, str]]:
    """The report of a comparison from the content of comparison.json: who wins what, if anyone does; and the
    SHA-256 of every image that it shows, by case.

    `links` lead to each prediction's own report. With the `scores` behind the comparison and their `labels`
    come plots of every case, and pictures side by side of those in which the predictions differ most.
    """
    gone = list(comparison["left_out"].items()) + [
        (case, f"only some have it, {name} does")
        for name, cases in comparison["cases_left_out"].items()
        for case in cases
    ]
    cases = "1 case" if comparison["cases"] == 1 else f"{comparison['cases']} cases"
    without = f"; {len({case for case, _ in gone})} left out" if gone else ""
    protocols = [(PROTOCOLS[name], entry) for name, entry in comparison["protocols"].items()]
    common = _in_all(scores or {})
    names = labels or {}
    ranked = _most_different(common, protocols[0][0])[:overlays]
    shown = pictures_of([_side_by_side(common, each) for each in ranked], names, images or {}, window, page_mb)
    page = rendered(
        "comparison.html",
        title="Comparison of predictions",
        subtitle=f"{', '.join(comparison['predictions'])}: {cases} that all of them have{without}",
        files=("comparison.json",),
        comparison=comparison,
        first=next(iter(comparison["protocols"].values())),
        protocols=protocols,
        plots={protocol.name: _paired(common, names, protocol) for protocol, _ in protocols},
        pictures=[(shown.pictures[each["case"]], each) for each in ranked],
        shown=shown,
        page_mb=page_mb,
        colour_table=overlay.colours_of(names),
        looks=_looks(),
        colours=_colours(names),
        differences=overlay.DIFFERENCES,
        rankings=rankings(comparison),
        gone=gone,
        links=links,
        metric_names=_METRIC_NAMES,
        digits=_DIGITS,
    )
    return page, shown.image_sha256


def comparison_html(comparison: Mapping[str, Any], links: Mapping[str, str]) -> str:
    """The report of a comparison without its cases."""
    return comparison_and_images(comparison, links)[0]


def _colours(labels: Mapping[int, str]) -> dict[str, overlay.Colour]:
    return {name: organ_of(name).colour for name in labels.values()}


def _looks() -> dict[str, Any]:
    """How the page's script paints, as overlay.py does."""
    return {
        "differences": list(overlay.DIFFERENCES.values()),
        "outline": overlay.OUTLINE,
        "tick": overlay.TICK,
        "fill": overlay.FILL,
        "background": overlay.BACKGROUND,
    }


def _worst_first(scores: Iterable[CaseScore], protocol: Protocol) -> list[dict[str, Any]]:
    cases = []
    for score in scores:
        if score.error is None:
            records = score.records(protocol.name)
            means = {"dice": case_mean(records, "dice"), "hd95": case_mean(records, protocol.hd95_key)}
            cases.append({"name": score.case, "score": score, "records": records} | means)
    return sorted(cases, key=lambda case: (2.0 if isnan(case["dice"]) else case["dice"], case["name"]))


def _worst_of_organs(
    cases: Sequence[Mapping[str, Any]], labels: Mapping[int, str], protocol: Protocol
) -> list[dict[str, Any]]:
    """For each organ the case with its lowest Dice (of equals, the largest HD95); the worst organs first."""
    found = []
    for place, name in enumerate(labels.values()):
        rows = [(case["records"][place], case) for case in cases]
        counted = [(row, case) for row, case in rows if not isnan(row.dice)]
        entry: dict[str, Any] = {"name": name, "number": place + 1, "case": None, "record": None}
        if counted:

            def badness(each: tuple[Record, Mapping[str, Any]]) -> tuple[float, float]:
                distance = getattr(each[0], protocol.hd95_key)
                return each[0].dice, -inf if isnan(distance) else -distance

            row, case = min(counted, key=badness)
            entry |= {"case": case["name"], "record": row, "score": case["score"]}
        found.append(entry)
    return sorted(found, key=lambda each: 2.0 if each["record"] is None else each["record"].dice)


def _wanted(
    cases: Sequence[Mapping[str, Any]], organs: Sequence[Mapping[str, Any]], pictured: Sequence[str]
) -> list[Wanted]:
    """The worst cases, and those of the organs, each case once."""
    views: dict[str, dict[Any, Any]] = {case["name"]: {case["name"]: at_worst()} for case in cases}
    scores = {case["name"]: case["score"] for case in cases}
    for each in organs:
        if each["name"] in pictured:
            views.setdefault(each["case"], {})["organ", each["name"]] = at_worst_of(each["number"])
            scores[each["case"]] = each["score"]
    return [Wanted([scores[case]], own) for case, own in views.items()]


def _strips(cases: Sequence[Sequence[Record]], labels: Mapping[int, str], protocol: Protocol) -> dict[str, Any]:
    """The axes of Dice and of distances, and for each organ its strip on both."""
    dice = [[records[place].dice for records in cases] for place in range(len(labels))]
    far = [[getattr(records[place], protocol.hd95_key) for records in cases] for place in range(len(labels))]
    axes = (
        share_axis([each for own in dice for each in own]),
        distance_axis([each for own in far for each in own]),
    )
    return {
        "axes": axes,
        "organs": {
            name: (strip(dice[place], axes[0], zero_is_bad=True), strip(far[place], axes[1]))
            for place, name in enumerate(labels.values())
        },
    }


def _links(
    scores: Iterable[CaseScore], images: Mapping[str, Path], out: Path | None
) -> dict[str, list[tuple[str, str]]]:
    """For each case its files, by what they are: relative to the folder that the page lies in."""
    if out is None:
        return {}
    found = {}
    for score in scores:
        files = {"mask": score.prediction, "reference": score.reference, "image": images.get(score.case)}
        found[score.case] = [(what, _address(file, out)) for what, file in files.items() if file is not None]
    return found


def _address(file: Path, out: Path) -> str:
    try:
        return quote(Path(os.path.relpath(file.absolute(), out.absolute())).as_posix())
    except ValueError:  # on another drive
        return file.absolute().as_uri()


def _in_all(scores: Mapping[str, Sequence[CaseScore]]) -> dict[str, list[CaseScore]]:
    """The scores of cases that all predictions have, in the order of their names."""
    found = [{score.case for score in own if score.error is None} for own in scores.values()]
    common = set.intersection(*found) if found else set()
    return {
        name: sorted((score for score in own if score.case in common), key=lambda score: score.case)
        for name, own in scores.items()
    }


def _most_different(scores: Mapping[str, Sequence[CaseScore]], protocol: Protocol) -> list[dict[str, Any]]:
    """Cases by how far apart the predictions' mean Dice lie, the farthest first; equal ones are none."""
    found = []
    for own in zip(*scores.values(), strict=True):
        dice = [case_mean(score.records(protocol.name), "dice") for score in own]
        pairs = list(combinations(range(len(own)), 2))
        apart = {pair: abs(dice[pair[0]] - dice[pair[1]]) for pair in pairs}
        farthest = max(pairs, key=lambda pair: -1.0 if isnan(apart[pair]) else apart[pair])
        if apart[farthest] > 0:
            dices = dict(zip(scores, dice, strict=True))
            found.append({"case": own[0].case, "dice": dices, "apart": apart[farthest], "pair": farthest})
    return sorted(found, key=lambda each: (-each["apart"], each["case"]))


def _side_by_side(scores: Mapping[str, Sequence[CaseScore]], each: Mapping[str, Any]) -> Wanted:
    own = [score for name in scores for score in scores[name] if score.case == each["case"]]
    first, second = each["pair"]
    return Wanted(own, {each["case"]: at_worst(list(scores), second + 1, first + 1)})


def _paired(
    scores: Mapping[str, Sequence[CaseScore]], labels: Mapping[int, str], protocol: Protocol
) -> dict[str, dict[str, Any]]:
    """By metric and organ (and their mean) the plot of every case."""
    if not scores or protocol.stacked:
        return {}
    records = {name: [score.records(protocol.name) for score in own] for name, own in scores.items()}
    cases = [score.case for score in next(iter(scores.values()))]
    found: dict[str, dict[str, Any]] = {}
    for metric in protocol.metrics:
        means = {name: [case_mean(rows, metric) for rows in own] for name, own in records.items()}
        values = {"mean over organs": means}
        for place, organ in enumerate(labels.values()):
            values[organ] = {
                name: [getattr(rows[place], metric) for rows in own] for name, own in records.items()
            }
        better = HIGHER_IS_BETTER[metric]
        plots = {name: paired(own, cases, higher_is_better=better) for name, own in values.items()}
        found[metric] = {name: plot for name, plot in plots.items() if plot}
    return found
