"""The inputs of a bundle's inference workflow."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError, first_of, shown
from dsnet_med.inference.channels import require_one_grid
from dsnet_med.inference.settings import ONE_CHANNEL
from dsnet_med.inference.sources import find_sources
from dsnet_med.volumes import read_grid

_READ = (".nii", ".nii.gz")
Item = dict[str, Any]


def items(inputs: Any, channels: Sequence[str] = (ONE_CHANNEL,)) -> list[Item]:
    """NIfTI files as MONAI's data items, none where there are none, for which a run asks by `require`.

    `inputs` is a folder, a file or a pattern, or a list of these and of items ({"image": path, ...}). Of many
    `channels` the image is one 4-D file, or a list of files in their order. A workflow can be made, and asked
    for its properties, before its inputs are there.
    """
    with suppress(InputError):
        return _found(inputs, channels)
    return []


def require(data: Any, inputs: Any, channels: Sequence[str] = (ONE_CHANNEL,)) -> None:
    """Raise InputError, which says why, where a workflow's `data`, the items of its `inputs`, are none."""
    if data:
        return
    try:
        _found(inputs, channels)
    except InputError as error:
        raise InputError(f"{error} (--dataset_dir says what to segment)") from error


def _found(inputs: Any, channels: Sequence[str]) -> list[Item]:
    """The items of `inputs`. Raises InputError where there are none, or some that MONAI would not read."""
    every = inputs if isinstance(inputs, Sequence) and not isinstance(inputs, str) else [inputs]
    if not every:
        raise InputError("got an empty list of inputs, wanted .nii or .nii.gz files")
    return [item for each in every for item in _items_of(each, channels)]


def _items_of(each: Any, channels: Sequence[str]) -> list[Item]:
    if isinstance(each, Mapping):
        if "image" not in each:
            raise InputError(f"got an item without an image, {shown(dict(each))}; wanted {{image: FILE}}")
        return [{**each}]
    if not isinstance(each, str | Path):
        raise InputError(f"got {shown(each)} as input, wanted a folder or a .nii or .nii.gz file")
    sources = find_sources([Path(each)], channels=channels)
    if refused := next((source.refused for source in sources if source.refused), None):
        raise InputError(refused)
    files = [[part.where for part in source.parts or [source]] for source in sources]
    if others := [file for each in files for file in each if not file.name.endswith(_READ)]:
        raise InputError(
            f"{first_of(others, 3)}: no .nii or .nii.gz file, and a bundle's own inference reads no other; use "
            "dsnet-med infer, which does"
        )
    for several in files:
        if len(several) > 1:
            require_one_grid([read_grid(file) for file in several], channels)
    return [{"image": str(of[0]) if len(of) == 1 else [str(file) for file in of]} for of in files]
