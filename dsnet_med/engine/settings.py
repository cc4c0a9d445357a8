"""What values settings may have, told in one line when a run is prepared and not in PyTorch's words at a step.

A setting that is not there, or that is an expression or a reference, is not looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from dsnet_med.errors import InputError, first_of

_SMALLEST = 32  # pixels of a side, of which a backbone leaves one
_LARGEST = 2**31 - 1


class _Rule(NamedTuple):
    holds: Callable[[Any], bool]
    wanted: str


def check_settings(config: Mapping[str, Any]) -> None:
    """Raise InputError for a value that cannot be, and for values that contradict each other."""
    for name, rule in _RULES.items():
        value = _value(config, name)
        if value is not None and not _is_open(value) and not rule.holds(value):
            raise InputError(f"got {name}={value}, wanted {rule.wanted}")
    smallest, largest = config.get("min_size"), config.get("max_size")
    if isinstance(smallest, int) and isinstance(largest, int) and smallest > largest:
        raise InputError(
            f"got min_size={smallest} and max_size={largest}, wanted a short side within the long one"
        )
    if config.get("task") == "imagenet" and isinstance(config.get("size"), list):
        raise InputError(f"got size={config['size']}, wanted one number, the side of a square")
    if config.get("task", "organs") != "organs" and config.get("in_channels") == 1:
        raise InputError("got in_channels=1, wanted 3: the images are read in colour")


def check_classes(config: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise InputError where `class_names` or `num_classes` contradict the classes that the data have."""
    names, count = config.get("class_names"), config.get("num_classes")
    listed = f"the {len(known)} classes of the data: {first_of(known)}"
    if isinstance(names, list) and (len(names) != len(known) or len(set(map(str, names))) < len(names)):
        raise InputError(f"got class_names={names}, wanted a name for each of {listed}")
    if count is not None and not _is_open(count) and count != len(known):
        raise InputError(f"got num_classes={count}, wanted {len(known)}, for {listed}")


def _value(config: Any, name: str) -> Any:
    for key in name.split("#"):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _is_open(value: Any) -> bool:
    """Whether MONAI finds out what the value is."""
    parts = value if isinstance(value, list) else [value]
    return any(isinstance(part, str) and part.startswith(("$", "@", "%")) for part in parts)


def _is_whole(value: Any, least: float = 0, most: float = _LARGEST) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any, least: float = 0, most: float = float("inf"), *, above: float | None = None) -> bool:
    number = type(value) in (int, float) and isfinite(value) and least <= value <= most
    return number and (above is None or value > above)


def _is_pair(value: Any, least: int) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_whole(each, least) for each in value)


def _one_of(*names: str) -> _Rule:
    return _Rule(lambda value: value in names, " or ".join((", ".join(names[:-1]), names[-1])))


def _milestones(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_whole, value)) and sorted(value) == value


_COUNT = _Rule(lambda value: _is_whole(value, 1), "a whole number, at least 1")
_WHOLE = _Rule(_is_whole, "a whole number, at least 0")
_WEIGHT = _Rule(_is_number, "a number, at least 0")
_SHARE = _Rule(lambda value: _is_number(value, most=1), "a number from 0 to 1")
_DECAY = _Rule(lambda value: _is_number(value) and value < 1, "a number from 0, and below 1")
_SIDE = _Rule(lambda value: _is_whole(value, _SMALLEST), f"a whole number of pixels, at least {_SMALLEST}")
_COUNTS = (
    *("iterations", "epochs", "steps_per_epoch", "validate_every", "checkpoint_every", "val_interval"),
    *("batch_size", "accumulate"),
)
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_COUNTS, _COUNT),
    **dict.fromkeys(("workers", "warmup", "early_stopping", "lr_scheduler#warmup"), _WHOLE),
    "in_channels": _Rule(lambda value: value in (1, 3), "1, or 3 for equal channels or colours"),
    "seed": _Rule(lambda value: _is_whole(value, most=2**63 - 1), "a whole number from 0 to 2^63 - 1"),
    "precision": _one_of("float32", "bfloat16", "float16"),
    "fit": _one_of("resize", "window"),
    "width": _Rule(lambda value: _is_number(value, most=16, above=0), "a number above 0, at most 16"),
    **dict.fromkeys(
        (
            *("clip", "learning_rate", "optimizer#lr", "optimizer#weight_decay"),
            *("lr_scheduler#floor", "lr_scheduler#power", "lr_scheduler#gamma"),
            *("loss#ce_weight", "loss#dice_weight", "loss#auxiliary_weight", "loss#presence_weight"),
        ),
        _WEIGHT,
    ),
    **dict.fromkeys(("ema", "optimizer#momentum"), _DECAY),
    **dict.fromkeys(("train#augmentation#rotate_prob", "train#augmentation#flip_prob"), _SHARE),
    "train#augmentation#degree": _Rule(lambda value: _is_number(value, most=180), "degrees from 0 to 180"),
    "milestones": _Rule(_milestones, "iterations in their order, such as [300, 600, 900]"),
    **dict.fromkeys(("min_size", "max_size"), _SIDE),
    **dict.fromkeys(
        ("size", "largest_size"),
        _Rule(
            lambda value: _is_whole(value, 8) or _is_pair(value, 8),
            "pixels, at least 8, such as 64 or [64, 96]",
        ),
    ),
    "crop": _Rule(
        lambda value: _is_pair(value, _SMALLEST),
        f"rows and columns, at least {_SMALLEST} each, such as [512, 1024]",
    ),
    "short_side": _Rule(
        lambda value: _is_pair(value, _SMALLEST) and value[0] <= value[1],
        f"the least and the most pixels, at least {_SMALLEST}, such as [512, 2048]",
    ),
}
