"""What each of several processes does in test_distributed.py, and one alone."""

import os
import signal
from math import isnan
from pathlib import Path
from typing import Any

import torch
from ignite.metrics import ConfusionMatrix, TopKCategoricalAccuracy
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from dsnet_med import build_network
from dsnet_med.engine import distributed
from dsnet_med.engine.losses import SegmentationLoss
from dsnet_med.engine.metrics import CaseDice
from dsnet_med.errors import InputError
from dsnet_med.natural.coco import AveragePrecision

CLASSES = ("background", "liver", "spleen", "stomach")
BATCH = 6  # of all processes together


def measured() -> dict[str, Any]:
    """Gradients of this process's share of a batch, and scores of its share of each validation set."""
    torch.manual_seed(0)
    network = build_network("fcn_dsm", in_channels=1, num_classes=4, width=1 / 16).double()
    network.eval()  # norms and dropout are each process's own
    trained = distributed.parallel(network)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(BATCH, 1, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (BATCH, 32, 32), generator=generator)
    own = BATCH // distributed.world_size()
    place = slice(distributed.rank() * own, (distributed.rank() + 1) * own)
    SegmentationLoss()(trained(images[place]), labels[place]).backward()
    gradients = {name: each.grad for name, each in network.named_parameters()}
    return {"gradients": gradients, "scores": _scores(), "buffers": _buffers()}


def _buffers() -> list[float]:
    """What the norm that an evaluator is given has counted: the first process's own batch."""
    norm = nn.BatchNorm2d(1)
    norm(torch.full((1, 1, 2, 2), float(distributed.rank() + 1)))
    evaluator = _evaluator([{"image": torch.ones(1, 1, 2, 2), "label": torch.zeros(1)}], norm)
    distributed.BroadcastBuffers().attach(evaluator)
    evaluator.run()
    return [norm.running_mean.item(), norm.num_batches_tracked.item()]


def _scores() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    metrics: dict[str, Any] = {}
    pixels = torch.rand(2, 3, 4, 9, 9, generator=generator)  # two batches: one process of three has none
    volumes = [
        {"case": f"case {i}", "image": pixels[i], "label": pixels[i, :, :1].mul(4).long()} for i in range(2)
    ] + [{"case": "case 0", "image": pixels[1], "label": pixels[0, :, :1].mul(3.5).long()}]
    for name, part in (("two", volumes[:2]), ("three", volumes)):
        found = _evaluated(distributed.shard(part), CaseDice(CLASSES))
        metrics |= {name: found["score"], f"{name} by organ": list(found["val_dice"].values())}
    logits, classes = torch.rand(7, 5, generator=generator), torch.randint(0, 5, (7,), generator=generator)
    batches = distributed.shard(BatchSampler(range(7), 2, False))
    parts = [{"image": logits[batch], "label": classes[batch]} for batch in batches]
    metrics["top2"] = _evaluated(parts, TopKCategoricalAccuracy(2, from_engine(["pred", "label"])))["score"]
    confusion = ConfusionMatrix(4, output_transform=from_engine(["pred", "label"]))
    images = [{"image": each["image"], "label": each["label"][:, 0]} for each in volumes]
    metrics["confusion"] = _evaluated(distributed.shard(images), confusion)["score"].tolist()
    return metrics | {"coco": _average_precision()}


def _average_precision() -> dict[str, float]:
    annotations = _coco()
    metric = AveragePrecision(annotations, ["dark", "blue"], lambda output: output)
    for number in distributed.shard(range(7)):
        boxes = torch.tensor([[0.0, 0.0, 80.0, 40.0 + 3 * number], [0.0, 0.0, 30.0, 30.0]])
        labels, scores = torch.tensor([1 + number % 2, 1]), torch.tensor([0.9 - 0.1 * number, 0.5])
        metric.update(([{"boxes": boxes, "labels": labels, "scores": scores}], [{"image_id": number}]))
    return {name: score for name, score in metric.compute().items() if not isnan(score)}


def _coco() -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "width": 80, "height": 64, "file_name": f"{i}.png"} for i in range(7)],
        "annotations": [
            {"id": i + 1, "image_id": i, "bbox": [0, 0, 80, 64 - 4 * i], "area": 80 * (64 - 4 * i)}
            | {"category_id": 5 + 2 * (i % 2), "iscrowd": 0}
            for i in range(7)
        ],
        "categories": [{"id": 5, "name": "dark"}, {"id": 7, "name": "blue"}],
    }
    coco.createIndex()
    return coco


def _evaluated(items: list[Any], metric: Any) -> dict[str, Any]:
    evaluator = _evaluator(items, nn.Identity(), {"score": metric})
    evaluator.run()
    return dict(evaluator.state.metrics)


def _evaluator(items: list[Any], network: nn.Module, metric: Any = None) -> SupervisedEvaluator:
    loader = DataLoader(items, batch_size=None)  # type: ignore[arg-type]
    return SupervisedEvaluator(
        torch.device("cpu"),
        loader,
        network,
        epoch_length=max(1, len(loader)),
        key_val_metric=metric,
        decollate=False,
    )


def killed() -> None:
    """The second process is killed while the first waits for it."""
    distributed.start("cpu")
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.idist.barrier()


def together(folder: Path) -> None:
    """Write what this process measures, agree with the others, and fail in the second."""
    distributed.start("cpu")
    rank = distributed.rank()
    result = measured() | {"threads": torch.get_num_threads(), "pid": os.getpid()}
    result["told"] = distributed.on_main(lambda: f"told by {rank}")
    try:
        distributed.on_main(_refuse)
    except Exception as error:
        result["refused"] = repr(error)
    torch.save(result, folder / f"{rank}.pt")
    distributed.idist.barrier()
    if rank == 1:
        raise InputError("this image cannot be read")
    while True:  # the others wait for it
        distributed.idist.all_reduce(1.0)


def _refuse() -> None:
    raise InputError("this folder is taken")
