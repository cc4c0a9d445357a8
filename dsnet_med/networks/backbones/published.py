"""Weights of a ResNet and its plug-ins from a file, under whatever names it has.

timm's and torchvision's files, those of MMPretrain, MMSegmentation and MMDetection, and the model.pt of a
run of ours on another task: what they call the parts of one network differs, the parts do not.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from dsnet_med.errors import InputError, one_line
from dsnet_med.networks.checkpoint import read_checkpoint
from dsnet_med.networks.layers import for_channels
from dsnet_med.networks.reference import fitted, reference_names

_PREFIXES = ("module.", "backbone.", "body.")  # of what surrounds a backbone, the outermost first
_OTHER_PARTS = ("fc.", "head.", "neck.")  # of a classifier without prefixes


def load_backbone(network: nn.Module, file: Path, title: str) -> None:
    """Put the weights in `file` into `network`, a backbone that may have plug-ins.

    A file without any weights of plug-ins leaves those as they start: ImageNet weights of the plain network
    are like that. The first convolution is summed over its inputs for one channel, repeated for several. No
    code in the file is run. Raises InputError, with the backbone's `title`, when the file cannot be read,
    lacks entries, holds entries that the network has not, or such of other shapes.
    """
    weights = _renamed(_of_backbone(read_checkpoint(file)), network)
    ours = network.state_dict()
    needed = {name for name in ours if not name.endswith("num_batches_tracked")}
    if not any(_in_plugin(name) for name in weights):
        needed = {name for name in needed if not _in_plugin(name)}
    if missing := sorted(needed - weights.keys()):
        raise _other(file, title, f"{len(missing)} entries are missing, such as {missing[0]}")
    if unknown := sorted(weights.keys() - ours.keys()):
        raise _other(file, title, f"{len(unknown)} entries are of no part of it, such as {unknown[0]}")
    first = next(iter(ours))
    weights[first] = for_channels(weights[first], ours[first].shape[1])
    try:
        network.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # other shapes
        raise _other(file, title, one_line(str(error))) from error


def _of_backbone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept = dict(weights)
    for prefix in _PREFIXES:
        inside = {name.removeprefix(prefix): kept[name] for name in kept if name.startswith(prefix)}
        kept = inside or kept
    return {name: value for name, value in kept.items() if not name.startswith(_OTHER_PARTS)}


def _renamed(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Under our names; an entry whose axes of size 1 are ours' is reshaped, as in `from_reference`."""
    ours = network.state_dict()
    names = {theirs: name for name, theirs in reference_names(network).items()}
    renamed = {name if name in ours else names.get(name, name): value for name, value in weights.items()}
    return {name: fitted(value, ours[name], name) if name in ours else value for name, value in renamed.items()}


def _in_plugin(name: str) -> bool:
    return "plugin" in name


def _other(file: Path, title: str, reason: str) -> InputError:
    return InputError(f"{file} does not hold weights of {title}: {reason}")
