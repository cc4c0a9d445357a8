"""Cases on disk: every layout is found, ids come back from file names, ambiguity is refused."""

import json
import os
import re
from pathlib import Path

import pytest
from sources import write_recipe, write_source

from dsnet_med.errors import InputError
from dsnet_med.prepare import cases as module
from dsnet_med.prepare.cases import case_of_image, case_of_label, find_cases, stray_labels
from dsnet_med.prepare.recipe import Recipe, load_recipe


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def acdc_patient(
    source: Path, number: int, *, frames: tuple[int, int] = (1, 12), folder: str = "training"
) -> Path:
    patient = source / folder / f"patient{number:03d}"
    for frame in frames:
        stem = f"patient{number:03d}_frame{frame:02d}"
        touch(patient / f"{stem}.nii.gz", patient / f"{stem}_gt.nii.gz")
    touch(patient / f"patient{number:03d}_4d.nii.gz")
    (patient / "Info.cfg").write_text(f"ED: {frames[0]}\nES: {frames[1]}\nGroup: DCM\nWeight: 60.0\n")
    return patient


@pytest.fixture
def tiny(tmp_path: Path) -> Recipe:
    return load_recipe(str(write_recipe(tmp_path / "recipe")))


def table_recipe(folder: Path, rows: str) -> Recipe:
    folder.mkdir()
    (folder / "cases.csv").write_text(f"case,subject,image,label\n{rows}")
    path = write_recipe(folder, layout="table", cases="cases.csv", image=None, label=None)
    return load_recipe(str(path))


def test_pairs_are_sorted_and_split(tmp_path: Path, tiny: Recipe) -> None:
    source = write_source(tmp_path / "source", ("0003", "0001", "0007"))
    cases = find_cases(tiny, source)
    assert [(case.id, case.subject, case.split) for case in cases] == [
        ("0001", "0001", "train"),
        ("0003", "0003", "test"),
        ("0007", "0007", "extra"),
    ]
    assert cases[0].image == source / "img/img0001.nii.gz"
    assert cases[0].labels == (source / "label/label0001.nii.gz",)


def test_synapse_is_found_where_its_archive_unpacks(tmp_path: Path) -> None:
    training = tmp_path / "RawData/Training"
    touch(training / "img/img0005.nii.gz", training / "label/label0005.nii.gz", training / "img/notes.txt")
    (case,) = find_cases(load_recipe("synapse"), tmp_path)
    assert (case.id, case.split, case.labels) == ("0005", "train", (training / "label/label0005.nii.gz",))


def test_missing_label_is_none_and_hidden_files_are_passed_over(tmp_path: Path, tiny: Recipe) -> None:
    touch(tmp_path / "s/img/img0001.nii.gz", tmp_path / "s/img/._img0001.nii.gz")
    (case,) = find_cases(tiny, tmp_path / "s")
    assert not case.labels


def test_uncompressed_volumes_are_found_too(tmp_path: Path, tiny: Recipe) -> None:
    touch(tmp_path / "s/img/img0001.nii", tmp_path / "s/label/label0001.nii")
    (case,) = find_cases(tiny, tmp_path / "s")
    assert (case.image.name, case.labels and case.labels[0].name) == ("img0001.nii", "label0001.nii")


def test_labels_beside_the_images_are_no_images(tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path / "r", image="{case}.nii.gz", label="{case}_seg.nii.gz")))
    touch(
        tmp_path / "s/a.nii.gz",
        tmp_path / "s/a_seg.nii.gz",
        tmp_path / "s/b.nii.gz",
        tmp_path / "s/c_seg.nii.gz",
    )
    assert [(case.id, bool(case.labels)) for case in find_cases(recipe, tmp_path / "s")] == [
        ("a", True),
        ("b", False),
    ]
    assert stray_labels(recipe, tmp_path / "s") == [tmp_path / "s/c_seg.nii.gz"]


def test_case_in_a_folder_name(tmp_path: Path) -> None:
    recipe = load_recipe(
        str(write_recipe(tmp_path / "r", image="{case}/ct.nii.gz", label="{case}/organs.nii.gz"))
    )
    touch(tmp_path / "s/0002/ct.nii.gz", tmp_path / "s/0002/organs.nii.gz")
    (case,) = find_cases(recipe, tmp_path / "s")
    assert (case.id, case.split) == ("0002", "val")
    assert case_of_label(recipe, tmp_path / "s/0002/organs.nii.gz") == "0002"
    assert case_of_label(recipe, tmp_path / "s/0002/ct.nii.gz") is None


def test_two_files_of_one_case_fail_alone(tmp_path: Path, tiny: Recipe) -> None:
    touch(
        *(tmp_path / f"s/img/{name}" for name in ("img0001.nii", "img0001.nii.gz", "img0002.nii", "img3.nii"))
    )
    touch(*(tmp_path / f"s/label/{name}" for name in ("label0002.nii", "label0002.NII.gz", "label3.nii")))
    problems = [case.problem.replace(f"{tmp_path}/s/", "") for case in find_cases(tiny, tmp_path / "s")]
    assert problems == [
        "img/img0001.nii and img/img0001.nii.gz have one case id, '0001'; remove one",
        "label/label0002.NII.gz and label/label0002.nii are labels of one case; remove one",
        "",
    ]


@pytest.mark.parametrize("name", [" a b", "Müller", "#1", "-x"])
def test_names_that_make_no_file_name_fail_alone(tmp_path: Path, tiny: Recipe, name: str) -> None:
    touch(tmp_path / f"s/img/img{name}.nii.gz", tmp_path / "s/img/img0001.nii.gz")
    problems = {case.id: case.problem for case in find_cases(tiny, tmp_path / "s")}
    assert f"case id '{name}' needs letters" in problems[name]
    assert problems["0001"] == ""


def test_what_is_no_file_is_a_case_with_a_problem(tmp_path: Path, tiny: Recipe) -> None:
    touch(tmp_path / "s/img/img4.nii.gz/a.nii", tmp_path / "s/img/img4.nii.gz/b.nii")
    (tmp_path / "s/label").mkdir()
    os.mkfifo(tmp_path / "s/img/img5.nii.gz")
    for place, target in (("img/img1.nii", "gone"), ("img/img2.nii", "img2.nii"), ("label/label3.nii", "../x")):
        (tmp_path / "s" / place).symlink_to(target)
    touch(tmp_path / "s/img/img3.nii")
    told = [
        case.problem.partition(": ")[2].partition("; fetch")[0] for case in find_cases(tiny, tmp_path / "s")
    ]
    assert told == [
        "no such file, it is a link to gone, which is not there",
        "no such file, it is a link to img2.nii, which is not there",
        "no such file, it is a link to ../x, which is not there",
        "is a folder that does not hold just one volume, wanted a file",
        "is neither a file nor a folder",
    ]


def test_patient_folders_that_are_not_there(tmp_path: Path) -> None:
    changes = {"image": "{case}/ct.nii.gz", "label": "{case}/organs.nii.gz"}
    recipe = load_recipe(str(write_recipe(tmp_path / "r", **changes)))
    touch(tmp_path / "s/0001/ct.nii.gz", tmp_path / "s/0001/organs.nii.gz")
    (tmp_path / "s/0002").symlink_to("../.dvc/cache")
    cases = find_cases(recipe, tmp_path / "s")
    assert [(case.id, bool(case.problem)) for case in cases] == [("0001", False), ("0002", True)]


def test_a_folder_that_cannot_be_listed_is_its_cases_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entries_of(folder: Path) -> list[Path]:
        if folder.name == "0002":
            raise InputError(f"{folder}: cannot be listed (Permission denied)")
        return sorted(folder.iterdir())

    monkeypatch.setattr(module, "entries_of", entries_of)
    changes = {"image": "{case}/ct.nii.gz", "label": "{case}/organs.nii.gz"}
    recipe = load_recipe(str(write_recipe(tmp_path / "r", **changes)))
    for case in ("0001", "0002"):
        touch(tmp_path / f"s/{case}/ct.nii.gz", tmp_path / f"s/{case}/organs.nii.gz")
    problems = [case.problem for case in find_cases(recipe, tmp_path / "s")]
    assert problems == ["", f"{tmp_path}/s/0002: cannot be listed (Permission denied)"]


def test_endings_in_capitals_and_volumes_in_folders_of_their_name(tmp_path: Path, tiny: Recipe) -> None:
    touch(tmp_path / "s/img/img0001.NII.GZ", tmp_path / "s/label/label0001.Nii")
    touch(tmp_path / "s/img/img0002.nii/img0002.nii", tmp_path / "s/label/label0002.nii.gz/x.nii")
    cases = find_cases(tiny, tmp_path / "s")
    assert [(case.image.name, case.labels and case.labels[0].name, case.problem) for case in cases] == [
        ("img0001.NII.GZ", "label0001.Nii", ""),
        ("img0002.nii", "x.nii", ""),
    ]
    assert stray_labels(tiny, tmp_path / "s") == []


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("{case}_ct.nii.gz", "{case}.nii.gz"),
        ("{case}.nii.gz", "{case}_seg.nii.gz"),
        ("d/{case}_0000.nii.gz", "d/{case}.nii.gz"),
    ],
)
def test_no_image_is_a_label_without_image(tmp_path: Path, image: str, label: str) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path / "r", image=image, label=label)))
    touch(*(tmp_path / "s" / template.format(case=case) for case in "ab" for template in (image, label)))
    cases = find_cases(recipe, tmp_path / "s")
    assert [case.id for case in cases] == ["a", "b"]
    assert all(case.labels for case in cases)
    assert stray_labels(recipe, tmp_path / "s") == []


@pytest.mark.parametrize(
    "folders", [("", ""), ("img", "label"), ("imagesTr", "labelsTr"), ("averaged-training-images", "x")]
)
def test_mirrors_of_synapse_keep_the_names_and_change_the_folders(
    tmp_path: Path, folders: tuple[str, str]
) -> None:
    for case in ("0001", "0005"):
        touch(tmp_path / folders[0] / f"img{case}.nii.gz", tmp_path / folders[1] / f"label{case}.nii.gz")
    cases = find_cases(load_recipe("synapse"), tmp_path)
    assert [(case.id, case.split, bool(case.labels)) for case in cases] == [
        ("0001", "test", True),
        ("0005", "train", True),
    ]


def test_what_was_looked_for_and_what_lies_there(tmp_path: Path) -> None:
    recipe = load_recipe("synapse")
    touch(tmp_path / "a/b/c/RawData/Training/img/img0001.nii.gz")
    with pytest.raises(InputError, match=r"holds no RawData/Training/img/img\{case\}.*; give .*/a/b/c instead"):
        find_cases(recipe, tmp_path)
    touch(tmp_path / "d/averaged-training-images/DET0000101_avg.nii.gz", tmp_path / "d/notes.txt")
    with pytest.raises(InputError, match=r"; it holds averaged-training-images, notes\.txt$"):
        find_cases(recipe, tmp_path / "d")
    (tmp_path / "e").mkdir()
    with pytest.raises(InputError, match=r"; it is empty$"):
        find_cases(recipe, tmp_path / "e")


def test_missing_and_empty_sources_are_refused(tmp_path: Path, tiny: Recipe) -> None:
    with pytest.raises(InputError, match="no such folder; give the folder that holds img"):
        find_cases(tiny, tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no img/img\{case\}"):
        find_cases(tiny, tmp_path)


def test_source_one_folder_off_gets_a_hint(tmp_path: Path, tiny: Recipe) -> None:
    write_source(tmp_path / "data/source")
    with pytest.raises(InputError, match=r"give .*data/source instead"):
        find_cases(tiny, tmp_path / "data")
    with pytest.raises(InputError, match=r"give .*data/source instead"):
        find_cases(tiny, tmp_path / "data/source/img")


def test_stray_labels_are_those_without_an_image(tmp_path: Path, tiny: Recipe) -> None:
    source = write_source(tmp_path / "s")
    touch(source / "label/label0009.nii.gz")
    assert stray_labels(tiny, source) == [source / "label/label0009.nii.gz"]


def test_acdc_takes_both_frames_of_each_patient(tmp_path: Path) -> None:
    acdc_patient(tmp_path, 1)
    acdc_patient(tmp_path, 89, frames=(4, 10))
    acdc_patient(tmp_path, 101, folder="testing")
    cases = find_cases(load_recipe("acdc"), tmp_path)
    assert [(case.id, case.subject, case.split) for case in cases] == [
        ("patient001_frame01", "patient001", "train"),
        ("patient001_frame12", "patient001", "train"),
        ("patient089_frame04", "patient089", "test"),
        ("patient089_frame10", "patient089", "test"),
        ("patient101_frame01", "patient101", "extra"),
        ("patient101_frame12", "patient101", "extra"),
    ]
    assert all(case.labels and case.labels[0].name == f"{case.id}_gt.nii.gz" for case in cases)


def test_acdc_frame_without_a_file_keeps_its_place(tmp_path: Path) -> None:
    patient = acdc_patient(tmp_path, 1)
    (patient / "patient001_frame12.nii.gz").unlink()
    (patient / "patient001_frame12_gt.nii.gz").unlink()
    assert [(c.image.is_file(), c.labels) for c in find_cases(load_recipe("acdc"), tmp_path)][1] == (False, ())


@pytest.mark.parametrize("text", [None, "ED: 1\n", "ED: one\nES: 2\n"])
def test_acdc_without_its_frames_fails_alone(tmp_path: Path, text: str | None) -> None:
    info = acdc_patient(tmp_path, 1) / "Info.cfg"
    acdc_patient(tmp_path, 4)
    info.unlink() if text is None else info.write_text(text)
    bad, *others = find_cases(load_recipe("acdc"), tmp_path)
    assert (bad.id, bad.subject, bad.split) == ("patient001", "patient001", "train")
    assert re.search(r"patient001/Info\.cfg: .*(no such file|wanted the lines)", bad.problem)
    assert [(case.id, case.problem) for case in others] == [
        ("patient004_frame01", ""),
        ("patient004_frame12", ""),
    ]


def test_acdc_as_mirrors_have_it(tmp_path: Path) -> None:
    patient = acdc_patient(tmp_path / "database", 1)
    (patient / "Info.cfg").write_bytes("ED: 1\r\nES: 12\r\n".encode("utf-16"))
    (patient / "patient001_frame01_gt.nii.gz").rename(patient / "patient001_frame01_GT.nii.gz")
    image = patient / "patient001_frame12.nii.gz"
    image.unlink()
    touch(patient / "patient001_frame12.nii/patient001_frame12.nii")
    cases = find_cases(load_recipe("acdc"), tmp_path)
    assert [(case.image.name, case.labels and case.labels[0].name, case.problem) for case in cases] == [
        ("patient001_frame01.nii.gz", "patient001_frame01_GT.nii.gz", ""),
        ("patient001_frame12.nii", "patient001_frame12_gt.nii.gz", ""),
    ]
    assert stray_labels(load_recipe("acdc"), tmp_path) == []


def test_decathlon_follows_dataset_json(tmp_path: Path) -> None:
    names = [f"spleen_{n}" for n in range(10)]
    touch(*(tmp_path / f"imagesTr/{name}.nii.gz" for name in names), tmp_path / "imagesTr/._spleen_1.nii.gz")
    touch(*(tmp_path / f"labelsTr/{name}.nii.gz" for name in names[1:]))
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    listed = {"training": training, "test": ["./imagesTs/spleen_77.nii.gz"]}
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    cases = {case.id: case for case in find_cases(load_recipe("decathlon"), tmp_path)}
    assert set(cases) == {*names, "spleen_77"}
    assert (cases["spleen_77"].split, cases["spleen_77"].labels) == ("extra", ())
    assert not cases["spleen_0"].labels
    splits = [cases[name].split for name in names]
    assert (splits.count("val"), splits.count("test"), splits.count("train")) == (1, 2, 7)


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ({"training": [{"label": "a.nii.gz"}]}, "wanted training"),
        ({"training": 3}, r"dataset\.json: training: Input should be a valid list, got 3"),
        ({"file_ending": ".png"}, "file_ending is '.png', wanted that of 3-D volumes"),
    ],
)
def test_bad_file_lists_are_refused(tmp_path: Path, listed: dict[str, object], told: str) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match=told):
        find_cases(load_recipe("decathlon"), tmp_path)


def test_bad_rows_of_a_list_fail_alone(tmp_path: Path) -> None:
    touch(*(tmp_path / f"{folder}/{name}.nii" for folder in ("imagesTr", "labelsTr") for name in "abcd"))
    training = [
        {"image": "imagesTr/a.nii", "label": "labelsTr/a.nii"},
        {"image": "imagesTr/b.nii"},
        {"image": "../c.nii", "label": "labelsTr/c.nii"},
        {"image": "imagesTr/._d.nii", "label": "labelsTr/._d.nii"},  # of macOS: never an image
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": training}))
    problems = {case.id: case.problem for case in find_cases(load_recipe("decathlon"), tmp_path)}
    assert set(problems) == {"a", "b", "c"}
    assert problems["a"] == ""
    assert "names no label for 'imagesTr/b.nii'" in problems["b"]
    assert "'../c.nii' leaves the task folder" in problems["c"]


def nnunet(source: Path, cases: str = "ab", **described: object) -> Path:
    touch(*(source / f"imagesTr/t_{case}_0000.nii.gz" for case in cases))
    touch(*(source / f"labelsTr/t_{case}.nii.gz" for case in cases), source / "imagesTs/t_z_0000.nii.gz")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (source / "dataset.json").write_text(json.dumps(description | described))
    return source


@pytest.mark.parametrize("listed", ["folders", "rows", "dataset"])
def test_nnunet_in_either_version(tmp_path: Path, listed: str) -> None:
    rows = [{"image": f"./imagesTr/t_{c}.nii.gz", "label": f"./labelsTr/t_{c}.nii.gz"} for c in "ab"]
    named = {
        f"t_{c}": {"images": [f"imagesTr/t_{c}_0000.nii.gz"], "label": f"labelsTr/t_{c}.nii.gz"} for c in "ab"
    }
    described: dict[str, dict[str, object]] = {
        "folders": {},
        "rows": {"training": rows, "test": ["./imagesTs/t_z.nii.gz"]},
        "dataset": {"dataset": named},
    }
    cases = find_cases(load_recipe("decathlon"), nnunet(tmp_path, **described[listed]))
    training = [case for case in cases if case.split != "extra"]
    assert [(c.id, c.image.name, c.labels and c.labels[0].name, c.problem) for c in training] == [
        ("t_a", "t_a_0000.nii.gz", "t_a.nii.gz", ""),
        ("t_b", "t_b_0000.nii.gz", "t_b.nii.gz", ""),
    ]
    extra = [(c.id, c.image.name) for c in cases if c.split == "extra"]
    assert extra == ([] if listed == "dataset" else [("t_z", "t_z_0000.nii.gz")])
    assert stray_labels(load_recipe("decathlon"), tmp_path) == []


def test_a_second_channel_is_that_cases_problem(tmp_path: Path) -> None:
    touch(nnunet(tmp_path) / "imagesTr/t_b_0001.nii.gz")
    problems = {case.id: case.problem for case in find_cases(load_recipe("decathlon"), tmp_path)}
    assert problems["t_a"] == ""
    assert problems["t_b"] == "case 't_b' has 2 channels (t_b_0000.nii.gz, t_b_0001.nii.gz), wanted one"


def test_four_digits_are_no_channel_where_labels_have_them_too(tmp_path: Path) -> None:
    touch(*(tmp_path / f"{folder}/x_{n:04d}.nii.gz" for folder in ("imagesTr", "labelsTr") for n in (1, 2)))
    cases = find_cases(load_recipe("hippocampus"), tmp_path)
    assert [(case.id, bool(case.labels)) for case in cases] == [("x_0001", True), ("x_0002", True)]


@pytest.mark.parametrize(("recipe", "folder"), [("hippocampus", "imagesTr"), ("totalsegmentator", "images")])
def test_hidden_files_are_no_cases(tmp_path: Path, recipe: str, folder: str) -> None:
    touch(tmp_path / folder / "a.nii.gz", tmp_path / folder / "._a.nii.gz")
    assert [case.id for case in find_cases(load_recipe(recipe), tmp_path)] == ["a"]


def test_decathlon_folders_serve_without_dataset_json(tmp_path: Path) -> None:
    recipe = load_recipe("hippocampus")
    names = [f"{name}.nii.gz" for name in recipe.splits]  # type: ignore[union-attr]
    touch(*(tmp_path / folder / name for folder in ("imagesTr", "labelsTr") for name in names))
    cases = find_cases(recipe, tmp_path)
    splits = [case.split for case in cases]
    assert [splits.count(split) for split in ("train", "val", "test", "extra")] == [112, 16, 32, 0]
    assert all(case.labels and case.labels[0].name == case.image.name for case in cases)


def test_table_names_every_file(tmp_path: Path) -> None:
    recipe = table_recipe(
        tmp_path / "r", "x,0001,a/ct.nii.gz,a/seg.nii.gz\ny,0001,b/ct.nii.gz,\nz,,c.nii.gz,c_.nii.gz\n"
    )
    touch(tmp_path / "s/a/ct.nii.gz", tmp_path / "s/a/seg.nii.gz", tmp_path / "s/b/ct.nii.gz")
    cases = find_cases(recipe, tmp_path / "s")
    assert [(c.id, c.subject, c.split, bool(c.labels)) for c in cases] == [
        ("x", "0001", "train", True),
        ("y", "0001", "train", False),
        ("z", "z", "extra", False),
    ]
    assert case_of_label(recipe, tmp_path / "s/a/seg.nii.gz") == "x"
    assert case_of_image(recipe, Path("b/ct.nii.gz")) == "y"
    assert case_of_image(recipe, Path("x.nii.gz")) == "x"


@pytest.mark.parametrize("name", ["/etc/a.nii.gz", "../a.nii.gz"])
def test_table_stays_inside_the_source(tmp_path: Path, name: str) -> None:
    recipe = table_recipe(tmp_path / "r", f"x,x,{name},\n")
    (tmp_path / "s").mkdir()
    (case,) = find_cases(recipe, tmp_path / "s")
    assert case.problem.endswith(f"'{name}' leaves the source folder")


@pytest.mark.parametrize(
    ("recipe", "file", "case"),
    [
        ("synapse", "img0001.nii.gz", "0001"),
        ("synapse", "img0001.nii", "0001"),
        ("synapse", "0001.nii.gz", "0001"),
        ("acdc", "patient001_frame01.nii.gz", "patient001_frame01"),
        ("hippocampus", "hippocampus_001.nii.gz", "hippocampus_001"),
        ("totalsegmentator", "s0001.nii.gz", "s0001"),
    ],
)
def test_case_of_an_image_or_prediction(recipe: str, file: str, case: str) -> None:
    assert case_of_image(load_recipe(recipe), Path("any/where") / file) == case


@pytest.mark.parametrize(
    ("recipe", "file", "case"),
    [
        ("synapse", "label0001.nii.gz", "0001"),
        ("synapse", "img0001.nii.gz", None),
        ("acdc", "patient001_frame01_gt.nii.gz", "patient001_frame01"),
        ("acdc", "patient001_frame01.nii.gz", None),
        ("acdc", "patient001_4d.nii.gz", None),
        ("hippocampus", "hippocampus_001.nii.gz", "hippocampus_001"),
        ("hippocampus", "._hippocampus_001.nii.gz", None),
        ("hippocampus", "readme.txt", None),
    ],
)
def test_case_of_a_label(recipe: str, file: str, case: str | None) -> None:
    assert case_of_label(load_recipe(recipe), Path("any/where") / file) == case
