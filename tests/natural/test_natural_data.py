"""Natural images on disk are read as published, refused in one line where they are not, and written back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from dsnet_med.errors import CasesFailedError, InputError
from dsnet_med.natural import cityscapes, coco, coco_annotations, imagenet
from dsnet_med.natural.images import LabelledImages, UnlabelledImages, find_images, read_image
from dsnet_med.natural.predictions import Predictions
from dsnet_med.natural.trained import load_weights, read_classes, write_classes
from dsnet_med.phantoms import make_cityscapes, make_coco, make_imagenet

TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def refused(call, *arguments, **named):
    """The message of the InputError, which is one line."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- ImageNet


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    list(make_imagenet(folder / "folders", images=24, seed=1, size=(40, 48), classes=6))
    list(make_imagenet(folder / "flat", images=24, seed=1, size=(40, 48), classes=6, flat_val=True))
    return folder


@pytest.fixture
def flat(photographs, tmp_path):
    return shutil.copytree(photographs / "flat", tmp_path / "flat")


def pairs(folder, classes=None):
    found = imagenet.val_samples(str(folder), classes or imagenet.find_classes(str(folder)))
    return {(Path(file).name, label) for file, label in found}


def listed(folder, form):
    """Write the list of a flat val/ in one of the three forms."""
    classes = imagenet.find_classes(str(folder))
    rows = [line.split() for line in (folder / "val.txt").read_text().splitlines()]
    (folder / "val.txt").unlink()
    if form == "wnid":
        (folder / "val.txt").write_text("".join(f"{file} {classes[int(index)]}\n" for file, index in rows))
    elif form == "meta":
        (folder / "meta").mkdir()
        (folder / "meta" / "val.txt").write_text("".join(f"{file} {index}\n" for file, index in rows))
    else:
        boxes = " 85 1 499 272 "
        lines = [f"{Path(file).stem},{classes[int(index)]}{boxes}\n" for file, index in rows]
        (folder / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(lines))


def test_class_folders_are_read_in_the_order_of_their_names(photographs):
    root = photographs / "folders"
    classes = imagenet.find_classes(str(root))
    assert classes == sorted(each.name for each in (root / "train").iterdir()) and len(classes) == 6
    for split, read in (("train", imagenet.train_samples), ("val", imagenet.val_samples)):
        wanted = {(str(f), classes.index(f.parent.name)) for f in (root / split).glob("*/*.JPEG")}
        assert wanted and set(read(str(root), classes)) == wanted


@pytest.mark.parametrize("form", ["index", "wnid", "meta", "kaggle"])
def test_a_flat_validation_set_is_that_in_class_folders(photographs, flat, form):
    if form != "index":
        listed(flat, form)
    assert pairs(flat) == pairs(photographs / "folders")
    assert len({label for _, label in pairs(flat)}) == 6


def test_a_validation_set_of_some_classes_keeps_their_indices(photographs, tmp_path):
    root = shutil.copytree(photographs / "folders", tmp_path / "some")
    everything = pairs(root)
    gone = sorted((root / "val").iterdir())[0]
    files = {each.name for each in gone.iterdir()}
    shutil.rmtree(gone)
    assert pairs(root) == {pair for pair in everything if pair[0] not in files}
    assert {label for _, label in pairs(root)} == {1, 2, 3, 4, 5}


def test_validation_classes_that_training_has_not_are_refused(photographs, tmp_path):
    root = shutil.copytree(photographs / "folders", tmp_path / "more")
    (root / "val" / "n09999999").mkdir()
    message = refused(pairs, root)
    assert "1 classes that train/ has not, such as n09999999" in message and str(root / "val") in message


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("ILSVRC2012_val_00000001.JPEG 6", "no class '6' in train/"),
        ("ILSVRC2012_val_00000001.JPEG n09999999", "no class 'n09999999' in train/"),
        ("ILSVRC2012_val_00000001.JPEG -1", "no class '-1' in train/"),
        ("ILSVRC2012_val_00009999.JPEG 0", "no image ILSVRC2012_val_00009999.JPEG in"),
    ],
)
def test_a_wrong_line_of_the_list_is_named(flat, line, wanted):
    lines = (flat / "val.txt").read_text().splitlines()
    (flat / "val.txt").write_text("\n".join([*lines[:2], line, *lines[3:]]))
    message = refused(pairs, flat)
    assert message.startswith(f"{flat / 'val.txt'}, line 3: ") and wanted in message


def test_a_line_without_a_class_is_not_passed_over(flat):
    """An image that is silently left out would change the scores."""
    lines = (flat / "val.txt").read_text().splitlines()
    (flat / "val.txt").write_text("\n".join([*lines[:2], lines[2].split()[0], *lines[3:], ""]))
    assert f"{flat / 'val.txt'}, line 3" in refused(pairs, flat)


def test_layouts_that_lack_something_are_refused(flat, tmp_path):
    (flat / "val.txt").unlink()
    assert "no list of labels" in refused(pairs, flat)
    (flat / "val.txt").write_text("\n\n")
    assert "lists 0 of 6 images" in refused(pairs, flat)
    (flat / "val.txt").write_bytes(b"\x80")
    assert f"{flat / 'val.txt'} cannot be read as a list" in refused(pairs, flat)
    for each in (flat / "val").iterdir():
        each.unlink()
    assert "val holds no images" in refused(pairs, flat)
    shutil.rmtree(flat / "val")
    assert f"{flat / 'val'} is missing" in refused(pairs, flat)
    for each in (flat / "train").glob("*/*"):
        each.unlink()
    classes = imagenet.find_classes(str(flat))
    assert "holds no images" in refused(imagenet.train_samples, str(flat), classes)
    assert "train is missing" in refused(imagenet.find_classes, str(tmp_path))
    (tmp_path / "train").mkdir()
    assert "holds no folders" in refused(imagenet.find_classes, str(tmp_path))


def test_every_image_has_three_channels(photographs):
    root = str(photographs / "folders")
    samples = imagenet.train_samples(root, imagenet.find_classes(root))
    modes = set()
    for index, item in enumerate(LabelledImages(samples, TENSOR)):
        with Image.open(samples[index][0]) as image:
            modes.add(image.mode)
            size = image.size[::-1]
        assert item["image"].shape == (3, *size) and item["label"] == samples[index][1]
        if index == len(samples) - 1:
            break
    assert modes == {"RGB", "L", "CMYK"}


# ---------------------------------------------------------------- Cityscapes

PUBLISHED = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
    28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
NAMES = (
    "road sidewalk building wall fence pole traffic_light traffic_sign vegetation terrain sky person rider car "
    "truck bus train motorcycle bicycle"
)


@pytest.fixture
def streets(tmp_path):
    list(make_cityscapes(tmp_path / "streets", images=2, seed=0, size=(64, 96)))
    return tmp_path / "streets"


def test_label_ids_become_the_published_train_ids(tmp_path):
    ids = np.arange(34, dtype=np.uint8).reshape(2, 17)  # the licence plate's -1 is never drawn
    Image.fromarray(ids).save(tmp_path / "ids.png")
    found = cityscapes.read_train_ids(str(tmp_path / "ids.png")).flatten().tolist()
    assert found == [PUBLISHED.get(number, 255) for number in range(34)]
    assert [name.replace(" ", "_") for name in cityscapes.CLASSES] == NAMES.split()


def test_items_are_images_and_train_ids(streets):
    def transform(image, mask):
        return TENSOR(image), mask

    items = cityscapes.Cityscapes(str(streets), "train", transform)
    assert len(items) == 2
    for (image, target), item in zip(items.samples, (items[0], items[1]), strict=True):
        assert Path(image).name.split("_left")[0] == Path(target).name.split("_gt")[0]
        ids = np.asarray(Image.open(target))
        assert item["image"].shape == (3, *ids.shape)
        assert item["label"].dtype == torch.int64 and type(item["label"]) is torch.Tensor
        assert item["label"].tolist() == [
            [PUBLISHED.get(number, 255) for number in row] for row in ids.tolist()
        ]


@pytest.mark.parametrize(("number", "like"), [(34, ""), (254, ""), (255, ", as a file of train ids does")])
def test_ids_that_cityscapes_has_not_are_refused(number, like, tmp_path):
    ids = np.full((4, 4), 33, dtype=np.uint8)
    ids[2, 3] = number
    Image.fromarray(ids).save(tmp_path / "ids.png")
    message = refused(cityscapes.read_train_ids, str(tmp_path / "ids.png"))
    assert f"holds the id {number}{like}" in message and "wanted label ids, 0 to 33" in message


@pytest.mark.parametrize("ignored", [True, False])
def test_train_ids_under_the_name_of_label_ids_are_refused_at_the_start(ignored, streets):
    for file in (streets / "gtFine" / "train").rglob("*_labelIds.png"):
        ids = cityscapes.read_train_ids(str(file)).numpy()
        Image.fromarray(ids if ignored else np.where(ids == 255, 0, ids).astype(np.uint8)).save(file)
    message = refused(cityscapes.Cityscapes, str(streets), "train", None)
    assert "train ids" in message and "wanted label ids, 0 to 33" in message
    assert len(cityscapes.Cityscapes(str(streets), "val", None))  # which are as published


@pytest.mark.parametrize("kind", ["leftImg8bit", "gtFine"])
def test_empty_files_of_streets_are_refused_at_the_start(kind, streets):
    items = cityscapes.Cityscapes(str(streets), "train", None)
    file = Path(items.samples[0][kind == "gtFine"])
    file.write_bytes(b"")
    assert f"1 file is missing or empty: {file}: " in refused(
        cityscapes.Cityscapes, str(streets), "train", None
    )


def test_streets_that_lack_something_are_refused(streets, tmp_path):
    items = cityscapes.Cityscapes(str(streets), "train", lambda *both: both)
    target = Path(items.samples[0][1])
    Image.new("RGB", (96, 64)).save(target)
    assert f"{target} holds no label ids" in refused(items.__getitem__, 0)
    target.write_bytes(b"no image")
    assert f"{target} cannot be read as label ids" in refused(items.__getitem__, 0)
    target.unlink()
    assert f"{target} cannot be read as label ids" in refused(items.__getitem__, 0)
    for folder in ("gtFine", "leftImg8bit"):
        shutil.move(streets / folder / "val", tmp_path / folder)
        message = refused(cityscapes.Cityscapes, str(streets), "val", None)
        assert str(streets / folder / "val") in message and "is missing" in message
    for folder in ("gtFine", "leftImg8bit"):
        (streets / folder / "val").mkdir()
    assert "holds no images" in refused(cityscapes.Cityscapes, str(streets), "val", None)


@pytest.mark.parametrize("size", [(40, 50), (20, 60), (60, 20), (30, 30), (96, 64)])
def test_crops_have_their_size_and_image_and_mask_stay_together(size):
    torch.manual_seed(0)
    mask = torch.randint(0, 19, (40, 50), dtype=torch.uint8)
    image = (10 * mask + 10)[None].repeat(3, 1, 1)  # never black
    places = set()
    for _ in range(20):
        cropped, labels = cityscapes.VariedCrop(size)(tv_tensors.Image(image), tv_tensors.Mask(mask))
        assert cropped.shape == (3, *size) and labels.shape == size
        padding = labels == 255
        assert (cropped[:, padding] == 0).all()
        assert (cropped[:, ~padding] == 10 * labels[~padding] + 10).all()
        assert (~padding).sum() == min(size[0], 40) * min(size[1], 50)
        places.add(labels.numpy().tobytes())
    assert len(places) > 1 or size == (40, 50)


def test_a_crop_of_nearly_one_class_is_drawn_again():
    """Of 193 places 31 leave less than 3/4 to either class: 16 %, and with ten draws 83 %."""
    mask = torch.zeros((64, 256), dtype=torch.uint8)
    mask[:, 192:] = 1
    image = mask[None].repeat(3, 1, 1)
    shares = {}
    for crop in (cityscapes.VariedCrop([64, 64]), cityscapes.VariedCrop([64, 64]).crop):
        torch.manual_seed(0)
        drawn = [crop(tv_tensors.Image(image), tv_tensors.Mask(mask))[1].float().mean() for _ in range(300)]
        shares[type(crop).__name__] = sum(0.25 < share < 0.75 for share in drawn) / 300
    assert 0.75 < shares["VariedCrop"] < 0.91 and 0.1 < shares["RandomCrop"] < 0.23


def test_what_is_ignored_does_not_count_as_a_class():
    """Two classes at 8 : 2 beside as much that is ignored: the crop is too uniform, however often drawn."""
    mask = torch.full((10, 20), 255, dtype=torch.uint8)
    mask[:, :8], mask[:, 8:10] = 0, 1
    draws = []
    crop = cityscapes.VariedCrop([10, 20])
    inner, crop.crop = crop.crop, lambda *both: draws.append(0) or inner(*both)
    crop(tv_tensors.Image(mask[None]), tv_tensors.Mask(mask))
    assert len(draws) == 10
    mask[:, 7] = 1  # 7 : 3
    draws.clear()
    crop(tv_tensors.Image(mask[None]), tv_tensors.Mask(mask))
    assert len(draws) == 1


# ---------------------------------------------------------------- COCO


@pytest.fixture(params=["phantom", "coco_open"])
def boxed(request, tmp_path):
    """A data set in COCO's layout."""
    if request.param == "coco_open":
        return request.getfixturevalue("volumes") / "natural" / "coco_open"
    list(make_coco(tmp_path, images=12, seed=3))
    return tmp_path


def items_of(folder, *, training, split="train", transform=None):
    annotations = coco_annotations.read_annotations(str(folder), split)
    transform = transform or v2.Compose([v2.ToImage()])
    return coco.Coco(str(folder), split, annotations, transform, training=training)


def content(folder, split="train"):
    return json.loads((folder / "annotations" / f"instances_{split}2017.json").read_text())


def test_boxes_and_labels_are_those_of_the_file(boxed):
    read, items = content(boxed), items_of(boxed, training=True)
    numbers = sorted(each["id"] for each in read["categories"])
    assert numbers[0] == 1 and numbers[-1] == 90 and len(numbers) == 80  # with gaps
    seen = set()
    for index, number in enumerate(items.ids):
        (image,) = [each for each in read["images"] if each["id"] == number]
        item = items[index]
        assert item["image"].shape == (3, image["height"], image["width"])
        rows = []
        for each in read["annotations"]:
            if each["image_id"] == number and not each["iscrowd"]:
                left, top, width, height = each["bbox"]
                rows.append((left, top, left + width, top + height, 1 + numbers.index(each["category_id"])))
        found = torch.cat([item["target"]["boxes"], item["target"]["labels"][:, None]], dim=1)
        np.testing.assert_allclose(sorted(found.tolist()), sorted(rows), atol=0.02)
        assert item["target"]["labels"].dtype == torch.int64
        seen.add(number)
    there = {each["image_id"] for each in read["annotations"] if not each["iscrowd"]}
    assert seen == there and len(items) == len(there)


def test_images_without_a_box_are_evaluated_and_not_trained_on(boxed):
    read = content(boxed)
    everything = {each["id"] for each in read["images"]}
    trained, evaluated = items_of(boxed, training=True), items_of(boxed, training=False)
    assert set(evaluated.ids) == everything and len(evaluated) == len(everything)
    assert evaluated[0]["target"] == {"image_id": evaluated.ids[0]}
    boxless = everything - {each["image_id"] for each in read["annotations"] if not each["iscrowd"]}
    assert set(trained.ids) == everything - boxless
    assert boxless or boxed.name == "coco_open"
    assert any(each["iscrowd"] for each in read["annotations"])  # and the boxes above are without


def edited(folder, change, split="train"):
    """The data set after `change` of what its annotations hold."""
    read = content(folder, split)
    change(read)
    (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(read))


@pytest.fixture
def phantom(tmp_path):
    list(make_coco(tmp_path, images=8, seed=3))
    return tmp_path


def test_an_image_of_crowds_alone_is_not_trained_on(phantom):
    before = items_of(phantom, training=True)
    first = before.ids[0]
    edited(phantom, lambda read: [a.update(iscrowd=1) for a in read["annotations"] if a["image_id"] == first])
    assert items_of(phantom, training=True).ids == before.ids[1:]
    edited(phantom, lambda read: [a.update(iscrowd=1) for a in read["annotations"]])
    assert "no box to train on" in refused(items_of, phantom, training=True)
    assert len(items_of(phantom, training=False)) == 8


def test_boxes_end_at_the_image_and_those_of_no_extent_are_left_out(phantom):
    number = items_of(phantom, training=True).ids[0]
    (image,) = [each for each in content(phantom)["images"] if each["id"] == number]
    width, height = image["width"], image["height"]
    boxes = [[-5, -7, 20, 30], [width - 10, height - 20, 50, 50], [5, 5, 0, 10], [5, 5, 10, 0.5],
             [width + 1, 3, 10, 10], [1, 2, 3, 4]]  # fmt: skip

    def change(read):
        like = next(each for each in read["annotations"] if each["image_id"] == number)
        others = [each for each in read["annotations"] if each["image_id"] != number]
        own = [{**like, "id": 10**9 + k, "bbox": box, "iscrowd": 0} for k, box in enumerate(boxes)]
        read["annotations"] = others + own

    edited(phantom, change)
    target = items_of(phantom, training=True)[0]["target"]
    wanted = [[0, 0, 15, 23], [width - 10, height - 20, width, height], [1, 2, 4, 6]]
    assert target["boxes"].tolist() == wanted and len(target["labels"]) == 3


def test_a_flipped_item_mirrors_its_boxes(phantom):
    plain = items_of(phantom, training=True)
    mirrored = items_of(
        phantom, training=True, transform=v2.Compose([v2.RandomHorizontalFlip(p=1.0), v2.ToImage()])
    )
    for index in range(len(plain)):
        one, other = plain[index], mirrored[index]
        width = one["image"].shape[2]
        left, top, right, bottom = one["target"]["boxes"].as_subclass(torch.Tensor).T
        wanted = torch.stack([width - right, top, width - left, bottom], dim=1)
        torch.testing.assert_close(other["target"]["boxes"].as_subclass(torch.Tensor), wanted)
        assert torch.equal(other["image"].as_subclass(torch.Tensor), one["image"].flip(2))
        assert torch.equal(other["target"]["labels"], one["target"]["labels"])


def test_categories_are_named_in_the_order_of_their_ids(phantom):
    edited(phantom, lambda read: read["categories"].reverse())
    names = coco_annotations.categories(coco_annotations.read_annotations(str(phantom), "train"))
    assert names[:12] == [
        "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
        "fire hydrant", "stop sign",
    ]  # fmt: skip
    assert len(names) == 80 and names[-1] == "toothbrush"


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "7", "{}", "\udcff", '{"images": [], "annotations": [], "categories": []}',
        '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "id": 1, "caption": "A dog."}]}',
        '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "segments_info": []}],'
        ' "categories": [{"id": 1, "name": "dog"}]}',
        '{"images": 3, "annotations": [], "categories": [{"id": 1, "name": "dog"}]}',
    ],
)  # fmt: skip
def test_other_files_than_annotations_of_boxes_are_refused(tmp_path, text):
    file = tmp_path / "annotations" / "instances_val2017.json"
    assert f"{file} is missing" in refused(coco_annotations.read_annotations, str(tmp_path), "val")
    file.parent.mkdir()
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert f"{file} is no file of COCO annotations" in refused(
        coco_annotations.read_annotations, str(tmp_path), "val"
    )


def test_categories_that_differ_between_training_and_validation_are_refused(phantom):
    validation = coco_annotations.read_annotations(str(phantom), "val")
    coco_annotations.read_training(str(phantom), "train", validation)
    edited(phantom, lambda read: read["categories"][3].update(name="moped"))
    message = refused(coco_annotations.read_training, str(phantom), "train", validation)
    assert "the split train" in message and "moped" in message and "motorcycle" in message
    edited(phantom, lambda read: read["categories"][3].update(name="motorcycle", id=500))  # the last now
    assert "their order" in refused(coco_annotations.read_training, str(phantom), "train", validation)


def test_missing_and_damaged_photographs_are_refused(phantom):
    items = items_of(phantom, training=False)
    file = phantom / "train2017" / f"{items.ids[0]:012d}.jpg"
    file.write_bytes(file.read_bytes()[:500])
    assert f"{file} cannot be read as an image" in refused(items.__getitem__, 0)
    shutil.rmtree(phantom / "train2017")
    assert "train2017 is missing" in refused(items_of, phantom, training=False)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("count", [1, 7])
def test_photographs_that_are_not_there_are_listed_at_the_start(count, training, phantom):
    files = [
        items_of(phantom, training=training)._file(number)
        for number in items_of(phantom, training=training).ids
    ]
    for number, file in enumerate(files[:count]):
        file.write_bytes(b"") if number % 2 else file.unlink()
    message = refused(items_of, phantom, training=training)
    assert message.startswith(f"{count} file{'s are' if count > 1 else ' is'} missing or empty: {files[0]}")
    assert ("and 2 more" in message) == (count == 7)
    assert "fetch them, or take them out of the annotations" in message


def test_an_empty_image_of_a_class_is_said_at_the_start(flat):
    folder = next(each for each in (flat / "train").iterdir() if each.is_dir())
    file = min(folder.iterdir())
    file.write_bytes(b"")
    samples = imagenet.train_samples(str(flat), imagenet.find_classes(str(flat)))
    assert f"1 file is missing or empty: {file}" in refused(LabelledImages, samples, TENSOR)


def test_two_categories_of_one_name_are_refused(phantom):
    file = phantom / "annotations" / "instances_train2017.json"
    read = json.loads(file.read_text())
    first, second = read["categories"][0], read["categories"][4]
    second["name"] = first["name"]
    file.write_text(json.dumps(read))
    message = refused(coco_annotations.read_annotations, str(phantom), "train")
    assert f"the categories {first['id']}, {second['id']} have one name, '{first['name']}'" in message


STORED = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
# How viewers turn what is stored, by EXIF orientation: the standard's rows and columns, worked by hand.
SHOWN = {
    1: [[0, 1, 2], [3, 4, 5]], 2: [[2, 1, 0], [5, 4, 3]], 3: [[5, 4, 3], [2, 1, 0]],
    4: [[3, 4, 5], [0, 1, 2]], 5: [[0, 3], [1, 4], [2, 5]], 6: [[3, 0], [4, 1], [5, 2]],
    7: [[5, 2], [4, 1], [3, 0]], 8: [[2, 5], [1, 4], [0, 3]],
}  # fmt: skip


def turned(file, orientation, pixels):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, exif=exif)
    return file


@pytest.mark.parametrize("orientation", SHOWN)
def test_images_are_read_as_viewers_show_them(orientation, tmp_path):
    file = turned(tmp_path / "a.png", orientation, STORED)
    found = np.asarray(read_image(file).convert("L")).tolist()
    assert found == [[40 * value for value in row] for row in SHOWN[orientation]]
    with Image.open(file) as image:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), found)
    assert np.array_equal(np.asarray(read_image(file, upright=False).convert("L")), STORED)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_is_passed_over(orientation, tmp_path):
    assert read_image(turned(tmp_path / "a.png", orientation, STORED)).size == (3, 2)


def test_damaged_exif_is_passed_over(tmp_path):
    Image.fromarray(STORED).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0")
    assert read_image(tmp_path / "a.jpg").size == (3, 2)


@pytest.mark.parametrize("annotated", ["as shown", "as stored"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_boxes_lie_on_the_image_that_was_annotated(orientation, annotated, tmp_path):
    """A bright object in a dark image is inside its box, whatever the orientation says."""
    if annotated == "as stored" and orientation < 5:
        return  # both have one size: taken as shown
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[5:15, 8:28] = 255
    (tmp_path / "train2017").mkdir()
    file = turned(tmp_path / "train2017" / "a.png", orientation, stored)
    seen = np.asarray(read_image(file, upright=annotated == "as shown"))[..., 0]
    rows, columns = np.where(seen > 0)
    box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    image = {"id": 1, "file_name": "a.png", "width": seen.shape[1], "height": seen.shape[0]}
    read = {"images": [image], "categories": [{"id": 1, "name": "x"}]}
    read["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box}]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(read))
    item = items_of(tmp_path, training=True)[0]
    left, top, right, bottom = map(int, item["target"]["boxes"][0].tolist())
    inside = item["image"][0, top:bottom, left:right]
    assert (inside == 255).all() and inside.sum() == item["image"][0].sum() == 255 * 200


def test_batches_are_lists_of_images_of_any_size(phantom):
    items = items_of(phantom, training=True, transform=TENSOR)
    batch = next(iter(DataLoader(items, batch_size=3, collate_fn=coco.collate)))
    images, nothing, (targets,), named = coco.prepare_training(batch, torch.device("cpu"), False)
    assert [tuple(each.shape) for each in images] == [tuple(items[k]["image"].shape) for k in range(3)]
    assert len({each.shape for each in images}) == 3 and nothing is None and named == {}
    assert [set(each) for each in targets] == [{"boxes", "labels"}] * 3
    batch = coco.collate([{"image": images[0], "path": "a.jpg"}])
    assert coco.prepare_evaluation(batch, torch.device("cpu"))[1] is None


# ---------------------------------------------------------------- inference


@pytest.fixture
def folder(tmp_path):
    """Two images of one stem, one below, and four that cannot be used."""
    place = tmp_path / "images"
    (place / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (
        ("a.jpg", (40, 50)),
        ("a.png", (33, 64)),
        ("below/b.PNG", (48, 32)),
        ("tiny.png", (8, 90)),
    ):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(place / name)
    (place / "empty.jpg").write_bytes(b"")
    (place / "text.png").write_text("no image")
    (place / "cut.jpg").write_bytes((place / "a.jpg").read_bytes()[:700])
    (place / "notes.txt").write_text("no image either")
    return place


BAD = ("cut.jpg", "empty.jpg", "text.png", "tiny.png")


def test_every_image_file_is_found(folder, tmp_path):
    names = [str(Path(file).relative_to(folder)) for file in find_images(str(folder))]
    assert names == sorted(["a.jpg", "a.png", "below/b.PNG", *BAD])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("none")
    assert f"no images in {tmp_path / 'other'}" in refused(find_images, str(tmp_path / "other"))
    assert "absent, which is no folder" in refused(find_images, str(tmp_path / "absent"))
    assert "notes.txt, which is no folder" in refused(find_images, str(tmp_path / "other" / "notes.txt"))
    (folder / "._a.jpg").write_bytes(b"")  # what macOS leaves on other file systems
    assert len(find_images(str(folder))) == len(names)


def test_images_that_cannot_be_read_are_items_that_say_why(folder):
    items = UnlabelledImages(find_images(str(folder)), TENSOR)
    failed = {}
    for index in range(len(items)):
        item = items[index]
        if item["error"]:
            failed[Path(item["path"]).name] = item["error"]
            assert item["image"].shape == (3, 32, 32) and not item["image"].any()
        else:
            assert torch.equal(item["image"], TENSOR(read_image(item["path"])))
    assert set(failed) == set(BAD)
    assert "90x8 pixels: wanted sides of 32 at least" in failed["tiny.png"]
    assert all("cannot be read as an image" in failed[name] for name in BAD[:3])
    assert not any("\n" in reason for reason in failed.values())


def predict(folder, out, write, batch_size=1):
    """Run `Predictions` over a folder with a network that gives the mean of every image."""
    items = UnlabelledImages(find_images(str(folder)), TENSOR)
    loader = DataLoader(items, batch_size=batch_size, collate_fn=coco.collate)
    evaluator = Engine(lambda _, batch: {"pred": [image.mean((1, 2)) for image in batch["image"]]})
    Predictions(str(folder), str(out), write).attach(evaluator)
    evaluator.run(loader)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_failed_images_are_listed_after_all_others_are_written(folder, tmp_path, batch_size):
    def write(prediction, file, place):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_suffix(".txt").write_text(Path(file).name)
        return {"mean": prediction.mean().item(), "file": place.with_suffix(".txt").name}

    with pytest.raises(CasesFailedError) as caught:
        predict(folder, tmp_path / "out", write, batch_size)
    assert set(caught.value.failures) == set(BAD)
    said = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert said["failed"] == caught.value.failures
    assert set(said["predictions"]) == {"a.jpg", "a.png", "below/b.PNG"}
    for name, record in said["predictions"].items():
        assert record["mean"] == pytest.approx(TENSOR(read_image(folder / name)).mean().item())
        assert (tmp_path / "out" / name).with_name(record["file"]).read_text() == Path(name).name
    files = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.txt")}
    assert files == {"a.txt", "a.png.txt", "below/b.txt"}


@pytest.mark.parametrize(
    "images",
    [
        ("a.bmp", "a.jpg", "a.png"),
        ("a.bmp", "a.jpg", "a.jpg.png", "a.png", "a.png.jpg"),
        ("a.png", "a_colour.png"),
    ],
    ids=" ".join,
)
def test_no_image_overwrites_the_files_of_another(tmp_path, images):
    for name in images:
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (32, 40)).save(tmp_path / "images" / name)
    written = []

    def write(_, file, place):
        (tmp_path / "out").mkdir(exist_ok=True)
        names = cityscapes.write_labels(torch.rand(19, 40, 32), file, place)
        written.extend(names.values())
        return names

    predict(tmp_path / "images", tmp_path / "out", write)
    assert sorted(set(written)) == sorted(written) and len(written) == 2 * len(images)


@pytest.mark.parametrize("inside", [".", "below", "new/deep"])
def test_outputs_do_not_lie_among_the_images(folder, inside):
    message = refused(Predictions, str(folder), str(folder / inside), None)
    assert "choose a folder outside it" in message
    Predictions(str(folder), str(folder.parent / "images-out"), None)


def test_labels_are_written_as_ids_in_the_images_own_grid(tmp_path):
    classes = torch.randint(0, 19, (40, 56))
    classes[0, :19] = torch.arange(19)
    classes[16:, 16:] = 0
    Image.new("RGB", (56, 40), (100, 100, 100)).save(tmp_path / "street.png")
    logits = torch.nn.functional.one_hot(classes, 19).permute(2, 0, 1).float()
    (tmp_path / "out").mkdir()
    names = cityscapes.write_labels(logits, str(tmp_path / "street.png"), tmp_path / "out" / "street.png")
    assert names == {"labels": "street.png", "colours": "street.jpg"}
    with Image.open(tmp_path / "out" / "street.png") as labels:
        assert labels.size == (56, 40) and labels.mode == "L"
        ids = np.asarray(labels)
    backward = {train: number for number, train in PUBLISHED.items()}
    assert ids.tolist() == [[backward[each] for each in row] for row in classes.tolist()]
    assert torch.equal(cityscapes.read_train_ids(str(tmp_path / "out" / "street.png")).long(), classes)
    with Image.open(tmp_path / "out" / "street.jpg") as colours:
        assert colours.size == (56, 40)
        assert colours.getpixel((40, 30)) == pytest.approx(
            (114, 82, 114), abs=4
        )  # half grey, half road; a JPEG
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["street.jpg", "street.png"]


def test_boxes_are_all_listed_and_the_likely_ones_drawn(tmp_path):
    Image.new("RGB", (120, 100), (90, 90, 90)).save(tmp_path / "a.png")
    found = {
        "boxes": torch.tensor([[10.0, 40.0, 50.5, 90.0], [70.0, 40.0, 110.0, 80.0]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.5, 0.49]),
    }
    said = coco.write_boxes(found, str(tmp_path / "a.png"), tmp_path / "out" / "a.png", ["cat", "dog"])
    assert said == [
        {"category": "dog", "score": 0.5, "bbox": [10.0, 40.0, 40.5, 50.0]},
        {"category": "cat", "score": 0.49, "bbox": [70.0, 40.0, 40.0, 40.0]},
    ]

    def red(name):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.size == (120, 100)
            pixels = np.asarray(picture).astype(int)
        return (pixels[..., 0] - pixels[..., 1]) > 100

    drawn = red("a.jpg")
    assert drawn[60:70, 9:13].any(axis=1).all() and drawn[88:92, 20:40].any(axis=0).all()
    assert not drawn[:, 65:].any()
    every = {"names": ["cat", "dog"], "shown_from": 0.4}
    coco.write_boxes(found, str(tmp_path / "a.png"), tmp_path / "out" / "b.png", **every)
    assert red("b.jpg")[:, 65:].any()
    every["shown_from"] = 0.6
    assert len(coco.write_boxes(found, str(tmp_path / "a.png"), tmp_path / "out" / "c.png", **every)) == 2
    assert not red("c.jpg").any()
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
    }
    assert coco.write_boxes(nothing, str(tmp_path / "a.png"), tmp_path / "out" / "d.png", ["cat"]) == []
    assert not red("d.jpg").any()


# ---------------------------------------------------------------- classes.json


def test_names_of_classes_are_read_as_written(tmp_path):
    names = ["n01440764", "hot dog", "Ampel – größer"]
    write_classes(str(tmp_path / "models"), names)
    assert read_classes(str(tmp_path / "models"), 5) == names


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "[1, 2]", '"name"', '["a", null]', "\udcff"])
def test_damaged_names_are_refused(tmp_path, text):
    (tmp_path / "classes.json").write_bytes(text.encode(errors="surrogateescape"))
    message = refused(read_classes, str(tmp_path), 5)
    assert str(tmp_path / "classes.json") in message and "--bundle_root" in message


def annotations_of(folder, mark=b"", **changes):
    """What is read from a file of one image and one category, with `changes`."""
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 48}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "dog"}],
    } | changes
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "instances_val2017.json").write_bytes(mark + json.dumps(content).encode())
    return coco_annotations.read_annotations(str(folder), "val")


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"bbox": [1, 2, 3, 4], "category_id": 9}, "annotation 5 has the category_id 9, which is not listed"),
        ({"bbox": [1, 2, 3, 4], "category_id": 1, "image_id": 2}, "annotation 5 has the image_id 2, which is"),
        ({"bbox": [1, 2, 3], "category_id": 1}, "annotations 0 bbox: List should have at least 4 items"),
        ({"bbox": None, "category_id": 1}, "annotations 0 bbox: Input should be a valid array"),
        ({"bbox": [1, 2, float("nan"), 4], "category_id": 1}, "annotations 0 bbox 2: Input should be a finite"),
        ({"category_id": 1}, "annotations 0 bbox: Field required"),
        ({"bbox": [1, 2, 3, 4]}, "annotations 0 category_id: Field required"),
    ],
)
def test_an_annotation_without_a_box_or_a_category_is_refused(tmp_path, annotation, said):
    assert said in refused(annotations_of, tmp_path, annotations=[{"image_id": 1, "id": 5, **annotation}])


def test_labels_of_another_size_than_their_image_are_refused(tmp_path):
    list(make_cityscapes(tmp_path, images=1, seed=0))
    streets = cityscapes.Cityscapes(str(tmp_path), "train", lambda image, mask: (image, mask))
    Image.new("L", (20, 10)).save(streets.samples[0][1])
    assert "has other sizes than" in refused(streets.__getitem__, 0)


def test_weights_that_are_not_there_are_said_to_be_missing(tmp_path):
    network = torch.nn.Linear(2, 3)
    missing = refused(load_weights, network, str(tmp_path))
    assert f"no {tmp_path / 'models' / 'model.pt'}: train first" in missing
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"")
    missing = refused(load_weights, network, str(tmp_path))
    assert f"no {tmp_path / 'classes.json'}: train first" in missing
    assert read_classes(str(tmp_path), 3) == ["0", "1", "2"]
    write_classes(str(tmp_path), ["a", "b"])
    assert read_classes(str(tmp_path), 3) == ["a", "b"]
    assert "model.pt" in refused(load_weights, network, str(tmp_path))  # holds nothing
    torch.save(torch.nn.Linear(2, 4).state_dict(), tmp_path / "models" / "model.pt")
    other = refused(load_weights, network, str(tmp_path))
    assert "holds the weights of another network" in other and "give the --method and --width" in other
    trained = torch.nn.Linear(2, 3)
    torch.save(trained.state_dict(), tmp_path / "models" / "model.pt")
    load_weights(network, str(tmp_path))
    assert torch.equal(network.weight, trained.weight)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"width": None}, "images 0 width: Input should be a valid integer"),
        ({"height": 0}, "images 0 height: Input should be greater than 0"),
        ({"file_name": None}, "images 0 file_name: Input should be a valid string"),
    ],
)
def test_an_image_without_a_size_or_a_file_is_refused(tmp_path, image, said):
    whole = {"id": 1, "file_name": "1.png", "width": 64, "height": 48}
    assert said in refused(annotations_of, tmp_path, images=[{**whole, **image}])
    assert "2 of the images have the id 1" in refused(annotations_of, tmp_path, images=[whole, whole])


def test_what_an_annotation_may_lack_is_filled_in(tmp_path):
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    rows = [{**box, "id": 0}, {**box, "id": 7, "area": 5, "iscrowd": 1}, {**box, "id": 3, "area": None}]
    read = annotations_of(tmp_path, mark=b"\xef\xbb\xbf", annotations=rows)
    assert sorted(read.anns) == [1, 2, 3]
    assert [(each["area"], each["iscrowd"]) for each in read.anns.values()] == [(12, 0), (5, 1), (12, 0)]
    twice = [{**box, "id": 2}, {**box, "id": 2}]
    assert "2 of the annotations have the id 2" in refused(annotations_of, tmp_path, annotations=twice)


def test_an_object_of_id_0_is_found_like_any_other(tmp_path):
    """COCO's own evaluation takes its id for "no object"."""
    boxes = {number: [10 * number, 5, 8, 20] for number in range(3)}
    rows = [{"id": n, "image_id": 1, "category_id": 1, "bbox": box} for n, box in boxes.items()]
    annotations = annotations_of(tmp_path, annotations=rows)
    found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 1 - n / 10} for n, box in boxes.items()]
    assert coco.evaluate_boxes(annotations, found)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("crowd", [True, False])
def test_a_validation_set_without_objects_is_refused(tmp_path, crowd):
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1}
    annotations = annotations_of(tmp_path, annotations=[row] * crowd)
    assert "no object to find" in refused(coco.AveragePrecision, annotations, ["dog"], None)


@pytest.mark.parametrize("training", [True, False])
def test_a_photograph_of_another_size_than_annotated_is_refused(phantom, training):
    edited(phantom, lambda read: [each.update(width=each["width"] * 10) for each in read["images"]])
    items = items_of(phantom, training=training)
    assert "pixels, by its annotations" in refused(items.__getitem__, 0)


def test_what_lies_beside_the_validation_images_is_passed_over(photographs, flat):
    wanted = pairs(flat)
    for name in ("ILSVRC2012_val_00000001.xml", "._ILSVRC2012_val_00000001.JPEG", ".DS_Store"):
        (flat / "val" / name).write_text("")
    for folder in (flat / "val", flat / "train"):
        (folder / ".ipynb_checkpoints").mkdir()
    assert len(imagenet.find_classes(str(flat))) == 6
    assert pairs(flat) == wanted
    text = (flat / "val.txt").read_text()
    (flat / "val.txt").write_text("\ufeff" + text)
    assert pairs(flat) == wanted
    first = text.splitlines()[0]
    (flat / "val.txt").write_text(text + first)
    assert "line 7: ILSVRC2012_val_00000001.JPEG for the second time" in refused(pairs, flat)
    (flat / "val.txt").write_text(text.replace(first, ""))
    assert "lists 5 of 6 images: ILSVRC2012_val_00000001 is not among them" in refused(pairs, flat)


def test_numbers_that_are_names_of_classes_are_names(flat):
    """As text 10 comes before 2: the place of the folder 10 is 1."""
    for index, folder in enumerate(sorted((flat / "train").iterdir())):
        folder.rename(folder.with_name(str((10, 1, 2, 3, 4, 5)[index])))
    names = [line.split()[0] for line in (flat / "val.txt").read_text().splitlines()]
    labels = dict(zip(names, (1, 10, 2, 3, 4, 5), strict=True))
    (flat / "val.txt").write_text("".join(f"{name} {label}\n" for name, label in labels.items()))
    assert dict(pairs(flat)) == dict(zip(names, range(6), strict=True))
    (flat / "val.txt").write_text("".join(f"{name} 0\n" for name in names))
    assert "no class '0' in train/" in refused(pairs, flat)


def test_a_class_without_images_is_refused(flat):
    (flat / "train" / "n99999999").mkdir()
    message = refused(imagenet.train_samples, str(flat), imagenet.find_classes(str(flat)))
    assert f"{flat / 'train' / 'n99999999'} holds no images" in message
    shutil.rmtree(flat / "val")
    (flat / "val").write_text("")
    assert "val is a file" in refused(pairs, flat)


def test_files_beside_the_streets_are_passed_over(tmp_path):
    list(make_cityscapes(tmp_path, images=2, seed=0))
    wanted = cityscapes.Cityscapes(str(tmp_path), "train", None).samples
    assert len(wanted) == 2
    split = tmp_path / "leftImg8bit" / "train"
    city = Path(wanted[0][0]).parent
    (split / ".DS_Store").write_text("")
    for name in ("license.txt", "._x_leftImg8bit.png"):
        (city / name).write_text("")
    assert cityscapes.Cityscapes(str(tmp_path), "train", None).samples == wanted
    Path(wanted[0][1]).unlink()
    message = refused(cityscapes.Cityscapes, str(tmp_path), "train", None)
    assert "_gtFine_labelIds.png is missing" in message
    for each in split.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
    (split / "a_leftImg8bit.png").write_text("")  # without a city
    assert "<city>/<name>_leftImg8bit.png" in refused(cityscapes.Cityscapes, str(tmp_path), "train", None)


@pytest.mark.parametrize("kind", ["uint16", "int32", "float32"])
def test_images_of_more_than_8_bits_are_refused(tmp_path, kind):
    """Pillow would cut their values at 255."""
    Image.fromarray(np.full((40, 40), 1, dtype=kind)).save(tmp_path / "a.tif")
    assert "wanted 8 bits for each colour" in refused(read_image, tmp_path / "a.tif")


def test_an_image_too_long_to_be_seen_is_an_item_that_says_so(tmp_path):
    Image.new("RGB", (1700, 33)).save(tmp_path / "a.png")
    items = UnlabelledImages(find_images(str(tmp_path)), TENSOR)
    assert "1700x33 pixels: wanted sides of 32 at least, and none longer than 50" in items[0]["error"]


def test_files_that_cannot_be_written_do_not_stop_the_other_images(folder, tmp_path):
    def write(prediction, file, place):
        if "b.PNG" in file:
            raise InputError(f"cannot write {place}")
        return 1

    with pytest.raises(CasesFailedError):
        predict(folder, tmp_path / "out", write)
    said = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert set(said["predictions"]) == {"a.jpg", "a.png"}
    assert said["failed"]["below/b.PNG"].startswith("cannot write")
