"""Which subjects a small synthetic data set holds: names of the published split, in its proportions."""

from collections.abc import Sequence

from dsnet_med.errors import InputError
from dsnet_med.prepare.recipe import load_recipe
from dsnet_med.prepare.splits import SeededSplit

_ORDER = ("train", "test", "val")


def choose_subjects(recipe_id: str, count: int) -> list[str]:
    """The first `count` (at least 2) subjects when those of every split are spread evenly; sorted by name.

    Two subjects are one for training and one for testing. Raises InputError when the recipe lists fewer.
    """
    listed = load_recipe(recipe_id).splits
    if isinstance(listed, SeededSplit):
        raise InputError(f"recipe '{recipe_id}' lists no subjects; a phantom needs their names")
    names = {split: sorted(s for s, own in listed.items() if own == split) for split in _ORDER}
    known = sum(len(subjects) for subjects in names.values())
    if not 2 <= count <= known:
        raise InputError(f"a {recipe_id} phantom of {count} cases; wanted 2 to {known}")
    ranked = sorted(
        (place / len(subjects), _ORDER.index(split), subject)
        for split, subjects in names.items()
        for place, subject in enumerate(subjects)
    )
    return sorted(subject for _, _, subject in ranked[:count])


def require_size(size: Sequence[int], smallest: Sequence[int]) -> None:
    """Raise InputError unless `size` (H, W, D) is at least `smallest`."""
    if any(n < least for n, least in zip(size, smallest, strict=True)):
        got, wanted = ("x".join(map(str, triple)) for triple in (size, smallest))
        raise InputError(f"a phantom of {got} voxels (HxWxD); wanted at least {wanted}")
