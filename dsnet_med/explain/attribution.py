"""Where a network looks for one organ: Grad-CAM and occlusion, by MONAI's visualisers, on one slice or window.

What is explained is the organ's mean logit over the network's own mask of it, so that a segmentation network
has one number as a classifier has. Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weighs
the channels of one layer by the gradient of that number; occlusion (Zeiler and Fergus 2014,
https://arxiv.org/abs/1311.2901) measures by how much the number falls when a box of the image is replaced by
the image's mean. Both show what the number is sensitive to, not what the network needs.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError, one_line
from dsnet_med.geometry import SliceOrder
from dsnet_med.inference.native_grid import prepared, shape_at
from dsnet_med.inference.predictor import Predictor
from dsnet_med.inference.slice_model import SliceModel, resized_to
from dsnet_med.networks.attaching import plugins_of
from dsnet_med.networks.ensemble import main_output
from dsnet_med.networks.layers import with_channels
from dsnet_med.resampling import Spacing
from dsnet_med.volumes import Volume

FORWARDS = 200  # images that an occlusion may take, about
_BATCH_VOXELS = 1 << 21  # of the images that are occluded at a time

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Attribution:
    """Two maps (*spatial) of an image, float32 on the CPU, or None and in `note` why there are none.

    `grad_cam` is 0 or more, in units of its own. `occlusion` is by how much the organ's mean logit falls where
    the image is hidden. `layer` is the one whose channels Grad-CAM weighs.
    """

    grad_cam: Tensor | None = None
    occlusion: Tensor | None = None
    layer: str = ""
    note: str = ""


@dataclass(frozen=True)
class OrganMaps:
    """The two maps of an organ on the slice `index` of a volume, each (H, W); NaN where the window was not."""

    index: int | None = None
    grad_cam: Map | None = None
    occlusion: Map | None = None
    layer: str = ""
    note: str = ""


class _OrganScore(nn.Module):
    """(B, C, *spatial) -> (B, 1): the mean logit of one output over a fixed mask (*spatial)."""

    def __init__(self, network: nn.Module, output: int, mask: Tensor) -> None:
        super().__init__()
        self.network, self.output, self.mask = network, output, mask

    def forward(self, images: Tensor) -> Tensor:
        logits = main_output(self.network(images))[:, self.output].float()
        return (logits * self.mask).flatten(1).sum(1, keepdim=True) / self.mask.sum()


def attribute(
    network: nn.Module,
    image: Tensor,
    output: int,
    layer: str | None = None,
    *,
    regions: bool = False,
    through: int | None = None,
) -> Attribution:
    """Grad-CAM and occlusion of one of the network's outputs for one image (1, C, *spatial), 2-D or 3-D.

    The network gives logits (B, K, *spatial): of classes, the largest of which counts, or with `regions` of
    masks that may overlap. `layer` names a module inside it (default: `deepest_layer`). With `through` only
    that slice of a volume is occluded, in boxes as fine as those of a slice; the others are NaN. The network is
    left as it was, whether its parameters have gradients or not, and in inference mode too. Raises InputError
    for a layer that is not there.
    """
    with torch.inference_mode(False), torch.enable_grad():
        network = copy.deepcopy(network).eval().requires_grad_(False)  # MONAI's hooks are never removed
        image = image.detach().clone()  # made in inference mode, it could have no gradient
        with torch.no_grad():
            logits = main_output(network(image))
        mask = (logits[0, output] > 0) if regions else (logits[0].argmax(0) == output)
        if not mask.any():
            return Attribution(note="the network finds none of it here")
        score = _OrganScore(network, output, mask.float()).eval()  # MONAI sets the mode back
        occlusion = _occlusion(score, image, through)
        layer = layer or deepest_layer(network, image)
        if layer is None or layer not in dict(network.named_modules()):
            raise InputError(
                f"the network has no layer '{layer}' to weigh the channels of; name one that it has"
            )
        try:
            grad_cam = _grad_cam(score, image, f"network.{layer}")
        except (RuntimeError, KeyError, IndexError, AttributeError) as error:  # what autograd refuses
            return Attribution(None, occlusion, layer, f"no Grad-CAM of {layer}: {one_line(str(error), 120)}")
        return Attribution(grad_cam, occlusion, layer)


def deepest_layer(network: nn.Module, image: Tensor) -> str | None:
    """The last module to give the coarsest feature map, in the backbone where there is one, outside plug-ins.

    None where no module gives a map (B, C, *spatial).
    """
    root = getattr(network, "backbone", network)
    start = "backbone." if root is not network else ""
    inside = tuple(f"{name}." for name in plugins_of(network))
    found: dict[str, int] = {}

    def seen(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == image.ndim and min(output.shape[2:]) > 1:
                found.pop(name, None)
                found[name] = prod(output.shape[2:])

        return hook

    handles = [
        module.register_forward_hook(seen(name))
        for name, module in network.named_modules()
        if name and name.startswith(start) and not name.startswith(inside)
    ]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    coarsest = min(found.values(), default=None)
    return next((name for name in reversed(found) if found[name] == coarsest), None)


def attribute_organ(
    predictor: Predictor, channels: Sequence[Volume], ids: NDArray[Any], label: int
) -> OrganMaps:
    """The maps of one organ in a volume, on the slice where the network's own mask of it is largest.

    `ids` (X, Y, Z) is that mask. A network for slices sees the slice as in inference; one for windows the
    window around the organ's middle there. Of several networks the first is explained. Raises InputError where
    `label` is none of the network's.
    """
    model, order = predictor.models[0], SliceOrder.of(channels[0].affine, predictor.slice_axis)
    output = _output_of(predictor, label)
    mask = order.to_slices(ids) == label
    index = largest_slice(mask)
    if index is None:
        return OrganMaps(note="the network finds none of it in this case")
    if not isinstance(model.network, nn.Module):
        return OrganMaps(
            index, note="the network is none of PyTorch's modules, whose layers could be looked at"
        )
    with torch.inference_mode(False):
        stacks = [order.to_slices(channel.voxels) for channel in channels]
        spacing = order.spacing_mm(channels[0].affine)
        image, at = _scaled(stacks, model, spacing, predictor.spacing_mm, index)
        share = [
            (middle + 0.5) / length for middle, length in zip(_middle(mask[index]), mask.shape[1:], strict=True)
        ]
        view = _View.of(model, image, at, share)
        seen = view.image.to(predictor.device)
        through = view.inside[0] if model.is_3d else None
        found = attribute(model.network, seen, output, regions=bool(predictor.regions), through=through)
    grad_cam, occlusion = (
        None if each is None else view.on_slice(each, mask.shape[1:])
        for each in (found.grad_cam, found.occlusion)
    )
    return OrganMaps(index, grad_cam, occlusion, found.layer, found.note)


def largest_slice(mask: NDArray[np.bool_]) -> int | None:
    """Which slice of a mask (D, H, W) holds most of it; None where the mask is empty."""
    areas = mask.reshape(len(mask), -1).sum(axis=1)
    return int(areas.argmax()) if areas.any() else None


@dataclass(frozen=True)
class _View:
    """What a network sees of a slice: `image` (1, C, *size), and where that lies on the slice.

    `box` are rows and columns of a slice of `shape`, `inside` where in the image they are; None of both where
    the image is the whole slice, resized.
    """

    image: Tensor
    shape: tuple[int, int]
    box: tuple[slice, ...] | None = None
    inside: tuple[Any, ...] = ()

    @classmethod
    def of(cls, model: SliceModel, volume: Tensor, at: int, share: Sequence[float]) -> "_View":
        """Of a scaled volume (C, D, H, W) the slice `at`; `share` says how far down and right the organ is."""
        shape = (volume.shape[2], volume.shape[3])
        if not model.is_3d and model.fit != "window":
            image = resized_to(volume[None, :, at], model.size)
            return cls(with_channels(image, model.in_channels), shape)
        middle = [int(part * length) for part, length in zip(share, shape, strict=True)]
        source = volume if model.is_3d else volume[:, at]
        centre = (at, *middle) if model.is_3d else middle
        box = [_span(c, n, wanted) for c, n, wanted in zip(centre, source.shape[1:], model.size, strict=True)]
        window = source[(slice(None), *box)]
        short = [wanted - length for wanted, length in zip(model.size, window.shape[1:], strict=True)]
        window = F.pad(window, [part for each in reversed(short) for part in (each // 2, each - each // 2)])
        inside: list[Any] = [
            slice(each // 2, each // 2 + part.stop - part.start) for each, part in zip(short, box, strict=True)
        ]
        if model.is_3d:
            inside[0] = inside[0].start + at - box[0].start
        return cls(with_channels(window[None], model.in_channels), shape, tuple(box[-2:]), tuple(inside))

    def on_slice(self, found: Tensor, shape: Sequence[int]) -> Map:
        """A map (*size) of the image as one of the slice at `shape`; NaN where the image does not reach."""
        if self.box is None:
            return np.asarray(resized_to(found[None, None].float(), shape)[0, 0].numpy(), np.float32)
        whole = torch.full(self.shape, torch.nan)
        whole[self.box] = found[self.inside]
        resampled = F.interpolate(
            whole[None, None], tuple(shape), mode="nearest-exact"
        )  # keeps NaN where it is
        return np.asarray(resampled[0, 0].numpy(), np.float32)


def _output_of(predictor: Predictor, label: int) -> int:
    """The number of the network's output for a value of its label maps."""
    values = [region.value for region in predictor.regions] or list(range(len(predictor.class_names)))
    if label not in values:
        raise InputError(f"the network has no output for label {label}: it has {', '.join(map(str, values))}")
    return values.index(label)


def _scaled(
    stacks: Sequence[NDArray[Any]], model: SliceModel, spacing: Spacing, wanted: Spacing | None, index: int
) -> tuple[Tensor, int]:
    """What is needed of the volume (C, D, H, W), scaled and at the network's spacing, and the slice in it."""
    shape = shape_at(stacks[0].shape, spacing, wanted)
    if shape == stacks[0].shape and not model.is_3d:  # slices at their own resolution: one is enough
        scalings = [rule.fit(stack) for rule, stack in zip(model.intensities, stacks, strict=True)]
        one = [each.apply(stack[index : index + 1]) for each, stack in zip(scalings, stacks, strict=True)]
        return torch.from_numpy(np.stack(one)), 0
    volume = torch.from_numpy(prepared(stacks, model.intensities, spacing, wanted))
    return volume, min(shape[0] - 1, int((index + 0.5) * shape[0] / len(stacks[0])))


def _middle(mask: NDArray[np.bool_]) -> list[float]:
    """The mean row and column of a mask (H, W)."""
    return [float(places.mean()) for places in np.nonzero(mask)]


def _span(centre: int, length: int, wanted: int) -> slice:
    """`wanted` places around `centre`, inside an axis of `length`; all of a shorter one."""
    start = max(0, min(centre - wanted // 2, length - wanted))
    return slice(start, min(length, start + wanted))


def _grad_cam(score: _OrganScore, image: Tensor, layer: str) -> Tensor:
    from monai.visualize import GradCAM  # noqa: PLC0415 -- seconds, for this alone

    found = GradCAM(score, layer, postprocessing=lambda maps: maps)(image.requires_grad_(), class_idx=0)
    image.requires_grad_(False)
    return torch.as_tensor(found[0, 0].detach().float().cpu())


def _occlusion(score: _OrganScore, image: Tensor, through: int | None) -> Tensor:
    """The fall of the score, (*spatial), where a box as large as the organ, or half of the image, hides it.

    Boxes overlap, and a voxel has the mean of those that hid it.
    """
    from monai.visualize import OcclusionSensitivity  # noqa: PLC0415 -- seconds, for this alone

    sizes, extents = image.shape[2:], [int(each.max() - each.min()) + 1 for each in score.mask.nonzero().T]
    axes = len(sizes) - (through is not None)
    steps = [ceil(length / (int(FORWARDS ** (1 / axes)) + 1)) for length in sizes]
    boxes = [
        min(length, max(2 * step, min(extent, length // 2)))
        for length, step, extent in zip(sizes, steps, extents, strict=True)
    ]
    around = None if through is None else [through, through + 1, *[-1] * 2 * axes]
    overlap = [max(0.0, 1 - (step + 0.5) / box) for step, box in zip(steps, boxes, strict=True)]
    batch = max(1, min(16, _BATCH_VOXELS // prod(sizes)))
    hide = OcclusionSensitivity(
        score, boxes, batch, verbose=False, mode="mean_img", overlap=overlap, activate=False
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using a non-tuple sequence")  # what MONAI indexes by
        fall = score(image)[0, 0] - torch.as_tensor(hide(image, around)[0])[0, 0]
    if through is None:
        return torch.as_tensor(fall.float().cpu())
    whole = torch.full(tuple(sizes), torch.nan)
    whole[through] = fall[0].float().cpu()
    return whole
