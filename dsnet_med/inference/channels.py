"""The channels of one case, read: on one grid, each the one that its name says."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dsnet_med.errors import InputError, first_of
from dsnet_med.geometry import same_grid
from dsnet_med.inference.sources import Source, find_sources, load
from dsnet_med.prepare.reading import on_grid_of
from dsnet_med.volumes import Grid, Volume, read_channels, unchanged

if TYPE_CHECKING:
    from dsnet_med.dicom.series import Series


def load_channels(
    source: Source,
    names: Sequence[str],
    volume_index: int | None = None,
    series: str | None = None,
    *,
    hashed: bool = False,
    resample: bool = False,
) -> tuple[Volume, ...]:
    """The volumes of a source, one for each of `names`, with the digests of its files where `hashed`.

    With `resample` those on other grids come on that of the first, else they are refused.

    `series` takes DICOM series: one for each name, by number or UID, "2,5" or "t1=2,flair=5"; without it they
    are told by their descriptions. Raises InputError, which names the file or the channel.
    """
    if source.refused is not None:
        raise InputError(source.refused)
    if source.parts and len(source.parts) != len(names):
        raise InputError(wrong_count(source.where, len(source.parts), names))
    if len(names) == 1:
        return (load(source, volume_index, series, hashed=hashed),)
    if volume_index is not None:
        raise InputError(
            f"{source.where}: got --volume-index {volume_index}, which takes one volume; this model sees "
            f"{len(names)} channels: {first_of(names)}"
        )
    if source.parts:
        each = split_series(series, names)
        volumes = [
            load(part, None, one if part.kind == "dicom" else None, hashed=hashed)
            for part, one in zip(source.parts, each, strict=True)
        ]
        return on_one_grid(volumes, names, resample=resample)
    if source.kind == "dicom":
        return on_one_grid(_of_series(source, names, series, hashed), names, resample=resample)
    if series is not None:
        raise InputError(f"{source.where}: got --series {series} for a file; it picks among DICOM series")
    return read_channels(source.where, names, hashed=hashed)


def wrong_count(where: Path, count: int, names: Sequence[str]) -> str:
    """What is wrong with `count` images of a case for channels called `names`."""
    images = "one image" if count == 1 else f"{count} images"
    return f"{where}: is of {images}, wanted {len(names)}, one for each channel: {first_of(names)}"


def only_source(path: Path, names: Sequence[str]) -> Source:
    """The one case of a path. Raises InputError."""
    sources = find_sources([path], channels=names)
    if len(sources) != 1:
        raise InputError(f"{path}: holds {len(sources)} cases, wanted one; give one of them")
    return sources[0]


def on_one_grid(volumes: Sequence[Volume], names: Sequence[str], *, resample: bool) -> tuple[Volume, ...]:
    """The volumes; with `resample` on the grid of the first. Raises InputError as `require_one_grid`."""
    if resample:
        first = volumes[0]
        volumes = [each if _together(first, each) else on_grid_of(first, each) for each in volumes]
    require_one_grid(volumes, names)
    return tuple(volumes)


def _together(first: Grid, other: Grid) -> bool:
    return same_grid(first.shape, first.affine, other.shape, other.affine)


def require_one_grid(grids: Sequence[Grid], names: Sequence[str]) -> None:
    """Raise InputError, which names the channel, for one on another grid than the first."""
    first = grids[0]
    for name, grid in zip(names[1:], grids[1:], strict=True):
        if _together(first, grid):
            continue
        other = f"lies elsewhere than {names[0]} ({first.path.name})"
        if first.shape != grid.shape:
            other = f"has the shape {grid.shape}, and {names[0]} ({first.path.name}) {first.shape}"
        raise InputError(f"{grid.path}: channel {name} {other}; resample the channels to one grid first")


def split_series(series: str | None, names: Sequence[str]) -> list[str | None]:
    """The series for each channel that `--series` asks for. Raises InputError."""
    if series is None:
        return [None] * len(names)
    parts = [part.strip() for part in series.split(",")]
    told = dict(part.split("=", 1) for part in parts if "=" in part)
    if told and len(told) == len(parts) and told.keys() == set(names):
        return [told[name].strip() for name in names]
    if told or len(parts) != len(names) or not all(parts):
        form = ",".join(f"{name}=NUMBER" for name in names)
        raise InputError(f"got --series {series}, wanted a series for each channel: {form}")
    return list(parts)


def _of_series(source: Source, names: Sequence[str], series: str | None, hashed: bool) -> list[Volume]:
    """Several series of one folder."""
    from dsnet_med.dicom.read import read_series  # noqa: PLC0415 -- an extra, and its decoders take time to load
    from dsnet_med.dicom.series import choose, find_series, require_usable  # noqa: PLC0415

    with unchanged(source.files if hashed else ()) as digests:
        found = find_series(source.files)
        chosen = [
            choose(found, wanted, source.where)[0]
            if wanted is not None
            else require_usable(_called(name, found, names, source.where), source.where)
            for name, wanted in zip(names, split_series(series, names), strict=True)
        ]
        if twice := [name for name, one in zip(names, chosen, strict=True) if chosen.count(one) > 1]:
            raise InputError(
                f"{source.where}: {' and '.join(twice)} are one series; wanted one for each channel"
            )
        return [replace(read_series(one), digests=digests) for one in chosen]


def _called(name: str, series: Sequence["Series"], names: Sequence[str], where: Path) -> "Series":
    """The one series whose description is the name of a channel, or has it among its words."""
    usable = [one for one in series if one.reason is None and not one.localizer]
    fits = [one for one in usable if _words(one.description) == _words(name)]
    fits = fits or [one for one in usable if _words(name) in _words(one.description)]
    if len(fits) == 1:
        return fits[0]
    what = "no series is" if not fits else f"{len(fits)} series are"
    known = first_of((one.label for one in fits or series), 6)
    form = ",".join(f"{each}=NUMBER" for each in names)
    raise InputError(f"{where}: {what} called {name}; say --series {form}, of {known}")


def _words(text: str) -> str:
    """The words of a name alone, with a space around each."""
    words = " ".join(re.findall(r"[^\W_]+", text.casefold()))
    return f" {words} "
