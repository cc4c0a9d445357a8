"""Cases on disk: every layout is found, ids come back from file names, ambiguity is refused."""

import json
from pathlib import Path

import pytest
from sources import write_recipe, write_source

from dsnet_med.errors import InputError
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
    assert cases[0].label == source / "label/label0001.nii.gz"


def test_synapse_is_found_where_its_archive_unpacks(tmp_path: Path) -> None:
    training = tmp_path / "RawData/Training"
    touch(training / "img/img0005.nii.gz", training / "label/label0005.nii.gz", training / "img/notes.txt")
    (case,) = find_cases(load_recipe("synapse"), tmp_path)
    assert (case.id, case.split, case.label) == ("0005", "train", training / "label/label0005.nii.gz")


def test_missing_label_is_none_and_hidden_files_are_passed_over(tmp_path: Path, tiny: Recipe) -> None:
    touch(tmp_path / "s/img/img0001.nii.gz", tmp_path / "s/img/._img0001.nii.gz")
    (case,) = find_cases(tiny, tmp_path / "s")
    assert case.label is None


def test_uncompressed_volumes_are_found_too(tmp_path: Path, tiny: Recipe) -> None:
    touch(tmp_path / "s/img/img0001.nii", tmp_path / "s/label/label0001.nii")
    (case,) = find_cases(tiny, tmp_path / "s")
    assert (case.image.name, case.label and case.label.name) == ("img0001.nii", "label0001.nii")


def test_labels_beside_the_images_are_no_images(tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path / "r", image="{case}.nii.gz", label="{case}_seg.nii.gz")))
    touch(
        tmp_path / "s/a.nii.gz",
        tmp_path / "s/a_seg.nii.gz",
        tmp_path / "s/b.nii.gz",
        tmp_path / "s/c_seg.nii.gz",
    )
    assert [(case.id, case.label is not None) for case in find_cases(recipe, tmp_path / "s")] == [
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


def test_two_files_of_one_case_are_refused(tmp_path: Path, tiny: Recipe) -> None:
    touch(tmp_path / "s/img/img0001.nii", tmp_path / "s/img/img0001.nii.gz")
    with pytest.raises(InputError, match=r"img0001\.nii and .*img0001\.nii\.gz have one case id, '0001'"):
        find_cases(tiny, tmp_path / "s")


def test_names_that_make_no_file_name_are_refused(tmp_path: Path, tiny: Recipe) -> None:
    touch(tmp_path / "s/img/img a b.nii.gz")
    with pytest.raises(InputError, match="case id ' a b'"):
        find_cases(tiny, tmp_path / "s")


def test_missing_and_empty_sources_are_refused(tmp_path: Path, tiny: Recipe) -> None:
    with pytest.raises(InputError, match="no such folder; give the folder that holds img"):
        find_cases(tiny, tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no img/img\{case\}"):
        find_cases(tiny, tmp_path)


def test_source_one_folder_off_gets_a_hint(tmp_path: Path, tiny: Recipe) -> None:
    write_source(tmp_path / "data/source")
    with pytest.raises(InputError, match=r"give .*data/source instead"):
        find_cases(tiny, tmp_path / "data")
    with pytest.raises(InputError, match="give the folder that holds img"):
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
    assert all(case.label and case.label.name == f"{case.id}_gt.nii.gz" for case in cases)


def test_acdc_frame_without_a_file_keeps_its_place(tmp_path: Path) -> None:
    patient = acdc_patient(tmp_path, 1)
    (patient / "patient001_frame12.nii.gz").unlink()
    (patient / "patient001_frame12_gt.nii.gz").unlink()
    assert [(c.image.is_file(), c.label) for c in find_cases(load_recipe("acdc"), tmp_path)][1] == (False, None)


@pytest.mark.parametrize("text", [None, "ED: 1\n", "ED: one\nES: 2\n"])
def test_acdc_without_its_frames_is_refused(tmp_path: Path, text: str | None) -> None:
    info = acdc_patient(tmp_path, 1) / "Info.cfg"
    info.unlink() if text is None else info.write_text(text)
    with pytest.raises(InputError, match=r"patient001/Info\.cfg: .*(no such file|wanted the lines)"):
        find_cases(load_recipe("acdc"), tmp_path)


def test_decathlon_follows_dataset_json(tmp_path: Path) -> None:
    names = [f"spleen_{n}" for n in range(10)]
    touch(*(tmp_path / f"imagesTr/{name}.nii.gz" for name in names), tmp_path / "imagesTr/._spleen_1.nii.gz")
    touch(*(tmp_path / f"labelsTr/{name}.nii.gz" for name in names[1:]))
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    listed = {"training": training, "test": ["./imagesTs/spleen_77.nii.gz"]}
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    cases = {case.id: case for case in find_cases(load_recipe("decathlon"), tmp_path)}
    assert set(cases) == {*names, "spleen_77"}
    assert (cases["spleen_77"].split, cases["spleen_77"].label) == ("extra", None)
    assert cases["spleen_0"].label is None
    splits = [cases[name].split for name in names]
    assert (splits.count("val"), splits.count("test"), splits.count("train")) == (1, 2, 7)


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ({"training": [{"image": "a.nii.gz"}]}, "wanted training"),
        ({"training": 3}, "wanted training"),
        ({"training": [{"image": "../a.nii.gz", "label": "b.nii.gz"}]}, "leaves the task folder"),
    ],
)
def test_bad_file_lists_are_refused(tmp_path: Path, listed: dict[str, object], told: str) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match=told):
        find_cases(load_recipe("decathlon"), tmp_path)


@pytest.mark.parametrize(("recipe", "folder"), [("hippocampus", "imagesTr"), ("totalsegmentator", "images")])
def test_hidden_files_are_no_cases(tmp_path: Path, recipe: str, folder: str) -> None:
    touch(tmp_path / folder / "a.nii.gz", tmp_path / folder / "._a.nii.gz")
    assert [case.id for case in find_cases(load_recipe(recipe), tmp_path)] == ["a"]


def test_decathlon_folders_serve_without_dataset_json(shared: Path) -> None:
    cases = find_cases(load_recipe("hippocampus"), shared / "data/hippocampus")
    splits = [case.split for case in cases]
    assert [splits.count(split) for split in ("train", "val", "test", "extra")] == [112, 16, 32, 0]
    assert all(case.label and case.label.name == case.image.name for case in cases)


def test_table_names_every_file(tmp_path: Path) -> None:
    recipe = table_recipe(
        tmp_path / "r", "x,0001,a/ct.nii.gz,a/seg.nii.gz\ny,0001,b/ct.nii.gz,\nz,,c.nii.gz,c_.nii.gz\n"
    )
    touch(tmp_path / "s/a/ct.nii.gz", tmp_path / "s/a/seg.nii.gz", tmp_path / "s/b/ct.nii.gz")
    cases = find_cases(recipe, tmp_path / "s")
    assert [(c.id, c.subject, c.split, c.label is not None) for c in cases] == [
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
    with pytest.raises(InputError, match="leaves the source folder"):
        find_cases(recipe, tmp_path / "s")


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
