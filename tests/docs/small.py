"""`python small.py COMMAND ARGUMENT...`: the command as it was typed, with small settings where it trains.

All that was typed is read by the command itself; what it does not say itself is added behind it.
"""

import sys
from collections.abc import Sequence

_COMMON = {"workers": "0"}
ORGANS = {"width": "0.0625", "network_def#backbone#layers": "[1, 1, 1, 1]", "size": "64"}
_VOLUMES = {"width": "0.125", "size": "[16, 32, 32]"}
_NATURAL = {"width": "0.0625", "batch_size": "2"}
_SIZES = {
    "coco": {"min_size": "64", "max_size": "96"},
    "imagenet": {"size": "32"},
    "cityscapes": {"crop": "[32, 64]", "short_side": "[32, 64]"},
}
_PHANTOMS = {"synapse": "64x64x16", "acdc": "64x64x8", "brats": "32x32x24"}


def smaller(words: Sequence[str]) -> list[str]:
    """The words behind `dsnet-med`, and behind them what makes a training or a phantom small."""
    added: list[str] = []
    if words[0] == "phantom" and "--size" not in words and words[1] in _PHANTOMS:
        added = ["--size", _PHANTOMS[words[1]]]
    elif words[0] == "quickstart":
        added = ["--iterations", "2"]
    elif words[0] in ("train", "compare") and "--resume" not in words:
        method = _value_of(words, "--method") or _value_of(words, "--methods")
        if method:
            added = ["--iterations", "2", *_settings(method, words)]
    return [*words, *added]


def _value_of(words: Sequence[str], option: str) -> str:
    return words[words.index(option) + 1] if option in words else ""


def _settings(method: str, words: Sequence[str]) -> list[str]:
    """`--set` for what the words do not set; the sizes of an overlay, which may be a plan, are left to it."""
    task = method.partition("/")[0]
    if task in _SIZES:
        wanted = {**_NATURAL, **_SIZES[task]}
    elif "_3d" in method:
        wanted = dict(_VOLUMES)
    elif any(name in method for name in ("unet", "segresnet", "timm", "mscan", "convnext")):
        wanted = {"size": "64"}
    else:
        wanted = dict(ORGANS)
    if "--overlay" in words:
        wanted = {name: value for name, value in wanted.items() if name == "width"}
    given = {text.partition("=")[0] for text in words}
    wanted = {name: value for name, value in (wanted | _COMMON).items() if name not in given}
    return [part for name, value in wanted.items() for part in ("--set", f"{name}={value}")]


def main() -> None:
    command, *words = sys.argv[1:]
    from dsnet_med import cli

    sys.argv = [command, *(smaller(words) if command == "dsnet-med" and words else words)]
    (cli.monai if command == "monai" else cli.main)()


if __name__ == "__main__":
    main()
