"""The synthetic natural images: layouts as others read them, labels that fit the pictures, COCO arithmetic."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Cityscapes, ImageFolder
from torchvision.models._meta import _COCO_CATEGORIES

from dsnet_med.errors import InputError
from dsnet_med.phantoms import make_cityscapes, make_coco, make_imagenet, validation_images

ROAD, SIDEWALK, BUILDING, SKY, PERSON, CAR = 7, 8, 11, 23, 24, 26
MAKERS = (make_imagenet, make_cityscapes, make_coco)
Maker = Callable[..., Iterator[str]]


def files(folder: Path) -> dict[str, bytes]:
    """Every file under `folder` by its relative path."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# ---------------------------------------------------------------- all three


@pytest.mark.parametrize("make", MAKERS)
def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path: Path, make: Maker) -> None:
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        list(make(tmp_path / folder, images=9, seed=seed, size=(48, 64)))
    first, second, other = (files(tmp_path / folder) for folder in "abc")
    assert first == second and first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)  # JSON too: it tells of the pictures


@pytest.mark.parametrize("make", MAKERS)
def test_more_images_keep_the_earlier_ones(tmp_path: Path, make: Maker) -> None:
    for folder, images in (("few", 9), ("many", 42)):
        list(make(tmp_path / folder, images=images, seed=0, size=(48, 64)))
    few, many = (files(tmp_path / folder) for folder in ("few", "many"))
    assert {name: many[name] for name in few if not name.endswith(".json")}.items() <= few.items()
    pictures = [content for name, content in many.items() if "gtFine" not in name]
    assert len(set(pictures)) == len(pictures)  # of either split


@pytest.mark.parametrize("make", MAKERS)
def test_each_name_is_told_once_its_file_is_whole(tmp_path: Path, make: Maker) -> None:
    names = []
    for name in make(tmp_path, images=40, seed=0, size=(40, 40)):
        Image.open(tmp_path / name).load()
        names.append(name)
    assert len(set(names)) == 40 + 10 == 40 + validation_images(40)
    assert not list(tmp_path.rglob("*.partial.*"))
    written = [n for n in files(tmp_path) if "gtFine" not in n and not n.endswith(".json")]
    assert sorted(names) == sorted(written)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "a phantom of 0 images; wanted at least 1"),
        ({"size": (31, 64)}, "images of 31x64 pixels (HxW); wanted at least 32x32"),
        ({"size": (64, 31)}, "images of 64x31 pixels (HxW); wanted at least 32x32"),
    ],
)
def test_nothing_is_written_for_what_cannot_be(
    tmp_path: Path, make: Maker, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        list(make(tmp_path, **{"images": 8, "seed": 0} | arguments))
    assert str(caught.value) == message
    assert files(tmp_path) == {}


def test_neither_torch_nor_monai_is_loaded() -> None:
    code = "import sys, dsnet_med.phantoms; print(*{n.partition('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "PIL" in done.stdout.split()
    assert not {"torch", "torchvision", "monai", "timm"} & set(done.stdout.split())


# ---------------------------------------------------------------- ImageNet


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagenet")
    list(make_imagenet(folder, images=72, seed=0))
    return folder


def test_imagenet_is_a_folder_per_wnid_in_both_splits(imagenet: Path) -> None:
    train, val = (ImageFolder(str(imagenet / split)) for split in ("train", "val"))
    assert train.classes == val.classes and len(train.classes) == 8
    assert Counter(train.targets) == dict.fromkeys(range(8), 9)
    assert len(val) == 18 and set(val.targets) == set(range(8))
    for path, kind in train.samples:
        assert Path(path).name.startswith(f"{train.classes[kind]}_") and Path(path).suffix == ".JPEG"
    assert sorted(Path(path).name for path, _ in val.samples) == [
        f"ILSVRC2012_val_{n:08d}.JPEG" for n in range(1, 19)
    ]


def test_imagenet_has_sizes_and_modes_that_readers_must_see_to(imagenet: Path) -> None:
    pictures = [Image.open(file) for file in sorted(imagenet.glob("train/*/*"))]
    modes = Counter(picture.mode for picture in pictures)
    assert modes == {"RGB": 67, "L": 4, "CMYK": 1}
    sizes = np.array([picture.size for picture in pictures])
    assert len(set(map(tuple, sizes.tolist()))) > 30
    assert (np.abs(sizes / (128, 96) - 1) < 0.09).all()
    assert {picture.format for picture in pictures} == {"JPEG"}


def test_a_flat_validation_set_lists_the_classes_of_the_same_images(imagenet: Path, tmp_path: Path) -> None:
    list(make_imagenet(tmp_path, images=72, seed=0, flat_val=True))
    lines = [line.split(" ") for line in (tmp_path / "val.txt").read_text().splitlines()]
    assert sorted(p.name for p in (tmp_path / "val").iterdir()) == [name for name, _ in lines]
    folders = ImageFolder(str(imagenet / "val"))
    kinds = {Path(path).name: kind for path, kind in folders.samples}
    assert {name: int(kind) for name, kind in lines} == kinds
    for path, _ in folders.samples:
        assert (tmp_path / "val" / Path(path).name).read_bytes() == Path(path).read_bytes()


def colours(path: str) -> np.ndarray:
    """A histogram of the hues of vivid pixels."""
    hue, saturation, _ = np.moveaxis(np.asarray(Image.open(path).convert("RGB").convert("HSV")), -1, 0)
    counts = np.bincount(hue[saturation > 170] // 8, minlength=32)
    return counts / max(1, counts.sum())


def test_classes_of_imagenet_can_be_told_apart(imagenet: Path) -> None:
    """By the nearest mean of colours, but for the greyscale one of these 18."""
    train, val = (ImageFolder(str(imagenet / split)) for split in ("train", "val"))
    seen = np.array([colours(path) for path, _ in train.samples])
    means = np.array([seen[np.array(train.targets) == kind].mean(axis=0) for kind in range(8)])
    found = [np.abs(means - colours(path)).sum(axis=1).argmin() for path, _ in val.samples]
    assert sum(f == kind for f, kind in zip(found, val.targets, strict=True)) >= 17


@pytest.mark.parametrize("classes", [1, 16, 40])
def test_any_number_of_classes_has_distinct_sorted_wnids(tmp_path: Path, classes: int) -> None:
    list(make_imagenet(tmp_path, images=classes, seed=0, size=(32, 32), classes=classes))
    wnids = sorted(folder.name for folder in (tmp_path / "train").iterdir())
    assert len(wnids) == classes
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in wnids)
    assert len(list(tmp_path.glob("val/*/*"))) == classes  # a quarter of the images would be fewer
    # Class k is the k-th of the sorted wnids, past the published ones too.
    assert [next(iter((tmp_path / "train" / w).iterdir())).stem for w in wnids] == [
        f"{w}_{k}" for k, w in enumerate(wnids)
    ]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (9, "8 images for 9 classes; wanted at least one each: more images, fewer classes"),
        (0, "a phantom of 0 classes; wanted 1 to 1000"),
        (1001, "a phantom of 1001 classes; wanted 1 to 1000"),
    ],
)
def test_every_class_must_have_an_image(tmp_path: Path, classes: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        list(make_imagenet(tmp_path, images=8, seed=0, classes=classes))
    assert str(caught.value) == message


# ---------------------------------------------------------------- Cityscapes


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cityscapes")
    list(make_cityscapes(folder, images=10, seed=1))
    return folder


def scenes(folder: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    read = Cityscapes(str(folder), split=split, mode="fine", target_type="semantic")
    return [(np.asarray(image), np.asarray(labels)) for image, labels in read]


def test_cityscapes_is_read_by_torchvision(streets: Path) -> None:
    assert [len(scenes(streets, split)) for split in ("train", "val")] == [10, 2]
    for split in ("train", "val"):
        for image, labels in scenes(streets, split):
            assert image.shape == (128, 256, 3) and image.dtype == np.uint8
            assert labels.shape == (128, 256) and labels.dtype == np.uint8
    assert (streets / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png").is_file()
    assert (streets / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png").is_file()


def test_cityscapes_holds_ids_that_evaluation_counts_and_ids_that_it_ignores(streets: Path) -> None:
    ignored = {c.id for c in Cityscapes.classes if c.ignore_in_eval}
    for _, labels in scenes(streets, "train"):
        ids = set(np.unique(labels).tolist())
        assert {ROAD, SIDEWALK, BUILDING, SKY, PERSON, CAR} <= ids
        assert {1, 2, 3} <= ids & ignored
        assert ids <= set(range(34))
        assert 0.02 < np.isin(labels, list(ignored)).mean() < 0.25
    everything = set(np.unique(np.stack([labels for _, labels in scenes(streets, "train")])).tolist())
    assert everything == {1, 2, 3, 4, 7, 8, 9, 11, 17, 19, 20, 21, 23, 24, 26}


def test_the_street_is_the_right_way_up(streets: Path) -> None:
    for _, labels in scenes(streets, "train"):
        sky, houses, road = (np.argwhere(labels == kind).mean(axis=0)[0] for kind in (SKY, BUILDING, ROAD))
        assert sky < houses < road
        assert (labels[-8:-3, 60:-60] == 1).mean() > 0.95  # the bonnet
        rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        assert (rim == 3).all()
        assert (labels[1, 1:-1] == 2).all() and (labels[1:-1, 1] == 2).all()


def test_labels_lie_on_what_they_name(streets: Path) -> None:
    """The paints are known: a pixel's label is the one whose mean colour over all other scenes is near."""
    train = scenes(streets, "train")
    known = (ROAD, SIDEWALK, BUILDING, 20, 21, SKY, PERSON)
    means = {kind: np.mean([image[labels == kind].mean(axis=0) for image, labels in train[1:]
                            if (labels == kind).any()], axis=0) for kind in known}  # fmt: skip
    image, labels = train[0]
    for kind in known:
        here = image[labels == kind].mean(axis=0)
        assert min(known, key=lambda k: np.abs(means[k] - here).sum()) == kind
        spread = np.median(np.abs(image[labels == kind] - means[kind]).sum(axis=1))
        assert spread < 60, kind


@pytest.mark.parametrize("size", [(32, 32), (64, 33), (256, 512)])
def test_a_street_has_all_its_parts_at_other_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    list(make_cityscapes(tmp_path, images=1, seed=0, size=size))
    ((_, labels),) = scenes(tmp_path, "train")
    assert labels.shape == size
    assert {1, 2, 3, ROAD, SIDEWALK, BUILDING, SKY, PERSON, CAR} <= set(np.unique(labels).tolist())


# ---------------------------------------------------------------- COCO


@pytest.fixture(scope="module", params=[(160, 200), (32, 32), (400, 300)], ids=str)
def coco(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    list(make_coco(folder, images=40, seed=2, size=request.param))
    return folder


def document(folder: Path, split: str = "train") -> dict[str, Any]:
    return json.loads((folder / f"annotations/instances_{split}2017.json").read_text())


def polygons(folder: Path) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Every annotation that is no crowd, with the (N, 2) corners of its polygon."""
    for annotation in document(folder)["annotations"]:
        if not annotation["iscrowd"]:
            (flat,) = annotation["segmentation"]
            yield annotation, np.array(flat).reshape(-1, 2)


def crowds(folder: Path) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Every crowd with its decoded (H, W) mask."""
    for annotation in document(folder)["annotations"]:
        if annotation["iscrowd"]:
            height, width = annotation["segmentation"]["size"]
            values = [k % 2 for k, run in enumerate(annotation["segmentation"]["counts"]) for _ in range(run)]
            yield annotation, np.array(values).reshape(width, height).T


def test_coco_lists_its_images_with_their_sizes(coco: Path) -> None:
    ids = {}
    for split, count in (("train", 40), ("val", 10)):
        listed = document(coco, split)["images"]
        assert len(listed) == count
        for entry in listed:
            assert entry["file_name"] == f"{entry['id']:012d}.jpg"
            picture = Image.open(coco / f"{split}2017" / entry["file_name"])
            assert picture.size == (entry["width"], entry["height"]) and picture.format == "JPEG"
        assert len(list((coco / f"{split}2017").iterdir())) == count
        ids[split] = {entry["id"] for entry in listed}
        assert len(ids[split]) == count
    assert not ids["train"] & ids["val"]


def test_coco_has_the_80_categories_of_the_91(coco: Path) -> None:
    for split in ("train", "val"):
        listed = document(coco, split)["categories"]
        names = {entry["id"]: entry["name"] for entry in listed}
        published = {k: n for k, n in enumerate(_COCO_CATEGORIES) if n not in ("N/A", "__background__")}
        assert len(listed) == 80 and names == published
        assert [entry["id"] for entry in listed] == sorted(names)
        groups = Counter(entry["supercategory"] for entry in listed)
        assert groups == {
            "person": 1, "vehicle": 8, "outdoor": 5, "animal": 10, "accessory": 5, "sports": 10, "kitchen": 7,
            "food": 10, "furniture": 6, "electronic": 6, "appliance": 5, "indoor": 7,
        }  # fmt: skip


def test_annotations_belong_to_images_and_categories(coco: Path) -> None:
    read = document(coco)
    annotations = read["annotations"]
    assert len({a["id"] for a in annotations}) == len(annotations) > 40
    per_image = Counter(a["image_id"] for a in annotations)
    assert set(per_image) < {entry["id"] for entry in read["images"]}
    empty = len(read["images"]) - len(per_image)
    assert 4 <= empty <= 12
    objects = Counter(a["image_id"] for a in annotations if not a["iscrowd"])
    assert max(objects.values()) <= 4
    assert {a["category_id"] for a in annotations} == {1, 13, 38, 59, 72}
    used = {a["id"] for a in document(coco, "val")["annotations"]}
    assert used and not used & {a["id"] for a in annotations}


def test_boxes_are_the_extents_of_polygons_inside_their_images(coco: Path) -> None:
    sizes = {entry["id"]: (entry["width"], entry["height"]) for entry in document(coco)["images"]}
    for annotation, outline in polygons(coco):
        x, y, width, height = annotation["bbox"]
        extent = [*outline.min(axis=0), *np.ptp(outline, axis=0)]
        np.testing.assert_allclose([x, y, width, height], extent, atol=1e-6)
        assert x >= 0 and y >= 0 and min(width, height) >= 4
        assert x + width <= sizes[annotation["image_id"]][0]
        assert y + height <= sizes[annotation["image_id"]][1]


def test_areas_are_the_polygons(coco: Path) -> None:
    """By counting the sub-pixels whose middle lies on the same side of all edges (every shape is convex)."""
    for annotation, outline in polygons(coco):
        low, extent = outline.min(axis=0), np.ptp(outline, axis=0)
        grid = np.stack(np.meshgrid(*[(np.arange(200) + 0.5) / 200] * 2), axis=-1) * extent + low
        edges = np.roll(outline, -1, axis=0) - outline
        sides = [e[0] * (grid[..., 1] - p[1]) - e[1] * (grid[..., 0] - p[0])
                 for p, e in zip(outline, edges, strict=True)]  # fmt: skip
        inside = np.all(np.array(sides) > 0, axis=0)
        assert inside.mean() * extent.prod() == pytest.approx(annotation["area"], rel=0.02)


def test_crowds_decode_to_masks_of_their_box_and_area(coco: Path) -> None:
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in document(coco)["images"]}
    found = list(crowds(coco))
    assert 6 <= len(found) <= 10  # every fourth image, but for the empty ones
    for annotation, mask in found:
        assert mask.shape == sizes[annotation["image_id"]]
        assert mask.sum() == annotation["area"] > 20
        y, x = np.nonzero(mask)
        assert annotation["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        assert annotation["category_id"] == 1


def test_annotations_lie_on_what_they_name(coco: Path) -> None:
    """Inside polygons and crowds the picture has about its category's colour."""
    found = [(a, np.array([o.mean(axis=0)])) for a, o in polygons(coco)]
    for annotation, mask in crowds(coco):
        inner = mask & np.roll(mask, 2, 0) & np.roll(mask, -2, 0)  # off the rim
        found.append((annotation, np.argwhere(inner)[:, ::-1]))
    paint = {1: (40, 90, 230), 13: (225, 30, 40), 38: (150, 50, 200), 59: (245, 195, 40), 72: (20, 215, 215)}
    for annotation, places in found:
        picture = np.asarray(Image.open(coco / "train2017" / f"{annotation['image_id']:012d}.jpg")).astype(int)
        x, y = places.astype(int).T
        colour = np.median(picture[y, x], axis=0)
        assert min(paint, key=lambda k: np.abs(colour - paint[k]).sum()) == annotation["category_id"]
        assert np.abs(colour - paint[annotation["category_id"]]).max() < 130  # tiny ones are mostly rim


def test_objects_are_small_medium_and_large(tmp_path: Path) -> None:
    list(make_coco(tmp_path, images=64, seed=0))
    areas = np.array([annotation["area"] for annotation, _ in polygons(tmp_path)])
    shares = np.histogram(areas, [0, 32**2, 96**2, np.inf])[0] / len(areas)
    assert (shares > 0.1).all(), shares


def test_annotations_stay_when_images_are_added(tmp_path: Path) -> None:
    for folder, images in (("few", 12), ("many", 30)):
        list(make_coco(tmp_path / folder, images=images, seed=5))
    for split in ("train", "val"):
        few, many = (document(tmp_path / folder, split) for folder in ("few", "many"))
        for part in ("images", "annotations"):
            assert few[part] == many[part][: len(few[part])] and few[part]


def test_annotations_are_written_last(tmp_path: Path) -> None:
    made = make_coco(tmp_path, images=4, seed=0)
    for _ in range(5):
        next(made)
    assert not list(tmp_path.rglob("*.json"))
    assert list(made) == []
    assert len(list(tmp_path.rglob("*.json"))) == 2
