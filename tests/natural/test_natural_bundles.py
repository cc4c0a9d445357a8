"""The three bundles on natural images: they train, go on, evaluate and infer, by the published recipes."""

import colorsys
import json
import shutil
from math import isfinite
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.properties import InferProperties, TrainProperties
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from PIL import Image, ImageDraw
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from dsnet_med import build_network, resources
from dsnet_med.engine.overrides import layers, load
from dsnet_med.engine.run import prepare, train
from dsnet_med.errors import InputError, root_cause
from dsnet_med.methods import natural_method_ids
from dsnet_med.natural import cityscapes, coco
from dsnet_med.natural.images import read_image
from dsnet_med.networks.backbones import resnet
from dsnet_med.networks.detector import faster_rcnn
from dsnet_med.networks.plugins import DSM
from dsnet_med.phantoms import make_cityscapes, make_coco, make_imagenet

TASKS = ("cityscapes", "coco", "imagenet")
BUNDLES = resources.configs() / "natural"
SMALL = {"width": 0.0625, "workers": 0, "handlers#loss_log#every": 1}
TINY = {  # one step and a validation
    "imagenet": {**SMALL, "size": 32, "batch_size": 8, "iterations": 1},
    "cityscapes": {**SMALL, "crop": [64, 64], "short_side": [48, 96], "iterations": 1, "validate_every": 1},
    "coco": {**SMALL, "min_size": 64, "max_size": 96, "iterations": 1, "warmup": 1},
}
KEY = {"imagenet": "top1", "cityscapes": "mIoU", "coco": "AP"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads wait for each other where cores are few, and small networks gain nothing from them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a phantom of each task."""
    folder = tmp_path_factory.mktemp("data")
    list(make_imagenet(folder / "imagenet", images=16, seed=0, size=(48, 48), classes=2))
    list(make_cityscapes(folder / "cityscapes", images=4, seed=0, size=(64, 128)))
    list(make_coco(folder / "coco", images=8, seed=0, size=(96, 112)))
    return folder


def rectangles(folder):
    """Two images with a red and a blue rectangle in COCO's layout; what is where, as (label, corners)."""
    rng = np.random.default_rng(0)
    (folder / "train2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    places = {5: ((10, 12, 44, 40), (70, 50, 36, 40)), 8: ((80, 8, 40, 36), (14, 48, 36, 44))}
    images, annotations = [], []
    for number, boxes in places.items():
        image = Image.fromarray(rng.integers(90, 120, (96, 128, 3), dtype=np.uint8))
        for category, colour, (x, y, w, h) in zip((4, 9), ((220, 30, 30), (30, 60, 230)), boxes, strict=True):
            ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=colour)
            annotations.append({"id": 10 * number + category, "image_id": number, "category_id": category,
                                "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})  # fmt: skip
        image.save(folder / "train2017" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 128, "height": 96})
    categories = [{"id": 9, "name": "blue"}, {"id": 4, "name": "red"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


LEARN = {
    "imagenet": {
        **TINY["imagenet"], "batch_size": 16, "iterations": 40, "learning_rate": 0.02, "milestones": []
    },
    "cityscapes": {
        **TINY["cityscapes"], "batch_size": 4, "iterations": 60, "validate_every": 30, "learning_rate": 0.1
    },
    "coco": {
        **TINY["coco"], "min_size": 96, "max_size": 192, "batch_size": 2, "val_split": "train",
        "width": 0.125, "iterations": 50, "epoch_length": 25, "warmup": 8, "milestones": [40],
        "optimizer": {"_target_": "torch.optim.AdamW", "params": "$@network.parameters()", "lr": 0.003},
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=TASKS)
def finished(request, data, tmp_path_factory):
    """A run of each task that has learnt something; COCO's over-fits two images of two rectangles each."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    source = data / task
    if task == "coco":
        source = folder / "rectangles"
        rectangles(source)
    prepare(f"{task}/resnet50", source, folder / "run", LEARN[task])
    summary = train(folder / "run", {})
    return SimpleNamespace(task=task, source=source, folder=folder / "run", summary=summary)


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def copied(finished, tmp_path):
    """A copy of the run, so that what a test does to it is gone afterwards."""
    return shutil.copytree(finished.folder, tmp_path / "run")


def workflow_of(run, names, kind, **settings):
    files = [str(file) for name in names for file in layers(run / "configs" / f"{name}.yaml")]
    return ConfigWorkflow(files, workflow_type=kind, logging_file=False, bundle_root=str(run), **settings)


def finish(workflow):
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow.parser


# ---------------------------------------------------------------- the folders


def test_there_are_three_bundles_with_eleven_methods():
    assert sorted(each.name for each in BUNDLES.iterdir() if each.is_dir()) == list(TASKS)
    for task in TASKS:
        names = {each.name for each in (BUNDLES / task / "configs").iterdir()}
        assert names == {"train.yaml", "evaluate.yaml", "inference.yaml", "metadata.json", "logging.conf"}
    methods = sorted(f"{file.parent.parent.name}/{file.stem}" for file in BUNDLES.glob("*/methods/*.yaml"))
    assert methods == sorted(natural_method_ids()) and len(methods) == 11


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("name", "wanted", "run_ids"),
    [("train", TrainProperties, {"run", "training"}), ("inference", InferProperties, {"run", "inference"})],
)
def test_bundles_have_the_properties_that_monai_requires(task, name, wanted, run_ids, data):
    source = data / task if name == "train" else data / "cityscapes" / "leftImg8bit"
    settings = {"dataset_dir": str(source), "width": 0.0625, "workers": 0, "batch_size": 2}
    if name == "inference":
        settings |= {"class_names": ["a", "b"]}  # there is no run to read them from
    workflow = workflow_of(BUNDLES / task, [name], name, **settings)
    workflow.initialize()
    assert set(workflow.properties) >= set(wanted)
    assert workflow.check_properties() == []
    assert run_ids <= set(workflow.parser.config)
    workflow.parser.config.pop("device")
    workflow.parser.parse(reset=True)
    with pytest.raises(KeyError, match="Property 'device'"):  # it would say so
        workflow.check_properties()


@pytest.mark.parametrize("task", TASKS)
def test_every_part_of_the_bundles_can_be_built(task, data, tmp_path):
    """MONAI builds what is asked for only: a part that nothing asks for may be wrong for long."""
    settings = {name: value for name, value in TINY[task].items() if "#" not in name}
    parser = ConfigParser(load(BUNDLES / task / "configs" / "train.yaml"))
    parser.update({"dataset_dir": str(data / task), "bundle_root": str(tmp_path), **settings})
    skipped = {"imports", "initialize", "run", "training", "finalize"}
    for name in set(parser.config) - skipped:
        parser.get_parsed_content(name)
    metadata = json.loads((BUNDLES / task / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 3


# ---------------------------------------------------------------- a run


def test_the_loss_falls_and_everything_is_left_behind(finished):
    lines = lines_of(finished.folder)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == finished.summary["iterations"] == lines[-1]["iteration"]
    part = len(losses) // 5
    assert np.mean(losses[-part:]) < 0.85 * np.mean(losses[:part])
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert summary == finished.summary and summary["method"]["id"] == f"{finished.task}/resnet50"
    validations = [line for line in lines if f"val_{KEY[finished.task]}" in line]
    assert len(validations) == finished.summary["iterations"] / validations[0]["iteration"] > 1
    assert {name: validations[-1][f"val_{name}"] for name in summary["scores"]} == summary["scores"]
    best = max(validations, key=lambda line: line[f"val_{KEY[finished.task]}"])
    assert best[f"val_{KEY[finished.task]}"] > 0.01
    assert summary["best"] == {
        KEY[finished.task]: best[f"val_{KEY[finished.task]}"], "iteration": best["iteration"]
    }  # fmt: skip
    metadata = json.loads((finished.folder / "configs" / "metadata.json").read_text())
    names = json.loads((finished.folder / "classes.json").read_text())
    assert metadata["name"] == f"{finished.task}/resnet50"
    assert metadata["label_classes"] == f"{len(names)} classes"
    pred = metadata["network_data_format"]["outputs"]["pred"]
    channels = ["box: x1, y1, x2, y2 in pixels"] if finished.task == "coco" else names
    assert pred["num_channels"] == len(channels) and list(pred["channel_def"].values()) == channels
    shape = metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
    assert shape == ([32, 32] if finished.task == "imagenet" else ["*", "*"])
    weights = torch.load(finished.folder / "models" / "model.pt", weights_only=True)
    assert (
        sum(weights[name].numel() for name in weights if not name.endswith(("_mean", "_var", "_tracked")))
        == (summary["parameters"])
    )
    assert not list(finished.folder.rglob("*partial*"))


def test_evaluating_gives_the_best_validation(finished, tmp_path):
    run = copied(finished, tmp_path)
    finish(workflow_of(run, ["train", "evaluate"], "train"))
    scores = json.loads((run / "scores.json").read_text())
    best = finished.summary["best"]["iteration"]
    (line,) = [each for each in lines_of(run) if each["iteration"] == best and "loss" not in each]
    assert scores == {name.removeprefix("val_"): line[name] for name in line if name != "iteration"}
    assert (run / "metrics.jsonl").read_bytes() == (finished.folder / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "models")
    with pytest.raises(RuntimeError) as caught:
        finish(workflow_of(run, ["train", "evaluate"], "train"))
    assert "model.pt: train first" in str(caught.value.__cause__)


def test_evaluating_takes_the_file_of_weights(finished, tmp_path):
    run = copied(finished, tmp_path)
    weights = torch.load(run / "models" / "model.pt", weights_only=True)
    for name, value in weights.items():
        if value.is_floating_point() and not name.endswith("running_var"):
            value.zero_()
    torch.save(weights, run / "models" / "model.pt")
    (run / "weights.json").unlink()  # by which it would be noticed
    finish(workflow_of(run, ["train", "evaluate"], "train"))
    scores = json.loads((run / "scores.json").read_text())
    assert scores[KEY[finished.task]] < finished.summary["best"][KEY[finished.task]]


def images_of(finished, folder):
    (folder / "below").mkdir(parents=True)
    places = {"coco": "train2017/5.png", "cityscapes": "leftImg8bit/val/**/*.*", "imagenet": "val/**/*.*"}
    file = next(finished.source.rglob(places[finished.task]))
    shutil.copy(file, folder / "below" / f"one{file.suffix}")
    Image.new("RGB", (70, 50)).save(folder / "two.png")
    return file


def test_inference_writes_predictions_and_files(finished, tmp_path):
    run, images, out = copied(finished, tmp_path), tmp_path / "images", tmp_path / "out"
    first = images_of(finished, images)
    finish(workflow_of(run, ["inference"], "inference", dataset_dir=str(images), output_dir=str(out), workers=0,
                       batch_size=1))  # fmt: skip
    said = json.loads((out / "predictions.json").read_text())
    assert set(said["predictions"]) == {f"below/one{first.suffix}", "two.png"} and said["failed"] == {}
    one = said["predictions"][f"below/one{first.suffix}"]
    files = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()} - {"predictions.json"}
    if finished.task == "imagenet":
        classes = json.loads((run / "classes.json").read_text())
        assert set(one) == set(classes) and sum(one.values()) == pytest.approx(1, abs=1e-5)
        assert list(one.values()) == sorted(one.values(), reverse=True)
        if finished.summary["scores"]["top1"] == 1:
            assert next(iter(one)) == first.parent.name
        assert files == set()
    elif finished.task == "cityscapes":
        assert one == {"labels": "one.png", "colours": "one.jpg"}
        assert files == {"below/one.png", "below/one.jpg", "two.png", "two.jpg"}
        with Image.open(out / "two.png") as labels:
            assert labels.size == (70, 50)
        network = build_network("cityscapes/resnet50", in_channels=3, num_classes=19, width=0.0625).eval()
        network.load_state_dict(torch.load(run / "models" / "model.pt", weights_only=True))
        pixels = np.array(read_image(first), dtype=np.float32) / 255
        pixels = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        with torch.no_grad():
            (logits,) = network(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None])
        wanted = cityscapes.IDS[logits.argmax(0).numpy()]
        assert (np.asarray(Image.open(out / "below" / "one.png")) == wanted).mean() > 0.999
        assert len(np.unique(wanted)) > 1
    else:
        assert files == {"below/one.jpg", "two.jpg"}
        assert finished.summary["scores"]["AP50"] > 0.9
        likely = sorted(one, key=lambda each: each["score"])[-2:]
        found = {each["category"]: each["bbox"] for each in likely}
        assert found["red"] == pytest.approx([10, 12, 44, 40], abs=5)
        assert found["blue"] == pytest.approx([70, 50, 36, 40], abs=5)


@pytest.mark.parametrize("method", [each for each in natural_method_ids() if "resnet50" not in each])
def test_every_method_trains(method, data, tmp_path):
    task = method.partition("/")[0]
    prepare(method, data / task, tmp_path, TINY[task])
    summary = train(tmp_path, {})
    assert summary["method"]["id"] == method and summary["iterations"] == 1
    assert summary["best"]["iteration"] == 1
    (loss,) = [line["loss"] for line in lines_of(tmp_path) if "loss" in line]
    assert isfinite(loss) and loss > 0
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["parts"]
    trained = [each["momentum_buffer"] for each in state["optimizer"]["state"].values()]
    assert len(trained) == len(
        state["optimizer"]["param_groups"][0]["params"]
    )  # every parameter has a gradient


class Killed(Exception):
    """What stands for a kill."""


def test_a_run_that_was_stopped_ends_as_one_that_was_not(data, tmp_path, monkeypatch):
    """Its images, augmentations and steps are those of the undisturbed one, to the last bit."""
    settings = {**TINY["coco"], "iterations": 4, "epoch_length": 2, "batch_size": 2, "checkpoint_every": 1}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for run in (whole, stopped):
        prepare("coco/resnet50", data / "coco", run, settings)
    train(whole, {})
    step = SupervisedTrainer._iteration

    def killed(trainer, engine, batch):
        if engine.state.iteration == 4:
            raise Killed
        return step(trainer, engine, batch)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTrainer, "_iteration", killed)
        with pytest.raises(Exception) as caught:
            train(stopped, {})
    assert isinstance(root_cause(caught.value), Killed)
    summary = train(stopped, {"resume": True})
    assert summary["iterations"] == 4
    model = Path("models") / "model.pt"
    assert (whole / model).read_bytes() == (stopped / model).read_bytes()
    losses = [[line["loss"] for line in lines_of(run) if "loss" in line] for run in (whole, stopped)]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    with pytest.raises(InputError, match="has done all 4 iterations"):
        train(stopped, {"resume": True})


def test_validations_may_be_some_epochs_apart(data, tmp_path):
    settings = {**TINY["imagenet"], "iterations": 4, "epoch_length": 1, "val_interval": 2}
    prepare("imagenet/resnet50", data / "imagenet", tmp_path, settings)
    assert train(tmp_path, {})["best"]["iteration"] in (2, 4)
    assert [line["iteration"] for line in lines_of(tmp_path) if "val_top1" in line] == [2, 4]


@pytest.mark.parametrize(("interval", "held"), [(3, None), (9, 4)])
def test_weights_are_of_a_measured_epoch_or_else_of_the_last(interval, held, data, tmp_path):
    """Epochs 1 to 4 of one step; validations give 0.5, then 0.2: the first that was measured is the best."""
    settings = {**TINY["imagenet"], "iterations": 4, "epoch_length": 1, "val_interval": interval}
    prepare("imagenet/resnet50", data / "imagenet", tmp_path, settings)
    workflow = workflow_of(tmp_path, ["train"], "train")
    workflow.initialize()
    content = workflow.parser.get_parsed_content
    trainer, checkpoints, network = content("train#trainer"), content("checkpoints"), content("network")
    scores = iter([0.5, 0.2, 0.2, 0.2])
    content("validate#evaluator").add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(top1=next(scores))
    )
    kept = []

    def keep(_):
        kept.append({name: value.clone() for name, value in network.state_dict().items()})

    trainer.add_event_handler(Events.EPOCH_COMPLETED, keep)
    workflow.run()
    held = held or interval
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    same = [all(torch.equal(weights[name], each[name]) for name in weights) for each in kept]
    assert same == [epoch == held for epoch in (1, 2, 3, 4)]
    assert checkpoints.best == {"top1": 0.5, "iteration": held}


@pytest.mark.parametrize(
    ("task", "iterations", "milestones", "warmup"),
    [("coco", 1200, [800, 1100], 500), ("coco", 360, [240, 330], 36), ("imagenet", 50, [15, 30, 45], None)],
)
def test_a_run_of_another_length_has_its_steps_at_the_same_shares(task, iterations, milestones, warmup):
    parser = ConfigParser(load(BUNDLES / task / "configs" / "train.yaml"))
    parser.update({"iterations": iterations})
    assert parser.get_parsed_content("milestones") == milestones
    assert warmup is None or parser.get_parsed_content("warmup") == warmup


def test_inference_knows_what_training_was_told(data, tmp_path):
    prepare("coco/dsnet50_b", data / "coco", tmp_path, TINY["coco"])
    inference = load(tmp_path / "configs" / "inference.yaml")
    assert {name: inference[name] for name in ("method", "width", "min_size", "max_size")} == {
        "method": "coco/dsnet50_b", "width": 0.0625, "min_size": 64, "max_size": 96
    }  # fmt: skip
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").touch()
    with pytest.raises(InputError, match="already holds a run"):
        prepare("coco/dsnet50_b", data / "coco", tmp_path, TINY["coco"])
    with pytest.raises(InputError, match="unknown setting"):
        prepare("coco/dsnet50_b", data / "coco", tmp_path / "other", {"min_siz": 3})
    with pytest.raises(InputError, match="no data set at"):
        prepare("coco/dsnet50_b", data / "absent", tmp_path / "other", {})


# ---------------------------------------------------------------- the recipes


def rates(task, count, **settings):
    """The learning rate of the first `count` iterations by the bundle's own optimiser and schedule."""
    parser = ConfigParser(load(BUNDLES / task / "configs" / "train.yaml"))
    parser.update({"network": "$torch.nn.Linear(1, 1)", **settings})
    optimizer = parser.get_parsed_content("optimizer")
    handler = parser.config["handlers"]["lr_schedule"]
    assert handler["_target_"] == "monai.handlers.LrScheduleHandler" and handler["epoch_level"] is False
    found = []

    def step(engine, _):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()

    engine = Engine(step)
    schedule = parser.get_parsed_content("lr_scheduler")
    LrScheduleHandler(schedule, print_lr=False, epoch_level=False).attach(engine)
    engine.run(range(count), epoch_length=count)
    return found


def test_learning_rates_of_imagenet():
    found = rates("imagenet", 1000, steps_per_epoch=10, batch_size=64)
    # 0.1 for 256 images, a tenth of it from the epochs 30, 60 and 90 on, of 10 iterations each
    wanted = {
        0: 0.025,
        299: 0.025,
        300: 0.0025,
        599: 0.0025,
        600: 0.00025,
        899: 0.00025,
        900: 0.000025,
        999: 0.000025,
    }
    assert {k: found[k] for k in wanted} == pytest.approx(wanted, rel=1e-9)
    assert load(BUNDLES / "imagenet" / "configs" / "train.yaml")["epochs"] == 100


def test_learning_rates_of_coco():
    found = rates("coco", 1200, steps_per_epoch=100, batch_size=16)
    # 0.02 for 16 images; from a thousandth of it in a line, which the 500th iteration ends
    wanted = {
        0: 0.00002,
        1: 0.02 * (0.001 + 0.999 / 499),
        250: 0.02 * (0.001 + 0.999 * 250 / 499),
        498: 0.02 * (1 - 0.999 / 499),
        499: 0.02,
        500: 0.02,
    }
    wanted |= {799: 0.02, 800: 0.002, 1099: 0.002, 1100: 0.0002, 1199: 0.0002}  # after 8 epochs and after 11
    assert {k: found[k] for k in wanted} == pytest.approx(wanted, rel=1e-9)
    assert load(BUNDLES / "coco" / "configs" / "train.yaml")["epochs"] == 12
    shipped = rates("coco", 1, steps_per_epoch=100)[0]  # for two images
    assert shipped == pytest.approx(0.0025 * 0.001)


@pytest.mark.parametrize("task", ["coco", "imagenet"])
@pytest.mark.parametrize(
    ("settings", "iterations", "epoch_length", "max_epochs"),
    [({"epochs": 3}, 21, 7, 3), ({"iterations": 5}, 5, 5, 1), ({"iterations": 20}, 20, 7, 3)],
)
def test_epochs_or_iterations(task, settings, iterations, epoch_length, max_epochs):
    parser = ConfigParser(load(BUNDLES / task / "configs" / "train.yaml"))
    parser.update({"steps_per_epoch": 7, **settings})
    assert parser.get_parsed_content("iterations") == iterations
    assert parser.get_parsed_content("epoch_length") == epoch_length
    assert parser.get_parsed_content("train#trainer#max_epochs") == max_epochs


@pytest.mark.parametrize("kind", ["train", "inference"])
@pytest.mark.parametrize("task", TASKS)
def test_a_bundle_refuses_the_rows_of_others(task, kind, data, tmp_path):
    config = layers(BUNDLES / task / "configs" / f"{kind}.yaml")
    for other in {f"{each}/resnet50" for each in TASKS} - {f"{task}/resnet50"} | {"fcn"}:
        workflow = ConfigWorkflow(
            [str(file) for file in config], workflow_type=kind, logging_file=False, batch_size=2,
            bundle_root=str(tmp_path), method=other, dataset_dir=str(data / task),
        )  # fmt: skip
        with pytest.raises((RuntimeError, InputError)) as caught:
            finish(workflow)
        message = str(caught.value.__cause__ or caught.value)
        assert f"got the method {other} in the bundle of {task}: wanted one of {task}/" in message


def test_learning_rates_of_cityscapes():
    found = rates("cityscapes", 400, iterations=400)
    # (0.01 - 0.0001) (1 - t / 399)^0.9 + 0.0001: a third of the way 0.0099 * (2/3)^0.9 = 0.0099 * 0.694251
    wanted = {0: 0.01, 133: 0.00697309, 399: 0.0001}
    assert {k: found[k] for k in wanted} == pytest.approx(wanted, rel=1e-5)
    assert load(BUNDLES / "cityscapes" / "configs" / "train.yaml")["iterations"] == 40000
    assert found == sorted(found, reverse=True)


def cityscapes_transforms(first, last, **settings):
    """Those between two of the training of Cityscapes, by their places."""
    parser = ConfigParser(load(BUNDLES / "cityscapes" / "configs" / "train.yaml"))
    assert parser.config["short_side"] == [512, 2048]
    parser.update(settings)
    return parser.get_parsed_content("train#preprocessing").transforms[first:last]


def test_cityscapes_is_scaled_by_a_half_to_two():
    torch.manual_seed(0)
    to_image, scale = cityscapes_transforms(0, 2, short_side=[64, 256])  # of images an eighth as large
    image = to_image(Image.new("RGB", (256, 128)))
    mask = tv_tensors.Mask(torch.arange(2).repeat(128, 128).mul(18).byte())
    factors = []
    for _ in range(30):
        scaled, labels = scale(image, mask)
        height, width = scaled.shape[1:]
        assert labels.shape == (height, width) and abs(width - 2 * height) <= 1
        assert set(labels.unique().tolist()) == {0, 18}  # no classes between
        factors.append(height / 128)
    assert 0.5 <= min(factors) < 0.65 and 1.8 < max(factors) <= 2
    # equally likely everywhere between: of 30 draws each third of the range has some
    assert min(np.histogram(factors, bins=3, range=(0.5, 2))[0]) >= 4


def test_cityscapes_colours_vary_as_in_the_recipe():
    torch.manual_seed(0)
    distort = v2.Compose(cityscapes_transforms(4, 8))
    red = tv_tensors.Image(torch.tensor([200, 60, 60], dtype=torch.uint8).reshape(3, 1, 1).expand(3, 4, 4))
    found = [distort(red)[:, 0, 0].numpy() / 255 for _ in range(400)]
    hues = [(colorsys.rgb_to_hsv(*each)[0] + 0.5) % 1 - 0.5 for each in found]
    assert 0.09 < max(hues) <= 0.11 and -0.11 <= min(hues) < -0.09  # 18 of OpenCV's 180
    assert all(each.argmax() == 0 for each in found)  # channels keep their places
    same = sum(np.array_equal(each * 255, [200, 60, 60]) for each in found)
    assert 400 / 16 * 0.5 < same < 400 / 16 * 2  # each of the four with probability 1/2
    mask = tv_tensors.Mask(torch.arange(16).reshape(4, 4))
    assert torch.equal(distort(red, mask)[1], mask)


@pytest.mark.parametrize("task", TASKS)
def test_optimisers_are_those_of_the_recipes(task):
    parser = ConfigParser(load(BUNDLES / task / "configs" / "train.yaml"))
    parser.update({"network": "$torch.nn.Linear(1, 1)", "steps_per_epoch": 1})
    (group,) = parser.get_parsed_content("optimizer").param_groups
    assert group["momentum"] == 0.9 and not group["nesterov"]
    assert group["weight_decay"] == (0.0005 if task == "cityscapes" else 0.0001)


# ---------------------------------------------------------------- the pretrained detector


def test_a_pretrained_detector_keeps_its_stem_first_stage_and_norms():
    torch.manual_seed(0)
    backbone = resnet(
        name="resnet50", output_stride=32, in_channels=3, pretrained=False, width=0.0625, at="layer*.*.act1",
        plugin=lambda channels: DSM(channels, ratio=4),
    )  # fmt: skip
    network = faster_rcnn(backbone, 3, pretrained=True, width=0.0625, min_size=64, max_size=96).train()
    for name, each in network.named_parameters():
        if name.endswith("bn3.weight"):  # they start at zero, and nothing before them would have a gradient
            nn.init.constant_(each, 0.5)
    frozen = {name for name, each in network.named_parameters() if not each.requires_grad}
    fixed = ("backbone.body.conv1.", "backbone.body.bn1.", "backbone.body.layer1.")
    assert frozen == {name for name, _ in network.named_parameters() if name.startswith(fixed)}
    assert any("plugin" in name for name in frozen)
    norms = [
        each for each in network.backbone.body.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)
    ]
    assert len(norms) > 53 and not any(each.training for each in norms)  # those of the plug-ins as well
    assert network.training and network.backbone.fpn.training and network.backbone.body.layer2.training
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([each for each in network.parameters() if each.requires_grad], lr=0.1)
    target = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 50.0]]), "labels": torch.tensor([2])}
    coco.loss(network([torch.rand(3, 64, 80), torch.rand(3, 60, 70)], [target] * 2), None).backward()
    optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    trained = {name for name, each in network.named_parameters() if each.grad is not None and each.grad.any()}
    assert not any(name.startswith(fixed) or "running" in name for name in changed)
    assert changed <= trained  # a small gradient may be lost in rounding
    plugged = {name for name, _ in network.named_parameters() if "plugin" in name} - frozen
    assert plugged and len(plugged & changed) > 0.5 * len(plugged)
    assert not network.eval().backbone.fpn.training


def test_a_pretrained_detector_trains_on_one_image_at_a_time():
    """Its norms, DSM's among them, stay in evaluation, and need no second image."""
    backbone = resnet(
        name="resnet50", output_stride=32, in_channels=3, pretrained=False, width=0.0625, at="layer4.*.act2",
        plugin=lambda channels: DSM(channels, ratio=2, bias=True),
    )  # fmt: skip
    network = faster_rcnn(backbone, 3, pretrained=True, width=0.0625, min_size=64, max_size=96).train()
    target = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 50.0]]), "labels": torch.tensor([2])}
    assert isfinite(coco.loss(network([torch.rand(3, 64, 80)], [target]), None).item())


def test_a_detector_from_nothing_trains_all_of_it():
    network = build_network("coco/resnet50", in_channels=3, num_classes=3, width=0.0625).train()
    assert all(each.requires_grad for each in network.parameters())
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
    assert norms and all(each.training for each in norms)
