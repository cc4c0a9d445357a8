"""Scores on natural images against independent implementations and cases worked by hand."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.metrics import ConfusionMatrix
from pycocotools.coco import COCO
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from dsnet_med.errors import InputError
from dsnet_med.natural.cityscapes import confusion_scores
from dsnet_med.natural.coco import AveragePrecision, categories, evaluate_boxes, read_annotations
from dsnet_med.natural.imagenet import topk
from dsnet_med.natural.phantom import make_coco


def streets(batches, classes):
    """The scores of (logits, labels) batches, as the bundle takes them."""
    confusion = ConfusionMatrix(num_classes=classes)
    for logits, labels in batches:
        confusion.update((logits, labels))
    return confusion_scores(confusion.compute())


def logits_of(predicted, classes):
    return torch.nn.functional.one_hot(predicted, classes).movedim(-1, 1).float()


@settings(max_examples=40)
@given(data=st.data(), classes=st.integers(2, 6))
def test_miou_is_that_of_scikit_learn_s_confusion_matrix(data, classes):
    shape = (2, 3, 4)
    drawn = st.lists(st.integers(0, classes - 1), min_size=24, max_size=24)
    predicted = [torch.tensor(data.draw(drawn)).reshape(shape) for _ in range(2)]
    truth = [torch.tensor(data.draw(drawn)).reshape(shape) for _ in range(2)]
    for labels in truth:
        labels[0, 0, :2] = 255  # ignored
    found = streets([(logits_of(p, classes), t) for p, t in zip(predicted, truth, strict=True)], classes)
    kept = torch.cat(truth).flatten() != 255
    true, guess = torch.cat(truth).flatten()[kept].numpy(), torch.cat(predicted).flatten()[kept].numpy()
    matrix = confusion_matrix(true, guess, labels=range(classes)).astype(float)
    right, there, said = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    union, present = there + said - right, there > 0
    assert found["mIoU"] == pytest.approx((right[union > 0] / union[union > 0]).mean())
    assert found["mAcc"] == pytest.approx((right[present] / there[present]).mean())
    assert found["aAcc"] == pytest.approx((true == guess).mean())


def test_street_scores_by_hand():
    truth = torch.tensor([[[0, 0, 0, 1], [1, 2, 255, 255]]])
    predicted = torch.tensor([[[0, 0, 1, 1], [0, 1, 3, 0]]])
    found = streets([(logits_of(predicted, 5), truth)], 5)
    # class 0: 2 of 4 in the union, 2 of 3 found; 1: 1 of 4, 1 of 2; 2: 0 of 1, 0 of 1; 3 and 4: nowhere
    assert found["mIoU"] == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    assert found["mAcc"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert found["aAcc"] == pytest.approx(3 / 6)


@pytest.mark.parametrize("classes", [3, 5, 12])
def test_top_k_is_that_of_scikit_learn(classes):
    random = torch.Generator().manual_seed(classes)
    logits = torch.randn(64, classes, generator=random)
    labels = torch.randint(classes, (64,), generator=random)
    for count in (1, 5):
        metric = topk(count, classes, lambda output: output)
        for part in range(0, 64, 16):
            metric.update((logits[part : part + 16], labels[part : part + 16]))
        if count < classes:
            expected = top_k_accuracy_score(labels, logits, k=count, labels=range(classes))
            assert metric.compute() == pytest.approx(expected)
        else:
            assert metric.compute() == 1.0


# ---------------------------------------------------------------- COCO


def annotations_file(folder, objects, images=1):
    """Annotations of categories 3 and 7 in images 10, 20, ...: objects are (image, category, box, crowd)."""
    content = {
        "info": {},
        "licenses": [],
        "images": [
            {"id": 10 * (i + 1), "file_name": f"{i}.jpg", "width": 400, "height": 300} for i in range(images)
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "car"}],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(crowd),
                "segmentation": [],
            }
            for number, (image, category, box, crowd) in enumerate(objects, start=1)
        ],
    }
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return read_annotations(str(folder), "val")


def detections(*found):
    """What the network gives for an image: (label, score, x1 y1 x2 y2)."""
    return {
        "labels": torch.tensor([each[0] for each in found], dtype=torch.long),
        "scores": torch.tensor([each[1] for each in found]),
        "boxes": torch.tensor([each[2] for each in found], dtype=torch.float32).reshape(-1, 4),
    }


def average_precision(annotations, batches):
    metric = AveragePrecision(annotations, categories(annotations), lambda output: output)
    for found, numbers in batches:
        metric.update((found, [{"image_id": number} for number in numbers]))
    return metric.compute()


def test_average_precision_by_hand(tmp_path):
    """One category, two objects of 100x100 (large), three detections.

    Scores 0.9, 0.8, 0.7: the first lies on object A with 80 of 100 columns in common and none beside (IoU 0.8),
    the second on nothing, the third on object B exactly. Up to an IoU of 0.8 both are found: precision 1 up to
    a recall of 1/2, then 2/3; at 51 of 101 recalls 1, at 50 of them 2/3. Above 0.8 only B is found, behind two
    false ones: precision 1/3 up to a recall of 1/2, that is at 51 of 101 recalls. Among large objects the first
    two detections, which are not large, are no errors: 1 up to 0.8, above it 1 at 51 of 101 recalls.
    """
    annotations = annotations_file(
        tmp_path, [(10, 3, [0, 0, 100, 100], False), (20, 3, [200, 100, 100, 100], False)], images=2
    )
    found = average_precision(
        annotations,
        [
            ([detections((1, 0.9, [0, 0, 80, 100]), (1, 0.8, [300, 200, 390, 290]))], [10]),
            ([detections((1, 0.7, [200, 100, 300, 200]))], [20]),
        ],
    )
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 3 / 101
    assert found["AP50"] == pytest.approx(low)
    assert found["AP75"] == pytest.approx(low)
    assert found["AP"] == pytest.approx((7 * low + 3 * high) / 10)  # 0.50 to 0.80; 0.85, 0.90, 0.95
    assert found["APL"] == pytest.approx((7 + 3 * 51 / 101) / 10)
    assert math.isnan(found["APS"]) and math.isnan(found["APM"])


def test_labels_are_the_categories_in_the_order_of_their_ids(tmp_path):
    annotations = annotations_file(tmp_path, [(10, 7, [0, 0, 50, 50], False), (10, 3, [100, 0, 50, 50], False)])
    assert categories(annotations) == ["car", "cat"]
    right = detections((2, 0.9, [0, 0, 50, 50]), (1, 0.9, [100, 0, 150, 50]))
    wrong = detections((1, 0.9, [0, 0, 50, 50]), (2, 0.9, [100, 0, 150, 50]))
    assert average_precision(annotations, [([right], [10])])["AP"] == pytest.approx(1.0)
    assert average_precision(annotations, [([wrong], [10])])["AP"] == pytest.approx(0.0)


def test_a_detection_in_a_crowd_counts_neither_way(tmp_path):
    objects = [(10, 3, [0, 0, 50, 50], False), (10, 3, [200, 100, 150, 150], True)]
    inside, alone = (1, 0.95, [210, 110, 250, 150]), (1, 0.9, [0, 0, 50, 50])
    crowd = annotations_file(tmp_path / "crowd", objects)
    with_one = average_precision(crowd, [([detections(inside, alone)], [10])])
    assert with_one == pytest.approx(average_precision(crowd, [([detections(alone)], [10])]), nan_ok=True)
    assert with_one["AP"] == pytest.approx(1.0)
    plain = annotations_file(tmp_path / "plain", [(*each[:3], False) for each in objects])
    assert average_precision(plain, [([detections(inside, alone)], [10])])["AP"] < 0.5


def test_no_detections_at_all_are_zero_not_an_error(tmp_path):
    annotations = annotations_file(tmp_path, [(10, 3, [0, 0, 50, 50], False)])
    assert average_precision(annotations, [([detections()], [10])])["AP"] == 0
    assert average_precision(annotations, [])["AP"] == 0


def test_other_categories_than_the_network_s_are_refused(tmp_path):
    annotations = annotations_file(tmp_path, [(10, 3, [0, 0, 50, 50], False)])
    with pytest.raises(InputError, match="are others than the network's: bus, car"):
        AveragePrecision(annotations, ["bus", "cat"], lambda output: output)


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_another_evaluator(tmp_path, seed):
    from faster_coco_eval import COCO as OtherCOCO
    from faster_coco_eval import COCOeval_faster

    list(make_coco(tmp_path, images=24, seed=seed))
    annotations = read_annotations(str(tmp_path), "train")
    random, results = np.random.default_rng(seed), []
    for each in annotations.dataset["annotations"]:
        for _ in range(random.integers(0, 3)):  # near the object, some of another category
            box = np.array(each["bbox"]) + random.normal(0, 4, 4)
            category = each["category_id"] if random.random() < 0.8 else 1
            results.append(
                {
                    "image_id": each["image_id"],
                    "category_id": category,
                    "bbox": [float(value) for value in np.maximum(box, 1)],
                    "score": float(random.random()),
                }
            )
    ours = evaluate_boxes(annotations, [dict(each) for each in results])
    other = OtherCOCO(str(tmp_path / "annotations" / "instances_train2017.json"))
    evaluation = COCOeval_faster(other, other.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    expected = [value if value >= 0 else math.nan for value in evaluation.stats[:6]]
    assert 0.05 < ours["AP"] < 0.95
    assert list(ours.values()) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"images": [], "annotations": [], "categories": []}', "\0"]
)
def test_what_are_no_annotations(tmp_path, content):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(content)
    with pytest.raises(InputError, match=r"instances_val2017\.json is no file of COCO annotations: [^\n]*$"):
        read_annotations(str(tmp_path), "val")


def test_reading_annotations_prints_nothing(tmp_path, capsys):
    annotations = annotations_file(tmp_path, [(10, 3, [0, 0, 50, 50], False)])
    average_precision(annotations, [([detections()], [10])])
    assert isinstance(annotations, COCO) and capsys.readouterr().out == ""
