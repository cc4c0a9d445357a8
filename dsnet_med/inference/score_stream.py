"""The scores of a volume's slices on the volume's own grid, a few at a time, from one network or several."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsnet_med.inference.batches import Batches, first_guess
from dsnet_med.inference.decision import Decision
from dsnet_med.inference.native_grid import on_grid, prepared, shape_at
from dsnet_med.inference.slice_model import SliceModel, mean_probabilities
from dsnet_med.prepare.intensity import Intensity, Scaling
from dsnet_med.resampling import Resampler, Spacing

Images = NDArray[Any]
Keep = Callable[[slice, Tensor], None]
Progress = Callable[[float], None]
Notice = Callable[[str], None]


@dataclass
class ScoreStream:
    """Networks of `outputs` channels, whose scores mean what `decision` says, and how volumes come to them.

    `batch_size` slices or windows are worked on at a time, None for what fits; it is halved for good where
    memory runs out.
    """

    models: Sequence[SliceModel]
    decision: Decision
    device: torch.device
    outputs: int
    mirror: bool = False
    spacing_mm: Spacing | None = None
    batch_size: int | None = None

    def over(
        self, stacks: Sequence[Images], spacing: Spacing, keep: Keep, progress: Progress, notice: Notice
    ) -> None:
        """Hand `keep` the scores (B, K, H, W) of the slices of `stacks`, one (D, H, W) for each channel.

        Slices come in order; `spacing` is theirs in mm. Raises InputError.
        """
        resampled = shape_at(stacks[0].shape, spacing, self.spacing_mm) != stacks[0].shape
        if resampled or any(model.is_3d for model in self.models):
            for index, scores in enumerate(self._streamed(stacks, spacing, progress, notice)):
                keep(slice(index, index + 1), scores[None])
        else:
            self._slice_by_slice(stacks, keep, progress, notice)

    def _slice_by_slice(self, stacks: Sequence[Images], keep: Keep, progress: Progress, notice: Notice) -> None:
        """Slices at their own resolution through 2-D networks, each batch scaled, scored and kept by itself."""
        scalings = [
            [rule.fit(stack) for rule, stack in zip(model.intensities, stacks, strict=True)]
            for model in self.models
        ]
        count, height, width = stacks[0].shape

        def work(part: slice) -> None:
            keep(part, self._scores([stack[part] for stack in stacks], scalings))
            progress((part.stop - part.start) / count)

        batches = self._batches(height * width, notice)
        for _ in batches.over(count, work):
            pass
        self._learn(batches)

    def _streamed(
        self, stacks: Sequence[Images], spacing: Spacing, progress: Progress, notice: Notice
    ) -> Iterator[Tensor]:
        """The scores (K, H, W) of each slice of the volume's own grid, from networks at theirs."""
        shape = stacks[0].shape
        wanted = self.spacing_mm
        made: dict[tuple[Intensity, ...], Tensor] = {}  # models of one recipe see one volume
        streams = []
        for model in self.models:
            rules = model.intensities
            if rules not in made:
                made[rules] = torch.from_numpy(prepared(stacks, rules, spacing, wanted))
            volume = made[rules]
            batches = self._batches(volume.shape[2] * volume.shape[3], notice, model)
            streams.append((model, volume, batches))
        share = len(streams)
        scores = _averaged(
            [
                model.slices(
                    volume,
                    self.decision,
                    batches,
                    mirror=self.mirror,
                    device=self.device,
                    progress=lambda part: progress(part / share),
                )
                for model, volume, batches in streams
            ]
        )
        have = streams[0][1].shape[1:]
        if wanted is not None and tuple(have) != shape:
            scores = on_grid(scores, Resampler.between(have, shape, wanted, spacing))
        yield from scores
        for _, _, batches in streams:
            self._learn(batches)

    def _batches(self, pixels: int, notice: Notice, model: SliceModel | None = None) -> Batches:
        if model is not None and model.is_3d:
            size = prod(model.size)
            guess = first_guess(size, size * self.outputs, self.device)
            return Batches(self.batch_size or guess, notice, "window")
        return Batches(self.batch_size or self.suggested(pixels), notice)

    def _learn(self, batches: Batches) -> None:
        """Keep a size that batches were halved to, for the volumes to come."""
        if batches.halved:
            self.batch_size = batches.size

    def suggested(self, pixels: int) -> int:
        """How many slices of so many pixels to work on at a time, by what one takes of memory."""
        sizes = [prod(one.size) for one in self.models if not one.is_3d]
        return first_guess(max(pixels, *sizes), pixels * self.outputs, self.device)

    def _scores(self, slices: Sequence[Images], scalings: Sequence[Sequence[Scaling]]) -> Tensor:
        """Logits (B, K, H, W) of the raw slices of each channel; where several are averaged, probabilities."""
        images = [
            self._on_device([each.apply(channel) for each, channel in zip(own, slices, strict=True)])
            for own in scalings
        ]
        if self.decision.averaged:
            parts = [(model.logits, image) for model, image in zip(self.models, images, strict=True)]
            return mean_probabilities(parts, self.mirror, self.decision)
        return self.models[0].logits(images[0])

    def _on_device(self, channels: Sequence[NDArray[np.float32]]) -> Tensor:
        return torch.from_numpy(np.stack(channels, axis=1)).to(self.device)


def _averaged(streams: Sequence[Iterator[Tensor]]) -> Iterator[Tensor]:
    if len(streams) == 1:
        yield from streams[0]
        return
    for several in zip(*streams, strict=True):
        total = several[0]
        for scores in several[1:]:
            total = total + scores.to(total.device)
        yield total / len(several)
