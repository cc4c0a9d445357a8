"""report.html of `explain`: what came out in one sentence a run, then the pictures and numbers it rests on.

Every number is one of explain.json. The page needs nothing but itself: pictures are in it.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from dsnet_med.evaluate.charts import compact
from dsnet_med.evaluate.pages import environment, number, rendered
from dsnet_med.explain import drawings
from dsnet_med.explain.records import EVERY
from dsnet_med.organs import organ_of

Content = Mapping[str, Any]

KINDS = {
    "identity": "taken out",
    "mean": "made constant",
    "other": "another image’s",
    "shuffled": "shuffled",
}
FORMS = {
    "nothing": "passes its input on",
    "channel": "a factor and an offset for each channel",
    "place": "a factor for each place",
    "element": "a factor for each value",
    "added": "a map that is added",
    "mixed": "factors and a map that is added",
}
_OPEN = 16  # rows of a forest that are not folded
_CARDS = 4  # plug-ins of a run that are shown one by one before the others fold
_PICTURES = 12  # before the others fold
_RUN_CARDS = 3


def explain_html(content: Content, pictures: Mapping[str, bytes]) -> str:
    """The page for the content of explain.json; `pictures` are its PNG files by the names that it gives them.

    What is null there, or empty, is left out of the page or said in words.
    """
    environment().filters |= {"share": share, "compact": _compact, "span": drawings.span}
    runs = content["runs"]
    text: str = rendered(
        "explain.html",
        title=_title(runs),
        subtitle=_subtitle(content),
        files=["explain.json", "scores.csv", "where.csv"],
        content=content,
        several=len(runs) > 1,
        kinds=KINDS,
        forms=FORMS,
        height=drawings.HEIGHT,
        cards=_cards(content),
        answers=[_answer(run) for run in runs],
        scores=_scores(runs),
        effects=_effects(content),
        organs=_organs(content),
        single=[each for run in runs if (each := _single(run, bool(content["reference"])))],
        between=_between(content),
        computes=[_computes(run) for run in runs if run["plugins"]],
        maps=_maps(runs, pictures),
        folded_after=_PICTURES,
        acts=[_acts(run) for run in runs if run.get("where")],
        errors=[(run["name"], found) for run in runs if (found := (run.get("where") or {}).get("errors"))],
        attributions=_attributions(runs, pictures),
        colours={name: organ_of(name).colour for name in content["labels"].values()},
    )
    return text


def share(value: float | None) -> str:
    """A share as per cent, with two digits that count."""
    if value is None:
        return "–"
    percent = 100 * value
    if 0 < abs(percent) < 0.005:
        return "< 0.01 %"
    return f"{percent:.{0 if abs(percent) >= 9.95 else 1 if abs(percent) >= 0.995 else 2}f} %"


def _compact(value: float | None) -> str:
    return "–" if value is None else compact(value)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _title(runs: Sequence[Content]) -> str:
    attentive = [run for run in runs if run["plugins"]] or list(runs)
    what = attentive[0].get("title") or attentive[0]["name"]
    return f"What the plug-ins of {what} do" if len(runs) == 1 else f"What the plug-ins of {len(runs)} runs do"


def _subtitle(content: Content) -> str:
    seen = "slices" if content["spatial_dims"] == 2 else "windows"
    against = (
        f"scored against a reference by protocol {content['protocol']}"
        if content["reference"]
        else "without a reference: masks are compared with the unchanged network’s"
    )
    cases, organs = _count(len(content["cases"]), "case"), _count(len(content["labels"]), "organ")
    return f"{cases}, {organs}, {content['images']} {seen}; {against}"


def _cards(content: Content) -> list[tuple[str, str, str]]:
    """(kind, number, words): what each run loses without its plug-ins, then how many cases and plug-ins."""
    runs = [run for run in content["runs"] if run["interventions"]]
    cards = []
    for run in runs[:_RUN_CARDS]:
        found = _of(run, EVERY, "identity")
        if found is None:
            continue
        whose = f" of {run['name']}" if len(content["runs"]) > 1 else ""
        dice, agreement = found["mean"].get("dice"), found["mean"].get("agreement")
        if dice and dice["difference"] is not None:
            cards.append(
                ("main", number(dice["difference"], 4, "+"), f"change in Dice, the plug-ins{whose} taken out")
            )
        elif agreement and agreement["mean"] is not None:
            words = f"Dice with the unchanged mask, the plug-ins{whose} taken out"
            cards.append(("main", number(agreement["mean"], 4), words))
        kept = run["image_dependence"]["dice"].get("share_kept_by_constant")
        if len(runs) == 1 and kept is not None:
            cards.append(("", share(kept), "of that effect stays when the gates are made constant"))
    cards.append(("", str(len(content["cases"])), "case" if len(content["cases"]) == 1 else "cases"))
    if content.get("failed"):
        cards.append(("alarm", str(len(content["failed"])), "failed"))
    if len(content["runs"]) == 1:
        many = len(content["runs"][0]["plugins"])
        cards.append(("", str(many), "plug-in" if many == 1 else "plug-ins"))
    return cards


def _answer(run: Content) -> dict[str, Any]:
    words = (run.get("image_dependence") or {}).get("words") or ""
    if not run["plugins"]:
        words = "It has no plug-in, so there is nothing to replace; it stands here for comparison."
    classes = [plugin["class"] for plugin in run["plugins"].values()]
    kinds = ", ".join(f"{len(list(own))} × {name}" for name, own in groupby(sorted(classes)))
    return {"run": run["name"], "title": run.get("title") or "", "words": words, "plugins": kinds}


def _scores(runs: Sequence[Content]) -> list[tuple[str, Content]]:
    return [(run["name"], run["scores"]) for run in runs if run.get("scores")]


def _of(run: Content, plugin: str, kind: str) -> Content | None:
    """One intervention of a run; that of its only plug-in stands for all."""
    for name in (plugin, *([*run["plugins"]] if len(run["plugins"]) == 1 else [])):
        for each in run["interventions"]:
            if (each["plugin"], each["kind"]) == (name, kind):
                return dict(each)
    return None


def _measures(reference: bool) -> list[dict[str, Any]]:
    """What a forest plot shows, by what there is to compare with."""
    if not reference:
        return [
            {"key": "agreement", "title": "Dice with the unchanged mask", "digits": 4, "sign": "", "zero": 1.0}
            | {"value": "mean", "left": "mask changes", "right": "same mask"}
        ]
    dice = {"key": "dice", "title": "Dice", "digits": 4, "left": "score loses", "right": "score gains"}
    hd95 = {"key": "hd95_mm", "title": "HD95, mm", "digits": 2, "left": "surfaces nearer", "right": "farther"}
    return [each | {"sign": "+", "zero": 0.0, "value": "difference"} for each in (dice, hd95)]


def _row(entry: Content | None, measure: Content, group: str, who: str) -> dict[str, Any]:
    """A row of a forest plot, as drawings.effects_forest wants it; `value` and `ends` are what is written."""
    found = entry or {}
    value, ends, zero = found.get(measure["value"]), found.get("ci95"), measure["zero"]
    return {
        "group": group,
        "who": who,
        "value": value,
        "ends": ends,
        "n": found.get("n", 0),
        "difference": None if value is None else value - zero,
        "ci95": None if ends is None else [end - zero for end in ends],
    }


def _drawn(rows: Sequence[dict[str, Any]], measure: Content) -> dict[str, Any] | None:
    plot = drawings.effects_forest(rows, measure["zero"], measure["left"], measure["right"])
    return None if plot is None else {**measure, **plot, "folded": len(rows) > _OPEN}


def _effects(content: Content) -> list[dict[str, Any]]:
    """A forest plot for each measure: every run and kind, mean over organs, all plug-ins together."""
    plots = []
    for measure in _measures(content["reference"]):
        rows = [
            _row(found["mean"].get(measure["key"]), measure, _run_of(run, content), words)
            for run in content["runs"]
            for kind, words in KINDS.items()
            if (found := _of(run, EVERY, kind))
        ]
        plots.append(_drawn(rows, measure))
    return [plot for plot in plots if plot]


def _run_of(run: Content, content: Content) -> str:
    """Its name, where there are several."""
    return str(run["name"]) if len(content["runs"]) > 1 else ""


def _organs(content: Content) -> list[dict[str, Any]]:
    """For each run its forest plots organ by organ, and the table of all measures."""
    found = []
    for run in content["runs"]:
        own = {kind: each for kind in KINDS if (each := _of(run, EVERY, kind))}
        if not own:
            continue
        plots = [
            _drawn(
                [
                    _row(each["labels"][name].get(measure["key"]), measure, name, KINDS[kind])
                    for name in content["labels"].values()
                    for kind, each in own.items()
                    if name in each["labels"]
                ],
                measure,
            )
            for measure in _measures(content["reference"])
        ]
        found.append({"run": run["name"], "kinds": own, "plots": [plot for plot in plots if plot]})
    return found


def _single(run: Content, reference: bool) -> dict[str, Any] | None:
    """Each plug-in replaced by itself, the others as they are; None where that was not asked for."""
    if len(run["plugins"]) < 2:
        return None
    key, value = ("dice", "difference") if reference else ("agreement", "mean")
    rows: dict[str, dict[str, Any]] = {}
    for each in run["interventions"]:
        if each["plugin"] != EVERY:
            found = each["mean"].get(key) or {}
            rows.setdefault(each["plugin"], {})[each["kind"]] = (found.get(value), found.get("ci95"))
    kinds = {kind: words for kind, words in KINDS.items() if any(kind in own for own in rows.values())}
    return {"run": run["name"], "rows": rows, "kinds": kinds, "signed": reference} if rows else None


def _between(content: Content) -> dict[str, Any] | None:
    """The runs against one another: `second` less `first`, mean over organs and organ by organ."""
    pairs = content.get("between") or []
    measures = _measures(True)
    measures[0] |= {"left": "first better", "right": "second better"}
    measures[1] |= {"left": "second better", "right": "first better"}
    plots = []
    for measure in measures:
        rows = [
            _row(pair["mean"].get(measure["key"]), measure, "", f"{pair['second']} − {pair['first']}")
            for pair in pairs
        ]
        plots.append(_drawn(rows, measure))
    return {"plots": [plot for plot in plots if plot], "pairs": pairs} if any(plots) else None


def _computes(run: Content) -> dict[str, Any]:
    """A run's plug-ins, each with the profiles of its gates."""
    plugins = []
    for name, plugin in run["plugins"].items():
        profiles = {gate: drawings.profile(gate, own) for gate, own in plugin["gates"].items()}
        plugins.append({**plugin, "name": name, "profiles": profiles})
    return {"run": run["name"], "plugins": plugins, "shown": plugins[:_CARDS], "folded": plugins[_CARDS:]}


def _maps(runs: Sequence[Content], pictures: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """The pictures by case and slice, the runs side by side."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for run in runs:
        for picture in run.get("pictures") or ():
            shown = {**picture, "run": run["name"], "source": _address(picture["file"], pictures)}
            found.setdefault((picture["case"], picture["slice"]), []).append(shown)
    order = {run["name"]: place for place, run in enumerate(runs)}
    return [
        {
            "case": case,
            "slice": number,
            "pictures": sorted(own, key=lambda each: (each["plugin"], each["gate"], order[each["run"]])),
        }
        for (case, number), own in found.items()
    ]


def _address(name: str | None, pictures: Mapping[str, bytes]) -> str | None:
    """The picture itself as an address; None where there is none."""
    if name is None or name not in pictures:
        return None
    return "data:image/png;base64," + b64encode(pictures[name]).decode("ascii")


def _acts(run: Content) -> dict[str, Any]:
    where = run["where"]
    by_size = where.get("by_size") or {}
    return {
        "run": run["name"],
        "labels": where.get("labels") or {},
        "size": drawings.size_scatter(by_size.get("points") or ()),
        "spearman": by_size.get("spearman"),
        "p": by_size.get("p"),
        "border": drawings.border_bars(where.get("by_border_mm") or ()),
        "calibration": drawings.calibration_lines(where.get("calibration") or ()),
        "bins": where.get("calibration") or (),
        "of": where.get("calibration_of") or "size of the correction",
        "counted": where.get("counted"),
    }


def _attributions(runs: Sequence[Content], pictures: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [
        {
            **run["attribution"],
            "run": run["name"],
            "maps": [
                (words, address)
                for words, name in (("Grad-CAM", "grad_cam"), ("Occlusion", "occlusion"))
                if (address := _address(run["attribution"].get(name), pictures))
            ],
        }
        for run in runs
        if run.get("attribution")
    ]
