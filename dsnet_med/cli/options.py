"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from dsnet_med.errors import InputError

_FILES = (  # endings that a name of a file has, and hardly one of a folder
    ".nii .hdr .img .nrrd .nhdr .mha .mhd .mgz .mgh .mnc .dcm .ima .raw .npz .npy .h5 .pt .pth .ckpt .pt2 "
    ".safetensors .onnx .json .jsonl .yaml .yml .csv .tsv .txt .log .html .pdf .md .tex .xlsx .png .jpg .jpeg "
    ".tif .tiff .gif .svg .gz .zip .tar .tgz .bz2 .xz .7z"
)


def folder(path: Path) -> Path:
    """`path`; InputError where its name is that of a file, unless a folder has it."""
    if path.suffix.lower() in _FILES.split() and not path.is_dir():
        raise InputError(
            f"got --out {path}, the name of a file, wanted a folder: what is written there has names of its own"
        )
    return path


Out = Annotated[Path, typer.Option("--out", help="Folder to write to.", callback=folder)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RequireGeometry = Annotated[
    bool,
    typer.Option(
        "--require-geometry", help="Refuse volumes whose headers do not state spacing, axes and place."
    ),
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes to use.")]
