"""Several processes share the images, train one network, write one set of files and give one set of scores."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigWorkflow
from PIL import Image
from torch.utils.data import RandomSampler, SequentialSampler

from dsnet_med.natural.coco import SCORES
from dsnet_med.natural.distributed import Share, is_main, parallel, rank, world_size
from dsnet_med.natural.phantom import make_imagenet
from dsnet_med.engine.run import prepare

# ---------------------------------------------------------------- parts


def parts(sampler, processes, *, even):
    """What each of several processes draws, whose `sampler` is made anew by a function."""
    drawn = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WORLD_SIZE", str(processes))
        for process in range(processes):
            patched.setenv("RANK", str(process))
            share = Share(sampler(), even=even)
            drawn.append(list(share))
            assert len(share) == len(drawn[-1])
    return drawn


@given(st.integers(9, 40), st.integers(1, 9), st.booleans(), st.booleans())
def test_parts_are_disjoint_and_cover_all(total, processes, even, shuffled):
    def sampler():
        if not shuffled:
            return SequentialSampler(range(total))
        return RandomSampler(range(total), generator=torch.Generator().manual_seed(7))

    drawn = parts(sampler, processes, even=even)
    everything = [number for part in drawn for number in part]
    assert len(set(everything)) == len(everything)
    lengths = {len(part) for part in drawn}
    if even:
        assert lengths == {total // processes}
        assert set(everything) <= set(range(total))
    else:
        assert sorted(everything) == list(range(total))
        assert max(lengths) - min(lengths) <= 1
    order = list(sampler())
    turns = [number for turn in zip(*drawn, strict=False) for number in turn]
    assert turns == order[: len(turns)]  # in turns: batches are those that one process would see, dealt out


def test_parts_differ_from_epoch_to_epoch_as_the_samplers_do(monkeypatch):
    epochs = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    for process in range(2):
        monkeypatch.setenv("RANK", str(process))
        share = Share(RandomSampler(range(20), generator=torch.Generator().manual_seed(3)))
        epochs[process] = [list(share) for _ in range(3)]
    for one, other in zip(*epochs.values(), strict=True):
        assert sorted(one + other) == list(range(20))
    assert epochs[0][0] != epochs[0][1] != epochs[0][2]


def test_one_process_is_no_special_case(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (world_size(), rank(), is_main()) == (1, 0, True)
    network = torch.nn.Linear(2, 2)
    assert parallel(network, sync_norm=True) is network
    assert list(Share(SequentialSampler(range(5)))) == list(range(5))
    monkeypatch.setenv("RANK", "1")
    assert not is_main()


# ---------------------------------------------------------------- two processes

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from monai.bundle import ConfigWorkflow
from dsnet_med.natural import distributed

sys.path.insert(0, str(Path(__file__).parent))

def run(folder, *names):
    files = [f"{folder}/configs/{name}.yaml" for name in names]
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, bundle_root=str(folder))
    workflow.initialize()
    workflow.run()
    return workflow.parser

root = Path(__file__).parent
mine = root / str(distributed.rank())
mine.mkdir()
parser = run(root / "imagenet", "train")
torch.save(parser.get_parsed_content("network").state_dict(), mine / "weights.pt")
seen = {"latest": parser.get_parsed_content("validated").latest()}
for part in ("train", "validate"):
    seen[part] = list(parser.get_parsed_content(f"{part}#dataloader").sampler)
parser = run(root / "imagenet", "train", "evaluate")
run(root / "coco", "train", "evaluate")
(mine / "seen.json").write_text(json.dumps(seen))
parser.get_parsed_content("finalize")
assert not torch.distributed.is_initialized()
"""

# A detector that finds one object as large as the image, of a label and a score by its colour, and a wrong one.
DETECTOR = """
import torch

class Whole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        found = []
        for image in images:
            height, width = image.shape[1:]
            red, green, blue = image.mean((1, 2)).tolist()
            boxes = [[0.0, 0.0, width, height], [0.0, 0.0, width / 3, height / 3]]
            scores = [red, green] if self.factor > 0 else [0.1, 0.2]
            labels = [1 + (blue > 0.5), 1 + (blue > 0.5)]
            parts = {"boxes": boxes, "labels": labels, "scores": scores}
            found.append({name: torch.tensor(value) for name, value in parts.items()})
        return found
"""


def coco_run(folder):
    """A run folder of the COCO bundle with the detector above, on seven images with an object each."""
    source = folder / "photographs"
    (source / "val2017").mkdir(parents=True)
    (source / "annotations").mkdir()
    rng = np.random.default_rng(1)
    images, annotations = [], []
    for number in range(7):
        colour = rng.integers(0, 255, 3, dtype=np.uint8)
        Image.fromarray(np.tile(colour, (64, 80, 1))).save(source / "val2017" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 64})
        box = [0, 0, 80, int(rng.integers(36, 64))]  # an IoU of 0.56 to 1 with all of the image
        annotations.append({"id": number + 1, "image_id": number, "bbox": box, "area": box[2] * box[3],
                            "category_id": 5 + 2 * int(colour[2] > 127), "iscrowd": 0})  # fmt: skip
    categories = [{"id": 5, "name": "dark"}, {"id": 7, "name": "blue"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (source / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (folder / "detectors.py").write_text(DETECTOR)
    settings = {"workers": 0, "network_def": "$__import__('detectors').Whole()"}
    prepare("coco/resnet50", source, folder / "coco", settings)
    (folder / "coco" / "models").mkdir()
    torch.save({"factor": torch.ones(1)}, folder / "coco" / "models" / "model.pt")
    (folder / "coco" / "models" / "classes.json").write_text('["dark", "blue"]')


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder in which two processes have trained on ImageNet, and evaluated that and COCO."""
    folder = tmp_path_factory.mktemp("pair")
    list(make_imagenet(folder / "data", images=28, seed=0, size=(48, 48), classes=3))
    settings = {"width": 0.0625, "workers": 0, "size": 32, "batch_size": 4, "epochs": 2, "learning_rate": 0.05}
    prepare("imagenet/resnet50", folder / "data", folder / "imagenet", settings)
    coco_run(folder)
    (folder / "work.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(folder / "work.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def seen(pair):
    return [json.loads((pair / str(process) / "seen.json").read_text()) for process in range(2)]


def weights(pair):
    return [torch.load(pair / str(process) / "weights.pt", weights_only=True) for process in range(2)]


def evaluated_alone(run, folder, monkeypatch):
    """scores.json of a copy of the run, evaluated in this process."""
    monkeypatch.syspath_prepend(str(run.parent))
    copy = shutil.copytree(run, folder / "alone")
    (copy / "scores.json").unlink()
    files = [str(copy / "configs" / f"{name}.yaml") for name in ("train", "evaluate")]
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, bundle_root=str(copy))
    workflow.initialize()
    workflow.run()
    return json.loads((copy / "scores.json").read_text())


def test_two_processes_leave_one_set_of_files(pair):
    run = pair / "imagenet"
    files = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()}
    models = {f"models/{name}" for name in ("model.pt", "last.pt", "classes.json")}
    configs = {f"configs/{file.name}" for file in (run / "configs").iterdir()}
    assert files == models | configs | {"metrics.jsonl", "scores.json"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # 28 images, two processes of batches of 4: three steps an epoch, the last four images left out
    assert [line["iteration"] for line in lines if "val_top1" in line] == [3, 6]
    assert torch.load(run / "models" / "last.pt", weights_only=True)["iteration"] == 6


def test_each_image_is_seen_by_one_process(pair):
    one, other = (each["train"] for each in seen(pair))
    assert len(one) == len(other) == 14 and sorted(one + other) == list(range(28))
    one, other = (each["validate"] for each in seen(pair))
    assert (one, other) == ([0, 2, 4, 6], [1, 3, 5])


def test_two_processes_train_one_network(pair):
    one, other = weights(pair)
    learnt = [name for name in one if "running" not in name and "tracked" not in name]
    assert learnt and all(torch.equal(one[name], other[name]) for name in learnt)
    last = torch.load(pair / "imagenet" / "models" / "last.pt", weights_only=True)["network"]
    assert all(torch.equal(one[name], last[name]) for name in one)


def test_two_processes_validate_one_network(pair):
    """Its norms have seen other images in each process; what is validated and saved must be the same."""
    one, other = weights(pair)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_every_process_knows_the_scores_of_all_images(pair):
    one, other = (each["latest"] for each in seen(pair))
    lines = [json.loads(line) for line in (pair / "imagenet" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "val_top1" in line][-1]
    assert one == other == {name: last[f"val_{name}"] for name in one}
    assert one["top1"] * 7 == pytest.approx(
        round(one["top1"] * 7), abs=1e-4
    )  # a share of seven images, not eight


def test_one_process_gives_imagenets_scores_of_two(pair, tmp_path, monkeypatch):
    found = json.loads((pair / "imagenet" / "scores.json").read_text())
    assert evaluated_alone(pair / "imagenet", tmp_path, monkeypatch) == found
    lines = [json.loads(line) for line in (pair / "imagenet" / "metrics.jsonl").read_text().splitlines()]
    assert found["top1"] == max(line["val_top1"] for line in lines if "val_top1" in line)


def test_one_process_gives_cocos_scores_of_two(pair, tmp_path, monkeypatch):
    found = json.loads((pair / "coco" / "scores.json").read_text())
    assert list(found) == list(SCORES) and 0.1 < found["AP"] < found["AP50"] <= 1
    assert evaluated_alone(pair / "coco", tmp_path, monkeypatch) == found
    assert not (Path(pair) / "coco" / "metrics.jsonl").exists()
