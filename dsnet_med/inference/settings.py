"""The plain values of a model's configuration that say how volumes are handed to its network, checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError, first_of, shown, unknown
from dsnet_med.geometry import SliceAxis
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.regions import Region, parse

FITS = ("resize", "window")
ONE_CHANNEL = "image"  # what the channel of a store without names is called
_SLICE_AXES: tuple[SliceAxis, ...] = ("superior", "coarsest")
_LARGEST = 8192
_COARSEST_MM = 1000.0


def settings_from(path: Path | str, config: Mapping[str, Any]) -> dict[str, Any]:
    """`size`, `fit`, `intensities`, `slice_axis`, `class_names`, `in_channels`, `channel_names`, `spacing_mm`,
    `resample_channels` and `regions`. Raises InputError, which names `path`.
    """
    names, size = config.get("class_names"), config.get("size")
    _require_names(path, "class_names", names, 2, "background first")
    dimensions = config.get("spatial_dims", 2)
    if dimensions not in (2, 3) or type(dimensions) is not int:
        raise InputError(f"{path}: spatial_dims is {shown(dimensions)}, wanted 2 or 3")
    lengths = size if isinstance(size, list) else []
    if len(lengths) != dimensions or not all(type(n) is int and 0 < n <= _LARGEST for n in lengths):
        wanted = "[rows, columns]" if dimensions == 2 else "[slices, rows, columns]"
        raise InputError(f"{path}: size is {shown(size)}, wanted {wanted}, at most {_LARGEST}")
    settings = {
        "fit": config.get("fit", FITS[0] if dimensions == 2 else FITS[1]),
        "slice_axis": config.get("slice_axis", _SLICE_AXES[0]),
    }
    for name, known in (("fit", FITS if dimensions == 2 else FITS[1:]), ("slice_axis", _SLICE_AXES)):
        if settings[name] not in known:
            raise unknown(name, str(settings[name]), known)
    channels = _channels(path, config)
    return settings | {
        "size": tuple(lengths),
        "class_names": tuple(names or ()),
        "intensities": _intensities(path, config.get("intensity"), len(channels)),
        "in_channels": config.get("in_channels", len(channels)),
        "channel_names": channels,
        "spacing_mm": _spacing(path, config.get("spacing_mm")),
        "resample_channels": config.get("resample_channels", False) is True,
        "regions": _regions(path, config.get("regions"), names or ()),
    }


def _require_names(path: Path | str, what: str, names: Any, least: int, more: str) -> None:
    if not isinstance(names, list) or len(names) < least or not all(_is_name(name) for name in names):
        raise InputError(f"{path}: {what} is {shown(names)}, wanted a list of names, {more}")
    if len(set(names)) < len(names):
        raise InputError(f"{path}: {what} has one name twice: {shown(names)}")


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isprintable() and bool(name.strip())


def _channels(path: Path | str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the channels of a volume, which are the network's, or one that it sees three times."""
    written, count = config.get("channel_names"), config.get("in_channels")
    if written is None:
        if count not in (None, 1, 3) or type(count) is bool:
            raise InputError(f"{path}: in_channels is {shown(count)}, wanted 1, or 3 for equal channels")
        return (ONE_CHANNEL,)
    _require_names(path, "channel_names", written, 1, "one for each channel")
    fits = count in (None, 1, 3) if len(written) == 1 else count in (None, len(written))
    if not fits or type(count) is bool:
        raise InputError(
            f"{path}: in_channels is {shown(count)}, and channel_names are {len(written)}: {first_of(written)}"
        )
    return tuple(written)


def _intensities(path: Path | str, written: Any, count: int) -> tuple[Intensity, ...]:
    """A rule for each channel: one for all, or a list of them."""
    rules = written if isinstance(written, list) else [written] * count
    if len(rules) != count:
        raise InputError(f"{path}: intensity has {len(rules)} rules, wanted one for each of {count} channels")
    return tuple(map(Intensity.from_dict, rules))


def _spacing(path: Path | str, written: Any) -> tuple[float, float, float] | None:
    if written is None:
        return None
    sizes = written if isinstance(written, list) else []
    numbers = [float(size) for size in sizes if isinstance(size, int | float) and type(size) is not bool]
    if not len(sizes) == len(numbers) == 3 or not all(0 < size <= _COARSEST_MM for size in numbers):
        raise InputError(f"{path}: spacing_mm is {shown(written)}, wanted [slice, row, column] in millimetres")
    return numbers[0], numbers[1], numbers[2]


def _regions(path: Path | str, written: Any, names: Any) -> tuple[Region, ...]:
    """The regions, none where classes exclude each other; each is written as one of the classes."""
    if written is None:
        return ()
    regions = parse(written)
    if other := [region.name for region in regions if region.value >= len(names)]:
        raise InputError(
            f"{path}: regions: {first_of(other)} is written with a value that none of the {len(names)} "
            "class_names has"
        )
    return regions
