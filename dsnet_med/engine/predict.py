"""From a trained run and a NIfTI volume to a label map in the volume's own grid."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from torch import Tensor, nn

from dsnet_med.engine.inferers import SliceFitInferer
from dsnet_med.errors import InputError, unknown
from dsnet_med.files import remove_partial, require_writable, write_json
from dsnet_med.geometry import SliceAxis, SliceOrder
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.volumes import case_name, is_nifti, read_image, write_labels


@dataclass
class Predictor:
    """A trained 2-D network with all that turns a volume into what it was trained on."""

    network: nn.Module
    inferer: SliceFitInferer
    intensity: Intensity
    slice_axis: SliceAxis
    class_names: tuple[str, ...]
    device: torch.device
    batch_size: int = 4
    mirror: bool = False  # average over the four mirror images of a slice

    @classmethod
    def from_run(
        cls, run: Path, *, device: str = "auto", batch_size: int | None = None, mirror: bool = False
    ) -> "Predictor":
        """The best checkpoint of a run folder. Its configuration is code: load only runs that you trust.

        Raises InputError when the folder is not a run, or its weights do not fit its configuration.
        """
        config = run / "configs" / "inference.yaml"
        if not config.is_file():
            raise InputError(
                f"{run}: not a run folder, it has no configs/inference.yaml; give what train wrote"
            )
        parser = ConfigParser()
        parser.read_config(str(config))
        parser["bundle_root"] = str(run)
        wanted = choose_device(device)
        network = parser.get_parsed_content("slice_network")
        load_weights(network, Path(parser.get_parsed_content("checkpoint")))
        return cls(
            network=network.to(wanted).eval(),
            inferer=SliceFitInferer(parser["size"], parser["fit"]),
            intensity=Intensity.from_dict(parser["intensity"]),
            slice_axis=parser["slice_axis"],
            class_names=tuple(parser["class_names"]),
            device=wanted,
            batch_size=batch_size or int(parser["batch_size"]),
            mirror=mirror,
        )

    def predict(self, voxels: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Class ids (X, Y, Z) for the intensities (X, Y, Z) of one volume, in its own axis order."""
        order = SliceOrder.of(affine, self.slice_axis)
        slices = order.to_slices(voxels)
        scaling = self.intensity.fit(slices)
        labels = np.empty(slices.shape, np.uint8)
        for start in range(0, len(slices), self.batch_size):
            part = scaling.apply(slices[start : start + self.batch_size])
            image = torch.from_numpy(np.ascontiguousarray(part))[:, None].to(self.device)
            labels[start : start + len(part)] = self._classes(image).cpu().numpy()
        return np.ascontiguousarray(order.to_volume(labels))

    @torch.inference_mode()
    def _classes(self, image: Tensor) -> Tensor:
        scores = self._mirrored(image) if self.mirror else self.inferer(image, self.network)
        return scores.max(1).indices.to(torch.uint8)  # several times faster than argmax on a CPU

    def _mirrored(self, image: Tensor) -> Tensor:
        flips: list[list[int]] = [[], [2], [3], [2, 3]]
        views = (self.inferer(image.flip(axes), self.network).softmax(1).flip(axes) for axes in flips)
        return sum(views, torch.zeros((), device=image.device))


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a state dict (never code) into a network. Raises InputError when it is damaged or does not fit."""
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train first, or wait for the first validation")
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load raises a dozen types for damaged files
        raise InputError(f"{path}: not the weights of this network ({str(error).splitlines()[0]})") from error


def choose_device(name: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:N`. Raises InputError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device '{name}': no CUDA device is visible; use --device cpu")
    return torch.device(name)


@dataclass(frozen=True)
class Segmented:
    """What became of one input."""

    case: str
    error: str | None = None


def segment_files(predictor: Predictor, files: Sequence[Path], out: Path) -> Iterator[Segmented]:
    """Write `<case>.nii.gz` for every file into `out`, and the class names into `labels.json`.

    One bad file never stops the others. Raises InputError when the folder cannot be written or holds an input.
    """
    require_writable(out)
    remove_partial(out)
    if clash := [file for file in files if file.parent.resolve() == out.resolve()]:
        raise InputError(
            f"{out} holds the input {clash[0].name}, which would be overwritten; choose another --out"
        )
    write_json(out / "labels.json", {str(i): name for i, name in enumerate(predictor.class_names)})
    for file in files:
        yield _segment_file(predictor, file, out)


def _segment_file(predictor: Predictor, file: Path, out: Path) -> Segmented:
    case = case_name(file)
    try:
        volume = read_image(file)
        write_labels(out / f"{case}.nii.gz", predictor.predict(volume.voxels, volume.affine), volume)
    except InputError as error:
        return Segmented(case, str(error))
    return Segmented(case)


def find_inputs(paths: Sequence[Path]) -> list[Path]:
    """The NIfTI files named by `paths`, folders searched one level deep. Raises InputError."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += (
                found := sorted(file for file in path.iterdir() if is_nifti(file) and file.name[0] != ".")
            )
            if not found:
                raise InputError(f"{path}: holds no .nii or .nii.gz file")
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    by_case: dict[str, Path] = {}
    for file in files:
        if (other := by_case.setdefault(case_name(file), file)) != file:
            raise InputError(f"two inputs are called '{case_name(file)}': {other} and {file}; rename one")
    return files


def items(folder: str) -> list[dict[str, str]]:
    """The inputs in a folder as MONAI data items."""
    return [{"image": str(file)} for file in find_inputs([Path(folder)])]
