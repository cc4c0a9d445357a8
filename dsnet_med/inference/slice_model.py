"""One network of a predictor, and how slices or volumes of any size become scores of that size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from dsnet_med.errors import InputError, one_line
from dsnet_med.inference.batches import Batches
from dsnet_med.inference.bundle_reader import Model
from dsnet_med.inference.decision import Decision
from dsnet_med.inference.fuse_batch_norm import fuse_batch_norm
from dsnet_med.inference.windows import window_scores
from dsnet_med.networks import Segmenter
from dsnet_med.networks.ensemble import main_output
from dsnet_med.networks.layers import resized, with_channels
from dsnet_med.prepare.intensity import Intensity

_TRIAL_PIXELS = 64
_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


@dataclass
class SliceModel:
    """A network on its device, with the size and the intensities that it was trained on.

    It takes slices, or where `size` has three numbers windows of a volume. `intensities` has a rule for each
    channel of the image.
    """

    network: Callable[[Tensor], Any]
    size: tuple[int, ...]
    fit: str
    intensities: tuple[Intensity, ...]
    in_channels: int = 1
    precision: torch.dtype = torch.float32

    @classmethod
    def of(
        cls,
        model: Model,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        *,
        compiled: bool = False,
        fuse: bool = True,
    ) -> "SliceModel":
        """`model` made fast: batch norms fused, channels last in memory, `compiled` by torch when first run.

        Raises InputError where the network does not run, or does not give a logit for every class.
        """
        network = model.network.eval().requires_grad_(False)
        example = _example(model)
        try:
            with torch.inference_mode():
                logits = main_output(network(example))
            network = fuse_batch_norm(network, example) if fuse else network
        except InputError:
            raise
        except Exception as error:  # whatever a network raises that was not made for its settings
            raise InputError(f"the network does not run: {type(error).__name__}: {one_line(error)}") from error
        if logits.ndim != example.ndim or logits.shape[1] != len(model.output_names):
            names = "regions" if model.regions else "class_names"
            raise InputError(
                f"the network gives outputs of shape {tuple(logits.shape)}, and {names} has "
                f"{len(model.output_names)} names; correct the model's configuration"
            )
        placed = network.to(device, memory_format=_FORMATS[model.spatial_dims])  # type: ignore[call-overload]
        run = _compiled(placed) if compiled else placed
        return cls(run, model.size, model.fit, model.intensities, model.in_channels, precision)

    @property
    def is_3d(self) -> bool:
        return len(self.size) == 3

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W), float32, for images (B, C, H, W). InputError where they are not finite."""
        return slice_logits(images, self._run, self.size, self.fit)

    def slices(
        self,
        volume: Tensor,
        decision: Decision,
        batches: Batches,
        *,
        mirror: bool,
        device: torch.device,
        progress: Callable[[float], None],
    ) -> Iterator[Tensor]:
        """The scores (K, H, W) of every slice of a scaled volume (C, D, H, W), in order, as `decision` says:
        logits, or probabilities. Raises InputError.
        """
        if self.is_3d:
            run = partial(self._mirrored, decision=decision) if mirror else self._run
            for scores in window_scores(volume, run, self.size, batches, device=device, progress=progress):
                yield decision.activated(scores[None])[0] if decision.averaged and not mirror else scores
            return

        def work(part: slice) -> Tensor:
            images = volume[:, part].transpose(0, 1).contiguous().to(device)
            if decision.averaged:
                return mean_probabilities([(self.logits, images)], mirror, decision)
            return self.logits(images)

        for several in batches.over(volume.shape[1], work):
            progress(len(several) / volume.shape[1])
            yield from several

    def _mirrored(self, images: Tensor, decision: Decision) -> Tensor:
        return mean_probabilities([(self._run, images)], True, decision)

    def _run(self, images: Tensor) -> Tensor:
        images = with_channels(images, self.in_channels).contiguous(memory_format=_FORMATS[len(self.size)])
        with torch.autocast(images.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = main_output(self.network(images)).float()
        if not torch.isfinite(logits).all():
            raise InputError(
                "the network gives numbers that are not finite; look at the image's intensities, try "
                "--precision float32, or train again"
            )
        return logits


def slice_logits(
    images: Tensor, network: Callable[..., Tensor], size: Sequence[int], fit: str, overlap: float = 0.5
) -> Tensor:
    """Logits (B, K, H, W) for slices (B, C, H, W) of any size, of a `network` for slices of `size`.

    `resize`: the whole slice is resized to `size`, and the logits back (bilinear), as the reference does.
    `window`: windows of `size` slide over the slice at its own resolution, half overlapping, weighted by a
    Gaussian; smaller slices are padded with zeros, the floor of the intensity scale.
    """
    if fit == "window":
        from monai.inferers import sliding_window_inference  # noqa: PLC0415 -- seconds, for windows alone

        return torch.as_tensor(
            sliding_window_inference(
                images, size, len(images), network, overlap, "gaussian", 0.125, "constant", 0.0
            )
        )
    return resized_to(network(resized_to(images, size)), images.shape[-2:])


def mean_probabilities(
    parts: Sequence[tuple[Callable[[Tensor], Tensor], Tensor]], mirror: bool, decision: Decision
) -> Tensor:
    """The mean probabilities (B, K, ...) that networks give for their images (B, C, ...).

    With `mirror` over all mirror images of them, too: four of slices, eight of volumes.
    """
    axes = range(2, parts[0][1].ndim) if mirror else ()
    flips = [list(each) for count in range(len(axes) + 1) for each in combinations(axes, count)]
    total: Tensor | None = None
    for network, image in parts:
        for flip in flips:
            part = decision.activated(network(image.flip(flip))).flip(flip)
            total = part if total is None else total.add_(part)
    if total is None:
        raise ValueError("no network to average")
    return total.div_(len(parts) * len(flips))


def resized_to(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, C, h, w) at `size`, bilinear with corners not aligned; the same ones where they have it."""
    return maps if tuple(maps.shape[-2:]) == tuple(size) else resized(maps, size)


def _compiled(network: nn.Module) -> Callable[[Tensor], Any]:
    """`network`, compiled when it is first run; where torch cannot (it needs a C++ compiler), as it is."""
    tolerant = torch._dynamo.config.patch(suppress_errors=True)
    compiled: Callable[[Tensor], Any] = tolerant(torch.compile(network))
    return compiled


def _example(model: Model) -> Tensor:
    """Images for a trial, small where the network takes small ones."""
    size = [min(length, _TRIAL_PIXELS) for length in model.size]
    if not isinstance(model.network, Segmenter):  # which may have been made for one size
        size = list(model.size)
    count = 2 if model.spatial_dims == 2 else 1  # a window is a hundred slices
    return torch.rand(count, model.in_channels, *size, generator=torch.Generator().manual_seed(0))
