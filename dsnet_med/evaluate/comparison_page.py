"""The report of a comparison: one offline page that says who wins what, if anyone does."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dsnet_med.evaluate import markup
from dsnet_med.evaluate.comparison import metrics_of
from dsnet_med.evaluate.markup import interval, number
from dsnet_med.evaluate.protocols import PROTOCOLS, Protocol

_WORDS = {"dice": "Dice", "hd95_mm": "HD95, mm", "hd95_voxels": "HD95, voxels", "nsd": "NSD"}
_DIGITS = {"dice": 3, "hd95_mm": 2, "hd95_voxels": 2, "nsd": 3}


def comparison_html(comparison: Mapping[str, Any], links: Mapping[str, str], version: str) -> str:
    """The whole page from the content of comparison.json; `links` lead to each prediction's own report."""
    first = next(iter(comparison["protocols"]))
    sections = [
        markup.section("Does the order depend on the protocol?", "", _rankings(comparison)),
        *[
            _protocol_section(PROTOCOLS[name], entry, comparison["predictions"])
            for name, entry in comparison["protocols"].items()
        ],
        markup.section("Left out", "Cases in no number of this page.", _left_out(comparison)),
        markup.section("How to read this", "", _explanation(comparison)),
        markup.section("Each by itself", "", _links(links)),
    ]
    return markup.page(
        title="Comparison of predictions",
        subtitle=f"{', '.join(comparison['predictions'])}: {markup.plural(comparison['cases'], 'case')} "
        f"that all of them have{_without(comparison)}",
        cards=_cards(comparison, PROTOCOLS[first]),
        sections=sections,
        footer=f"dsnet-med {version}. Every value is in comparison.json.",
    )


def verdict(comparison: Mapping[str, Any]) -> str:
    """One line for the first protocol: who is better on average, or that nobody is."""
    name, entry = next(iter(comparison["protocols"].items()))
    said = []
    for metric, organs in entry["metrics"].items():
        winner = organs["mean"]["winner"]
        word = _WORDS[metric].split(",")[0]
        said.append(f"{word}: {winner} is significantly better" if winner else f"{word}: no significant winner")
    return f"{name}, mean over organs: " + "; ".join(said) if said else f"{name}: nothing to test"


def rankings(comparison: Mapping[str, Any]) -> list[str]:
    """For each metric, a line that says whether the order of the predictions depends on the protocol."""
    lines = []
    for metric, ranking in comparison["ranking"].items():
        orders = {
            name: " > ".join(" = ".join(tied) for tied in order) for name, order in ranking["order"].items()
        }
        word = "Dice" if metric == "dice" else "HD95"
        if ranking["depends_on_protocol"]:
            each = "; ".join(f"{name}: {order}" for name, order in orders.items())
            lines.append(f"by {word} the ranking depends on the protocol: {each} (best first)")
        elif orders:
            lines.append(f"by {word}: {next(iter(orders.values()))} under {', '.join(orders)} (best first)")
    return lines


def _without(comparison: Mapping[str, Any]) -> str:
    gone = {case for cases in comparison["cases_left_out"].values() for case in cases} | {
        *comparison["left_out"]
    }
    return f"; {len(gone)} left out" if gone else ""


def _left_out(comparison: Mapping[str, Any]) -> str:
    words = [f"<b>{escape(case)}</b>: {escape(why)}" for case, why in comparison["left_out"].items()]
    words += [
        f"<b>{escape(case)}</b>: only some have it, {escape(name)} does"
        for name, cases in comparison["cases_left_out"].items()
        for case in cases
    ]
    return markup.listed(words)


def _cards(comparison: Mapping[str, Any], protocol: Protocol) -> str:
    entry = comparison["protocols"][protocol.name]
    winner = entry["metrics"].get("dice", {}).get("mean", {}).get("winner")
    cards = []
    for name, means in entry["means"].items():
        mark = " significantly best" if name == winner else ""
        kind = "main" if name == winner else ""
        cards.append(markup.card(kind, number(means["dice"], 3), "Dice", escape(name) + mark))
    return "".join(cards)


def _rankings(comparison: Mapping[str, Any]) -> str:
    lines = [*rankings(comparison), comparison["note"]]
    return markup.listed(f"{escape(line[0].upper() + line[1:])}." for line in lines if line)


def _protocol_section(protocol: Protocol, entry: Mapping[str, Any], names: Sequence[str]) -> str:
    tables = "".join(
        f"<h3>{_WORDS[metric]}</h3>" + _metric_table(metric, organs)
        for metric, organs in entry["metrics"].items()
    )
    note = f'<p class="hint">{escape(entry["note"])}</p>' if "note" in entry else ""
    means = _means_table(protocol, entry["means"], names)
    return markup.section(f"Protocol {protocol.name}", protocol.words, note + means + tables)


def _means_table(protocol: Protocol, means: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> str:
    metrics = metrics_of(protocol)
    head = (
        "<tr><th>Mean over organs</th>" + "".join(f"<th>{_WORDS[metric]}</th>" for metric in metrics) + "</tr>"
    )
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{number(means[name][metric], _DIGITS[metric])}</td>" for metric in metrics)
        + "</tr>"
        for name in names
    )
    return markup.table(head, rows)


def _metric_table(metric: str, organs: Mapping[str, Any]) -> str:
    words = ("Organ", "Second − first", "p, Holm", "Effect", "Cases", "Cases needed", "Better")
    entries = [*organs["labels"].items(), ("mean over organs", organs["mean"])]
    rows = [_pair_row(organ, pair, _DIGITS[metric]) for organ, entry in entries for pair in entry["pairs"]]
    return markup.table(markup.sortable_head(words), "".join(rows), "sortable")


def _pair_row(organ: str, pair: Mapping[str, Any], digits: int) -> str:
    between = f"{pair['second']} − {pair['first']}"
    p = "–" if pair["p_holm"] is None else f"{pair['p_holm']:.2g}"
    kind = ' class="good"' if pair["better"] else ""
    difference = "–" if pair["difference"] is None else f"{pair['difference']:+.{digits}f}"
    better, beneath = escape(pair["better"] or ""), interval(pair["ci95"], digits)
    return (
        f'<tr><td data-v="{escape(organ)}">{escape(organ)}<small>{escape(between)}</small></td>'
        f'<td data-v="{markup.data(pair["difference"])}">{difference}<small>{beneath}</small></td>'
        f'<td data-v="{markup.data(pair["p_holm"])}">{p}</td>'
        f'<td data-v="{markup.data(pair["effect_size"])}">{number(pair["effect_size"], 2)}</td>'
        f'<td data-v="{pair["n"]}">{pair["n"]}</td>'
        f'<td data-v="{markup.data(pair["cases_needed"])}">{pair["cases_needed"] or "–"}</td>'
        f'<td{kind} data-v="{better}">{better or "not significant"}</td></tr>'
    )


def _explanation(comparison: Mapping[str, Any]) -> str:
    return (
        '<div class="card case"><p>Each row compares two predictions on the same cases: the mean difference '
        "with its 95 % bootstrap interval; p of Wilcoxon’s signed-rank test after Holm’s correction over all "
        "rows of the table; the rank-biserial effect size from −1 to 1; and how many cases would show a "
        "difference as large as the one seen with a power of 80 % after that correction. Better is named only "
        f"where p is below {comparison['alpha']:g} and the mean points the same way. One trained network per "
        "method says nothing about other seeds of it.</p></div>"
    )


def _links(links: Mapping[str, str]) -> str:
    return markup.listed(f'<a href="{escape(link)}">{escape(name)}</a>' for name, link in links.items())
