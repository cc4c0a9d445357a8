"""The forms in which a network leaves: how each is written, and opened again by its own runtime.

TorchScript is there for MONAI Deploy, which reads it; PyTorch itself goes on with .pt2 (torch.export) alone.
"""

import importlib.metadata
import logging
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dsnet_med.errors import InputError, one_line, root_cause
from dsnet_med.networks.ensemble import main_output
from dsnet_med.networks.layers import with_channels

Run = Callable[[Tensor], Tensor]
_GRAPH_INPUT, _GRAPH_OUTPUT = "image", "pred"


class Plain(nn.Module):
    """A network as it is handed out: images (B, C, *spatial) -> logits (B, K, *spatial), no auxiliary ones.

    Slices, or windows of volumes; grey ones (C = 1) are repeated for a network of `in_channels`.
    """

    def __init__(self, network: nn.Module, in_channels: int) -> None:
        super().__init__()
        self.network, self.in_channels = network, in_channels

    def forward(self, image: Tensor) -> Tensor:
        return main_output(self.network(with_channels(image, self.in_channels)))


@dataclass(frozen=True)
class Format:
    """One form of a graph: its file in the bundle, what it needs, how it is written and opened.

    `open` gives what maps slices (B, C, H, W), or windows (B, C, D, H, W), to logits.
    """

    name: str
    file: str
    runtime: str
    packages: tuple[str, ...]
    write: Callable[[torch.export.ExportedProgram, Path], None]
    open: Callable[[Path], Run]


def missing_packages(form: Format) -> list[str]:
    """The packages that `form` needs and that are not installed."""
    return [name for name in form.packages if not _version(name)]


def version_of(form: Format) -> str:
    """The runtime of `form` with its version."""
    return f"{form.runtime} {_version(form.runtime)}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def graph_of(network: nn.Module, example: Tensor, *, any_size: bool) -> torch.export.ExportedProgram:
    """The graph of Plain for batches of any number, and slices of any or of the example's size.

    Raises what PyTorch raises for a network whose Python decides by sizes or by values.
    """
    dynamic = torch.export.Dim.DYNAMIC
    sizes = {0: dynamic} | ({2: dynamic, 3: dynamic} if any_size else {})
    twice = torch.cat([example, example])  # one slice alone would be taken for all that there can be
    if any_size and twice.shape[2] == twice.shape[3]:  # and height and width for the same
        twice = twice[..., : _another(twice.shape[3])].contiguous()
    with torch.no_grad(), quiet():
        program = torch.export.export(network, (twice,), dynamic_shapes={_GRAPH_INPUT: sizes}, strict=False)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # places in this machine's files
    return program


def _another(width: int) -> int:
    """A width below another that backbones of stride 32 take."""
    return width - 32 if width > 64 else width


def _write_pt2(program: torch.export.ExportedProgram, file: Path) -> None:
    with quiet():
        torch.export.save(program, file)


def _open_pt2(file: Path) -> Run:
    with quiet():
        module = torch.export.load(file).module()
    return lambda images: torch.as_tensor(module(images))


def _write_onnx(program: torch.export.ExportedProgram, file: Path) -> None:
    with quiet():
        made = torch.onnx.export(
            program, dynamo=True, input_names=[_GRAPH_INPUT], output_names=[_GRAPH_OUTPUT], verbose=False
        )
    if made is None:
        raise InputError("PyTorch wrote no ONNX program")
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()  # places in this machine's files
    axes = ("batch", None, "height", "width")
    for value in (*made.model.graph.inputs, *made.model.graph.outputs):
        if value.shape is not None:
            _name_axes(value.shape, axes)
    made.model.graph.name = "dsnet-med"
    made.save(file)


def _name_axes(shape: Any, names: tuple[str | None, ...]) -> None:
    """Call what may be of any length as people do."""
    for axis, name in enumerate(names):
        if name is not None and not isinstance(shape[axis], int):
            shape[axis] = name


def _open_onnx(file: Path) -> Run:
    import onnxruntime  # noqa: PLC0415 -- an extra

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([_GRAPH_OUTPUT], {_GRAPH_INPUT: images.numpy()})[0])


def write_torchscript(volumes: nn.Module, extra: Mapping[str, str], file: Path) -> None:
    """Write a scripted network of volumes with texts beside it, as MONAI Deploy reads them (`extra/NAME`).

    Deploy looks for a folder in the archive that is called like the file: `file` has its last name already.
    """
    with quiet(), tempfile.TemporaryDirectory(dir=file.parent) as temporary:
        whole, lean = Path(temporary) / "whole.ts", Path(temporary) / file.name
        torch.jit.save(volumes, str(whole), _extra_files=dict(extra))
        _copy_without_debug(whole, lean)
        lean.replace(file)


def open_torchscript(file: Path, *, windows: bool = False) -> Run:
    """What a file of TorchScript for volumes does to slices (B, C, H, W), taken as one volume.

    With `windows` it is of a network for windows (B, C, D, H, W), which are handed over as they are.
    """
    with quiet():
        module = torch.jit.load(str(file), map_location="cpu").eval()
    if windows:
        return lambda images: torch.as_tensor(module(images))
    return lambda images: torch.as_tensor(module(images.transpose(0, 1)[None]))[0].transpose(0, 1)


def _copy_without_debug(file: Path, lean: Path) -> None:
    """Copy a file of TorchScript without what says where in this machine's files its lines came from."""
    writer = torch._C.PyTorchFileWriter(str(lean))
    with zipfile.ZipFile(file) as archive:
        root = archive.namelist()[0].partition("/")[0]
        for entry in archive.infolist():
            name = entry.filename.removeprefix(f"{root}/")
            if name.endswith(".debug_pkl") or name.startswith(".data/") or name in ("version", "byteorder"):
                continue  # the writer adds its own of the last three
            content = archive.read(entry)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()


FORMATS = (
    Format(
        "onnx",
        "models/model.onnx",
        "onnxruntime",
        ("onnx", "onnxscript", "onnxruntime"),
        _write_onnx,
        _open_onnx,
    ),
    Format("pt2", "models/model.pt2", "torch", (), _write_pt2, _open_pt2),
)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters print, log and warn of, which is for PyTorch's developers."""
    names = (
        "torch.onnx",
        "torch.export",
        "torch.__trace",
        "onnxscript",
        "onnx_ir",
        "monai.bundle.workflows",
        "monai.data",
    )
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger, logger.level) for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in before:
                logger.setLevel(level)


def why(error: BaseException) -> str:
    """What an exporter raised, in a line."""
    cause = root_cause(error)
    return f"{type(cause).__name__}: {one_line(str(cause), 300)}"
