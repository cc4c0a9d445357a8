"""The MONAI transforms that are ours: slice order, intensities, fitting a slice to the training size."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    InvertibleTransform,
    MapTransform,
    RandSpatialCropd,
    SpatialPadd,
    Transform,
)
from monai.utils import convert_to_tensor
from torch.nn import functional as F

from dsnet_med.errors import InputError, unknown
from dsnet_med.geometry import SliceAxis, SliceOrder
from dsnet_med.inference.bundle_reader import FITS
from dsnet_med.inference.decision import Decision
from dsnet_med.inference.native_grid import on_grid
from dsnet_med.inference.settings import ONE_CHANNEL
from dsnet_med.inference.slice_model import resized_to
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.regions import parse
from dsnet_med.resampling import Resampler, resampled


def fit_to(size: Sequence[int], fit: str = "resize") -> Transform:
    """Bring image and label (1, H, W) to `size`: `resize` the whole slice, or `window` a random crop of it.

    Images are interpolated bilinearly, as in the reference; labels by the nearest neighbour, so that no class
    is invented. Nearest is counted from pixel centres, as the images' interpolation is; the reference counts
    from pixel corners (PyTorch's `nearest`), which shifts labels against their image.
    """
    keys = ("image", "label")
    if fit == "resize":
        return ResizeSliced(size)
    if fit == "window":
        return Compose(
            [SpatialPadd(keys, spatial_size=size), RandSpatialCropd(keys, roi_size=size, random_size=False)]
        )
    raise unknown("fit", fit, FITS)


class ResizeSliced(MapTransform):
    """Image and label (C, H, W) at `size`, see `fit_to`; plain tensors, the same ones where they have it.

    MONAI's Resized gives the same values, and takes half a millisecond where there is nothing to do.
    """

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__(keys=("image", "label"))
        self.size = tuple(size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image, label = (convert_to_tensor(data[key], track_meta=False) for key in self.keys)
        if label.shape[1:] != self.size:  # uint8 has no kernel for every version's nearest-exact
            label = F.interpolate(label[None].float(), self.size, mode="nearest-exact")[0].to(label.dtype)
        return {**data, "image": resized_to(image[None], self.size)[0], "label": label}


class ScaleByRecipe(MapTransform):
    """Scale the intensities of a volume (C, ...) as its recipe says.

    `intensity` is a rule ({"window": [low, high]} or another) for every channel, or a list with one for each.
    """

    def __init__(
        self, keys: Sequence[Hashable], intensity: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    ) -> None:
        super().__init__(keys)
        rules = [intensity] if isinstance(intensity, Mapping) else intensity
        self.rules = [Intensity.from_dict(dict(rule)) for rule in rules]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        scaled = dict(data)
        for key in self.keys:
            image = scaled[key]
            voxels = image.numpy()
            if not np.isfinite(voxels).all():
                raise InputError(
                    f"{_named(image)}: holds NaN or infinite voxels; replace them with a finite value"
                )
            rules = self.rules * len(voxels) if len(self.rules) == 1 else self.rules
            _require_count(image, len(rules))
            values = np.stack([rule.fit(part).apply(part) for rule, part in zip(rules, voxels, strict=True)])
            scaled[key] = MetaTensor(
                torch.from_numpy(values), meta=image.meta, applied_operations=image.applied_operations
            )
        return scaled


class ZScoreSliced(MapTransform):
    """Normalise every slice (C, H, W) by its own values, as the published code does.

    Each channel to mean 0 and (population) deviation 1, then all shifted so that the smallest value is 0, which
    is also the fill of rotations. A channel of one value has no deviation and is divided by 1, not by 0.

    `mirrored_statistics` gives each channel the mean and deviation of its mirror image, first for last: the
    published code takes them before it swaps blue and red. Grey slices know no difference.
    """

    def __init__(self, keys: Sequence[Hashable] = ("image",), mirrored_statistics: bool = False) -> None:
        super().__init__(keys)
        self.mirrored_statistics = mirrored_statistics

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: self._normalised(torch.as_tensor(data[key])) for key in self.keys}}

    def _normalised(self, image: torch.Tensor) -> torch.Tensor:
        values = image.double()  # sums of a float32 slice would leave rounding where there is no deviation
        axes = tuple(range(1, values.ndim))
        mean = values.mean(axes, keepdim=True)
        deviation = (values - mean).square().mean(axes, keepdim=True).sqrt()
        constant = values.amax(axes, keepdim=True) == values.amin(axes, keepdim=True)
        if self.mirrored_statistics:
            mean, deviation, constant = (each.flip(0) for each in (mean, deviation, constant))
        scores = (values - mean) / deviation.masked_fill(constant, 1.0)
        return (scores - scores.min()).float()


class ToSlices(MapTransform, InvertibleTransform):
    """Reorder a volume (C, X, Y, Z) with an affine into slices (C, D, H, W), see geometry.SliceOrder; exact.

    Raises InputError for another number of channels than `channels`, their names, and for voxels that come
    without an affine: which way they lie is unknown then, and what is taken for it would be wrong for most
    files without anybody noticing.
    """

    def __init__(
        self,
        keys: Sequence[Hashable],
        slice_axis: SliceAxis = "superior",
        channels: Sequence[str] = (ONE_CHANNEL,),
    ) -> None:
        super().__init__(keys)
        self.slice_axis, self.channels = slice_axis, channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        ordered = dict(data)
        for key in self.keys:
            image = ordered[key]
            _require_count(image, len(self.channels))
            _require_oriented(image)
            order = SliceOrder.of(np.asarray(image.affine, np.float64), self.slice_axis)
            slices = [order.to_slices(channel) for channel in image.numpy()]
            ordered[key] = MetaTensor(torch.from_numpy(np.stack(slices)), meta=image.meta)
            ordered[key].applied_operations = image.applied_operations
            extra = {"axes": order.axes, "reversed": order.reversed}
            self.push_transform(ordered, key, extra_info=extra)
        return ordered

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The way back, to (C, X, Y, Z)."""
        native = dict(data)
        for key in self.keys:
            image = native[key]
            extra = self.pop_transform(native, key)["extra_info"]
            order = SliceOrder(tuple(extra["axes"]), tuple(extra["reversed"]))
            channels = [order.to_volume(channel) for channel in image.numpy()]
            native[key] = MetaTensor(torch.from_numpy(np.stack(channels)), meta=image.meta)
            native[key].applied_operations = image.applied_operations
        return native


class ToSpacing(MapTransform):
    """Resample slices (C, D, H, W) to `spacing_mm` of slices, rows and columns; None leaves them as they are.

    `OnOwnGrid` leads the network's scores back.
    """

    def __init__(
        self,
        keys: Sequence[Hashable],
        spacing_mm: Sequence[float] | None = None,
        slice_axis: SliceAxis = "superior",
    ) -> None:
        super().__init__(keys)
        self.spacing_mm, self.slice_axis = spacing_mm, slice_axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if self.spacing_mm is None:
            return dict(data)
        spaced = dict(data)
        for key in self.keys:
            image = spaced[key]
            affine = np.asarray(image.affine, np.float64)
            spacing = SliceOrder.of(affine, self.slice_axis).spacing_mm(affine)
            channels = [resampled(each[None], spacing, self.spacing_mm)[0] for each in image.numpy()]
            own = {"own_shape": np.array(image.shape[1:]), "own_spacing_mm": np.array(spacing)}
            spaced[key] = MetaTensor(torch.from_numpy(np.stack(channels)), meta={**image.meta, **own})
            spaced[key].applied_operations = image.applied_operations
        return spaced


class OnOwnGrid(MapTransform):
    """Scores (K, D', H', W') as class ids (1, D, H, W) on the slices of the volume's own grid.

    The scores are logits of classes, of which the largest is taken, or of `regions` ({name: {of, value}}), each
    decided by itself and written in their order. `spacing_mm` is that of `ToSpacing`, which noted in the image
    under `image_key` what its own grid was.
    """

    def __init__(
        self,
        keys: Sequence[Hashable],
        spacing_mm: Sequence[float] | None = None,
        regions: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.uint8,
        image_key: Hashable = "image",
    ) -> None:
        super().__init__(keys)
        self.spacing_mm, self.dtype, self.image_key = spacing_mm, dtype, image_key
        self.decision = Decision(parse(regions) if regions else ())

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        decided = dict(data)
        for key in self.keys:
            scores = decided[key]
            slices = iter(torch.as_tensor(scores).as_subclass(torch.Tensor).unbind(1))
            if self.spacing_mm is not None:
                slices = on_grid(slices, self._way_back(data[self.image_key].meta, scores.shape[1:]))
            ids = torch.stack([self.decision.values(each[None])[0] for each in slices])[None].to(self.dtype)
            if isinstance(scores, MetaTensor):
                ids = MetaTensor(ids, meta=scores.meta, applied_operations=scores.applied_operations)
            decided[key] = ids
        return decided

    def _way_back(self, meta: Mapping[str, Any], have: Sequence[int]) -> Resampler:
        shape = [int(n) for n in meta["own_shape"]]
        spacing = [float(size) for size in meta["own_spacing_mm"]]
        return Resampler.between(have, shape, self.spacing_mm or spacing, spacing)


def _require_count(image: MetaTensor, count: int) -> None:
    if image.ndim != 4 or len(image) != count:
        wanted = "one channel" if count == 1 else f"{count} channels"
        raise InputError(
            f"{_named(image)}: has the shape {tuple(image.shape)}, wanted {wanted} of three axes; "
            "give one volume at a time"
        )


def _require_oriented(image: MetaTensor) -> None:
    # Files, DICOM series and MONAI Deploy's images say it; a bare array has the identity, from MONAI.
    stated = image.meta.get("original_affine") is not None
    if not stated and np.array_equal(np.asarray(image.affine), np.eye(4)):
        raise InputError(
            f"{_named(image)}: comes without an affine, so which way it lies is unknown; give a file, or its "
            "affine to RAS+ millimetres as the metadata affine and original_affine"
        )


def _named(image: MetaTensor) -> str:
    return str(image.meta.get("filename_or_obj", "the image"))
