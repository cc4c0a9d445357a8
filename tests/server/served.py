"""A tiny run folder, a server in a thread, and uploads of every kind."""

import gzip
import io
import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
import yaml

from dsnet_med.cli.serving import server_of
from dsnet_med.inference import Predictor
from dsnet_med.server.admission import Admission
from dsnet_med.server.app import create_app
from dsnet_med.server.reading import MAX_FILES
from dsnet_med.server.service import Service

CLASSES = ["background", "liver", "s\u00e4ule", "c"]
RAW = {"content-type": "application/octet-stream"}


def write_run(folder: Path) -> Path:
    """A run whose network is one convolution without symmetry."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    network = {"in_channels": 1, "out_channels": len(CLASSES), "kernel_size": 5, "padding": 2}
    config = {
        "class_names": CLASSES,
        "size": [32, 32],
        "intensity": {"zscore": [0.5, 99.5]},
        "slice_network": {"_target_": "torch.nn.Conv2d", **network},
    }
    (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps({"method": {"title": "Tiny"}}), encoding="utf-8")
    torch.manual_seed(5)  # with which every class occurs
    torch.save(torch.nn.Conv2d(**network).state_dict(), folder / "models" / "model.pt")
    return folder


@dataclass
class Served:
    """A server that runs in this process, and the folder of its temporary files."""

    url: str
    client: httpx.Client
    folder: Path

    @property
    def waiting(self) -> int:
        return int(self.client.get("/health").json()["waiting"])

    def require_empty(self) -> None:
        """Every place is free and every file removed, as soon as the last answer has been sent."""
        for _ in range(100):
            if not [path for path in self.folder.iterdir() if path.name != ".lock"] and not self.waiting:
                return
            sleep(0.05)
        raise AssertionError((list(self.folder.iterdir()), self.waiting))

    def raw(self, content: Any, **params: Any) -> httpx.Response:
        return self.client.post("/segment", content=content, headers=RAW, params=params)

    def form(self, content: bytes, name: str = "file", **params: Any) -> httpx.Response:
        return self.client.post("/segment", files={name: ("../x.exe", content)}, params=params)


@contextmanager
def serving(
    predictor: Predictor, *, max_bytes: int = 1 << 30, max_files: int = MAX_FILES, **rules: Any
) -> Iterator[Served]:
    """A server on a free port, stopped at the end; its files lie in a folder of its own."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    service = Service(predictor, max_bytes, max_files)
    folder = service.folder
    server = server_of(create_app(service, Admission(max_bytes, **rules)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=600) as client:
            yield Served(url, client, folder)
    finally:
        server.should_exit = True
        thread.join()
        service.close()


@contextmanager
def held(predictor: Predictor) -> Iterator[threading.Event]:
    """The predictor waits before every volume until the event is set."""
    go, segment = threading.Event(), predictor.segment

    def waiting(*arguments: Any) -> Any:
        go.wait(600)
        return segment(*arguments)

    predictor.segment = waiting  # type: ignore[method-assign]
    try:
        yield go
    finally:
        go.set()
        predictor.segment = segment  # type: ignore[method-assign]


def image(seed: int = 1, shape: tuple[int, ...] = (28, 22, 6)) -> nib.Nifti1Image:
    """Smooth noise on a grid with three spacings, a turn and both header codes."""
    noise = np.random.default_rng(seed).normal(size=shape)
    affine = np.array([[0, -0.8, 0, -9], [0.9, 0, 0, 4], [0, 0, 3.0, 7], [0, 0, 0, 1.0]])
    made = nib.Nifti1Image((100 * np.cumsum(noise, axis=0)).astype(np.int16), affine)
    made.set_qform(affine, 1)
    made.set_sform(affine, 2)
    return made


def nifti(seed: int = 1, suffix: str = ".nii.gz", shape: tuple[int, ...] = (28, 22, 6)) -> bytes:
    """The bytes of a NIfTI file."""
    content = image(seed, shape).to_bytes()
    return gzipped(content) if suffix.endswith(".gz") else content


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def itk(path: Path) -> bytes:
    """The bytes of a compressed NRRD or MetaImage file, written to `path` too."""
    made = sitk.GetImageFromArray(np.asarray(image(2).dataobj).T)
    made.SetSpacing((0.8, 0.9, 3.0))
    sitk.WriteImage(made, str(path), True)
    return path.read_bytes()


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip archive in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def mask_of(answer: httpx.Response) -> nib.Nifti1Image:
    """The mask in an answer."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/gzip"
    return nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))


def error_of(answer: httpx.Response, status: int) -> str:
    """The one line of a refusal, which tells nothing of the server."""
    assert answer.status_code == status, (answer.status_code, answer.text[:300])
    content = answer.json()
    assert list(content) == ["error"]
    line = content["error"]
    assert line
    assert "\n" not in line
    for secret in ("/tmp", "dsnet-med-serve", "(0x", "unpacked", "--", "Traceback"):
        assert secret not in line, line
    return line
