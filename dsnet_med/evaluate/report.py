"""report.html of an evaluation and of a comparison: single files that need no network, from jinja2's templates.

Every number of an evaluation's report is that of the summary's first protocol. The templates lie in templates/.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isnan, log10, nan
from pathlib import Path
from statistics import median
from typing import Any

from dsnet_med.evaluate import overlay
from dsnet_med.evaluate.comparison import rankings
from dsnet_med.evaluate.pages import rendered
from dsnet_med.evaluate.protocols import PROTOCOLS, Protocol, Record
from dsnet_med.evaluate.score_folders import CaseScore
from dsnet_med.evaluate.summary import by_protocol, case_mean
from dsnet_med.organs import organ_of

_METRIC_NAMES = {"dice": "Dice", "hd95_mm": "HD95, mm", "hd95_voxels": "HD95, voxels", "nsd": "NSD"}
_DIGITS = {"dice": 3, "hd95_mm": 2, "hd95_voxels": 2, "nsd": 3}


def report_and_images(
    scores: Iterable[CaseScore],
    summary: Mapping[str, Any],
    labels: Mapping[int, str],
    *,
    images: Mapping[str, Path] | None = None,
    run: Mapping[str, Any] | None = None,
    overlays: int = 4,
) -> tuple[str, dict[str, str]]:
    """The report of an evaluation, and the SHA-256 of every image that it shows, by case.

    `images` maps cases to the volumes shown beneath the overlays of the `overlays` worst cases; `run` holds
    facts worth showing (method, seed, how the checkpoint was selected).
    """
    protocol = PROTOCOLS[summary["protocol"]]
    cases = _worst_first(scores, protocol)
    drawn = {
        case["name"]: overlay.draw(case["score"], labels, (images or {}).get(case["name"]))
        for case in cases[:overlays]
    }
    method = (run or {}).get("method")
    organs = "1 organ" if len(labels) == 1 else f"{len(labels)} organs"
    page = rendered(
        "report.html",
        title=f"Segmentation scores: {method}" if method else "Segmentation scores",
        subtitle=f"{organs}, protocol {protocol.name}, counting {summary['headline']}",
        files="cases.csv and summary.json",
        summary=summary,
        protocol=protocol,
        protocols=[(PROTOCOLS[name], entry) for name, entry in by_protocol(summary).items()],
        cases=cases,
        pictures=[case | {"drawn": drawn[case["name"]]} for case in cases[:overlays]],
        strips=_strips([case["records"] for case in cases], labels, protocol),
        colours={name: organ_of(name).colour for name in labels.values()},
        differences=overlay.DIFFERENCES,
        run=run,
    )
    return page, {name: each.image_sha256 for name, each in drawn.items() if each.image_sha256}


def comparison_html(comparison: Mapping[str, Any], links: Mapping[str, str]) -> str:
    """The report of a comparison from the content of comparison.json: who wins what, if anyone does.

    `links` lead to each prediction's own report.
    """
    gone = list(comparison["left_out"].items()) + [
        (case, f"only some have it, {name} does")
        for name, cases in comparison["cases_left_out"].items()
        for case in cases
    ]
    cases = "1 case" if comparison["cases"] == 1 else f"{comparison['cases']} cases"
    without = f"; {len({case for case, _ in gone})} left out" if gone else ""
    return rendered(
        "comparison.html",
        title="Comparison of predictions",
        subtitle=f"{', '.join(comparison['predictions'])}: {cases} that all of them have{without}",
        files="comparison.json",
        comparison=comparison,
        first=next(iter(comparison["protocols"].values())),
        protocols=[(PROTOCOLS[name], entry) for name, entry in comparison["protocols"].items()],
        rankings=rankings(comparison),
        gone=gone,
        links=links,
        metric_names=_METRIC_NAMES,
        digits=_DIGITS,
    )


def _worst_first(scores: Iterable[CaseScore], protocol: Protocol) -> list[dict[str, Any]]:
    cases = []
    for score in scores:
        if score.error is None:
            records = score.records(protocol.name)
            means = {"dice": case_mean(records, "dice"), "hd95": case_mean(records, protocol.hd95_key)}
            cases.append({"name": score.case, "score": score, "records": records} | means)
    return sorted(cases, key=lambda case: (2.0 if isnan(case["dice"]) else case["dice"], case["name"]))


def _strips(
    cases: Sequence[Sequence[Record]], labels: Mapping[int, str], protocol: Protocol
) -> dict[str, tuple[Any, Any]]:
    """For each organ its Dice values on a scale from 0 to 1, and its distances on one of log(1 + distance)."""
    distances = [
        [getattr(records[place], protocol.hd95_key) for records in cases] for place in range(len(labels))
    ]
    longest = max((value for own in distances for value in own if not isnan(value)), default=nan)
    end = max(log10(1 + longest), 1.0)
    return {
        name: (
            _strip(
                [records[place].dice for records in cases], (0, 0.5, 1), lambda value: value, zero_is_bad=True
            ),
            _strip(distances[place], (0, 1, 10, 100, 1000), lambda value: log10(1 + value) / end),
        )
        for place, name in enumerate(labels.values())
    }


def _strip(
    values: Sequence[float], ticks: Sequence[float], scale: Any, *, zero_is_bad: bool = False
) -> dict[str, Any] | None:
    """Where the strip's dots and lines lie, from 7 to 173 pixels; None without a counted value."""
    counted = [value for value in values if not isnan(value)]
    if not counted:
        return None

    def x(value: float) -> str:
        return f"{7 + 166 * min(max(scale(value), 0), 1):.1f}"

    low, high = min(counted), max(counted)
    return {
        "words": f"{len(counted)} cases, {low:.3g} to {high:.3g}, median {median(counted):.3g}",
        "ticks": [x(tick) for tick in ticks if scale(tick) <= 1],
        "dots": [x(value) for value in counted],
        "median": x(median(counted)),
        "zero_is_bad": zero_is_bad,
    }
