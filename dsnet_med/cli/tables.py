"""Lists of what there is, as tables or JSON."""

import json
from collections import Counter
from collections.abc import Sequence

import typer

from dsnet_med.methods import method_ids, method_row, natural_method_ids
from dsnet_med.prepare.recipe import Recipe, load_recipe, recipe_ids
from dsnet_med.prepare.splits import SPLITS, FoldedSplit, SeededSplit

_METHOD_COLUMNS = ("id", "title", "dimensions", "backbone", "plugin", "place", "head", "parameters")
_RECIPE_COLUMNS = ("id", "title", "modality", "classes", "splits")


def methods(as_json: bool) -> None:
    """Print the rows of the comparison."""
    rows = [method_row(method) for method in (*method_ids(), *natural_method_ids())]
    cards = [{**row["method_card"], "dimensions": row.get("spatial_dims", 2)} for row in rows]
    if as_json:
        typer.echo(json.dumps(cards, indent=2))
        return
    _table(_METHOD_COLUMNS, [[str(card[column]) for column in _METHOD_COLUMNS] for card in cards])


def datasets(as_json: bool) -> None:
    """Print the recipes."""
    recipes = [load_recipe(name) for name in recipe_ids()]
    if as_json:
        typer.echo(json.dumps([recipe.as_dict() for recipe in recipes], indent=2))
        return
    rows = [
        [
            recipe.id,
            recipe.title,
            recipe.modality,
            str(len(recipe.classes) or "as described"),
            _split_words(recipe),
        ]
        for recipe in recipes
    ]
    _table(_RECIPE_COLUMNS, rows)


def _split_words(recipe: Recipe) -> str:
    if isinstance(recipe.splits, SeededSplit):
        return f"seeded, {recipe.splits.val:.0%} val, {recipe.splits.test:.0%} test"
    if isinstance(recipe.splits, FoldedSplit):
        return f"{recipe.splits.folds} folds, {recipe.splits.test:.0%} test"
    counts = Counter(recipe.splits.values())
    return ", ".join(f"{counts[split]} {split}" for split in SPLITS if counts[split])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, *rows]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
