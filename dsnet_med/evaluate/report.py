"""report.html: one file that needs no network, made from the scores, the summary and a few pictures.

Every number is that of the summary's first protocol. The template is report.html beside this module.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isnan, nan
from pathlib import Path
from typing import Any

from dsnet_med.evaluate import markup, overlay
from dsnet_med.evaluate.markup import noun_for, number, plural
from dsnet_med.evaluate.protocols import PROTOCOLS, Protocol, Record
from dsnet_med.evaluate.score_folders import CaseScore
from dsnet_med.evaluate.strips import dice_strip, distance_strip
from dsnet_med.evaluate.summary import by_protocol, case_mean

_TITLE = "Segmentation scores"


def page_html(
    scores: Iterable[CaseScore],
    summary: Mapping[str, Any],
    labels: Mapping[int, str],
    *,
    images: Mapping[str, Path] | None = None,
    run: Mapping[str, Any] | None = None,
    overlays: int = 4,
) -> str:
    """The whole page. `images` maps cases to the volumes shown beneath the overlays of the `overlays` worst
    cases; `run` holds facts worth showing (method, seed, how the checkpoint was selected)."""
    protocol = PROTOCOLS[summary["protocol"]]
    scored = _worst_first(scores, protocol)
    sections = [
        markup.section("Organs", _organ_hint(protocol), _organ_table(scored, summary, labels, protocol)),
        markup.section("Worst cases", "", _pictures(scored[:overlays], labels, images or {}, protocol)),
        markup.section("Cases", "Worst first. Sort by any column.", _case_table(scored, labels, protocol)),
        markup.section("Not scored", "", _failures(summary)),
        markup.section("Notes", "", markup.listed(map(escape, summary["notes"]))),
        markup.section("Resampled", "Scored on the reference's grid, not on their own.", _resampled(summary)),
        markup.section("Protocols", "", _protocols(summary)),
        markup.section("This run", "", _facts(run or {})),
    ]
    return markup.page(
        title=_title(run),
        subtitle=_subtitle(summary, labels, protocol),
        cards=_cards(summary, protocol),
        sections=sections,
        footer=f"dsnet-med {summary['versions']['dsnet_med']}. Every value is in cases.csv and summary.json.",
    )


def _worst_first(scores: Iterable[CaseScore], protocol: Protocol) -> list[CaseScore]:
    def badness(score: CaseScore) -> tuple[float, str]:
        mean = case_mean(score.records(protocol.name), "dice")
        return 2.0 if isnan(mean) else mean, score.case

    return sorted((score for score in scores if score.error is None), key=badness)


def _title(run: Mapping[str, Any] | None) -> str:
    method = (run or {}).get("method")
    return f"{_TITLE}: {method}" if method else _TITLE


def _subtitle(summary: Mapping[str, Any], labels: Mapping[int, str], protocol: Protocol) -> str:
    return f"{plural(len(labels), 'organ')}, protocol {protocol.name}, counting {summary['headline']}"


def _cards(summary: Mapping[str, Any], protocol: Protocol) -> str:
    mean, key = summary["mean"], protocol.hd95_key
    cards = [
        markup.card("main", number(mean["dice"], 3), "", "mean Dice"),
        markup.card("main", number(mean[key], 2), protocol.unit, "mean HD95"),
        markup.card("", str(summary["cases"]), "", noun_for(summary["cases"], "case") + " scored"),
        markup.card("alarm" if summary["missed"] else "", str(summary["missed"]), "", "missed organs"),
    ]
    if summary["failed"]:
        cards.append(
            markup.card(
                "alarm",
                str(len(summary["failed"])),
                "",
                noun_for(len(summary["failed"]), "case") + " failed",
            )
        )
    return "".join(cards)


def _organ_hint(protocol: Protocol) -> str:
    alone = " Dots are the cases scored by themselves." if protocol.stacked else ""
    return (
        "Mean ± standard deviation over cases, beneath it the 95 % interval of the mean. One dot per case, a "
        "line at the median. Dice runs from 0 to 1; HD95 is on a logarithmic scale, "
        f"with lines at 0, 1, 10 and 100 {protocol.unit}.{alone}"
    )


def _organ_table(
    scored: Sequence[CaseScore], summary: Mapping[str, Any], labels: Mapping[int, str], protocol: Protocol
) -> str:
    key = protocol.hd95_key
    cases = [score.records(protocol.name) for score in scored]
    columns = {label: [records[place] for records in cases] for place, label in enumerate(labels)}
    everything = [getattr(row, key) for rows in columns.values() for row in rows]
    longest = max((value for value in everything if not isnan(value)), default=nan)
    rows = []
    for place, (label, name) in enumerate(labels.items()):
        entry = summary["labels"][name]
        rows.append(
            f"<tr><td>{markup.swatch(overlay.organ_colour(place))}{escape(name)}</td>"
            f"<td>{markup.described(entry['dice'], 3)}</td>"
            f"<td>{markup.described(entry[key], 2)}</td>"
            f'<td class="plot">{dice_strip([row.dice for row in columns[label]])}</td>'
            f'<td class="plot">{distance_strip([getattr(row, key) for row in columns[label]], longest)}</td>'
            f"<td>{number(entry['nsd']['mean'], 3)}</td>"
            f"<td>{entry['dice']['n']}</td>{_missed_cell(entry)}</tr>"
        )
    tolerance = summary["nsd_tolerance_mm"]
    head = (
        f"<tr><th>Organ</th><th>Dice</th><th>HD95, {protocol.unit}</th>"
        '<th class="plot">Dice, case by case</th><th class="plot">HD95, case by case</th>'
        f"<th>NSD at {tolerance:g} mm</th><th>Cases</th><th>Missed</th></tr>"
    )
    return markup.table(head, "".join(rows))


def _missed_cell(entry: Mapping[str, Any]) -> str:
    kind = ' class="bad"' if entry["missed"] else ""
    return f"<td{kind}>{entry['missed']}</td>"


def _pictures(
    worst: Sequence[CaseScore], labels: Mapping[int, str], images: Mapping[str, Path], protocol: Protocol
) -> str:
    if not worst:
        return ""
    cards = [_picture(score, labels, images.get(score.case), protocol) for score in worst]
    organs = {name: overlay.organ_colour(place) for place, name in enumerate(labels.values())}
    return markup.legend("Organs", organs) + markup.legend("Difference", overlay.DIFFERENCES) + "".join(cards)


def _picture(score: CaseScore, labels: Mapping[int, str], image: Path | None, protocol: Protocol) -> str:
    if score.worst is None:
        return ""
    drawn = overlay.draw(score, score.worst, list(labels), image)
    records = score.records(protocol.name)
    means = f"Dice {number(case_mean(records, 'dice'), 3)}, HD95 " + (
        f"{number(case_mean(records, protocol.hd95_key), 2)} {protocol.unit}"
    )
    panels = "".join(
        f'<figure><img alt="{words}, {escape(score.case)}" src="{address}">'
        f"<figcaption>{words}</figcaption></figure>"
        for words, address in (
            ("Reference", drawn.reference),
            ("Prediction", drawn.prediction),
            ("Difference", drawn.difference),
        )
    )
    note = f'<p class="hint">{escape(drawn.note)}</p>' if drawn.note else ""
    return (
        f'<article class="card case"><header><h3>{escape(score.case)}</h3><span>{means}</span>'
        f'<span class="soft">{drawn.position}, where they differ most</span></header>{note}'
        f'<div class="panels">{panels}</div></article>'
    )


def _case_table(scored: Sequence[CaseScore], labels: Mapping[int, str], protocol: Protocol) -> str:
    if not scored:
        return ""
    names = ("Case", "Dice", f"HD95, {protocol.unit}", *labels.values())
    rows = "".join(_case_row(score, protocol) for score in scored)
    return markup.table(markup.sortable_head(names), rows, "sortable")


def _case_row(score: CaseScore, protocol: Protocol) -> str:
    records, key = score.records(protocol.name), protocol.hd95_key
    means = case_mean(records, "dice"), case_mean(records, key)
    cells = [
        f'<td data-v="{escape(score.case)}">{escape(score.case)}</td>',
        f'<td data-v="{markup.data(means[0])}">{number(means[0], 3)}</td>',
        f'<td data-v="{markup.data(means[1])}">{number(means[1], 2)}</td>',
    ]
    cells += [_organ_cell(row, key, protocol) for row in records]
    return f"<tr>{''.join(cells)}</tr>"


def _organ_cell(row: Record, key: str, protocol: Protocol) -> str:
    if row.note:
        words = row.note.split(":")[0].split(" ")[0]
        kind = "bad" if words == "missed" else ""
        return (
            f'<td class="{kind}" data-v="{markup.data(row.dice)}" title="{escape(row.note)}">'
            f"{number(row.dice, 2)}<small>{words}</small></td>"
        )
    return (
        f'<td class="heat" style="--h:{_heat(row.dice):.2f}" data-v="{markup.data(row.dice)}">{row.dice:.2f}'
        f"<small>{number(getattr(row, key), 1)} {protocol.unit}</small></td>"
    )


def _heat(dice: float) -> float:
    return 0.45 * max(0.0, min(1.0, (dice - 0.5) * 2))


def _resampled(summary: Mapping[str, Any]) -> str:
    return markup.listed(
        f"<b>{escape(case)}</b>: {escape(words)}" for case, words in summary["resampled"].items()
    )


def _failures(summary: Mapping[str, Any]) -> str:
    items = [f"<b>{escape(entry['case'])}</b>: {escape(entry['reason'])}" for entry in summary["failed"]]
    missing = summary["references_without_prediction"]
    if missing:
        references = plural(len(missing), "reference")
        counted = "every organ missed" if summary["missing"]["rule"] == "zero" else "in no mean"
        items.append(f"{references} without a prediction, {counted}: {escape(', '.join(missing))}")
    return markup.listed(items)


def _protocols(summary: Mapping[str, Any]) -> str:
    objects = by_protocol(summary)
    return "".join(_protocol_card(PROTOCOLS[name], entry) for name, entry in objects.items())


def _protocol_card(protocol: Protocol, entry: Mapping[str, Any]) -> str:
    mean = entry["mean"]
    numbers = f"Dice {number(mean['dice'], 3)}, HD95 {number(mean[protocol.hd95_key], 2)} {protocol.unit}"
    words = " ".join(filter(None, (protocol.words, entry.get("note", ""))))
    return (
        f'<article class="card case"><header><h3>{protocol.name}</h3><span>{numbers}</span></header>'
        f'<p class="soft">{escape(words)}</p></article>'
    )


def _facts(run: Mapping[str, Any]) -> str:
    items = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in run.items())
    return f'<dl class="card">{items}</dl>' if items else ""
