"""From slices of any size to logits of that size, and from volumes to their slices or windows."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from torch import Tensor, nn

from dsnet_med.engine.scripted import ScriptedSlices
from dsnet_med.errors import InputError, first_of, unknown
from dsnet_med.inference.bundle_reader import FITS
from dsnet_med.inference.slice_model import slice_logits
from dsnet_med.networks.ensemble import main_output, mean_logits, members_of
from dsnet_med.networks.layers import is_traced, refuse_script, with_channels


class SliceFitInferer(Inferer):
    """A 2-D network on slices (B, C, H, W) of any size, as `slice_logits` does it, for MONAI's engines."""

    def __init__(self, size: Sequence[int], fit: str = "resize", overlap: float = 0.5) -> None:
        if fit not in FITS:
            raise unknown("fit", fit, FITS)
        self.size, self.fit, self.overlap = (int(size[0]), int(size[1])), fit, overlap

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        run = partial(network, *args, **kwargs) if args or kwargs else network
        return slice_logits(inputs, run, self.size, self.fit, self.overlap)


class SliceWise(nn.Module):
    """A 2-D network as one that takes volumes: (B, C, D, H, W) or (C, D, H, W) -> logits of the same layout.

    The slices are taken along D, `batch_size` at a time. Viewers and deployment tools that hand over whole
    volumes can so use the network without knowing that it sees slices. Grey volumes are repeated for a network
    of `in_channels`. Several networks are averaged as classes, or as `regions`. Its state dict has the 2-D
    network's names, as a run's model.pt has; that of earlier versions, with `network.` before each, is loaded
    as well.

    `torch.jit.script` makes `ScriptedSlices` of it. `torch.jit.trace` and `torch.export`, which would record
    the sizes of one volume, raise InputError, and so does `load_state_dict` where weights are missing or left
    over, whatever its `strict` says: a segmentation by random weights looks like one.
    """

    def __init__(
        self,
        network: nn.Module,
        size: Sequence[int],
        fit: str = "resize",
        batch_size: int = 8,
        in_channels: int = 1,
        *,
        regions: Any = None,
    ) -> None:
        super().__init__()
        self.network, self.in_channels, self.regions = network, in_channels, bool(regions)
        self.inferer = SliceFitInferer(size, fit)
        self.batch_size = batch_size
        _keep_names(self)

    def __prepare_scriptable__(self) -> ScriptedSlices:
        """What `torch.jit.script`, and with it `monai.bundle ckpt_export`, compiles in place of this."""
        inferer = self.inferer
        size, fit = inferer.size, inferer.fit
        script = ScriptedSlices(
            self.network, size, fit, self.batch_size, self.in_channels, regions=self.regions
        )
        return script.eval()

    def forward(self, image: Tensor) -> Tensor:
        return _each_volume(image, self._volume)

    def _volume(self, volume: Tensor) -> Tensor:
        stack = with_channels(volume.transpose(0, 1), self.in_channels)  # (D, C, H, W)
        logits = [self._slices(part) for part in stack.split(self.batch_size)]
        return torch.cat(logits).transpose(0, 1)

    def _slices(self, slices: Tensor) -> Tensor:
        outputs = [self.inferer(slices, member) for member in members_of(self.network)]
        # as infer averages several models
        return mean_logits(outputs, self.regions) if len(outputs) > 1 else outputs[0]


class WindowWise(nn.Module):
    """A 3-D network for windows of `size` as one for volumes: (B, C, D, H, W) or (C, D, H, W) -> logits alike.

    By MONAI's sliding windows, half overlapping, weighted by a Gaussian: all logits of a volume are held, which
    `infer` does not. The rest is as in `SliceWise`, but that `torch.jit.script` raises InputError.
    """

    __prepare_scriptable__ = refuse_script

    def __init__(
        self,
        network: nn.Module,
        size: Sequence[int],
        batch_size: int = 1,
        in_channels: int = 1,
        *,
        regions: Any = None,
    ) -> None:
        super().__init__()
        self.network, self.in_channels, self.regions = network, in_channels, bool(regions)
        self.inferer = SlidingWindowInferer(size, batch_size, 0.5, "gaussian", 0.125, "constant", 0.0)
        _keep_names(self)

    def forward(self, image: Tensor) -> Tensor:
        return _each_volume(image, self._volume)

    def _volume(self, volume: Tensor) -> Tensor:
        given = with_channels(volume[None], self.in_channels)
        outputs = [
            torch.as_tensor(self.inferer(given, partial(_main_output_of, member)))
            for member in members_of(self.network)
        ]
        return (mean_logits(outputs, self.regions) if len(outputs) > 1 else outputs[0])[0]


def _main_output_of(network: nn.Module, images: Tensor) -> Tensor:
    return main_output(network(images))


def _each_volume(image: Tensor, of_one: Callable[[Tensor], Tensor]) -> Tensor:
    """What `of_one` makes of each volume (C, D, H, W) of a batch, or of one."""
    if is_traced() or torch.compiler.is_exporting():
        raise InputError(
            "a trace of the volume network would hold for volumes of one shape alone: use dsnet-med "
            "export, whose formats take any, or monai.bundle ckpt_export without --use_trace"
        )
    if image.ndim == 4:
        return of_one(image)
    if image.ndim != 5:
        raise InputError(f"got an image of shape {tuple(image.shape)}, wanted (B, C, D, H, W) or (C, D, H, W)")
    return torch.stack([of_one(volume) for volume in image])


def _keep_names(module: nn.Module) -> None:
    """Let a volume network's state dict have the names of its `network`, and take no other weights."""
    module.register_state_dict_post_hook(_as_slice_names)
    module.register_load_state_dict_pre_hook(_as_own_names)
    module.register_load_state_dict_post_hook(_require_all)


def _as_slice_names(_: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    # Tools that copy weights by name (monai.bundle.load) would otherwise copy none without a word.
    own = prefix + "network."
    for name in [name for name in state if name.startswith(own)]:
        state[prefix + name[len(own) :]] = state.pop(name)


def _as_own_names(_: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    # Tools that load with strict=False would otherwise skip every weight without a word.
    own = prefix + "network."
    for name in [name for name in state if name.startswith(prefix) and not name.startswith(own)]:
        state[own + name[len(prefix) :]] = state.pop(name)


def _require_all(_: nn.Module, keys: Any) -> None:
    for what, names in (("lack", keys.missing_keys), ("have too much", keys.unexpected_keys)):
        if names:
            raise InputError(
                f"not the weights of this network: they {what}, {first_of(names)}; load models/model.pt of "
                "the same run"
            )
