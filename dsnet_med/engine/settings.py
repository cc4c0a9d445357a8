"""What values settings may have, told in one line when a run is prepared and not in PyTorch's words at a step.

A setting that is not there, or that is an expression or a reference, is not looked at.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from dsnet_med.errors import InputError, first_of

_LARGEST = 2**31 - 1


def _in_order(numbers: list[int]) -> list[int]:
    if numbers != sorted(numbers):
        raise ValueError("in their order")
    return numbers


Count = Annotated[int, Field(ge=1, le=_LARGEST)]
Whole = Annotated[int, Field(ge=0, le=_LARGEST)]
Weight = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=8, le=_LARGEST)]
Side = Annotated[int, Field(ge=32, le=_LARGEST)]  # of which a backbone leaves one pixel
Two = Field(min_length=2, max_length=2)
Three = Field(min_length=3, max_length=3)

_KINDS: dict[Any, tuple[str, ...]] = {
    Count: (
        *("iterations", "epochs", "steps_per_epoch", "validate_every", "checkpoint_every", "val_interval"),
        *("batch_size", "accumulate"),
    ),
    Whole: ("workers", "warmup", "early_stopping", "lr_scheduler#warmup"),
    Weight: (
        *("clip", "learning_rate", "optimizer#lr", "optimizer#weight_decay"),
        *("lr_scheduler#floor", "lr_scheduler#power", "lr_scheduler#gamma"),
        *("loss#ce_weight", "loss#dice_weight", "loss#auxiliary_weight", "loss#presence_weight"),
    ),
    Decay: ("ema", "optimizer#momentum"),
    Probability: tuple(
        f"train#augmentation#{name}_prob"
        for name in (
            "rotate",
            "flip",
            "affine",
            "noise",
            "blur",
            "brightness",
            "contrast",
            "resolution",
            "gamma",
        )
    ),
    Side: ("min_size", "max_size"),
    Pixels | Annotated[list[Pixels], Two] | Annotated[list[Count], Three]: ("size", "largest_size"),
    Annotated[int, Field(ge=0, lt=2**63)]: ("seed",),
    Annotated[int, Field(ge=1, le=256)]: ("in_channels",),
    Literal[2, 3]: ("spatial_dims",),
    Count | Annotated[list[Count], Three]: ("stride",),
    Whole | None: ("fold",),
    Literal["float32", "bfloat16", "float16"]: ("precision",),
    Literal["resize", "window"]: ("fit",),
    Annotated[float, Field(gt=0, le=16)]: ("width",),
    Annotated[float, Field(ge=0, le=180)]: ("train#augmentation#degree",),
    Annotated[list[Whole], AfterValidator(_in_order)]: ("milestones",),
    Annotated[list[Side], Two]: ("crop",),
    Annotated[list[Side], Two, AfterValidator(_in_order)]: ("short_side",),
}
_EXAMPLES = {
    **dict.fromkeys(("size", "largest_size"), "at least 8 pixels, such as 64 or [64, 96]"),
    "stride": "one number or three, such as 16 or [4, 16, 16]",
    "fold": "a number from 0",
    "seed": "a whole number from 0",
    "milestones": "iterations in their order, such as [300, 600, 900]",
    "crop": "rows and columns, at least 32 each, such as [512, 1024]",
    "short_side": "the least and the most pixels, at least 32, such as [512, 2048]",
}
_WORDS = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
}
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
RULES: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(Annotated[kind, Field()], config=_STRICT)  # type: ignore[arg-type]  # any form of a type
    for kind, names in _KINDS.items()
    for name in names
}


def check_settings(config: Mapping[str, Any]) -> None:
    """Raise InputError for a value that cannot be, and for values that contradict each other."""
    for name, rule in RULES.items():
        value: Any = config
        for key in name.split("#"):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None or _is_open(value):
            continue
        try:
            rule.validate_python(value)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Input should be ")
            for words, plainer in _WORDS.items():
                said = said.replace(words, plainer)
            raise InputError(f"got {name}={value}, wanted {_EXAMPLES.get(name, said)}") from error
    smallest, largest = config.get("min_size"), config.get("max_size")
    if isinstance(smallest, int) and isinstance(largest, int) and smallest > largest:
        raise InputError(
            f"got min_size={smallest} and max_size={largest}, wanted a short side within the long one"
        )
    if config.get("task") == "imagenet" and isinstance(config.get("size"), list):
        raise InputError(f"got size={config['size']}, wanted one number, the side of a square")
    if config.get("task", "organs") != "organs" and config.get("in_channels", 3) != 3:
        raise InputError(f"got in_channels={config['in_channels']}, wanted 3: the images are read in colour")


def check_channels(config: Mapping[str, Any], channels: Sequence[str]) -> None:
    """Raise InputError where `in_channels` contradicts the channels that the data have."""
    count, dims = config["in_channels"], config["spatial_dims"]
    grey = len(channels) == 1 and dims == 2
    if not _is_open(count) and count not in ({1, 3} if grey else {len(channels)}):
        wanted = "1, or 3 for the grey channel three times" if grey else str(len(channels))
        raise InputError(f"got in_channels={count}, wanted {wanted}: the data have {first_of(channels)}")
    if dims == 3 and config["fit"] != "window":
        raise InputError(f"got fit={config['fit']}, wanted window: 3-D networks see patches of volumes")


def check_classes(config: Mapping[str, Any], known: Sequence[str], outputs: int | None = None) -> None:
    """Raise InputError where `class_names` or `num_classes` contradict the classes that the data have.

    The network has `outputs`, which are not as many as the `known` classes where it is trained on regions.
    """
    outputs = len(known) if outputs is None else outputs
    names, count = config.get("class_names"), config.get("num_classes")
    listed = f"the {len(known)} classes of the data: {first_of(known)}"
    if isinstance(names, list) and (len(names) != len(known) or len(set(map(str, names))) < len(names)):
        raise InputError(f"got class_names={names}, wanted a name for each of {listed}")
    if count is not None and not _is_open(count) and count != outputs:
        raise InputError(f"got num_classes={count}, wanted {outputs}, for {listed}")


def _is_open(value: Any) -> bool:
    """Whether MONAI finds out what the value is."""
    parts = value if isinstance(value, list) else [value]
    return any(isinstance(part, str) and part.startswith(("$", "@", "%")) for part in parts)
