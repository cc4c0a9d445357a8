"""Lists of what there is, as tables or JSON."""

import json
from collections.abc import Sequence

import typer

from dsnet_med.methods import method_ids, method_row
from dsnet_med.prepare.recipe import load_recipe, recipe_ids

_METHOD_COLUMNS = ("id", "title", "backbone", "plugin", "place", "head", "parameters")
_RECIPE_COLUMNS = ("id", "title", "modality", "classes", "splits", "licence")


def methods(as_json: bool) -> None:
    """Print the rows of the comparison."""
    cards = [method_row(method)["method_card"] for method in method_ids()]
    if as_json:
        typer.echo(json.dumps(cards, indent=2))
        return
    _table(_METHOD_COLUMNS, [[str(card[column]) for column in _METHOD_COLUMNS] for card in cards])


def datasets(as_json: bool) -> None:
    """Print the recipes."""
    rows = [_describe(name) for name in recipe_ids()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    shown = [{**row, "classes": len(row["classes"]), "splits": _counts(row["splits"])} for row in rows]
    _table(_RECIPE_COLUMNS, [[str(row[column]) for column in _RECIPE_COLUMNS] for row in shown])


def _describe(name: str) -> dict:  # type: ignore[type-arg]
    recipe = load_recipe(name)
    return {
        "id": recipe.id,
        "title": recipe.title,
        "source": recipe.source,
        "licence": recipe.licence,
        "modality": recipe.modality,
        "classes": list(recipe.classes),
        "splits": recipe.splits,
    }


def _counts(splits: object) -> str:
    return str(splits)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, *rows]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
