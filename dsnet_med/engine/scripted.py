"""Volumes through a 2-D network as TorchScript, for programs that read nothing else (MONAI Deploy, C++).

Tracing records what one example went through, so a volume network that is traced is right at that example's
sizes and silently wrong at others; and `torch.jit.script` cannot compile the networks. So the 2-D network is
traced at the size that it always sees, and the rest, which depends on sizes, is scripted.
"""

import warnings
from collections.abc import Sequence
from typing import cast

import torch
from monai.data.utils import compute_importance_map
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError, one_line, root_cause, unknown
from dsnet_med.inference.bundle_reader import FITS
from dsnet_med.networks.ensemble import CERTAIN, SMALLEST, main_output, members_of

_RELATIVE, _ABSOLUTE = 1e-4, 1e-6  # what a trace may differ by, of the largest logit and beside it


class ScriptedSlices(nn.Module):
    """Volumes (B, C, D, H, W) -> logits of the same layout, as `SliceWise` gives them.

    Anything else raises: MONAI Deploy, where it finds no configuration in the file, hands over raw voxels.

    `network`, or each of an `Ensemble`, takes slices (B, in_channels, *size), and is traced when this is made:
    for evaluation, and on the device where it is. `torch.jit.script` then compiles all of it. Raises InputError
    where a trace of the network differs from it.
    """

    def __init__(
        self,
        network: nn.Module,
        size: Sequence[int],
        fit: str = "resize",
        batch_size: int = 8,
        in_channels: int = 1,
        *,
        regions: bool = False,
    ) -> None:
        super().__init__()
        if fit not in FITS:
            raise unknown("fit", fit, FITS)
        self.batch_size, self.in_channels = batch_size, in_channels
        self.regions, self.smallest, self.certain = regions, SMALLEST, CERTAIN
        self.members = nn.ModuleList(
            _Fitted(member, (int(size[0]), int(size[1])), fit == "window", in_channels)
            for member in members_of(network)
        )

    def forward(self, image: Tensor) -> Tensor:
        if image.dim() != 5:
            raise ValueError(f"got an image of {image.dim()} axes, wanted (B, C, D, H, W)")
        parts: list[Tensor] = []
        for volume in image.unbind(0):
            stack = volume.transpose(0, 1)  # (D, C, H, W)
            if stack.size(1) == 1 and self.in_channels != 1:
                stack = stack.expand(-1, self.in_channels, -1, -1)
            logits = [self.slices(part) for part in torch.split(stack, self.batch_size)]
            parts.append(torch.cat(logits).transpose(0, 1))
        return torch.stack(parts)

    def slices(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, K, H, W); of several networks as `mean_logits` has it."""
        outputs: list[Tensor] = []
        for member in self.members:
            outputs.append(member(images))  # noqa: PERF401 -- a module in a comprehension is no TorchScript
        if len(outputs) == 1:
            return outputs[0]
        if self.regions:
            return torch.stack([logits.sigmoid() for logits in outputs]).mean(0).logit(self.certain)
        shares = [logits.softmax(1) for logits in outputs]
        return torch.stack(shares).mean(0).clamp_min(self.smallest).log()


class _Fitted(nn.Module):
    """One 2-D network, traced at its size, for slices (B, in_channels, H, W) of any size."""

    def __init__(self, network: nn.Module, size: tuple[int, int], window: bool, in_channels: int) -> None:
        super().__init__()
        self.height, self.width = size
        self.window = window
        self.network = traced(network, size, in_channels)
        weights = compute_importance_map(size, "gaussian", 0.125)
        self.register_buffer("weights", weights[None, None].to(_device(network)), persistent=False)
        self.weights: Tensor

    def forward(self, images: Tensor) -> Tensor:
        if self.window:
            return self.windows(images)
        height, width = images.size(2), images.size(3)
        if height == self.height and width == self.width:
            logits: Tensor = self.network(images)
            return logits
        images = F.interpolate(images, [self.height, self.width], mode="bilinear", align_corners=False)
        return F.interpolate(self.network(images), [height, width], mode="bilinear", align_corners=False)

    def windows(self, images: Tensor) -> Tensor:
        """The same by windows as MONAI's `sliding_window_inference` lays and weights them, half overlapping."""
        height, width = images.size(2), images.size(3)
        more, wider = max(self.height - height, 0), max(self.width - width, 0)
        images = F.pad(images, [wider // 2, wider - wider // 2, more // 2, more - more // 2])
        rows, columns = self.starts(images.size(2), self.height), self.starts(images.size(3), self.width)
        total, share = torch.zeros(0), torch.zeros(0)
        for row in rows:
            for column in columns:
                window = images[:, :, row : row + self.height, column : column + self.width]
                logits = self.network(window) * self.weights
                if total.dim() == 1:  # the number of classes is known now
                    total = logits.new_zeros([logits.size(0), logits.size(1), images.size(2), images.size(3)])
                    share = logits.new_zeros([1, 1, images.size(2), images.size(3)])
                total[:, :, row : row + self.height, column : column + self.width] += logits
                share[:, :, row : row + self.height, column : column + self.width] += self.weights
        total = total / share
        return total[:, :, more // 2 : more // 2 + height, wider // 2 : wider // 2 + width]

    def starts(self, length: int, window: int) -> list[int]:
        """Where windows begin on an axis: each half a window on, the last one where it ends with the axis."""
        step = max(window // 2, 1)
        starts = [0]
        while starts[-1] + window < length:
            starts.append(min(starts[-1] + step, length - window))
        return starts


def scripted(
    network: nn.Module,
    size: Sequence[int],
    fit: str = "resize",
    batch_size: int = 8,
    in_channels: int = 1,
    *,
    regions: bool = False,
) -> torch.jit.ScriptModule:
    """`ScriptedSlices` compiled, for `torch.jit.save`. Raises InputError where the network cannot be traced."""
    with _without_news():
        return cast(
            torch.jit.ScriptModule,
            torch.jit.script(
                ScriptedSlices(network, size, fit, batch_size, in_channels, regions=regions).eval()
            ),
        )


def traced(network: nn.Module, size: Sequence[int], in_channels: int = 1) -> torch.jit.ScriptModule:
    """A network traced for slices or windows (B, in_channels, *size), any number of them.

    Raises InputError where it cannot be traced, or the trace differs from the network for other slices than the
    example, or another number of them.
    """
    training, device = network.training, _device(network)
    generator = torch.Generator().manual_seed(0)
    example, *others = (
        torch.rand(count, in_channels, *size, generator=generator).to(device) for count in (2, 3, 1)
    )
    network.eval()
    try:
        with torch.no_grad(), _without_news():
            trace = torch.jit.trace(_MainOutput(network), example, check_trace=False)
            for images in others:
                _require_equal(main_output(network(images)), trace(images))
    except InputError:
        raise
    except Exception as error:  # whatever a stranger's network raises
        cause = root_cause(error)
        raise InputError(
            f"the network cannot be traced ({type(cause).__name__}: {one_line(str(cause))}), so there is no "
            "TorchScript of it; use another format"
        ) from error
    finally:
        network.train(training)
    return cast(torch.jit.ScriptModule, trace)


class _MainOutput(nn.Module):
    """A network of which a trace gives the logits alone, never auxiliary ones beside them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return main_output(self.network(images))


def _require_equal(wanted: Tensor, got: Tensor) -> None:
    """Raise InputError where the logits of a trace are not those of the network."""
    same = wanted.shape == got.shape
    difference = float((wanted - got).abs().max()) if same else float("inf")
    if not difference <= _RELATIVE * float(wanted.abs().max()) + _ABSOLUTE:
        raise InputError(
            f"a trace of the network differs from it by {difference:.2g} in its logits: it depends on what its "
            "example held, so there is no TorchScript of it; use another format"
        )


def _device(network: nn.Module) -> torch.device:
    return next((each.device for each in network.parameters()), torch.device("cpu"))


class _without_news(warnings.catch_warnings):
    """Without the warnings of tracing, whose result is compared, and of TorchScript's age."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
