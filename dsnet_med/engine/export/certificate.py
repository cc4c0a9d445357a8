"""certificate.json of a bundle: every form of the network, opened again by its own runtime and compared.

The reference is the network that `infer` builds from configs/inference.json with the weights of
models/model.safetensors, as PyTorch runs it eagerly. A form holds where no logit differs by more than 1e-4 (or
1e-5 of the largest logit, where that is more: 32-bit numbers have seven digits; of networks for volumes, whose
instance norms amplify their rounding, 1e-4 of it) and 99.99 % of the voxels have the same class. What is
compared are differences between forms on this machine's CPU, not whether the network is right; that is what
the scores in docs/README.md are for.
"""

import importlib.metadata
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from numpy.typing import NDArray
from torch import Tensor, nn

import dsnet_med
from dsnet_med.engine.draws import kept_generators
from dsnet_med.engine.export.formats import (
    FORMATS,
    Format,
    Plain,
    Run,
    open_torchscript,
    quiet,
    version_of,
)
from dsnet_med.engine.export.inputs import Input, made_up, made_up_images, sizes_around
from dsnet_med.engine.memory import peak_bytes, resident_bytes, restart_peak
from dsnet_med.engine.stopping import in_words
from dsnet_med.errors import InputError, one_line, root_cause
from dsnet_med.files import read_json, sha256
from dsnet_med.inference.bundle_reader import Model, load_model, load_strictly
from dsnet_med.inference.decision import Decision
from dsnet_med.inference.predictor import Predictor
from dsnet_med.inference.slice_model import slice_logits
from dsnet_med.inference.windows import window_scores
from dsnet_med.networks.checkpoint import digest
from dsnet_med.networks.definition import literal
from dsnet_med.networks.ensemble import main_output, mean_logits, members_of
from dsnet_med.networks.layers import with_channels
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.regions import as_dict
from dsnet_med.seal import holds
from dsnet_med.volumes import write_image

CERTIFICATE = "certificate.json"
PAGE = "docs/certificate.md"
TORCHSCRIPT = "models/model.ts"
WEIGHTS = {"safetensors": "models/model.safetensors", "pt": "models/model.pt"}
_SCHEMA = 1
_LARGEST_DIFFERENCE = 1e-4
_OF_THE_LARGEST = {2: 1e-5, 3: 1e-4}  # by axes; norms of volumes divide by the deviation of a few voxels
_SMALLEST_SHARE = 0.9999
_ELSEWHERE = 10  # times as much may lie between two machines
_PROBES = 24  # logits kept of every made-up input, by which other machines are compared
_TIMED = 3
_PACKAGES = ("torch", "monai", "numpy", "timm", "safetensors", "onnx", "onnxscript", "onnxruntime", "nibabel")


@dataclass(frozen=True)
class Reference:
    """The network of a bundle as PyTorch runs it, what all is compared on, and what it makes of that."""

    model: Model
    network: nn.Module  # Plain
    inputs: Sequence[Input]
    known: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, bundle: Path, inputs: Sequence[Input] = (), *, trust: bool = False) -> "Reference":
        """The reference of a bundle, with made-up inputs and `inputs`. Raises InputError as `load_model`."""
        model = load_model(bundle, trust=trust)
        made = made_up(model.size, sizes_around(model.size), len(model.channel_names))
        network = Plain(model.network, model.in_channels).eval().requires_grad_(False)
        return cls(model, network, [*made, *inputs])

    def slices(self, given: Input) -> Tensor:
        """Logits of slices (B, C, H, W) at their own size, or of windows."""
        return self._once(given, "slices", lambda: torch.as_tensor(self.network(given.images)))

    def fitted(self, given: Input) -> Tensor:
        """Logits of slices that are brought to the trained size and back, or of a volume by windows."""
        return self._once(given, "fitted", lambda: self.through(given.images, self.network))

    def volume(self, given: Input) -> Tensor:
        """Logits as `infer` has them: of an ensemble the mean, after slices have their own size again."""
        members = members_of(self.model.network)
        if len(members) == 1:
            return self.fitted(given)
        return self._once(
            given,
            "volume",
            lambda: mean_logits(
                [self.through(given.images, self._run(each)) for each in members], bool(self.model.regions)
            ),
        )

    def decided(self, logits: Tensor) -> Tensor:
        """The label map of logits (B, K, ...)."""
        return Decision(self.model.regions).values(logits)

    def through(self, images: Tensor, run: Run) -> Tensor:
        """What `run` gives for slices that are brought to the trained size first, at their own size again.

        For volumes (1, C, D, H, W): by windows of the trained size.
        """
        size = self.model.size
        if len(size) == 3:
            return torch.stack(list(window_scores(images[0], run, size)), dim=1)[None]
        return slice_logits(images, run, size, self.model.fit)

    def _run(self, network: nn.Module) -> Run:
        return lambda images: main_output(network(with_channels(images, self.model.in_channels)))

    def _once(self, given: Input, way: str, make: Callable[[], Tensor]) -> Tensor:
        if (given.name, way) not in self.known:  # a large network takes seconds for a slice
            with torch.no_grad():
                self.known[given.name, way] = make()
        return self.known[given.name, way]


def examined(
    bundle: Path, reference: Reference, *, fixed: Sequence[str] = (), trust: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of every form in a bundle with what came of comparing it, one after the other.

    `fixed` are forms that take slices of the trained size only.
    """
    windows = reference.model.spatial_dims == 3
    sizes = _by(reference.model.size) if windows else "any"
    with torch.no_grad():
        yield "eager", _timed(reference, reference.network, None) | _probes(reference)
        for name, file in WEIGHTS.items():
            if (bundle / file).is_file():
                opened = partial(_strict, bundle, bundle / file, trust)
                runtime = f"torch {torch.__version__}, strict"
                result = _form(reference, opened, file, runtime, wanted=_is_first, sizes=sizes)
                yield name, result  # equal weights, equal network
        if (bundle / TORCHSCRIPT).is_file():
            opened = partial(open_torchscript, bundle / TORCHSCRIPT, windows=windows)
            runtime = f"torch.jit {torch.__version__}"
            yield (
                "torchscript",
                _form(reference, opened, TORCHSCRIPT, runtime, sizes=sizes, volumes=not windows),
            )
        for form in FORMATS:
            if (bundle / form.file).is_file():
                yield form.name, compared_graph(bundle, reference, form, any_size=form.name not in fixed)
    yield "bundle", _workflow(bundle, reference, trust)


def compared_graph(bundle: Path, reference: Reference, form: Format, *, any_size: bool) -> dict[str, Any]:
    """What comes of one form of the graph, on slices of several sizes or of the trained one alone."""
    opened = partial(form.open, bundle / form.file)
    size = tuple(reference.model.size)

    def fits(given: Input) -> bool:
        return given.volume or tuple(given.images.shape[2:]) == size

    sizes = "any" if any_size else _by(size)
    wanted = _is_any if any_size else fits
    with torch.no_grad():
        return _form(reference, opened, form.file, version_of(form), wanted=wanted, sizes=sizes)


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _is_any(_: Input) -> bool:
    return True


def _is_first(given: Input) -> bool:
    return given.first


def _strict(bundle: Path, file: Path, trust: bool) -> Run:
    """The network built anew, with every weight of one file and no other."""
    model = load_model(bundle, trust=trust)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.zero_()  # a weight that is not loaded shows
    load_strictly(model.network, file)
    return Plain(model.network, model.in_channels).eval()


def _form(
    reference: Reference,
    opened: Callable[[], Run],
    file: str,
    runtime: str,
    *,
    wanted: Callable[[Input], bool] = _is_any,
    sizes: str = "any",
    volumes: bool = False,
) -> dict[str, Any]:
    """One form on the `wanted` inputs; `volumes` where it takes whole volumes."""
    before = resident_bytes()
    restart_peak()
    try:
        run = opened()
        checks = [_compared(reference, each, run, volumes) for each in reference.inputs if wanted(each)]
        result = {
            "file": file,
            "runtime": runtime,
            "sizes": sizes,
            **_worst(checks),
            **_timed(reference, run, before),
            "checks": checks,
        }
    except Exception as error:  # whatever a runtime raises
        result = {"file": file, "runtime": runtime, "holds": False, "why": _words(error)}
    return result


def _compared(reference: Reference, given: Input, run: Run, volumes: bool) -> dict[str, Any]:
    """One form on one input: `run` takes slices as they are, or whole volumes and fits them itself."""
    if volumes:
        wanted, got = reference.volume(given), run(given.images)
    elif given.volume:
        wanted, got = reference.fitted(given), reference.through(given.images, run)
    else:
        wanted, got = reference.slices(given), run(given.images)
    largest = float(wanted.abs().max())
    difference = float((got - wanted).abs().max()) if got.shape == wanted.shape else float("inf")
    equal = 0.0
    if got.shape == wanted.shape:
        equal = float((reference.decided(got) == reference.decided(wanted)).double().mean())
    return {
        "input": given.name,
        "largest_difference": _number(difference),
        "largest_logit": _number(largest),
        "equal_voxels": equal,
        "holds": bool(
            difference <= _tolerated(largest, reference.model.spatial_dims) and equal >= _SMALLEST_SHARE
        ),
    }


def _tolerated(largest: float, dimensions: int) -> float:
    return max(_LARGEST_DIFFERENCE, _OF_THE_LARGEST[dimensions] * largest)


def _worst(checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    differences = [each["largest_difference"] for each in checks]
    result: dict[str, Any] = {
        "holds": bool(checks) and all(each["holds"] for each in checks),
        "largest_difference": None if None in differences else max(differences, default=None),
        "equal_voxels": min((each["equal_voxels"] for each in checks), default=None),
    }
    if failed := [each for each in checks if not each["holds"]]:
        worst = failed[0]
        difference = worst["largest_difference"]
        told = "no number" if difference is None else f"{difference:.2g}"
        result["why"] = (
            f"{len(failed)} of {len(checks)} comparisons differ; {worst['input']}: logits by {told}, "
            f"{100 * worst['equal_voxels']:.3f} % of the voxels equal"
        )
    return result


def _timed(reference: Reference, run: Run, before: int | None) -> dict[str, Any]:
    """Milliseconds for a slice or window of the trained size, the middle of a few; what the process grew by."""
    model = reference.model
    images = made_up_images(model.size, 1, len(model.channel_names))
    durations = []
    for _ in range(_TIMED):
        started = time.perf_counter()
        run(images)
        durations.append(time.perf_counter() - started)
    peak = peak_bytes()
    grown = None if before is None or peak is None else max(0, peak - before)
    milliseconds = round(1000 * statistics.median(durations), 2)
    return {f"ms_per_{seen(model)}": milliseconds, "memory_bytes": grown}


def seen(model: Model) -> str:
    """What a network is shown: a slice, or a window of a volume."""
    return "slice" if model.spatial_dims == 2 else "window"


def _probes(reference: Reference) -> dict[str, Any]:
    """A few logits of every made-up input, and how many pixels each class has: the same on other machines."""
    probes = []
    for given in reference.inputs:
        if given.made_up:
            logits = reference.volume(given) if given.volume else reference.slices(given)
            flat = logits.reshape(-1)
            places = torch.linspace(0, len(flat) - 1, _PROBES, dtype=torch.float64).long()
            values = reference.decided(logits).reshape(-1).long()
            counts = torch.bincount(values, minlength=len(reference.model.class_names))
            probes.append(
                {
                    "input": given.name,
                    "logits": [_number(value) for value in flat[places].tolist()],
                    "largest_logit": _number(float(flat.abs().max())),
                    "pixels": counts.tolist(),
                }
            )
    return {"holds": True, "runtime": f"torch {torch.__version__}", "probes": probes}


def _workflow(bundle: Path, reference: Reference, trust: bool) -> dict[str, Any]:
    """MONAI's own workflow of the bundle, from files to files, beside `infer`: masks of three volumes."""
    file, runtime = "configs/inference.json", f"monai {importlib.metadata.version('monai')}, ConfigWorkflow"
    try:
        with tempfile.TemporaryDirectory(prefix="dsnet-med-") as temporary:
            folder = Path(temporary)
            images = _volumes(folder / "images", reference.model)
            run_workflow(bundle, folder / "images", folder / "masks")
            predictor = Predictor.from_run(bundle, device="cpu", trust=trust)
            checks = [_same_mask(predictor, image, folder / "masks") for image in images]
        shares = [check["equal_voxels"] for check in checks]
        result = {"holds": all(each["holds"] for each in checks), "equal_voxels": min(shares)}
        if not result["holds"]:
            worst = min(checks, key=lambda check: check["equal_voxels"])
            result["why"] = f"{worst['input']}: {100 * worst['equal_voxels']:.3f} % of the voxels equal infer's"
        return {"file": file, "runtime": runtime, **result, "checks": checks}
    except Exception as error:  # whatever MONAI raises around what its parts raise
        return {"file": file, "runtime": runtime, "holds": False, "why": _words(error)}


def run_workflow(bundle: Path, inputs: Path, out: Path) -> None:
    """Run a bundle's inference on the CPU as MONAI does, its folders aside."""
    settings = {"bundle_root": bundle, "dataset_dir": inputs, "output_dir": out}
    with in_words(), kept_generators(), quiet():
        workflow = ConfigWorkflow(
            str(bundle / "configs" / "inference.json"),
            meta_file=str(bundle / "configs" / "metadata.json"),
            logging_file=False,  # which would change this process's loggers
            workflow_type="infer",
            device="$torch.device('cpu')",
            **{name: literal(str(path.resolve())) for name, path in settings.items()},
        )
        workflow.initialize()
        try:
            workflow.run()
        finally:
            workflow.finalize()


def _volumes(folder: Path, model: Model) -> list[Path]:
    """Made-up volumes on an axial, a flipped and an oblique grid, as files with raw intensities, of several
    channels 4-D ones. Those for windows are thicker than one.
    """
    folder.mkdir()
    files = []
    turn = np.deg2rad(20)
    oblique = np.diag([1.3, 0.9, 4.0, 1.0])
    oblique[:2, :2] = oblique[:2, :2] @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    grids: dict[str, NDArray[np.float64]] = {
        "axial": np.diag([-1.0, -1.0, 5.0, 1.0]),
        "flipped": np.diag([0.8, -0.8, -3.0, 1.0]),
        "oblique": oblique,
    }
    bounds = [_bounds(rule) for rule in model.intensities]
    rows, columns = model.size[-2:]
    for number, (name, affine) in enumerate(grids.items()):
        size = (rows - 4 * number, columns // 2 + 9 * number)
        count = 5 + number if model.spatial_dims == 2 else model.size[0] + 2 * number
        slices = made_up_images(size, count, len(bounds)).numpy()  # (D, C, H, W)
        scaled = [low + slices[:, c] * (high - low) for c, (low, high) in enumerate(bounds)]
        voxels = np.round(np.stack(scaled, axis=-1)).astype(np.int16).transpose(2, 1, 0, 3)
        voxels = voxels[..., 0] if len(bounds) == 1 else voxels
        affine[:3, 3] = [10.0, -20.0, 30.0]
        files.append(folder / f"{name}.nii.gz")
        write_image(files[-1], voxels, affine)
    return files


def _bounds(rule: Intensity) -> tuple[float, float]:
    """Raw intensities that a rule tells apart."""
    window = rule.as_dict().get("window")
    return (window[0], window[1]) if isinstance(window, list | tuple) else (0.0, 1000.0)


def _same_mask(predictor: Predictor, image: Path, masks: Path) -> dict[str, Any]:
    import nibabel  # noqa: PLC0415 -- what anybody reads masks with

    wanted = predictor.predict(image)
    file = masks / image.name
    got = nibabel.load(file)
    voxels = np.asanyarray(got.dataobj)
    same_grid = voxels.shape == wanted.voxels.shape and np.allclose(got.affine, wanted.affine, atol=1e-4)
    equal = float((voxels == wanted.voxels).mean()) if same_grid else 0.0
    return {
        "input": f"made-up {image.name.partition('.')[0]} volume",
        "equal_voxels": equal,
        "holds": equal >= _SMALLEST_SHARE,
    }


def environment() -> dict[str, Any]:
    """What the comparisons ran with."""
    versions = {"dsnet-med": dsnet_med.__version__}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, CPU, {torch.get_num_threads()} threads",
        "packages": versions,
    }


def described(results: Mapping[str, Any], left_out: Mapping[str, str], model: Model) -> dict[str, Any]:
    """The certificate of a bundle but for the hashes of its `files`, and before it is sealed."""
    return {
        "schema": _SCHEMA,
        "tool": f"dsnet-med {dsnet_med.__version__}",
        "made": time.strftime("%Y-%m-%d", time.gmtime()),
        "title": model.title,
        "classes": list(model.class_names),
        "regions": as_dict(model.regions) if model.regions else None,
        "channels": list(model.channel_names),
        "sees": seen(model),
        "size": list(model.size),
        "fit": model.fit,
        "weights_sha256": digest(model.network.state_dict()),
        "tolerance": {
            "largest_difference": _LARGEST_DIFFERENCE,
            "or_of_the_largest_logit": _OF_THE_LARGEST[model.spatial_dims],
            "equal_voxels": _SMALLEST_SHARE,
        },
        "environment": environment(),
        "formats": dict(results),
        "left_out": dict(left_out),
    }


_UNLISTED = (CERTIFICATE, PAGE)
_OURS = ("models", "configs", "scripts", "docs", "LICENSE", "summary.json", "weights.json", "large_files.yml")


def hashes(bundle: Path) -> dict[str, str]:
    """The SHA-256 of every file that belongs to a bundle."""
    found = {}
    for name in _OURS:
        place = bundle / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            relative = path.relative_to(bundle).as_posix()
            if path.is_file() and relative not in _UNLISTED and "__pycache__" not in path.parts:
                found[relative] = sha256(path)
    return found


def read_certificate(bundle: Path) -> dict[str, Any]:
    """What a bundle's certificate says. Raises InputError where there is none, or it is none."""
    file = bundle / CERTIFICATE
    try:
        content = read_json(file)
        if (
            content["schema"] == _SCHEMA
            and isinstance(content["files"], dict)
            and content["formats"]["eager"]["probes"]
        ):
            return dict(content)
    except (OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise InputError(f"{file}: not a certificate of export ({one_line(error)}); export again") from error
    raise InputError(f"{file}: a certificate of another kind; export again with this version")


def changed_files(bundle: Path, certificate: Mapping[str, Any]) -> list[str]:
    """What of a bundle's files is not as its certificate says: a line each, or none."""
    found, claimed = hashes(bundle), certificate["files"]
    lines = [f"{CERTIFICATE} was changed since it was written"] if holds(certificate) is not True else []
    lines += [f"{name} is not there" for name in claimed if name not in found]
    lines += [
        f"{name} is not the file that was exported"
        for name in claimed
        if found.get(name, claimed[name]) != claimed[name]
    ]
    return lines + [f"{name} is not of this bundle: remove it" for name in found if name not in claimed]


def differences(certificate: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """What comes out otherwise than a certificate says: a line each, or none."""
    lines = [
        f"{name}: {result.get('why', 'does not hold')}"
        for name, result in results.items()
        if not result["holds"]
    ]
    lines += [f"{name}: is not there any more" for name in certificate["formats"] if name not in results]
    claimed = {each["input"]: each for each in certificate["formats"]["eager"]["probes"]}
    common = [probe for probe in results["eager"]["probes"] if probe["input"] in claimed]
    if not common:
        lines.append("eager: this version makes up other slices than those in the certificate; export again")
    for probe in common:
        if line := _otherwise(claimed[probe["input"]], probe, len(certificate["size"])):
            lines.append(f"eager, {probe['input']}: {line}")
    return lines


def _otherwise(claimed: Mapping[str, Any], probe: Mapping[str, Any], dimensions: int) -> str | None:
    if len(claimed["pixels"]) != len(probe["pixels"]):
        return f"{len(probe['pixels'])} classes, the certificate says {len(claimed['pixels'])}"
    gaps = [
        float("inf") if got is None or wanted is None else abs(got - wanted)
        for got, wanted in zip(probe["logits"], claimed["logits"], strict=True)
    ]
    if max(gaps) > _ELSEWHERE * _tolerated(claimed["largest_logit"] or 0.0, dimensions):
        return f"logits differ from the certificate's by {max(gaps):.2g}"
    moved = sum(abs(got - wanted) for got, wanted in zip(probe["pixels"], claimed["pixels"], strict=True)) / 2
    if moved > _ELSEWHERE * (1 - _SMALLEST_SHARE) * sum(claimed["pixels"]):
        return f"{moved:.0f} pixels have another class than the certificate says"
    return None


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _words(error: BaseException) -> str:
    cause = root_cause(error)
    return f"{type(cause).__name__}: {one_line(str(cause), 300)}"
