"""A few slices of the validation, the same after every one: image, reference and prediction side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.networks import eval_mode
from numpy.typing import NDArray
from torch import Tensor

from dsnet_med.engine.gates import gates_of
from dsnet_med.engine.loggers import Loggers, Picture
from dsnet_med.evaluate.overlay import painted
from dsnet_med.organs import organ_of
from dsnet_med.regions import IGNORED, Region, label_map, parse, region_masks

_PIXELS = 384  # along a panel's longer side, at most; small ones are enlarged to half of it at least
_SLAB = 32  # slices of a volume that its network is shown for the sake of its gates


@dataclass
class Slice:
    """One slice (C, H, W) with its class ids (H, W) in the reference and as predicted.

    `shown` is what the network sees of it, a batch of one: the slice, or of a volume the slices around it.
    """

    foreground: int
    image: Tensor
    reference: Tensor
    prediction: Tensor
    shown: Tensor


class FixedSlices:
    """Send the loggers a picture of one slice of each of the first `count` cases of the validation.

    It is the slice with the most foreground, so the same one every time. For these slices the gates of the
    network's plug-ins are logged, too: `gate_mean` and `gate_spread`. A batch's `case` names whose slices it
    holds; without it each image is a case of its own. What is no segmentation gives no picture, and the gates
    of its first batch. Organs have the colours of their `class_names`. Outputs of `regions` are shown as the
    label map that they are written as.
    """

    def __init__(
        self,
        logger: Loggers,
        validator: Engine,
        count: int = 3,
        *,
        class_names: Sequence[str] = (),
        regions: Mapping[str, Any] | None = None,
    ) -> None:
        self.logger, self.validator, self.count = logger, validator, count
        self.class_names, self.regions = class_names, parse(regions) if regions else ()
        self.slices: dict[str, Slice] = {}
        self.first: Any = None

    def attach(self, trainer: Engine) -> None:
        """Listen to the validator; the iteration is that of `trainer`."""
        if self.logger.writes:
            self.trainer = trainer
            self.validator.add_event_handler(Events.STARTED, self._reset)
            self.validator.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
            self.validator.add_event_handler(Events.COMPLETED, self._send)

    def _reset(self, _: Engine) -> None:
        self.slices.clear()
        self.first = None

    def _keep(self, validator: Engine) -> None:
        output = validator.state.output
        image, label, logits = (output.get(name) for name in ("image", "label", "pred"))
        if not (
            isinstance(label, Tensor)
            and isinstance(logits, Tensor)
            and label.ndim >= 3
            and logits.ndim in (4, 5)
        ):
            self.first = image if self.first is None else self.first
            return
        volume = image if logits.ndim == 5 else None
        if volume is not None:  # of one case, as a validation has it
            image, logits = (each[0].transpose(0, 1) for each in (image, logits))
        label = label.flatten(0, -3)  # (B, H, W)
        for case, places in _cases(validator.state.batch, len(label), len(self.slices)).items():
            if case not in self.slices and len(self.slices) == self.count:
                continue
            labels = label[places]
            sizes = ((labels > 0) & (labels != IGNORED)).flatten(1).sum(1)
            most = int(sizes.argmax())
            size, place = int(sizes[most]), places[most]
            if case not in self.slices or size > self.slices[case].foreground:
                reference, predicted = _decided(labels[most], logits[place], self.regions)
                shown = image[place : place + 1] if volume is None else _slab(volume, place)
                self.slices[case] = Slice(size, image[place].clone(), reference, predicted, shown.clone())

    def _send(self, validator: Any) -> None:
        iteration = self.trainer.state.iteration
        gates = gates_of(validator.network, lambda: self._run(validator))
        if gates:
            mean, spread = ({name: round(gate[k], 6) for name, gate in gates.items()} for k in (0, 1))
            self.logger.numbers(iteration, {"gate_mean": mean, "gate_spread": spread})
        if self.logger.shows_pictures:
            for case, kept in self.slices.items():
                self.logger.picture(iteration, f"slices/{case}", panels(kept, self.class_names))

    def _run(self, validator: Any) -> None:
        images = [kept.shown for kept in self.slices.values()]
        with eval_mode(validator.network):
            for image in images or [self.first]:
                validator.inferer(image, validator.network)


def _decided(labels: Tensor, logits: Tensor, regions: Sequence[Region]) -> tuple[Tensor, Tensor]:
    """The class ids (H, W) of a slice's labels and of its logits (K, H, W), or of what was made of these."""
    if not regions:
        return labels.clone(), logits.argmax(0) if logits.is_floating_point() else logits[0].clone()
    ours = label_map((logits > 0).cpu().numpy(), regions)
    theirs = label_map(region_masks(labels.cpu().numpy(), regions), regions)
    return torch.from_numpy(theirs.astype(np.int64)), torch.from_numpy(ours.astype(np.int64))


def _slab(volume: Tensor, place: int) -> Tensor:
    """Some slices of a volume (1, C, D, H, W) around one of them."""
    first = max(0, min(place - _SLAB // 2, volume.shape[2] - _SLAB))
    return volume[:, :, first : first + _SLAB]


def _cases(batch: Any, length: int, before: int) -> dict[str, list[int]]:
    """The places in a batch of the slices of each case."""
    names = batch.get("case") if isinstance(batch, dict) else None
    if isinstance(names, str):
        return {names: list(range(length))}
    if isinstance(names, Sequence) and len(names) == length:
        return {str(name): [k for k, each in enumerate(names) if each == name] for name in dict.fromkeys(names)}
    return {f"image {before + k + 1}": [k] for k in range(length)}


def panels(kept: Slice, class_names: Sequence[str]) -> Picture:
    """Image, reference over it and prediction over it, (H, 3 W, 3)."""
    image, reference, prediction = (
        each.cpu().numpy() for each in (kept.image, kept.reference, kept.prediction)
    )
    near = _near(reference.shape)
    grey = _shown(image)[near]
    reference, prediction = reference[near].astype(np.int64), prediction[near].astype(np.int64)
    reference = np.where(reference == IGNORED, 0, reference)
    names = dict(enumerate(class_names))
    found = (int(k) for k in np.union1d(reference, prediction) if k)
    colours = {k: organ_of(names.get(k, f"class {k}")).colour for k in found}
    return np.concatenate(
        [painted(grey, ids, colours) for ids in (0 * reference, reference, prediction)], axis=1
    )


def _near(shape: Sequence[int]) -> tuple[NDArray[np.intp], ...]:
    """The rows and columns that make a panel of a legible size."""
    longest = max(shape)
    factor = min(_PIXELS / longest, max(1.0, _PIXELS / 2 / longest))
    return np.ix_(*(np.arange(round(n * factor)) * n // round(n * factor) for n in shape))


def _shown(image: NDArray[Any]) -> NDArray[np.float64]:
    """An image (C, H, W) as colours (H, W, 3), 0 to 255: three channels as they are, else the first, grey."""
    channels = image if len(image) == 3 else np.repeat(image[:1], 3, axis=0)
    low, high = np.percentile(channels, (0.5, 99.5))
    scaled: NDArray[np.float64] = 255.0 * np.clip((channels - low) / (high - low or 1.0), 0, 1)
    return np.moveaxis(scaled, 0, 2)
