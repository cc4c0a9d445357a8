"""The table of a trial as a paper wants it: in Markdown, and in LaTeX with booktabs.

Each arm has its mean with the standard deviation over seeds, its difference from the baseline with the 95 %
interval, p as corrected by Holm, and the verdict. Nothing is printed bold: which number is highest is no
verdict.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dsnet_med.evaluate.measures import MEASURES, Measure

_BESIDE = ("dice", "hd95_mm", "nsd")  # shown next to the primary measure where there are scores
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#+|~&$!])")
_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}

Escape = Callable[[str], str]


def table_md(results: Mapping[str, Any]) -> str:
    """The content of table.md."""
    head, body = _table(results, _escaped_md, str)
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *body)]
    return "\n".join([*lines, "", *(_escaped_md(line) for line in _caption(results))]) + "\n"


def table_tex(results: Mapping[str, Any]) -> str:
    """The content of table.tex, a table float; it needs the package booktabs."""
    head, body = _table(results, _escaped_tex, lambda number: f"${number}$".replace("±", r"\pm"))
    rows = [f"    {' & '.join(row)} \\\\" for row in body]
    return "\n".join(
        [
            r"% \usepackage{booktabs}, \usepackage[T1]{fontenc}",
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{_escaped_tex(' '.join(_caption(results)))}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(head) - 2)}l}}",
            r"    \toprule",
            f"    {' & '.join(head)} \\\\",
            r"    \midrule",
            *rows,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _table(results: Mapping[str, Any], escape: Escape, maths: Escape) -> tuple[list[str], list[list[str]]]:
    """The head and the rows, the baseline's first; `maths` sets what is a number."""
    primary = _primary(results)
    others = [MEASURES[key] for key in _BESIDE if key != primary.key and _has(results, key)]
    contrasts = {entry["arm"]: entry for entry in results["contrasts"]}
    head = [
        "Method",
        *(escape(_title(measure)) for measure in (primary, *others)),
        "Difference",
        "95 % interval",
    ]
    head = [*head[:-1], escape(head[-1]), "p (Holm)", "Verdict"]
    body = []
    for arm in sorted(results["arms"], key=lambda name: name != results["baseline"]):
        own = results["arms"][arm]
        cells = [escape(_plain(arm)), _number(own["mean"], primary, maths, spread=own["sd_seeds"])]
        cells += [_number(own["measures"].get(measure.key), measure, maths) for measure in others]
        entry = contrasts.get(arm)
        if entry is None:
            cells += ["", "", "", "baseline"]
        else:
            bounds = entry["ci95"] and " to ".join(
                _number(bound, primary, maths, "+") for bound in entry["ci95"]
            )
            p = entry["p_holm"]
            cells += [_number(entry["difference"], primary, maths, "+"), bounds or "–"]
            cells += ["–" if p is None else maths("<0.001" if p < 0.001 else f"{p:.3f}"), entry["verdict"]]
        body.append(cells)
    return head, body


def _caption(results: Mapping[str, Any]) -> list[str]:
    primary, arms = _primary(results), results["arms"]
    seeds, cases = ([own[what] for own in arms.values()] for what in ("seeds", "cases"))
    better = "higher" if primary.higher_is_better else "lower"
    lines = [
        f"Mean {primary.title}{f' in {primary.unit}' if primary.unit else ''} ± standard deviation over seeds; "
        f"{_range(seeds)} seeds, {_range(cases)} cases; {better} is better.",
        f"Differences from {_plain(results['baseline'])}, with seeds and cases both taken as samples; "
        f"equivalent means within {primary.margin_words(results['margin'])}.",
    ]
    return [*lines, *map(_plain, results["left_out"])]


def _primary(results: Mapping[str, Any]) -> Measure:
    name, protocol = results["primary"]["measure"], results["primary"]["protocol"]
    return next(each for each in MEASURES.values() if (each.name, each.protocol) == (name, protocol))


def _has(results: Mapping[str, Any], key: str) -> bool:
    return any(own["measures"].get(key) is not None for own in results["arms"].values())


def _title(measure: Measure) -> str:
    return f"{measure.title}, {measure.unit}" if measure.unit else measure.title


def _number(
    value: float | None, measure: Measure, maths: Escape, sign: str = "", *, spread: float | None = None
) -> str:
    if value is None:
        return "–"
    beside = "" if spread is None else f" ± {spread:.{measure.digits}f}"
    return maths(f"{measure.rounded(value, sign)}{beside}")


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _plain(name: str) -> str:
    return " ".join(name.split())


def _escaped_md(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _escaped_tex(text: str) -> str:
    escaped = "".join(_TEX.get(letter, letter) for letter in text)
    return escaped.replace("±", r"$\pm$").replace("–", "--")
