"""From trained networks and a volume to a label map in the volume's own grid."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsnet_med.errors import InputError
from dsnet_med.geometry import SliceAxis, SliceOrder, cut_across, is_sheared
from dsnet_med.inference.anatomy import contradictions
from dsnet_med.inference.batches import Batches, first_guess
from dsnet_med.inference.bundle_reader import Model, load_model
from dsnet_med.inference.hardware import choose_device, choose_precision
from dsnet_med.inference.images import as_volume
from dsnet_med.inference.intensities import implausible
from dsnet_med.inference.mask import Mask
from dsnet_med.inference.postprocess import PostProcess, postprocessed
from dsnet_med.inference.slice_model import SliceModel, mean_probabilities
from dsnet_med.networks.ensemble import members_of
from dsnet_med.prepare.intensity import Scaling
from dsnet_med.volumes import Volume

Images = NDArray[Any]


@dataclass
class Predictor:
    """Trained 2-D networks with all that turns a volume into what they were trained on; safe in threads.

    Several networks are an ensemble: the mean of their probabilities decides. `mirror` averages over the four
    mirror images of every slice. `batch_size` slices are worked on at a time; None takes what their size and
    the device suggest. It is halved for good where memory runs out.
    """

    models: tuple[SliceModel, ...]
    slice_axis: SliceAxis
    class_names: tuple[str, ...]
    device: torch.device
    batch_size: int | None = None
    mirror: bool = False
    postprocess: PostProcess = field(default_factory=PostProcess)
    fingerprints: tuple[str, ...] = ()
    facts: tuple[Mapping[str, Any], ...] = ()
    title: str = "dsnet-med"
    notices: tuple[str, ...] = ()
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def from_run(
        cls,
        *runs: Path | str,
        device: str = "auto",
        batch_size: int | None = None,
        mirror: bool = False,
        precision: str = "float32",
        postprocess: PostProcess | None = None,
        compile_networks: bool = False,
        trust: bool = False,
    ) -> "Predictor":
        """The best of a run, a bundle, a zip of one or `hf://OWNER/NAME`; of several, an ensemble.

        `trust` lets folders run code of their own. Raises InputError for folders that are no runs, weights that
        do not fit, and runs that differ in classes or slices.
        """
        if not runs:
            raise InputError("got no run; give the folder that train wrote")
        wanted = choose_device(device)
        numbers, notice = choose_precision(precision, wanted)
        loaded = [load_model(run, trust=trust) for run in runs]
        _require_alike(loaded, runs)
        models = tuple(
            SliceModel.of(replace(model, network=member), wanted, numbers, compiled=compile_networks)
            for model in loaded
            for member in members_of(model.network)
        )
        return cls(
            models=models,
            slice_axis=loaded[0].slice_axis,
            class_names=loaded[0].class_names,
            device=wanted,
            batch_size=batch_size,
            mirror=mirror,
            postprocess=(postprocess or PostProcess()).checked(loaded[0].class_names),
            fingerprints=tuple(model.fingerprint for model in loaded),
            facts=tuple(model.facts for model in loaded),
            title=" + ".join(model.title for model in loaded),
            notices=(notice,) if notice else (),
        )

    def predict(
        self,
        image: Any,
        affine: NDArray[np.float64] | None = None,
        *,
        volume_index: int | None = None,
        series: str | None = None,
        probabilities: bool = False,
    ) -> Mask:
        """The label map of one image, in the image's own grid.

        `image` is the path of a volume file or of a folder with a DICOM series, a nibabel or SimpleITK
        image, or an array (X, Y, Z) with its `affine` (4, 4) to RAS+ millimetres. `volume_index` takes one
        volume of a 4-D image, `series` a DICOM series by its number or UID. Raises InputError.
        """
        volume = as_volume(image, affine, volume_index, series)
        kept = None
        if probabilities:
            kept = np.empty((len(self.class_names), *volume.shape), np.float16)
        return self.segment(volume, kept)

    def segment(
        self,
        volume: Volume,
        probabilities: NDArray[np.float16] | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> Mask:
        """The label map of a volume that has been read; `probabilities` (K, X, Y, Z) is filled where given.

        `progress` is told each share of the volume that is done. Raises InputError.
        """
        notices: list[str] = []
        with self._one_at_a_time:
            ids = self._class_ids(volume, probabilities, progress, notices.append)
        ids = postprocessed(ids, self.postprocess, self.class_names, volume.voxel_mm3)
        across = cut_across(volume.affine, self.slice_axis)
        thick = () if across is None else (across,)
        sheared = (_sheared_note(volume),) if is_sheared(volume.shape, volume.affine) else ()
        odd = implausible(volume.voxels, [model.intensity for model in self.models])
        notes = (*odd, *volume.notes, *sheared, *thick, *contradictions(ids, volume.affine, self.class_names))
        return Mask(ids, self.class_names, volume, notes, tuple(notices), probabilities)

    def _class_ids(
        self,
        volume: Volume,
        probabilities: NDArray[np.float16] | None,
        progress: Callable[[float], None],
        notice: Callable[[str], None],
    ) -> NDArray[np.unsignedinteger[Any]]:
        order = SliceOrder.of(volume.affine, self.slice_axis)
        slices = order.to_slices(volume.voxels)
        scalings = [model.intensity.fit(slices) for model in self.models]
        kind = np.uint8 if len(self.class_names) <= 256 else np.uint16
        ids = np.empty(volume.shape, kind, order="F")  # as files hold it: slices lie in one piece
        into = order.to_slices(ids)
        shares = [] if probabilities is None else [order.to_slices(each) for each in probabilities]
        size = self.batch_size or self._suggested(slices.shape[1] * slices.shape[2])

        def work(part: slice) -> None:
            scores = self._scores(slices[part], scalings)
            into[part] = scores.argmax(1).to(torch.int16).cpu().numpy()
            if shares:
                scores = scores if self._averages else scores.softmax(1)
                for k, share in enumerate(shares):
                    share[part] = scores[:, k].half().cpu().numpy()
            progress(len(scores) / len(slices))

        batches = Batches(size, notice)
        for _ in batches.over(len(slices), work):
            pass
        if batches.size < size:
            self.batch_size = batches.size
        return ids

    @property
    def _averages(self) -> bool:
        return self.mirror or len(self.models) > 1

    def _suggested(self, pixels: int) -> int:
        """How many slices of so many pixels to work on at a time, by what one takes of memory."""
        sizes = [one.size[0] * one.size[1] for one in self.models]
        return first_guess(max(pixels, *sizes), pixels * len(self.class_names), self.device)

    @torch.inference_mode()
    def _scores(self, slices: Images, scalings: Sequence[Scaling]) -> Tensor:
        """Logits (B, K, H, W) of raw slices; where several are averaged, probabilities."""
        images = [self._on_device(scaling.apply(slices)) for scaling in scalings]
        if self._averages:
            return mean_probabilities(self.models, images, self.mirror)
        return self.models[0].logits(images[0])

    def _on_device(self, slices: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(slices))[:, None].to(self.device)


def _sheared_note(volume: Volume) -> str:
    seg = ", --format dicom-seg a DICOM segmentation" if getattr(volume, "slices", ()) else ""
    return (
        "its grid is sheared, and ITK programs (3D Slicer, SimpleITK, elastix) refuse a NIfTI mask on it: "
        f"infer --regrid writes one on an orthogonal grid beside it{seg}"
    )


def _require_alike(models: Sequence[Model], runs: Sequence[Path | str]) -> None:
    first = models[0]
    for model, run in zip(models[1:], runs[1:], strict=True):
        for what in ("class_names", "slice_axis"):
            if getattr(model, what) != getattr(first, what):
                raise InputError(
                    f"{run} and {runs[0]} differ in {what}: {getattr(model, what)} and {getattr(first, what)}; "
                    "an ensemble needs runs of one recipe"
                )
