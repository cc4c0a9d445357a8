"""What `train` and `phantom` do for natural images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from dsnet_med.cli.steps import bar, quiet_monai, run_settings, validated_ten_times
from dsnet_med.errors import InputError


def phantom(dataset: str, out: Path, images: int, seed: int, shape: Mapping[str, Any]) -> None:
    """Make a synthetic data set with `images` images to train on, and some to validate on."""
    from dsnet_med.natural.phantom import make_cityscapes, make_coco, make_imagenet

    make = {"imagenet": make_imagenet, "cityscapes": make_cityscapes, "coco": make_coco}[dataset]
    made = list(bar(make(out, images=images, seed=seed, **shape), None, "phantom"))
    typer.echo(f"{len(made)} {dataset} images, {images} of them to train on, in {out}")


def train(
    method: str,
    data: Path,
    out: Path,
    given: Mapping[str, Any],
    assignments: Sequence[str],
    device: str,
    plugin: str | None,
) -> dict[str, Any]:
    """Prepare a run folder and train it on a data set as published."""
    refused = {"--plugin": plugin, "--select-on": given["select_on"] != "val"}
    if names := [name for name, value in refused.items() if value]:
        raise InputError(f"got {names[0]} for {method}, which has none: leave it out")
    quiet_monai()
    from dsnet_med.natural.run import prepare_run

    by_epochs = not method.startswith("cityscapes/")  # validated after each
    settings = run_settings(given if by_epochs else validated_ten_times(given), assignments)
    del settings["select_on"]  # there is one set to validate on
    prepare_run(method, data, out, settings)
    return run(out, device, resume=False)


def run(out: Path, device: str, *, resume: bool) -> dict[str, Any]:
    """Train a prepared run folder."""
    from dsnet_med.inference.hardware import choose_device
    from dsnet_med.natural.run import train

    summary = train(out, {"device": f"$torch.device('{choose_device(device)}')", "resume": resume})
    (score, value), (_, iteration) = summary["best"].items()
    best = f"{value:.3f}" if value >= 0 else "not defined"
    typer.echo(
        f"{summary['method']['title']}: best {score} {best} at iteration {iteration}, "
        f"{summary['parameters']:,} parameters, {summary['seconds']:.0f} s, in {out}"
    )
    return summary
