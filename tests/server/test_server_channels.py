"""Several channels over HTTP: a part for each, or one file with all of them."""

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from served import Served, gzipped, image, serving
from torch import nn

from dsnet_med.inference import Predictor
from dsnet_med.inference.slice_model import SliceModel
from dsnet_med.prepare.intensity import Intensity

CHANNELS = ("t1", "flair")


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    torch.manual_seed(5)
    network = nn.Conv3d(2, 4, 3, padding=1).eval().requires_grad_(False)
    rule = Intensity.from_dict({"zscore": [0.5, 99.5]})
    model = SliceModel(network, (4, 16, 16), "window", (rule, rule), 2)
    names, device = ("background", "a", "b", "c"), torch.device("cpu")
    predictor = Predictor((model,), "superior", names, device, 2, channel_names=CHANNELS)
    with serving(predictor, max_bytes=1 << 20) as made:
        yield made
        made.require_empty()


def _files(shape=(20, 18, 6)) -> list[bytes]:
    return [gzipped(image(seed, shape).to_bytes()) for seed in (1, 2)]


def _post(server: Served, **files: bytes):
    return server.client.post("/segment", files={name: ("../x.nii.gz", held) for name, held in files.items()})


def _mask(answer, folder: Path) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    (folder / "mask.nii.gz").write_bytes(answer.content)
    return np.asanyarray(nib.load(folder / "mask.nii.gz").dataobj)


def test_parts_and_one_file_give_one_mask(server, tmp_path):
    t1, flair = _files()
    mask = _mask(_post(server, flair=flair, t1=t1), tmp_path)
    assert mask.shape == (20, 18, 6) and len(np.unique(mask)) > 1
    both = np.stack([image(seed, (20, 18, 6)).dataobj for seed in (1, 2)], -1).astype(np.int16)
    four = gzipped(nib.Nifti1Image(both, None, image(1, (20, 18, 6)).header).to_bytes())
    np.testing.assert_array_equal(_mask(_post(server, file=four), tmp_path), mask)
    np.testing.assert_array_equal(_mask(server.raw(four), tmp_path), mask)
    assert server.client.get("/health").json()["channels"] == ["t1", "flair"]
    swapped = _mask(_post(server, t1=flair, flair=t1), tmp_path)
    assert (swapped != mask).any()


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        (lambda t1, flair: {"t1": t1}, 422, "got 0 parts 'flair', wanted a part for each channel: t1, flair"),
        (lambda t1, flair: {"t1": t1, "t2": flair}, 422, "got a part 't2', wanted"),
        (lambda t1, flair: {"file": t1}, 400, "wanted 2, one for each channel"),
        (lambda t1, flair: {"t1": t1, "flair": b""}, 400, "the upload is empty"),
        (lambda t1, flair: {"t1": t1, "flair": b"no volume"}, 415, "the upload is of no known kind"),
        (lambda t1, flair: {"t1": t1, "flair": flair[:300]}, 400, "channel flair: "),
        (lambda t1, flair: {"t1": t1, "flair": _files((20, 18, 7))[1]}, 400, "channel flair has the shape"),
    ],
)
def test_what_is_wrong_is_one_line(files, status, said, server):
    answer = _post(server, **files(*_files()))
    assert answer.status_code == status and said in answer.json()["error"], answer.text
    assert "/tmp" not in answer.text and "\n" not in answer.json()["error"]
