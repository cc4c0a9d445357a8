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
from dsnet_med.inference.bundle_reader import Model, load_model
from dsnet_med.inference.channels import wrong_count
from dsnet_med.inference.decision import Decision
from dsnet_med.inference.hardware import choose_device, choose_precision
from dsnet_med.inference.images import as_channels
from dsnet_med.inference.intensities import implausible
from dsnet_med.inference.mask import Mask
from dsnet_med.inference.postprocess import PostProcess, postprocessed
from dsnet_med.inference.score_stream import ScoreStream
from dsnet_med.inference.settings import ONE_CHANNEL
from dsnet_med.inference.slice_model import SliceModel
from dsnet_med.networks.ensemble import members_of
from dsnet_med.regions import Region
from dsnet_med.volumes import Volume


@dataclass
class Predictor:
    """Trained networks with all that turns a volume into what they were trained on; safe in threads.

    Several networks are an ensemble: the mean of their probabilities decides. `mirror` averages over the four
    mirror images of every slice, or the eight of every window. `batch_size` slices or windows are worked on at
    a time; None takes what their size and the device suggest. It is halved for good where memory runs out.
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
    channel_names: tuple[str, ...] = (ONE_CHANNEL,)
    spacing_mm: tuple[float, float, float] | None = None
    resample_channels: bool = False
    regions: tuple[Region, ...] = ()
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
        fuse: bool = True,
    ) -> "Predictor":
        """The best of a run, a bundle, a zip of one or `hf://OWNER/NAME`; of several, an ensemble.

        `trust` lets folders run code of their own. Without `fuse` the networks stay as they were built, for who
        looks into them. Raises InputError for folders that are no runs, weights that do not fit, and runs that
        differ in classes or slices.
        """
        if not runs:
            raise InputError("got no run; give the folder that train wrote")
        wanted = choose_device(device)
        numbers, notice = choose_precision(precision, wanted)
        loaded = [load_model(run, trust=trust) for run in runs]
        _require_alike(loaded, runs)
        models = tuple(
            SliceModel.of(replace(model, network=member), wanted, numbers, compiled=compile_networks, fuse=fuse)
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
            channel_names=loaded[0].channel_names,
            spacing_mm=loaded[0].spacing_mm,
            resample_channels=loaded[0].resample_channels,
            regions=loaded[0].regions,
        )

    @property
    def output_names(self) -> tuple[str, ...]:
        """What probabilities are of: the regions, else the classes."""
        return tuple(region.name for region in self.regions) or self.class_names

    @property
    def overlapping(self) -> bool:
        """Whether the regions overlap freely: what they are made of are no classes, but combinations."""
        return any(code >= len(self.class_names) for region in self.regions for code in region.codes)

    def __post_init__(self) -> None:
        if self.overlapping and self.postprocess != PostProcess():
            raise InputError(
                f"{', '.join(self.output_names)} overlap, and post-processing is of organs that do not; leave "
                "it out"
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
        image, or an array (X, Y, Z) with its `affine` (4, 4) to RAS+ millimetres. For networks of several
        channels it is a list of these, in the order of `channel_names`, a 4-D file of as many volumes, or an
        array (C, X, Y, Z). `volume_index` takes one volume of a 4-D image, `series` a DICOM series by its
        number or UID, or one for each channel. Raises InputError.
        """
        names, resample = self.channel_names, self.resample_channels
        channels = as_channels(image, affine, names, volume_index, series, resample=resample)
        kept = None
        if probabilities:
            kept = np.empty((len(self.output_names), *channels[0].shape), np.float16)
        return self.segment(channels, kept)

    def segment(
        self,
        image: Volume | Sequence[Volume],
        probabilities: NDArray[np.float16] | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> Mask:
        """The label map of a volume that has been read, or of its channels, on one grid.

        `probabilities` (K, X, Y, Z) is filled where given. `progress` is told each share of the volume that is
        done. Raises InputError.
        """
        channels = [image] if isinstance(image, Volume) else list(image)
        if len(channels) != len(self.channel_names):
            raise InputError(wrong_count(channels[0].path, len(channels), self.channel_names))
        notices: list[str] = []
        with self._one_at_a_time, torch.inference_mode():
            ids, bits = self._class_ids(channels, probabilities, progress, notices.append)
        unstated = tuple(dict.fromkeys(line for channel in channels for line in channel.unstated))
        volume = replace(channels[0], unstated=unstated)
        ids = postprocessed(ids, self.postprocess, self.class_names, volume.voxel_mm3)
        across = cut_across(volume.affine, self.slice_axis)
        thick = () if across is None else (across,)
        sheared = (_sheared_note(volume),) if is_sheared(volume.shape, volume.affine) else ()
        notes = (
            *self._doubts(channels),
            *sheared,
            *thick,
            *contradictions(ids, volume.affine, self.class_names),
        )
        return Mask(
            ids,
            self.class_names,
            volume,
            notes,
            tuple(notices),
            probabilities,
            output_names=self.output_names,
            regions=self.regions,
            bits=bits,
        )

    @property
    def decision(self) -> Decision:
        """What the scores mean."""
        return Decision(self.regions, self.mirror or len(self.models) > 1)

    def score(
        self,
        channels: Sequence[Volume],
        keep: Callable[[slice, Tensor], None],
        progress: Callable[[float], None] = lambda _: None,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Hand `keep` the scores (B, K, H, W) of the slices of a volume's own grid, in order, batch by batch.

        The slices are those of `geometry.SliceOrder`. A batch that runs out of memory, in `keep` too, is tried
        again at half the size, which `notice` is told; `progress` is told each share that is done. Raises
        InputError.
        """
        order = SliceOrder.of(channels[0].affine, self.slice_axis)
        stacks = [order.to_slices(channel.voxels) for channel in channels]
        stream = self.stream()
        stream.over(stacks, order.spacing_mm(channels[0].affine), keep, progress, notice)
        self.batch_size = stream.batch_size

    def stream(self) -> ScoreStream:
        """What makes scores of slices."""
        return ScoreStream(
            self.models,
            self.decision,
            self.device,
            len(self.output_names),
            self.mirror,
            self.spacing_mm,
            self.batch_size,
        )

    def _doubts(self, channels: Sequence[Volume]) -> list[str]:
        """What is doubtful about the channels themselves; intensities first."""
        odd: list[tuple[str, str]] = []
        said: list[tuple[str, str]] = []
        for number, (name, volume) in enumerate(zip(self.channel_names, channels, strict=True)):
            rules = [model.intensities[number] for model in self.models]
            odd += [(name, line) for line in implausible(volume.voxels, rules)]
            said += [(name, line) for line in volume.notes]
        named = len(channels) > 1
        return [f"{name}: {line}" if named else line for name, line in (*odd, *said)]

    def _class_ids(
        self,
        channels: Sequence[Volume],
        probabilities: NDArray[np.float16] | None,
        progress: Callable[[float], None],
        notice: Callable[[str], None],
    ) -> tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.uint8] | None]:
        """The label map, and of regions that overlap freely a bit for each."""
        volume = channels[0]
        order = SliceOrder.of(volume.affine, self.slice_axis)
        kind = np.uint8 if len(self.class_names) <= 256 else np.uint16
        ids = np.empty(volume.shape, kind, order="F")  # as files hold it: slices lie in one piece
        into = order.to_slices(ids)
        bits = np.empty(volume.shape, np.uint8, order="F") if self.overlapping else None
        shares = [] if probabilities is None else [order.to_slices(each) for each in probabilities]
        decision = self.decision

        def keep(part: slice, scores: Tensor) -> None:
            into[part] = decision.values(scores).cpu().numpy()
            if bits is not None:
                order.to_slices(bits)[part] = decision.bits(scores).cpu().numpy()
            if shares:
                scores = decision.probabilities(scores)
                for k, share in enumerate(shares):
                    share[part] = scores[:, k].half().cpu().numpy()

        self.score(channels, keep, progress, notice)
        return ids, bits


def _sheared_note(volume: Volume) -> str:
    seg = ", --format dicom-seg a DICOM segmentation" if getattr(volume, "slices", ()) else ""
    return (
        "its grid is sheared, and ITK programs (3D Slicer, SimpleITK, elastix) refuse a NIfTI mask on it: "
        f"infer --regrid writes one on an orthogonal grid beside it{seg}"
    )


def _require_alike(models: Sequence[Model], runs: Sequence[Path | str]) -> None:
    first = models[0]
    for model, run in zip(models[1:], runs[1:], strict=True):
        for what in (
            "class_names",
            "slice_axis",
            "channel_names",
            "resample_channels",
            "spacing_mm",
            "regions",
        ):
            if getattr(model, what) != getattr(first, what):
                raise InputError(
                    f"{run} and {runs[0]} differ in {what}: {getattr(model, what)} and {getattr(first, what)}; "
                    "an ensemble needs runs of one recipe"
                )
