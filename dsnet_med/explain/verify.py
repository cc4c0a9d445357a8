"""Does an explained folder still hold: do scores.csv and where.csv, summarised again, give explain.json?

The seal vouches for every key, hashes for every file, summarising again for all numbers that follow from the
two tables. What a plug-in computes (its gates, maps and pictures) follows from the network and the images
alone: for that there are the hashes, and running `explain` again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dsnet_med.errors import InputError, first_of, one_line, shown, want_of_means
from dsnet_med.evaluate.results import without_nan
from dsnet_med.evaluate.verify import broken, leaves, same
from dsnet_med.explain import effects, where
from dsnet_med.explain.counts import Count
from dsnet_med.explain.records import Score
from dsnet_med.explain.tables import SCORES, WHERE, read_scores, read_where
from dsnet_med.files import parse_json, read_text, sha256

EXPLAINED, SCHEMA = "explain.json", 1
PAGE = "index.md"  # what somebody wrote about it, as the folders of docs/results have it
DERIVED = ("scores", "interventions", "image_dependence", "where")
NOT_DERIVED = (
    "what the plug-ins compute, pictures and attribution follow from no table here: their files are unchanged"
)
_SENTENCES = ("words", "counted", "calibration_of")  # under the seal: another version may word them otherwise


@dataclass
class ExplainClaim:
    """What explain.json of a folder says, the rows that it rests on, and why it is not as it was written."""

    folder: Path
    content: dict[str, Any]
    scores: list[Score] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def explain_folder(path: Path) -> Path | None:
    """The folder of `explain` that `path` is, or whose explain.json it is; None for anything else."""
    if path.is_dir():
        return path if (path / EXPLAINED).is_file() else None
    return path.parent if path.name == EXPLAINED else None


def read_explain_claim(folder: Path) -> ExplainClaim:
    """The claim of a folder of `explain`. Raises InputError where there is none that can be read."""
    path = folder / EXPLAINED
    try:
        text = read_text(path)
        content = parse_json(text)
        if content["schema"] != SCHEMA:
            raise InputError(
                f"schema {shown(content['schema'])}, this version reads {SCHEMA}; take that dsnet-med"
            )
        dict(content["files"]), dict(content["labels"]), list(content["cases"]), list(content["between"])
        [str(run["name"]) for run in content["runs"]]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if means := want_of_means(error):
            raise InputError(f"{path}: cannot be read: {means}") from error
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{path}: not an explain.json of `dsnet-med explain` ({reason})") from error
    claim = ExplainClaim(folder, content, broken=broken(path, text, content))
    try:
        claim.scores = read_scores(folder / SCORES)
        claim.counts = read_where(folder / WHERE) if WHERE in content["files"] else []
    except InputError as error:
        claim.broken.append(str(error))
    return claim


def explain_differences(claim: ExplainClaim) -> list[str]:
    """Everything that no longer holds, a line each: files that changed, lack or are extra, rows and numbers."""
    found = [*claim.broken, *_files(claim)]
    if not claim.scores:
        return found
    found += _rows(claim)
    try:
        again = _derived_again(claim)
    except InputError as error:
        return [*found, f"{claim.folder}: cannot be summarised again: {error}"]
    before, after = (_without_sentences(each) for each in (_leaves(claim.content), leaves(again)))
    return found + [
        f"{EXPLAINED}: {place[1:]}: {shown(before.get(place))}, {shown(after.get(place))} when summarised again"
        for place in sorted(before | after)
        if place not in before or place not in after or not same(before[place], after[place])
    ]


def count_explain_numbers(claim: ExplainClaim) -> int:
    """How many numbers of explain.json are compared."""
    return sum(
        isinstance(leaf, (int, float)) and not isinstance(leaf, bool)
        for leaf in _leaves(claim.content).values()
    )


def _files(claim: ExplainClaim) -> Iterator[str]:
    """What is wrong with the files; those whose name begins with a dot are the system's."""
    folder, files = claim.folder, claim.content["files"]
    for name, digest in sorted(files.items()):
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or "\\" in name or not place.parts:
            raise InputError(f"{folder / EXPLAINED}: {shown(name)} is no name of a file beside it")
        if not (folder / name).is_file():
            yield f"{folder / name} is missing"
        elif sha256(folder / name) != digest:
            yield f"{folder / name}: is not as it was (another SHA-256)"
    for name in (SCORES,):
        if name not in files:
            yield f"{EXPLAINED}: files: does not name {name}"
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name not in (EXPLAINED, PAGE, *files) and not name.startswith("."):
            yield f"{file}: was not written by explain"


def _rows(claim: ExplainClaim) -> Iterator[str]:
    """Runs and cases of the tables that explain.json does not have, and rows that lack beside others."""
    runs = [str(run["name"]) for run in claim.content["runs"]]
    cases = [str(case) for case in claim.content["cases"]]
    labels = [str(name) for name in claim.content["labels"].values()]
    scores = [
        (row.run, f"{row.plugin} {row.kind} {row.draw}".strip(), row.case, row.label) for row in claim.scores
    ]
    counts = [
        (row.run, f"{row.network} {row.draw}", row.case, f"{row.part} {row.bin}".strip())
        for row in claim.counts
    ]
    yield from _strange(SCORES, scores, runs, cases)
    yield from _strange(WHERE, counts, runs, cases)
    if lost := sorted(set(runs) - {row[0] for row in scores}):
        yield f"{SCORES}: has no row of the run {first_of(lost)}"
    yield from _lacking(SCORES, scores, cases, labels)
    yield from _lacking(WHERE, counts, cases, sorted({row[3] for row in counts}))


_Place = tuple[str, str, str, str]  # run, intervention, case, and label or bin


def _strange(table: str, rows: Sequence[_Place], runs: Sequence[str], cases: Sequence[str]) -> Iterator[str]:
    for what, known, got in (
        ("run", runs, {row[0] for row in rows}),
        ("case", cases, {row[2] for row in rows}),
    ):
        if strange := sorted(got - set(known)):
            yield f"{table}: the {what} {first_of(strange)} is not in {EXPLAINED}"


def _lacking(table: str, rows: Sequence[_Place], cases: Sequence[str], last: Sequence[str]) -> Iterator[str]:
    """Every intervention of a run has a row for each case, and each label or bin."""
    there = set(rows)
    for run, intervention in dict.fromkeys(row[:2] for row in rows):
        wanted = ((run, intervention, case, each) for case in cases for each in last)
        if lost := [place for place in wanted if place not in there]:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            yield f"{table}: has no row of {', '.join(lost[0])}{more}"


def _derived_again(claim: ExplainClaim) -> dict[str, Any]:
    content = claim.content
    labels = [str(name) for name in content["labels"].values()]
    names = [str(run["name"]) for run in content["runs"]]
    every = {}
    for name in names:
        every[name] = effects.summarise(claim.scores, name, labels) | {
            "where": where.summarise(claim.counts, claim.scores, name, labels)
        }
    again: dict[str, Any] = without_nan(
        {"runs": every, "between": effects.between(claim.scores, names, labels)}
    )
    return again


def _leaves(content: Mapping[str, Any]) -> dict[str, Any]:
    """What summarising again must give, by its place."""
    runs = {str(run["name"]): {key: run.get(key) for key in DERIVED} for run in content["runs"]}
    return leaves({"runs": runs, "between": content["between"]})


def _without_sentences(derived: Mapping[str, Any]) -> dict[str, Any]:
    return {place: leaf for place, leaf in derived.items() if place.rpartition(".")[2] not in _SENTENCES}
