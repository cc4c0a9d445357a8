"""What `import-checkpoint` does: a checkpoint of the published code becomes ours, checked against the row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from dsnet_med.errors import InputError


def import_checkpoint(
    file: Path, out: Path, *, method: str, num_classes: int, in_channels: int = 3, **options: Any
) -> None:
    """Write the weights of `file` under our names to `out`; `options` (such as width) are build_network's.

    Raises InputError for an unknown method, a checkpoint of another one, and other numbers of classes or input
    channels than the checkpoint's.
    """
    import torch

    from dsnet_med.methods import build_network
    from dsnet_med.networks.checkpoint import read_checkpoint, write_safetensors
    from dsnet_med.networks.reference import from_reference

    if out.suffix != ".safetensors":
        raise InputError(f"got --out {out}, wanted a name that ends in .safetensors")
    if out.exists():
        raise InputError(f"{out} is there already; choose another --out")
    with torch.device("meta"):
        network = build_network(method, in_channels=in_channels, num_classes=num_classes, **options)
    weights = from_reference(read_checkpoint(file), network)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    _check_shapes(
        {name: tuple(value.shape) for name, value in weights.items()}, wanted, in_channels, num_classes
    )
    facts = {"method": method, "num_classes": str(num_classes), "in_channels": str(in_channels)}
    write_safetensors(out, weights, facts)
    count = sum(value.numel() for value in weights.values() if value.is_floating_point())
    typer.echo(f"{len(weights)} entries, {count:,} values in {out}; load_state_dict takes them as they are")


Shapes = Mapping[str, tuple[int, ...]]


def _check_shapes(got: Shapes, wanted: Shapes, in_channels: int, num_classes: int) -> None:
    wrong = [name for name in wanted if got[name] != wanted[name]]
    for name in wrong:
        ours, theirs = wanted[name], got[name]
        if ours[:1] == (num_classes,) and theirs[1:] == ours[1:]:
            raise InputError(
                f"the checkpoint has {theirs[0]} classes and --num-classes is {num_classes}: give "
                f"--num-classes {theirs[0]}"
            )
        if ours[1:2] == (in_channels,) and theirs[:1] + theirs[2:] == ours[:1] + ours[2:]:
            raise InputError(
                f"the checkpoint takes {theirs[1]} input channels and --in-channels is {in_channels}: give "
                f"--in-channels {theirs[1]}"
            )
    if wrong:
        raise InputError(
            f"the checkpoint is not of this method: {len(wrong)} entries have other shapes, such as "
            f"'{wrong[0]}' with {got[wrong[0]]} where {wanted[wrong[0]]} is wanted"
        )
