"""The words of a bundle: a model card as the Model Zoo and the hub have it, licences, a certificate's page."""

import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import jinja2

from dsnet_med import resources
from dsnet_med.errors import InputError, cannot_read, one_line, shown
from dsnet_med.files import read_json, write_text
from dsnet_med.inference.bundle_reader import Model
from dsnet_med.prepare.recipe import load_recipe, recipe_ids
from dsnet_med.prepare.store import Store
from dsnet_med.seal import holds
from dsnet_med.yaml_core import read_yaml

PAPER = "Does the Attention Mechanism Act As a Correction Factor? (DSNet)"
_HUB = {
    "apache-2.0": "apache-2.0",
    "mit": "mit",
    "bsd-3-clause": "bsd-3-clause",
    "cc-by-4.0": "cc-by-4.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0": "cc-by-nc-sa-4.0",
    "cc0-1.0": "cc0-1.0",
}
_UNKNOWN = "not stated; ask the authors"
_WEIGHTS = {"True": "ImageNet", "False": "random"}


@dataclass(frozen=True)
class Words:
    """What the one who exports says. `licence` is a name such as Apache-2.0, or a file with its text."""

    author: str = ""
    licence: str = "Apache-2.0"
    data_source: str = ""

    def checked(self) -> "Words":
        """Itself. Raises InputError for texts of several lines, and for an empty licence."""
        for name, text in vars(self).items():
            if not text.isprintable():
                raise InputError(f"got {shown(text)} for {name.replace('_', ' ')}: wanted one line of text")
        if not self.licence:
            raise InputError("got an empty licence: give a name such as Apache-2.0, or a file with its text")
        return self

    @property
    def licence_name(self) -> str:
        """The licence's name, of a file its own."""
        return Path(self.licence).stem if Path(self.licence).is_file() else self.licence


@dataclass(frozen=True)
class Facts:
    """What is known of the data: the recipe, as far as it is, and how many cases each split had."""

    recipe: Mapping[str, Any]
    splits: Mapping[str, int]

    @property
    def modality(self) -> str:
        """CT, MR or what the recipe says; nothing where it says nothing."""
        text = self.recipe.get("modality")
        return text if isinstance(text, str) and text.isupper() else ""


@dataclass(frozen=True)
class Told:
    """All that the words are made of; `scores` is a summary.json of `evaluate`, where one is given."""

    words: Words
    facts: Facts
    metadata: Mapping[str, Any]
    scores: Mapping[str, Any] | None


def facts_of(summary: Mapping[str, Any], store: Store | None) -> Facts:
    """What a run's summary, its store and the recipes that came with this package say of the data."""
    cases = summary.get("cases")
    splits = {name: len(found) for name, found in cases.items()} if isinstance(cases, Mapping) else {}
    if store is not None:
        splits |= {"test": len(store.splits.get("test", ()))} if "test" not in splits else {}
        return Facts(store.recipe, splits)
    name = summary.get("recipe")
    if name in recipe_ids() and load_recipe(str(name)).hash == summary.get("recipe_hash"):
        return Facts(read_yaml(resources.data_prep() / str(name) / "recipe.yaml"), splits)
    return Facts({"id": str(name or "unknown")}, splits)


def write_licences(out: Path, words: Words, facts: Facts) -> None:
    """LICENSE, and docs/data_license.txt. Raises InputError where the licence's text cannot be had."""
    file = Path(words.licence)
    if file.is_file():
        shutil.copyfile(file, out / "LICENSE")
    elif words.licence.lower() == "apache-2.0":
        write_text(out / "LICENSE", _apache())
    else:
        text = f"{words.licence}, whose text is published under that name.\n"
        text += f"Copyright: {words.author or 'the authors'}.\n"
        write_text(out / "LICENSE", text)
    recipe = facts.recipe
    lines = [
        f"Data: {recipe.get('title', recipe.get('id', 'unknown'))}",
        f"Source: {words.data_source or recipe.get('source', _UNKNOWN)}",
        f"Licence: {recipe.get('licence', _UNKNOWN)}",
        *([str(recipe["citation"])] if recipe.get("citation") else []),
        "",
        "The weights were learnt from these data; none of the images are in this bundle.",
    ]
    write_text(out / "docs" / "data_license.txt", "\n".join(lines) + "\n")


def write_card(out: Path, model: Model, told: Told, certificate: Mapping[str, Any]) -> None:
    """docs/README.md of the bundle in `out`."""
    summary, words, facts, metadata, scores = model.facts, told.words, told.facts, told.metadata, told.scores
    scripts = sorted(path.relative_to(out).as_posix() for path in (out / "scripts").glob("*.py"))
    validation = (
        summary.get("best", {}).get("val_mean_dice") if isinstance(summary.get("best"), Mapping) else None
    )
    licence = words.licence_name
    text = _rendered(
        "card.md",
        name=metadata["name"],
        title=model.title,
        description=str(metadata["description"]).rstrip(".") + ".",
        licence={
            "hub": _HUB.get(licence.lower(), "other"),
            "name": licence,
            "words": f"{licence}, see LICENSE.",
        },
        modality=facts.modality,
        organs=[name.replace("_", " ") for name in _scored(model)],
        recipe={"id": "unknown"} | dict(facts.recipe),
        source=words.data_source or facts.recipe.get("source", _UNKNOWN),
        data_licence=facts.recipe.get("licence", _UNKNOWN),
        splits=facts.splits,
        selected_on="test cases, as the reference does: scores on these flatter it"
        if summary.get("select_on") == "test"
        else "validation cases, which no score below counts",
        training=_training(summary),
        scores=None if scores is None else _scores(scores),
        validation=None if validation is None else f"{validation:.4f}",
        intensity=_intensity(model),
        fit=model.fit,
        dimensions=model.spatial_dims,
        channels=[name.replace("_", " ") for name in model.channel_names],
        spacing=None if model.spacing_mm is None else " x ".join(f"{side:g}" for side in model.spacing_mm),
        size="x".join(map(str, model.size)),
        scripts=scripts,
        forms=_forms(certificate),
        left_out=certificate["left_out"],
        references=list(dict.fromkeys([*_papers(summary), PAPER])),
        authors=words.author,
        tracker=summary.get("tracker") or [],
    )
    write_text(out / "docs" / "README.md", text)


def write_page(out: Path, certificate: Mapping[str, Any]) -> None:
    """docs/certificate.md."""
    write_text(
        out / "docs" / "certificate.md",
        _rendered(
            "certificate.md",
            **certificate,
            shown=lambda value: "" if not isinstance(value, float) else f"{value:.1e}" if value else "0",
            share=lambda value: "" if not isinstance(value, float) else f"{100 * value:.4f} %",
            megabytes=lambda value: "" if not isinstance(value, int) else f"{value / 1e6:.0f}",
        ),
    )


def read_scores(file: Path) -> dict[str, Any]:
    """What a summary.json of `evaluate` says. Raises InputError where it is none or was changed since."""
    file = file / "summary.json" if file.is_dir() else file
    try:
        content = read_json(file)
        if holds(content) is False:
            raise InputError(f"{file}: was changed since evaluate wrote it; evaluate again")
        _scores(content)
        return dict(content)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise cannot_read(file, error, f"not a summary.json of evaluate ({one_line(error)})") from error


def require_of_model(scores: Mapping[str, Any], model: Model, where: Path) -> None:
    """Raise InputError where scores are of other classes than the model's, or of masks of another run."""
    if strange := [name for name in scores["labels"] if name not in {*model.class_names, *_scored(model)}]:
        raise InputError(
            f"{where}: scores '{strange[0]}', which this model does not segment; give its own scores"
        )
    run, method = scores.get("run") or {}, model.facts.get("method")
    if "members" in model.facts:  # infer says of several runs together what they agree in
        return
    own = {"method": method.get("title") if isinstance(method, Mapping) else None}
    own |= {name: model.facts.get(name) for name in ("recipe", "seed", "iterations")}
    for name, value in own.items():
        if value is not None and name in run and run[name] != value:
            raise InputError(
                f"{where}: is of masks of another run, {name} {shown(run[name])} and not {shown(value)}; "
                "evaluate the masks of this one"
            )


def _scores(summary: Mapping[str, Any]) -> dict[str, Any]:
    unit = summary["hd95"]["unit"]
    rows = {}
    for name, entry in summary["labels"].items():
        dice, distance = entry["dice"], entry[f"hd95_{unit}"]
        rows[name] = _row(dice["mean"], dice.get("ci95"), distance["mean"], dice["n"])
    mean, interval = summary["mean"], summary.get("mean_ci95", {})
    rows["mean"] = _row(mean["dice"], interval.get("dice"), mean[f"hd95_{unit}"], summary["cases"])
    run = summary.get("run") or {}
    return {
        "protocol": summary["protocol"],
        "unit": unit,
        "rows": rows,
        "mean": {"dice": mean["dice"] if mean["dice"] is not None else float("nan")},
        "headline": f"{str(summary.get('headline') or str(summary['cases']) + ' cases').rstrip('.')}.",
        "data": str(run.get("recipe", "cases of the user")),
    }


def _row(dice: float | None, interval: Any, distance: float | None, count: int) -> dict[str, Any]:
    two = isinstance(interval, list) and None not in interval
    return {
        "dice": "" if dice is None else f"{dice:.4f}",
        "interval": f"{interval[0]:.4f} to {interval[1]:.4f}" if two else "",
        "hd95": "" if distance is None else f"{distance:.2f}",
        "n": count,
    }


def _training(summary: Mapping[str, Any]) -> dict[str, Any]:
    found = summary.get("method")
    method: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    told = {
        "network": method.get("title"),
        "backbone": method.get("backbone"),
        "plug-in": method.get("plugin"),
        "place": method.get("place"),
        "head": method.get("head"),
        "parameters": summary.get("parameters"),
        "steps of the optimiser": summary.get("iterations"),
        f"{_seen(summary)} a step": summary.get("batch_size"),
        "size": "x".join(map(str, summary["size"])) if isinstance(summary.get("size"), list) else None,
        "seed": summary.get("seed"),
        "best at step": summary["best"].get("iteration") if isinstance(summary.get("best"), Mapping) else None,
        "starting weights": _WEIGHTS.get(str(summary.get("pretrained")), summary.get("pretrained")),
        "members": "; ".join(
            f"{each['title']}, seed {each.get('seed', 'unknown')}" for each in summary.get("members", ())
        )
        or None,
    }
    return {name: _cell(value) for name, value in told.items() if value is not None} or {"": "not known here"}


def _seen(summary: Mapping[str, Any]) -> str:
    size = summary.get("size")
    return "patches" if isinstance(size, list) and len(size) == 3 else "slices"


def _cell(value: Any) -> str:
    return one_line(str(value)).replace("|", "\\|")


def _papers(summary: Mapping[str, Any]) -> list[str]:
    methods = [summary.get("method"), *(each.get("method") for each in summary.get("members", ()))]
    return [str(each["paper"]) for each in methods if isinstance(each, Mapping) and each.get("paper")]


def _scored(model: Model) -> list[str]:
    """What the network tells apart: regions, or classes but for the background."""
    return [region.name for region in model.regions] or list(model.class_names[1:])


def _intensity(model: Model) -> str:
    told = []
    for name, intensity in zip(model.channel_names, model.intensities, strict=True):
        rule, value = next(iter(intensity.as_dict().items()))
        words = f"{rule.replace('_', ' ')} {value}"
        told.append(words if len(model.intensities) == 1 else f"{name} {words}")
    return "; ".join(told)


def _forms(certificate: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for name, form in certificate["formats"].items():
        if name == "eager":
            continue
        takes = _taken(name, form, len(certificate["channels"]), certificate["sees"])
        difference, equal = form.get("largest_difference"), form.get("equal_voxels")
        rows.append(
            {
                "name": name,
                "file": form["file"],
                "takes": takes,
                "difference": "" if difference is None else f"{difference:.1e}",
                "equal": "" if equal is None else f"{100 * equal:.3f} %",
            }
        )
    return rows


def _taken(name: str, form: Mapping[str, Any], channels: int, seen: str) -> str:
    """What a form of the network takes, in words."""
    if name == "bundle":
        return "NIfTI files"
    if seen == "window":
        return f"windows (B, {channels}, D, H, W), {form.get('sizes')}"
    if name == "torchscript":
        return f"volumes (B, {channels}, D, H, W) of any size"
    sizes = "any size" if form.get("sizes") == "any" else form.get("sizes")
    return f"slices (B, {channels}, H, W), {sizes}"


def _apache() -> str:
    """The text of the licence of this package, which is Apache's, from its metadata or the checkout."""
    places = [resources.configs().parent / "LICENSE"]
    with suppress(PackageNotFoundError):
        places += [Path(str(file.locate())) for file in files("dsnet-med") or () if file.name == "LICENSE"]
    for place in places:
        if place.is_file():
            return place.read_text(encoding="utf-8")
    raise InputError("the text of Apache-2.0 is not installed here; give a file: --licence FILE")


def _rendered(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dsnet_med.engine.export"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return re.sub(r"\n{3,}", "\n\n", environment.get_template(template).render(**values))
