"""Every class of a recipe has a code that DICOM knows, a label that can be read and a colour."""

import re

import pytest
import yaml
from pydicom.sr._concepts_dict import concepts

from dsnet_med import resources
from dsnet_med.organs import organ_of
from dsnet_med.prepare.recipe import load_recipe, recipe_ids

TABLE = yaml.safe_load((resources.configs() / "organs.yaml").read_text(encoding="utf-8"))
CODES = [(group, key) for group in ("categories", "types", "modifiers") for key in TABLE[group]]
# The labels of the ten dataset.json files of the Medical Segmentation Decathlon, as `preprocess` spells them.
DECATHLON = {
    "Task01": ("edema", "non-enhancing_tumor", "enhancing_tumour"),
    "Task02": ("left_atrium",),
    "Task03": ("liver", "cancer"),
    "Task04": ("anterior", "posterior"),
    "Task05": ("pz", "tz"),
    "Task06": ("cancer",),
    "Task07": ("pancreas", "cancer"),
    "Task08": ("vessel", "tumour"),
    "Task09": ("spleen",),
    "Task10": ("colon_cancer_primaries",),
}


def known_meanings() -> dict[str, set[str]]:
    """Code -> meanings, of all SNOMED CT codes that the DICOM standard names."""
    meanings: dict[str, set[str]] = {}
    for entry in concepts["SCT"].values():
        for code, (meaning, *_) in entry.items():
            meanings.setdefault(code, set()).add(meaning.lower())
    return meanings


def classes_of_recipes() -> dict[str, tuple[str, ...]]:
    recipes = {name: load_recipe(name).classes[1:] for name in recipe_ids()}
    return {name: classes for name, classes in recipes.items() if classes} | DECATHLON


@pytest.mark.parametrize(("group", "key"), CODES)
def test_a_code_means_in_dicom_what_the_table_says(group, key):
    row = TABLE[group][key]
    assert row["meaning"].lower() in known_meanings()[row["code"]]


def test_every_class_of_every_recipe_and_of_the_decathlon_is_in_the_table():
    classes = {name for names in classes_of_recipes().values() for name in names}
    assert len(classes) > 25
    assert classes <= set(TABLE["organs"])


def test_no_code_is_left_unused_and_categories_are_those_of_dicom():
    organs = TABLE["organs"].values()
    for group, field in (("categories", "category"), ("types", "type"), ("modifiers", "modifier")):
        used = {organ[field] for organ in organs if field in organ} | {"tissue"}
        assert used == set(TABLE[group]) | {"tissue"}
    every = {
        code: cids for entry in concepts["SCT"].values() for code, (_, cids) in entry.items() if 7150 in cids
    }
    assert {row["code"] for row in TABLE["categories"].values()} <= set(every)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_side_is_coded_wherever_a_name_says_one(side):
    """But for the chambers of the heart, which are organs of their own with codes of their own."""
    for name in TABLE["organs"]:
        organ = organ_of(name)
        if name.startswith(side) and not name.endswith(("ventricle", "atrium")):
            assert organ.modifier == ({"left": "7771000", "right": "24028007"}[side], "SCT", side.capitalize())
            assert organ.label.startswith(side.capitalize())
            assert organ.type == organ_of(name.replace(side, {"left": "right", "right": "left"}[side])).type


def test_the_row_of_an_organ():
    kidney = organ_of("left_kidney")
    assert (kidney.name, kidney.label, kidney.colour) == ("left_kidney", "Left kidney", (66, 165, 245))
    assert kidney.category == ("91723000", "SCT", "Anatomical Structure")
    assert kidney.type == ("64033007", "SCT", "Kidney")
    assert organ_of("liver").modifier is None
    assert organ_of("Left Atrium").type == ("82471001", "SCT", "Left atrium")


def test_classes_of_one_recipe_look_different():
    for name, classes in classes_of_recipes().items():
        assert len({organ_of(one).colour for one in classes}) == len(classes), name


def test_colours_and_labels_fit_a_dicom_file():
    for name in [*TABLE["organs"], "whatever_else"]:
        organ = organ_of(name)
        assert 0 < len(organ.label) <= 64
        assert re.fullmatch(r"[A-Z][a-zA-Z -]+", organ.label)
        assert all(isinstance(part, int) and 0 <= part <= 255 for part in organ.colour)


def test_a_name_that_is_unknown_becomes_tissue_with_a_colour_of_its_own():
    organ = organ_of("hip_left")
    assert organ.category == organ.type == ("85756007", "SCT", "Tissue")
    assert (organ.label, organ.modifier) == ("Hip left", None)
    assert organ.colour == (143, 252, 48)  # the same on every machine and in every run
    assert len({organ_of(f"vertebra_{number}").colour for number in range(24)}) == 24


@pytest.mark.parametrize(("name", "label"), [("L5", "L5"), ("os coxae  links", "Os coxae links"), ("", "")])
def test_the_label_of_an_unknown_name_is_that_name_in_words(name, label):
    assert organ_of(name).label == label
