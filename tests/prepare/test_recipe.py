"""Recipes: the shipped ones say what the data sets say, mistakes are named, the hash follows the content."""

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sources import RECIPE, write_recipe

from dsnet_med import resources
from dsnet_med.errors import InputError
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.prepare.recipe import for_source, load_recipe, recipe_ids
from dsnet_med.prepare.splits import SeededSplit

# The 13 labels of the BTCV challenge, in its numbering.
BTCV = [
    "background",
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior_vena_cava",
    "portal_and_splenic_vein",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
]
EIGHT = [
    "background",
    "aorta",
    "gallbladder",
    "left_kidney",
    "right_kidney",
    "liver",
    "pancreas",
    "spleen",
    "stomach",
]
PUBLISHED_TEST = [
    "0001",
    "0002",
    "0003",
    "0004",
    "0008",
    "0022",
    "0025",
    "0029",
    "0032",
    "0035",
    "0036",
    "0038",
]


def test_every_folder_of_data_prep_is_a_recipe_with_a_readme() -> None:
    folders = [path for path in resources.data_prep().iterdir() if path.is_dir()]
    assert recipe_ids() == sorted(folder.name for folder in folders)
    assert len(folders) >= 6
    for folder in folders:
        assert load_recipe(folder.name).id == folder.name
        assert len((folder / "README.md").read_text().splitlines()) >= 4


@pytest.mark.parametrize("name", recipe_ids())
def test_shipped_recipe_is_complete(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.title and recipe.licence and recipe.source.startswith("http")
    if recipe.classes:
        assert set(recipe.label_map.values()) == set(range(len(recipe.classes)))
        assert not set(recipe.sides["left"]) & set(recipe.sides["right"])
        assert {n for n in recipe.classes if n.startswith("left_k")} <= set(recipe.sides["left"])
    assert json.loads(json.dumps(recipe.as_dict()))["id"] == name


@pytest.mark.parametrize(("name", "classes"), [("synapse", EIGHT), ("synapse13", BTCV)])
def test_synapse_maps_each_of_the_challenge_labels(name: str, classes: list[str]) -> None:
    recipe = load_recipe(name)
    assert list(recipe.classes) == classes
    assert recipe.label_map == {
        raw: classes.index(organ) if organ in classes else 0 for raw, organ in enumerate(BTCV)
    }
    assert recipe.intensity == Intensity("window", -125, 275)


@pytest.mark.parametrize("name", ["synapse", "synapse13"])
def test_synapse_split_is_the_published_one(name: str) -> None:
    every = [f"{n:04d}" for n in (*range(1, 11), *range(21, 41))]
    assert load_recipe(name).splits == {case: "test" if case in PUBLISHED_TEST else "train" for case in every}


def test_acdc_split_is_the_published_one() -> None:
    splits = load_recipe("acdc").splits
    assert isinstance(splits, dict)
    assert Counter(splits.values()) == {"train": 70, "val": 20, "test": 10, "extra": 50}
    of = {split: [int(s[-3:]) for s, t in splits.items() if t == split] for split in set(splits.values())}
    assert of["test"] == [89, 90, 91, 93, 94, 96, 97, 98, 99, 100]
    assert of["val"] == [2, 3, 8, 9, 12, 14, 17, 24, 42, 48, 49, 53, 55, 64, 67, 79, 81, 88, 92, 95]
    assert of["extra"] == list(range(101, 151))


def test_hippocampus_split_is_drawn_as_its_readme_says() -> None:
    splits = load_recipe("hippocampus").splits
    assert isinstance(splits, dict)
    names = sorted(splits)
    random.Random(2024).shuffle(names)
    assert {splits[name] for name in names[:32]} == {"test"}
    assert {splits[name] for name in names[32:48]} == {"val"}
    assert {splits[name] for name in names[48:]} == {"train"}
    assert len(names) == 160


def test_hippocampus_split_names_the_cases_that_exist(shared: Path) -> None:
    images = {path.name.removesuffix(".nii.gz") for path in (shared / "data/hippocampus/imagesTr").glob("h*")}
    assert images == set(load_recipe("hippocampus").splits)  # type: ignore[arg-type]


def test_totalsegmentator_numbers_are_its_own(volumes: Path) -> None:
    classes = json.loads((volumes / "totalsegmentator" / "classes.json").read_text())
    theirs = {int(raw): name for raw, name in classes.items()}
    recipe = load_recipe("totalsegmentator")
    assert set(recipe.label_map) == {0, *theirs}
    renamed = {raw: re.sub(r"^kidney_(left|right)$", r"\1_kidney", name) for raw, name in theirs.items()}
    for raw, name in renamed.items():
        assert recipe.classes[recipe.label_map[raw]] == (name if name in EIGHT else "background")


def test_label_map_reads_values_ranges_and_lists(tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path)))
    assert recipe.label_map == {0: 0, 1: 2, 6: 1, 7: 0, 8: 0, 9: 0}
    assert recipe.sides == {"left": ("spleen",), "right": ("liver",)}


def test_label_map_left_out_means_values_are_classes(tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path, label_map=None)))
    assert recipe.label_map == {0: 0, 1: 1, 2: 2}


def test_folder_stands_for_its_recipe_file(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    assert load_recipe(str(tmp_path)) == load_recipe(str(path))


def test_hash_follows_the_recipe_and_its_splits(tmp_path: Path) -> None:
    first = load_recipe(str(write_recipe(tmp_path / "a")))
    same = load_recipe(str(write_recipe(tmp_path / "b")))
    splits = load_recipe(str(write_recipe(tmp_path / "c", split_list="subject,split\n0001,test\n")))
    title = load_recipe(str(write_recipe(tmp_path / "d", title="Other")))
    assert first.hash == same.hash
    assert len({first.hash, splits.hash, title.hash}) == 3


def test_seeded_split_is_a_rule(tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path, splits={"seed": 3, "val": 0.1, "test": 0.2})))
    assert recipe.splits == SeededSplit(3, 0.1, 0.2)
    assert recipe.as_dict()["splits"] == {"seed": 3, "val": 0.1, "test": 0.2}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labl_map": {}}, "unknown recipe key 'labl_map': did you mean 'label_map'"),
        ({"licence": None}, "lacks licence"),
        ({"layout": "pair"}, "did you mean 'pairs'"),
        ({"modality": "XR"}, "unknown modality 'XR'"),
        ({"slice_axis": "superio"}, "did you mean 'superior'"),
        ({"image": "img/case.nii.gz"}, "one {case}"),
        ({"label": "{case}/{case}.nii.gz"}, "one {case}"),
        ({"classes": ["liver", "spleen"]}, "background first"),
        ({"classes": None}, "lacks classes"),
        ({"classes": ["background", "a", "a"]}, "each once"),
        (
            {"classes": ["background", False]},
            "should be a valid string, got False; put it in quotes",
        ),
        ({"label_map": {"background": 0, "liver": 6, "spleeen": 1}}, "did you mean 'spleen'"),
        ({"label_map": {"background": 0, "liver": 6}}, "no raw value for spleen"),
        (
            {"label_map": {"background": [0, 6], "liver": 6, "spleen": 1}},
            "raw value 6 stands for background and",
        ),
        ({"label_map": {"background": 0, "liver": "9-6", "spleen": 1}}, "rising values"),
        ({"label_map": {"background": 0, "liver": -1, "spleen": 1}}, "wanted a number, a range"),
        ({"label_map": {"background": 0, "liver": 70000, "spleen": 1}}, "up to 65535"),
        ({"label_map": [0, 1]}, "class name: raw label values"),
        ({"intensity": {"windw": [0, 1]}}, "did you mean 'window'"),
        ({"sides": {"lft": ["liver"]}}, "did you mean 'left'"),
        ({"sides": {"left": ["livr"]}}, "did you mean 'liver'"),
        ({"sides": {"left": "liver"}}, "sides.left: Input should be a valid list, got 'liver'"),
        ({"splits": "split.csv"}, "split.csv does not exist"),
        ({"splits": {"seed": 0, "val": 0.5, "test": 0.5}}, "leave some for training"),
        ({"splits": {"seed": 0, "val": -0.1, "test": 0.5}}, "leave some for training"),
        ({"splits": {"seed": 0, "val": 0.1}}, "seed, val and test"),
        ({"layout": "table"}, "needs the key cases"),
        ({"title": 3}, "title: Input should be a valid string, got 3; put it in quotes"),
        ({"label": "{case}_{organ}.nii.gz"}, "no other {field}"),
        ({"image": "{case}/{case}_flair.nii.gz"}, "use layout 'table'"),
        ({"image": "{case}/*_flair.nii.gz"}, "use layout 'table'"),
        ({"label": "img/img{case}.nii.gz"}, "one template"),
        (
            {"image": {"case": None}},
            "image: got {'case': None}, wanted a template such as 'images/{case}.nii.gz', or one for each",
        ),
        ({"label_map": {}}, "no raw value for background, liver, spleen"),
        ({"allow_empty": "perhaps"}, "allow_empty: Input should be a valid boolean, got 'perhaps'"),
        (
            {"classes": ["background", 1, 2]},
            "classes.1: Input should be a valid string, got 1; put",
        ),
        ({"id": ""}, "id: String should have at least 1 character, got ''"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = write_recipe(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        load_recipe(str(path))
    assert told in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("synaps", "did you mean 'synapse'"),
        ("no/such.yaml", "no such recipe file"),
        ("x.yaml", "no such recipe file"),
    ],
)
def test_unknown_recipe_is_named(name: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_recipe(name)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "", "\x00"])
def test_text_that_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"cannot be read as YAML|holds no keys"):
        load_recipe(str(path))


TRAPS = {
    "a template without quotes": (
        "image: {case}/ct.nii.gz\nid: x\n",
        "line 1: expected <block end>, but found '<scalar>': image: {case}/ct.nii.gz); text that begins with",
    ),
    "a tab": ("label_map:\n\tliver: 1\n", "line 2: found character '\\t' that cannot start any token"),
    "a colon": (
        "title: Abdomen: CT\n",
        "line 1: mapping values are not allowed here: title: Abdomen: CT)",
    ),
    "a key twice": ("label_map:\n  liver: 1\n  liver: 6\n", "two values for liver"),
    "a sign": ("id: @home\n", "line 1: found character '@' that cannot start any token: id: @home); text that"),
    "an open list": ("classes: [background,\nid: x\n", "expected ',' or ']'"),
    "other letters": ("title: Größe\n".encode("latin-1"), "save it as UTF-8"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_of_yaml_are_told_by_their_line(tmp_path: Path, trap: str) -> None:
    content, told = TRAPS[trap]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        load_recipe(str(path))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_words_and_numbers_mean_what_they_say(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, classes=None, label_map=None, sides=None)
    path.write_text(
        path.read_text() + "classes: [background, yes, no]\nlabel_map: {background: 0, yes: 010, no: 8}\n"
    )
    recipe = load_recipe(str(path))
    assert recipe.classes == ("background", "yes", "no")
    assert recipe.label_map == {0: 0, 8: 2, 10: 1}  # 010 is ten, not eight


def test_a_key_without_a_value_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, label_map=None)
    path.write_text(path.read_text() + "label_map:\n")
    with pytest.raises(InputError, match="label_map: has no value; give it one, or leave the key out"):
        load_recipe(str(path))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_no_text(tmp_path: Path, encoding: str) -> None:
    path = write_recipe(tmp_path / "r", title="Größe", splits="splits.csv")
    for file in (path, path.with_name("splits.csv")):
        file.write_bytes(file.read_text().encode(encoding))
    recipe = load_recipe(str(path))
    assert (recipe.title, recipe.splits) == ("Größe", {"0001": "train", "0002": "val", "0003": "test"})
    task = _task(tmp_path / "task")
    (task / "dataset.json").write_bytes((task / "dataset.json").read_text().encode(encoding))
    assert for_source(load_recipe("decathlon"), task).title == "Liver"


def _task(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    description = {
        "name": "Liver",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "2": "Liver Cancer", "1": "liver"},
        "training": [],
    }
    described = {key: value for key, value in (description | changes).items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def test_decathlon_recipe_is_completed_from_dataset_json(tmp_path: Path) -> None:
    recipe = load_recipe("decathlon")
    ct = for_source(recipe, _task(tmp_path / "ct"))
    mr = for_source(recipe, _task(tmp_path / "mr", modality={"0": "T2"}))
    assert ct.classes == ("background", "liver", "liver_cancer")
    assert ct.label_map == {0: 0, 1: 1, 2: 2}
    assert (ct.modality, ct.intensity.kind, ct.title) == ("CT", "window", "Liver")
    assert (mr.modality, mr.intensity.kind) == ("MR", "unit_variance")
    assert len({recipe.hash, ct.hash, mr.hash}) == 3
    assert for_source(ct, tmp_path / "nowhere") is ct


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modality": {"0": "FLAIR", "2": "T1w"}}, "wanted the names of the channels"),
        ({"modality": {}}, "no modality or channel_names, wanted the names"),
        ({"modality": ["CT"]}, r"dataset\.json: (modality|channel_names): Input should be a valid dict"),
        ({"labels": {"0": "organ", "1": "liver"}}, "wanted labels"),
        ({"labels": {"background": 0}}, "wanted labels"),
        ({"labels": {"0": "background", "1": "a", "2": "A"}}, "each name once"),
    ],
)
def test_unusable_dataset_json_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        for_source(load_recipe("decathlon"), _task(tmp_path, **changes))


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_missing_or_broken_dataset_json_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=r"dataset\.json"):
        for_source(load_recipe("decathlon"), tmp_path)


V2: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "Liver": 2, "spleen": 5},
    "modality": None,
    "training": None,
}


def test_dataset_json_of_nnunet_2(tmp_path: Path) -> None:
    recipe = for_source(load_recipe("decathlon"), _task(tmp_path, **V2))
    assert recipe.classes == ("background", "liver", "spleen")
    assert recipe.label_map == {0: 0, 2: 1, 5: 2}
    assert (recipe.modality, recipe.notes) == ("CT", ())


def test_the_ignore_label_is_no_class(tmp_path: Path) -> None:
    labels = V2["labels"] | {"ignore": 9}
    recipe = for_source(load_recipe("decathlon"), _task(tmp_path, **V2 | {"labels": labels}))
    assert recipe.classes == ("background", "liver", "spleen")
    assert recipe.label_map == {0: 0, 2: 1, 5: 2, 9: 255}
    assert (recipe.ignore, recipe.notes) == ((9,), ())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"labels": {"background": 0, "tumour": [1, 2]}},
            "tumour has the classes 1, 2 that no later region has",
        ),
        (
            {"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [1]},
            r"regions_class_order is \[1\], wanted one of the label values for each of the 2 regions a, b",
        ),
        ({"labels": {"background": 0, "a": [1, "x"]}}, "wanted labels"),
        ({"labels": {"background": 0, "a": 1, "ignore": 1}}, "wanted labels"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "each name once"),
        ({"labels": {"background": 0, "a": True}}, "wanted labels"),
        ({"labels": {"background": 1, "a": 0}}, "background 0"),
        ({"channel_names": {"1": "T1", "0": "T2"}}, "wanted the names of the channels"),
        ({"channel_names": None}, "no modality or channel_names"),
    ],
)
def test_what_nnunet_2_asks_for_and_is_not_read(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        for_source(load_recipe("decathlon"), _task(tmp_path, **V2 | changes))


def test_the_folder_above_the_task_names_the_task(tmp_path: Path) -> None:
    task = _task(tmp_path / "Task09_Spleen")
    with pytest.raises(InputError, match=f"no such file; give {task}, or a recipe"):
        for_source(load_recipe("decathlon"), tmp_path)


def test_a_key_twice_in_dataset_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "a", "1": "b"}}')
    with pytest.raises(InputError, match="the key '1' is given twice"):
        for_source(load_recipe("decathlon"), tmp_path)


def test_recipe_written_for_the_tests_is_legal(tmp_path: Path) -> None:
    assert load_recipe(str(write_recipe(tmp_path))).id == RECIPE["id"]
