"""Any encoder of timm's that gives a pyramid of feature maps, by its name there."""

from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from dsnet_med.errors import InputError, unknown
from dsnet_med.networks.arguments import whole_numbers
from dsnet_med.networks.backbones.pretrained import features_of, hub_name

_ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False})  # what timm calls it, by family


def timm_encoder(
    name: str = "resnet50",
    *,
    in_channels: int = 3,
    pretrained: bool | str | Path = False,
    width: float = 1.0,
    levels: int | None = None,
    img_size: int | list[int] | None = None,
    output_stride: int | None = None,
    drop_path: float | None = None,
) -> nn.Module:
    """timm's network `name` as a pyramid: (B, in_channels, H, W) -> its feature maps, finest first.

    `levels` takes that many of the coarsest maps instead of all. Encoders whose windows or positions can be of
    any size are made so; others (MaxViT, Hiera) need the `img_size` of training, rows and columns.
    `pretrained` is True for timm's weights, a name of theirs ("resnet50.tv_in1k"), or a file that holds them.

    Raises InputError for a name that timm has not, with the nearest; for an encoder without a pyramid; for a
    `width`, since an encoder's name says its channels; and where weights cannot be had or do not fit.
    """
    known = timm.list_models()
    if not isinstance(name, str) or name.partition(".")[0] not in known:
        raise unknown("encoder of timm's", str(name), get_close_matches(str(name), known) or known[:3])
    if width != 1:
        raise InputError(
            f"got width={width}, and an encoder of timm's has the channels of its name: choose a narrower one, "
            "such as resnet10t or convnextv2_atto"
        )
    options: dict[str, Any] = dict(_any_size(name) if img_size is None else {"img_size": img_size})
    if levels is not None:
        whole_numbers("the encoder", levels=levels)
        options["out_indices"] = tuple(range(-levels, 0))
    given = {"output_stride": output_stride, "drop_path_rate": drop_path}
    options |= {option: value for option, value in given.items() if value is not None}
    hub = hub_name(name, pretrained)
    try:
        return features_of(hub or name, in_channels, bool(pretrained) if hub else pretrained, **options)
    except InputError:
        raise
    except Exception as error:  # what timm raises for an option that this encoder has not
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"timm's {name} gives no pyramid with {options or 'its defaults'}: {said}") from error


@cache
def _any_size(name: str) -> dict[str, bool]:
    """The option by which an encoder takes images of any size, where it has one."""
    for option in _ANY_SIZE:
        try:
            with torch.device("meta"):
                timm.create_model(name, **option)
        except Exception:
            continue
        return option
    return {}
