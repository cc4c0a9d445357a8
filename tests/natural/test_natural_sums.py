"""What a run has read of natural images is read the same ever after, or it says so."""

import json
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2

from dsnet_med.engine.run import prepare, reopen, train
from dsnet_med.errors import InputError, root_cause
from dsnet_med.natural import cityscapes, coco, coco_annotations, imagenet
from dsnet_med.natural.images import LabelledImages
from dsnet_med.natural.sums import Sums
from dsnet_med.phantoms import make_cityscapes, make_coco, make_imagenet

TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
CHANGED = "is not what this run read of it before"


def open_set(task: str, folder: Path, run: Path | None) -> Dataset[Any]:
    where, kept = str(folder), None if run is None else str(run)
    if task == "imagenet":
        samples = imagenet.train_samples(where, imagenet.find_classes(where))
        return LabelledImages(samples, TENSOR, run=kept)
    if task == "cityscapes":
        return cityscapes.Cityscapes(where, "train", lambda image, mask: (TENSOR(image), mask), run=kept)
    annotations = coco_annotations.read_annotations(where, "train")
    pairs: Callable[..., Any] = lambda image, target: (TENSOR(image), target)  # noqa: E731
    return coco.Coco(where, "train", annotations, pairs, training=True, run=kept)


MAKE = {"imagenet": make_imagenet, "cityscapes": make_cityscapes, "coco": make_coco}
MORE = {"imagenet": {"classes": 2}}
FIRST = {"imagenet": "train/*/*.JPEG", "cityscapes": "leftImg8bit/train/*/*.png", "coco": "train2017/*"}


@pytest.fixture(params=list(MAKE))
def task(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    list(MAKE[request.param](tmp_path / "data", images=4, seed=0, size=(64, 96), **MORE.get(request.param, {})))
    return str(request.param)


def read_all(items: Dataset[Any]) -> None:
    for index in range(len(items)):  # type: ignore[arg-type]
        items[index]


def flipped(file: Path) -> bytes:
    """A bit of the compressed pixels flipped, where decoders see nothing wrong; what the file held."""
    good = file.read_bytes()
    file.write_bytes(good[:-20] + bytes([good[-20] ^ 1]) + good[-19:])
    return good


def test_a_file_that_changed_since_it_was_read_is_named(task: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    file = sorted((tmp_path / "data").glob(FIRST[task]))[0]
    read_all(open_set(task, tmp_path / "data", run))
    assert len(list((run / "sums").iterdir())) == 1
    good = flipped(file)
    with pytest.raises(InputError, match=CHANGED) as refused:
        read_all(open_set(task, tmp_path / "data", run))
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)
    file.write_bytes(good)
    (tmp_path / "data").rename(tmp_path / "moved")
    read_all(open_set(task, tmp_path / "moved", run))
    with pytest.raises(InputError, match=CHANGED):
        flipped(tmp_path / "moved" / file.relative_to(tmp_path / "data"))
        read_all(open_set(task, tmp_path / "moved", run))


def test_labels_count_too(task: str, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    items = open_set(task, data, run)
    read_all(items)
    if task == "cityscapes":
        labels = sorted((data / "gtFine" / "train").glob("*/*_labelIds.png"))[0]
        ids = np.array(Image.open(labels))
        ids[0, 0] = 7 if ids[0, 0] != 7 else 8
        Image.fromarray(ids).save(labels)
    elif task == "coco":
        listed = data / "annotations" / "instances_train2017.json"
        content = json.loads(listed.read_text())
        content["annotations"][0]["bbox"][0] += 1
        listed.write_text(json.dumps(content))
    else:
        items.samples[0] = (items.samples[0][0], 1 - items.samples[0][1])  # type: ignore[attr-defined]
        with pytest.raises(InputError, match=CHANGED):
            read_all(items)
        return
    with pytest.raises(InputError, match=CHANGED):
        read_all(open_set(task, data, run))


def test_what_the_evaluation_writes_into_annotations_does_not_count(tmp_path: Path) -> None:
    list(make_coco(tmp_path / "data", images=4, seed=0, size=(64, 96)))
    items = open_set("coco", tmp_path / "data", tmp_path / "run")
    read_all(items)
    for each in items.annotations.anns.values():  # type: ignore[attr-defined]
        each["ignore"] = 0
    read_all(items)


def test_without_a_run_nothing_is_kept(task: str, tmp_path: Path) -> None:
    read_all(open_set(task, tmp_path / "data", None))
    flipped(sorted((tmp_path / "data").glob(FIRST[task]))[0])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def _compare(work: tuple[Sums, int]) -> str:
    sums, index = work
    try:
        sums.compare(index, f"file {index}", bytes([index, 1]))
    except InputError as error:
        return str(error)
    return "" if sums.opened[0] == os.getpid() else "a stream of its parent's, whose position they share"


def _forked(sums: Sums) -> None:
    raise SystemExit(_compare((sums, 5)) or 0)


def test_processes_share_the_sums_of_a_run(tmp_path: Path) -> None:
    sums = Sums(str(tmp_path), [f"{index}.png" for index in range(200)])
    sums.compare(0, "file 0", bytes([0, 1]))  # open here, too, before the others begin
    work = [(sums, index) for index in range(200)]
    with ProcessPoolExecutor(2, get_context("fork")) as processes:
        assert not any(processes.map(_compare, work))
    assert not any(map(_compare, work))
    child = get_context("fork").Process(target=_forked, args=(sums,))  # as a loader's: nothing is pickled
    child.start()
    child.join()
    assert child.exitcode == 0
    again = pickle.loads(pickle.dumps(sums))
    for index in (0, 3, 199):
        with pytest.raises(InputError, match=f"file {index}: .*{CHANGED}"):
            again.compare(index, f"file {index}", b"other")


def test_another_list_has_sums_of_its_own(tmp_path: Path) -> None:
    Sums(str(tmp_path), ["a/1.png", "a/2.png"]).compare(0, "1", b"x")
    Sums(str(tmp_path), ["a/1.png", "a/3.png"]).compare(0, "1", b"y")
    with pytest.raises(InputError, match=CHANGED):
        Sums(str(tmp_path), ["moved/a/1.png", "moved/a/2.png"]).compare(0, "1", b"y")


def test_a_run_that_cannot_be_written_compares_what_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Sums(str(tmp_path), ["1", "2"]).compare(0, "1", b"x")

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refused)
    again = Sums(str(tmp_path), ["1", "2"])
    again.compare(1, "2", b"y")
    again.compare(1, "2", b"z")
    with pytest.raises(InputError, match=CHANGED):
        again.compare(0, "1", b"y")
    Sums(str(tmp_path / "none"), ["1"]).compare(0, "1", b"x")
    assert not list((tmp_path / "none").rglob("*.crc32"))


@pytest.mark.slow
def test_a_resumed_run_notices_an_exchanged_image(tmp_path: Path) -> None:
    list(make_imagenet(tmp_path / "data", images=8, seed=0, size=(48, 48), classes=2))
    small = {"width": 0.0625, "workers": 1, "size": 32, "batch_size": 4, "iterations": 2}
    prepare("imagenet/resnet50", tmp_path / "data", tmp_path / "run", small)
    train(tmp_path / "run", {})
    first, second = sorted((tmp_path / "data").glob("train/*/*.JPEG"))[:2]
    first.write_bytes(second.read_bytes())
    reopen(tmp_path / "run", {"iterations": 4})
    with pytest.raises(Exception) as ended:
        train(tmp_path / "run", {"resume": True})
    cause = root_cause(ended.value)
    assert isinstance(cause, InputError) and CHANGED in str(cause) and str(first) in str(cause)
