"""The files of COCO's annotations (annotations/instances_<split>2017.json), read and checked.

Format: https://cocodataset.org/#format-data. Of an object its box, `area` and `iscrowd` are used; without the
latter two it has the area of its box and is no crowd.
"""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NotRequired

from pydantic import Field, FiniteFloat, PositiveInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from dsnet_med.errors import InputError, one_line, want_of_means
from dsnet_med.extras import needed_for
from dsnet_med.natural.images import required

if TYPE_CHECKING:
    from pycocotools.coco import COCO

_MARK = b"\xef\xbb\xbf"  # that some editors put before UTF-8


class _Image(TypedDict):
    id: int
    file_name: str
    width: PositiveInt
    height: PositiveInt


class _Object(TypedDict):
    id: int
    image_id: int
    category_id: int
    bbox: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]
    area: NotRequired[FiniteFloat | None]
    iscrowd: NotRequired[int | None]


class _Category(TypedDict):
    id: int
    name: str


class _Content(TypedDict):
    images: Annotated[list[_Image], Field(min_length=1)]
    annotations: list[_Object]
    categories: Annotated[list[_Category], Field(min_length=1)]


def read_annotations(dataset_dir: str, split: str) -> "COCO":
    """What annotations/instances_<split>2017.json holds.

    Raises InputError for a file that is missing, has another form, gives two categories one name, or names an
    object's image or category that it does not list, and where the extra `natural` is not installed.
    """
    with needed_for("COCO"):
        from pycocotools.coco import COCO  # noqa: PLC0415 -- an extra

    file = Path(dataset_dir) / "annotations" / f"instances_{split}2017.json"
    required(file, "wanted annotations/ beside train2017/ and val2017/, as COCO has them")
    refused = f"{file} is no file of COCO annotations of boxes"
    try:
        content = TypeAdapter(_Content).validate_json(file.read_bytes().removeprefix(_MARK))
    except (OSError, MemoryError) as error:
        raise InputError(f"{refused}: {want_of_means(error) or one_line(error)}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = [" ".join(map(str, first["loc"]))] if first["loc"] else []
        raise InputError(": ".join([refused, *place, one_line(first["msg"])])) from error
    if problem := _problem(content):
        raise InputError(f"{refused}: {problem}")
    annotations = COCO()
    annotations.dataset = {
        **content,
        "annotations": [_whole(*each) for each in enumerate(content["annotations"], 1)],
    }
    with redirect_stdout(io.StringIO()):
        annotations.createIndex()
    return annotations


def read_training(dataset_dir: str, split: str, validation: "COCO") -> "COCO":
    """`read_annotations` for training; InputError where the categories are not those of `validation`."""
    annotations = read_annotations(dataset_dir, split)
    check_categories(annotations, categories(validation), f"the split {split}")
    return annotations


def categories(annotations: "COCO") -> list[str]:
    """The names of the categories, in the order of their ids."""
    return [annotations.cats[number]["name"] for number in sorted(annotations.cats)]


def check_categories(annotations: "COCO", expected: Sequence[str], what: str) -> None:
    """Raise InputError where the categories of `what` are not called `expected`."""
    if (found := categories(annotations)) != list(expected):
        different = sorted(set(found) ^ set(expected)) or ["their order"]
        raise InputError(f"the categories of {what} are others than the network's: {', '.join(different[:3])}")


def _whole(number: int, each: _Object) -> dict[str, object]:
    """With all that COCO's evaluation reads, and another id: it takes an object of id 0 for none."""
    area, (_, _, across, down) = each.get("area"), each["bbox"]
    return {
        **each,
        "id": number,
        "area": across * down if area is None else area,
        "iscrowd": each.get("iscrowd") or 0,
    }


def _problem(content: _Content) -> str | None:
    """What contradicts itself in a file of the right form."""
    for records in ("images", "categories", "annotations"):
        if twice := _repeated(each["id"] for each in content[records]):
            return f"{twice[1]} of the {records} have the id {twice[0]}"
    if twice := _repeated(each["name"] for each in content["categories"]):
        ids = ", ".join(str(each["id"]) for each in content["categories"] if each["name"] == twice[0])
        return f"the categories {ids} have one name, '{twice[0]}': rename or join them"
    images, kinds = ({each["id"] for each in records} for records in (content["images"], content["categories"]))
    for each in content["annotations"]:
        if each["image_id"] not in images:
            return f"annotation {each['id']} has the image_id {each['image_id']}, which is not listed"
        if each["category_id"] not in kinds:
            return f"annotation {each['id']} has the category_id {each['category_id']}, which is not listed"
    return None


def _repeated(values: Iterable[object]) -> tuple[object, int] | None:
    """The value that is there most often, and how often, if more than once."""
    return next((each for each in Counter(values).most_common(1) if each[1] > 1), None)
