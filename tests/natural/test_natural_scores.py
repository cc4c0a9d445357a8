"""Scores on natural images, by hand, and against scikit-learn, raw pycocotools and faster-coco-eval."""

import contextlib
import io
import json
import math

import faster_coco_eval
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from ignite.engine import Engine
from ignite.metrics import ConfusionMatrix
from monai.handlers import from_engine
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import confusion_matrix

from dsnet_med.errors import InputError
from dsnet_med.natural import cityscapes, coco, coco_annotations, imagenet
from dsnet_med.phantoms import make_coco

CHOSEN = from_engine(["pred", "label"])  # as in the bundles


def metrics_of(metrics, batches):
    """What an engine that is handed `batches` of (predictions, labels) has in its state at the end."""
    engine = Engine(lambda _, batch: {"pred": batch[0], "label": batch[1]})
    for name, metric in metrics.items():
        metric.attach(engine, name)
    engine.run([(torch.zeros_like(batches[0][0]), torch.zeros_like(batches[0][1]))])  # to be forgotten
    engine.run(batches)
    return engine.state.metrics


def segmentation_scores(batches, classes):
    overall = cityscapes.scores(ConfusionMatrix(classes, output_transform=CHOSEN))
    return metrics_of({name: overall[name] for name in ("mIoU", "mAcc", "aAcc")}, batches)


def logits_of(predicted, classes, rng):
    """Random logits whose largest is that of the predicted class."""
    logits = rng.normal(size=(len(predicted), classes, *predicted.shape[1:]))
    np.put_along_axis(logits, predicted[:, None], 9.0, axis=1)
    return torch.tensor(logits, dtype=torch.float32)


# ---------------------------------------------------------------- segmentation


def test_two_by_two_pixels_by_hand():
    labels = torch.tensor([[[0, 0], [1, 255]]])
    logits = logits_of(np.array([[[0, 1], [1, 2]]]), 4, np.random.default_rng(0))
    # Of class 0 one of two pixels is found: IoU 1/2, recall 1/2. Class 1 has one pixel, which is found, and one
    # more is called so: IoU 1/2, recall 1. Class 2 is predicted where nothing is counted, class 3 nowhere.
    assert segmentation_scores([(logits, labels)], 4) == pytest.approx(
        {"mIoU": (1 / 2 + 1 / 2) / 2, "mAcc": (1 / 2 + 1) / 2, "aAcc": 2 / 3}
    )


def test_a_confusion_matrix_by_hand():
    # rows are true: 3 of 4 and 4 of 6 are right; IoU 3 / (4 + 5 - 3) and 4 / (6 + 5 - 4)
    found = cityscapes.confusion_scores(torch.tensor([[3, 1], [2, 4]]))
    assert found == pytest.approx({"mIoU": (1 / 2 + 4 / 7) / 2, "mAcc": (3 / 4 + 2 / 3) / 2, "aAcc": 7 / 10})
    # a class that is predicted but not there has an IoU of 0 and no recall
    found = cityscapes.confusion_scores(torch.tensor([[3, 1], [0, 0]]))
    assert found == pytest.approx({"mIoU": 3 / 8, "mAcc": 3 / 4, "aAcc": 3 / 4})


@given(st.integers(0, 2**32 - 1), st.integers(2, 19), st.integers(1, 3), st.data())
def test_segmentation_scores_are_those_of_scikit_learns_matrix(seed, classes, count, data):
    rng = np.random.default_rng(seed)
    there = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes, unique=True))
    named = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes, unique=True))
    shape = (2, *rng.integers(1, 6, 2))
    labels = rng.choice([*there, 255], (count, *shape))
    predicted = rng.choice(named, labels.shape)
    predicted = np.where((rng.random(labels.shape) < 0.4) & (labels < 255), labels, predicted)
    counted = labels != 255
    assume(counted.any())
    batches = [
        (logits_of(guess, classes, rng), torch.from_numpy(true))
        for guess, true in zip(predicted, labels, strict=True)
    ]
    matrix = confusion_matrix(labels[counted], predicted[counted], labels=range(classes))
    overlaps, recalls = [], []
    for number in range(classes):
        right = matrix[number, number]
        either = matrix[number].sum() + matrix[:, number].sum() - right
        if either:
            overlaps.append(right / either)
        if matrix[number].any():
            recalls.append(right / matrix[number].sum())
    assert segmentation_scores(batches, classes) == pytest.approx(
        {"mIoU": np.mean(overlaps), "mAcc": np.mean(recalls), "aAcc": np.trace(matrix) / matrix.sum()}
    )


def test_nothing_to_count_has_no_scores():
    labels = torch.full((1, 2, 2), 255)
    found = segmentation_scores([(torch.rand(1, 3, 2, 2), labels)], 3)
    assert all(math.isnan(value) for value in found.values())


# ---------------------------------------------------------------- classification


def test_the_likeliest_classes_of_an_image():
    logits = torch.tensor([1.0, 3.0, 2.0]).log()
    named = imagenet.top_classes(logits, "", None, ["a", "b", "c"])
    assert list(named.items()) == [("b", 0.5), ("c", pytest.approx(1 / 3, abs=1e-6)), ("a", 0.166667)]
    assert list(imagenet.top_classes(torch.arange(9.0), "", None, "abcdefghi")) == list("ihgfe")


# ---------------------------------------------------------------- detection

CATEGORIES = [{"id": 90, "name": "kite"}, {"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]  # labels 3, 1, 2


def annotation(number, image, category, box, crowd=0):
    area = box[2] * box[3]
    values = {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area}
    return {**values, "iscrowd": crowd}


def document(annotations, images=(8, 21)):
    listed = [{"id": each, "file_name": f"{each}.jpg", "width": 300, "height": 300} for each in images]
    return {"images": listed, "annotations": annotations, "categories": CATEGORIES}


def read(folder, content):
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return coco_annotations.read_annotations(str(folder), "val")


def detections(*rows):
    """Rows of corners, a label and a score as the network gives them."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "labels": table[:, 4].long(), "scores": table[:, 5]}


def scored(annotations, by_image):
    """`AveragePrecision` of detections by image, in batches of one image."""
    metric = coco.AveragePrecision(annotations, coco_annotations.categories(annotations), CHOSEN)
    engine = Engine(lambda _, batch: {"pred": batch[0], "label": batch[1]})
    metric.attach(engine, "all")
    engine.run([([found], [{"image_id": number}]) for number, found in by_image.items()])
    return engine.state.metrics["all"]


HAND_MADE = [
    annotation(1, 8, 7, [10, 10, 50, 40]),  # a dog, of 2000 square pixels: medium
    annotation(2, 21, 7, [100, 100, 50, 40]),  # another
    annotation(3, 21, 3, [10, 160, 100, 120]),  # a cat, of 12000: large
]
FOUND = {
    8: detections(
        (10, 150, 40, 180, 2, 0.9),  # no dog
        (10, 10, 60, 42.8, 2, 0.8),  # the first dog, at an IoU of 50 x 32.8 / 2000 = 0.82
        (200, 200, 260, 260, 3, 0.7),  # no kite, and none is there: nothing to average over
    ),
    21: detections((10, 160, 110, 280, 1, 0.3)),  # the cat
}


def test_average_precision_by_hand(tmp_path):
    # Dogs: at the 7 of 10 thresholds up to 0.8, the detections in the order of their scores are wrong, right.
    # Precision at the second is 1/2, recall 1/2: of 101 recalls 0, 0.01, ..., the 51 up to 1/2 have it, 0 the
    # others. Cats: 1 throughout.
    dogs = 51 * 0.5 / 101
    wanted = {"AP": (0.7 * dogs + 1) / 2, "AP50": (dogs + 1) / 2, "AP75": (dogs + 1) / 2}
    # Medium: dogs alone, and the wrong detection, of 900 square pixels, is not counted. Large: the cat.
    wanted |= {"APS": math.nan, "APM": 0.7 * 51 / 101, "APL": 1.0}
    assert scored(read(tmp_path, document(HAND_MADE)), FOUND) == pytest.approx(wanted, nan_ok=True)


def test_average_precision_is_what_pycocotools_says_of_the_files(tmp_path):
    annotations = read(tmp_path, document(HAND_MADE))
    results = [
        {"image_id": 8, "category_id": 7, "bbox": [10, 150, 30, 30], "score": 0.9},
        {"image_id": 8, "category_id": 7, "bbox": [10, 10, 50, 32.8], "score": 0.8},
        {"image_id": 8, "category_id": 90, "bbox": [200, 200, 60, 60], "score": 0.7},
        {"image_id": 21, "category_id": 3, "bbox": [10, 160, 100, 120], "score": 0.3},
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    truth = COCO(str(tmp_path / "annotations" / "instances_val2017.json"))
    raw = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
    for step in (raw.evaluate, raw.accumulate, raw.summarize):
        step()
    wanted = {name: raw.stats[place] for place, name in enumerate(coco.SCORES)}
    assert wanted["APS"] == -1
    wanted["APS"] = math.nan
    assert scored(annotations, FOUND) == pytest.approx(wanted, nan_ok=True)
    assert coco.evaluate_boxes(annotations, results) == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_faster_coco_eval(tmp_path, seed):
    list(make_coco(tmp_path, images=32, seed=seed))
    rng = np.random.default_rng(seed)
    file = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    numbers = sorted(each["id"] for each in content["categories"])
    results, by_image = [], {each["id"]: [] for each in content["images"]}
    for each in content["annotations"]:
        for _ in range(rng.integers(0, 4)):
            left, top, width, height = (np.array(each["bbox"]) + rng.normal(0, 4, 4)).clip(1).round(2).tolist()
            number = int(rng.choice([each["category_id"]] * 3 + [1, 2]))
            score = round(float(rng.random()), 4)
            place = {"image_id": each["image_id"], "category_id": number, "score": score}
            results.append({**place, "bbox": [left, top, width, height]})
            row = (left, top, left + width, top + height, numbers.index(number) + 1, score)
            by_image[each["image_id"]].append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = faster_coco_eval.COCO(str(file))
        theirs = faster_coco_eval.COCOeval_faster(truth, truth.loadRes(results), "bbox")
        for step in (theirs.evaluate, theirs.accumulate, theirs.summarize):
            step()
    wanted = dict(zip(coco.SCORES, theirs.stats, strict=False))
    assert 0.02 < wanted["AP"] < wanted["AP50"] < 0.98
    annotations = coco_annotations.read_annotations(str(tmp_path), "train")
    found = scored(annotations, {number: detections(*rows) for number, rows in by_image.items()})
    assert found == pytest.approx(wanted, abs=1e-4)  # boxes pass through 32 bits


def test_a_detection_inside_a_crowd_is_neither_right_nor_wrong(tmp_path):
    dog = annotation(1, 8, 7, [10, 10, 50, 40])
    right = (10, 10, 60, 50, 2, 0.5)
    inside = [(left, 120, left + 30, 190, 2, 0.9) for left in (110, 150, 200)]
    aps = {}
    for crowd in (1, 0):
        annotations = read(tmp_path, document([dog, annotation(2, 8, 7, [100, 100, 150, 100], crowd)]))
        for rows in ([right], [right, *inside]):
            aps[crowd, len(rows)] = scored(annotations, {8: detections(*rows)})["AP"]
    assert aps[1, 1] == aps[1, 4] == pytest.approx(1.0)
    # No crowd but a dog: one of two is found; then three wrong ones come first, and precision is 1/4.
    assert aps[0, 1] == pytest.approx(51 / 101)
    assert aps[0, 4] == pytest.approx(51 / 101 / 4)


def test_no_detections_score_nothing_and_absent_sizes_are_not_defined(tmp_path):
    annotations = read(tmp_path, document(HAND_MADE))
    nothing = {"AP": 0, "AP50": 0, "AP75": 0, "APS": math.nan, "APM": 0, "APL": 0}
    assert coco.evaluate_boxes(annotations, []) == pytest.approx(nothing, nan_ok=True)
    assert scored(annotations, {8: detections(), 21: detections()}) == pytest.approx(nothing, nan_ok=True)


def test_a_new_evaluation_forgets_the_last(tmp_path):
    metric = coco.AveragePrecision(read(tmp_path, document(HAND_MADE)), ["cat", "dog", "kite"], CHOSEN)
    engine = Engine(lambda _, batch: {"pred": batch[0], "label": batch[1]})
    metric.attach(engine, "all")
    batches = [([FOUND[number]], [{"image_id": number}]) for number in (8, 21)]
    engine.run(batches)
    first = engine.state.metrics["all"]
    engine.run(batches[:1])
    assert engine.state.metrics["all"]["APL"] == 0 < first["APL"]
    engine.run(batches)
    assert engine.state.metrics["all"] == pytest.approx(first, nan_ok=True)


@pytest.mark.parametrize("names", [["cat", "dog"], ["dog", "cat", "kite"], ["cat", "dog", "bird"]])
def test_a_network_of_other_categories_is_not_scored(tmp_path, names):
    with pytest.raises(InputError, match="the categories of the validation set are others"):
        coco.AveragePrecision(read(tmp_path, document(HAND_MADE)), names, CHOSEN)
