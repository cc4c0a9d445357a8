"""timm networks as feature pyramids, with their ImageNet weights from the net or from a file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import clean_state_dict
from torch import Tensor, nn

from dsnet_med.errors import InputError, one_line, unknown
from dsnet_med.networks.checkpoint import read_checkpoint

_FILES = (".pth", ".pt", ".bin", ".safetensors")


def features_of(name: str, in_channels: int, pretrained: bool | str | Path, **options: Any) -> nn.Module:
    """timm's network `name` as a feature pyramid; `options` are its own.

    Raises InputError when the weights cannot be had or do not fit.
    """
    weights = None if isinstance(pretrained, bool) else _read(Path(pretrained))
    try:
        network: nn.Module = timm.create_model(
            name,
            features_only=True,
            in_chans=in_channels,
            pretrained=bool(pretrained),
            pretrained_cfg_overlay={"state_dict": weights} if weights else None,
            **options,
        )
    except Exception as error:
        if not pretrained:
            raise
        raise _unavailable(name, pretrained, str(error) or type(error).__name__) from error
    if weights and (missing := _plain_names(network.state_dict()) - _plain_names(weights)):
        # which timm would start at random
        raise _unavailable(name, pretrained, f"{len(missing)} entries are missing, such as {min(missing)}")
    return network


def hub_name(name: str, pretrained: bool | str | Path) -> str | None:
    """What timm calls the weights of its network `name` that are asked for, or None for a file.

    True stands for timm's choice, "resnet50.tv_in1k" for those of that tag. Raises InputError for a tag that
    timm has not.
    """
    if isinstance(pretrained, bool):
        return name
    text = str(pretrained)
    if not text.startswith(f"{name}.") or Path(text).is_file() or Path(text).suffix in _FILES:
        return None
    known = timm.list_pretrained(f"{name}.*")
    if text not in known:
        raise unknown(f"weights of timm's {name}", text, known)
    return text


def _plain_names(weights: Mapping[str, Tensor]) -> set[str]:
    """Without the difference between `stages.0` and `stages_0`, as feature pyramids call it."""
    return {re.sub(r"\b(stages|stem)\.(\d)", r"\1_\2", name) for name in weights}


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError(f"no file of pretrained weights at {file}: pass an existing file, or True or False")
    weights: dict[str, Tensor] = clean_state_dict(read_checkpoint(file))  # timm's reader may run code in it
    return weights


def _unavailable(name: str, pretrained: bool | str | Path, reason: str) -> InputError:
    if not isinstance(pretrained, bool):
        return InputError(f"{pretrained} does not hold weights of timm's {name}: {one_line(reason)}")
    return InputError(
        f"cannot fetch the ImageNet weights of {name} ({one_line(reason)}): download them elsewhere and pass "
        "the file, pretrained=weights.safetensors, or use pretrained=False"
    )
