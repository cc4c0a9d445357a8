"""Conversion: what a bad case says, and that neither it nor a killed run costs the others anything."""

import errno
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from sources import AFFINE, SHAPE, voxels_of, write_recipe, write_source, write_volume

from dsnet_med import __version__, files
from dsnet_med.errors import InputError
from dsnet_med.prepare import convert as module
from dsnet_med.prepare import reading
from dsnet_med.prepare.cases import find_cases
from dsnet_med.prepare.convert import CaseResult, convert
from dsnet_med.prepare.doctor import examine_source
from dsnet_med.prepare.doctor_store import examine_store
from dsnet_med.prepare.recipe import Recipe, load_recipe
from dsnet_med.prepare.store import MANIFEST, Store
from dsnet_med.prepare.stored_case import data_file, entry_file
from dsnet_med.processes import in_parallel


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(str(write_recipe(tmp_path / "recipe")))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "store"


def run(recipe: Recipe, source: Path, out: Path, workers: int = 1, **options: Any) -> dict[str, CaseResult]:
    return {result.case: result for result in convert(recipe, source, out, workers=workers, **options)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_manifest_tells_where_everything_came_from(recipe: Recipe, source: Path, out: Path) -> None:
    run(recipe, source, out)
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["tool_version"] == __version__
    assert manifest["recipe"]["label_map"]["6"] == 1
    assert manifest["recipe_hash"] == recipe.hash
    assert manifest["splits"] == {"train": ["0001"], "val": ["0002"], "test": ["0003"], "extra": []}
    assert (manifest["channels"], manifest["intensities"]) == (["image"], [{"window": [-125, 275]}])
    case = manifest["cases"][0]
    assert case["image_files"] == ["img/img0001.nii.gz"]
    assert case["image_sha256"] == [files.sha256(source / "img/img0001.nii.gz")]
    assert case["label_sha256"] == [files.sha256(source / "label/label0001.nii.gz")]
    _, raw = voxels_of(1)
    liver, spleen = int((raw == 6).sum()), int((raw == 1).sum())
    assert case["label_voxels"] == {"background": raw.size - liver - spleen, "liver": liver, "spleen": spleen}


def test_nothing_on_disk_names_this_machine(recipe: Recipe, source: Path, out: Path, tmp_path: Path) -> None:
    (source / "img/img0002.nii.gz").write_text("no volume")
    run(recipe, source, out)
    for name, content in contents(out).items():
        assert str(tmp_path).encode() not in content, name


def test_workers_make_the_same_store(recipe: Recipe, source: Path, out: Path, tmp_path: Path) -> None:
    one, two = run(recipe, source, out), run(recipe, source, tmp_path / "two", workers=2)
    assert set(one) == set(two) == {"0001", "0002", "0003"}
    assert contents(out) == contents(tmp_path / "two")


def _bad_gzip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _nan(path: Path) -> None:
    image = voxels_of(2)[0].astype(np.float32)
    image[0, 0, :2] = np.nan
    write_volume(path, image)


BAD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_bad_gzip, "ended before the end-of-stream marker"),
    "text": (lambda path: path.write_text("hello"), "not a readable NIfTI file"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable NIfTI file"),
    "4-D": (lambda path: write_volume(path, np.zeros((*SHAPE, 2), np.int16)), "is 4-D"),
    "NaN": (_nan, "2 voxels are NaN or infinite"),
    "shape": (lambda path: write_volume(path, np.zeros((3, 3, 3), np.int16)), "differs from (3, 3, 3)"),
}


def _label(change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = AFFINE) -> Callable[[Path], object]:
    return lambda path: write_volume(path, change(voxels_of(2)[1].copy()), affine)


def _strays(label: np.ndarray) -> np.ndarray:
    label = label.astype(np.uint16)
    label.flat[:3], label.flat[3] = 281, 300
    return label


BAD_LABELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "case '0002' has no label file"),
    "strays": (_label(_strays), "label values 281 (3 voxels), 300 (1 voxel) are none of recipe 'tiny'"),
    "all background": (_label(np.zeros_like), "all background"),
    "background only after mapping": (_label(lambda label: np.full_like(label, 9)), "all background"),
    "shape": (_label(lambda label: label[:-1]), "shape (6, 6, 5) differs from (7, 6, 5)"),
    "affine": (
        _label(lambda label: label, AFFINE + np.eye(4)[:, [1, 2, 3, 0]]),
        "affine places voxels elsewhere",
    ),
    "fractions": (_label(lambda label: label + np.float32(0.5)), "whole numbers"),
    "truncated": (_bad_gzip, "ended before the end-of-stream marker"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image_is_one_line_and_stops_no_other(recipe: Recipe, source: Path, out: Path, name: str) -> None:
    spoil, told = BAD_IMAGES[name]
    spoil(source / "img/img0002.nii.gz")
    check_only_0002_failed(recipe, source, out, told)


@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_label_is_one_line_and_stops_no_other(recipe: Recipe, source: Path, out: Path, name: str) -> None:
    spoil, told = BAD_LABELS[name]
    spoil(source / "label/label0002.nii.gz")
    check_only_0002_failed(recipe, source, out, told)


def check_only_0002_failed(recipe: Recipe, source: Path, out: Path, told: str, **options: Any) -> None:
    results = run(recipe, source, out, **options)
    assert [case for case, result in results.items() if result.error is None] == ["0001", "0003"]
    store = Store.open(out)
    assert set(store.cases) == {"0001", "0003"}
    error = str(results["0002"].error)
    assert told in error
    assert "0002" in error
    assert "\n" not in error
    assert told in store.failed["0002"]
    assert not entry_file(out, "0002").exists()
    assert not list(out.rglob("*.partial.*"))


def test_strays_list_is_cut_after_eight(recipe: Recipe, source: Path, out: Path) -> None:
    label = voxels_of(2)[1]
    label.flat[:20] = np.arange(20, 40)
    write_volume(source / "label/label0002.nii.gz", label)
    error = run(recipe, source, out)["0002"].error
    assert error is not None and "27 (1 voxel) and 12 more" in error


@pytest.mark.parametrize("keep", [False, True])
def test_empty_label_maps_are_kept_where_the_recipe_says_so(tmp_path: Path, out: Path, keep: bool) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path / "recipe", allow_empty=keep)))
    source = write_source(tmp_path / "source")
    write_volume(source / "label/label0002.nii.gz", np.zeros(SHAPE, np.uint8))
    error = run(recipe, source, out)["0002"].error
    assert error is None if keep else "allow_empty: true" in str(error)
    if keep:
        assert Store.open(out).cases["0002"].label_voxels == {"background": 210, "liver": 0, "spleen": 0}
        kinds = [
            f.kind for each in (*examine_source(recipe, source), *examine_store(out)) for f in each.findings
        ]
        assert not {"empty label", "missing class"} & set(kinds)


def test_a_misspelt_split_stops_before_anything_is_written(tmp_path: Path, source: Path, out: Path) -> None:
    splits = "subject,split\n1,train\n0002,val\n0003,test\n"
    recipe = load_recipe(str(write_recipe(tmp_path / "recipe", split_list=splits)))
    with pytest.raises(InputError, match=r"names '1' \(did you mean '0001'\?\)"):
        run(recipe, source, out)
    assert not out.exists()


def test_what_is_said_of_source_and_set_is_kept_in_the_manifest(tmp_path: Path, out: Path) -> None:
    splits = "subject,split\n0001,train\n0002,val\n0005,test\n"
    recipe = load_recipe(str(write_recipe(tmp_path / "recipe", split_list=splits)))
    source = write_source(tmp_path / "source")
    (source / "img/img0002.nii.gz").rename(source / "img/img0003.tmp")
    run(recipe, source, out)
    told = [
        (f["severity"], f["kind"], f["message"]) for f in json.loads((out / MANIFEST).read_text())["findings"]
    ]
    assert [each for each in told if each[1] != "fit"] == [
        ("error", "pair", "label/label0002.nii.gz: the label has no image file"),
        ("warning", "source", "2 of the 3 subjects of the split list are not in the source: 0002, 0005"),
        ("warning", "source", "the split list does not name 0003: extra, neither trained nor tested on"),
        ("warning", "split", "no case belongs to test"),
    ]
    again = [f.message for each in examine_store(out) for f in each.findings]
    assert again.count("2 of the 3 subjects of the split list are not in the source: 0002, 0005") == 1
    assert again.count("no case belongs to test") == 1


def test_a_case_with_a_problem_fails_alone_and_can_be_excluded(recipe: Recipe, source: Path, out: Path) -> None:
    write_volume(source / "img/imgA B.nii.gz", voxels_of(9)[0])
    (source / "img/img0002.nii.gz").unlink()
    (source / "img/img0002.nii.gz").symlink_to("gone")
    results = run(recipe, source, out)
    assert [case for case, result in results.items() if result.error is None] == ["0001", "0003"]
    assert "needs letters" in str(results["A B"].error)
    assert "it is a link to gone" in str(results["0002"].error)
    assert set(Store.open(out).failed) == {"0002", "A B"}
    assert set(run(recipe, source, out, exclude=["A B"])) == {"0001", "0002", "0003"}


def test_findings_outlive_the_run_that_made_them(recipe: Recipe, source: Path, out: Path) -> None:
    image = voxels_of(2)[0].clip(0, 255).astype(np.uint8)
    write_volume(source / "img/img0002.nii.gz", image)
    for reused in (False, True):
        assert run(recipe, source, out)["0002"].reused == reused
        (finding,) = Store.open(out).cases["0002"].findings
        assert (finding.severity, finding.kind) == ("error", "intensity")
        found = [f for each in examine_store(out) if each.case == "0002" for f in each.findings]
        assert finding in found


def test_extra_case_needs_no_label(recipe: Recipe, tmp_path: Path, out: Path) -> None:
    source = write_source(tmp_path / "source", ("0001", "0009"))
    (source / "label/label0009.nii.gz").unlink()
    assert run(recipe, source, out)["0009"].error is None
    store = Store.open(out)
    assert (store.cases["0009"].label_files, store.cases["0009"].label_voxels) == ((), {})
    assert not store.read_case("0009")[1].any()


def test_background_value_need_not_be_zero(tmp_path: Path, out: Path) -> None:
    label_map = {"background": 3, "liver": 0, "spleen": [1, 6, 7, 8, 9]}
    recipe = load_recipe(str(write_recipe(tmp_path / "recipe", label_map=label_map)))
    source = write_source(tmp_path / "source", ("0001",))
    _, raw = voxels_of(1)
    raw[:, :, 2] = 0
    raw[:, :, 3] = 3
    write_volume(source / "label/label0001.nii.gz", raw)
    assert run(recipe, source, out)["0001"].error is None
    classes = Store.open(out).read_case("0001")[1]
    assert (classes[2] == 1).all()
    assert not classes[3].any()


def test_finished_cases_are_reused(recipe: Recipe, source: Path, out: Path) -> None:
    run(recipe, source, out)
    before = contents(out)
    stamps = {file: file.stat().st_mtime_ns for file in (out / "cases").iterdir()}
    again = run(recipe, source, out)
    assert all(result.reused for result in again.values())
    assert contents(out) == before
    assert {file: file.stat().st_mtime_ns for file in (out / "cases").iterdir()} == stamps


def test_only_what_changed_is_done_again(recipe: Recipe, source: Path, out: Path) -> None:
    run(recipe, source, out)
    write_volume(source / "img/img0002.nii.gz", voxels_of(77)[0])
    data_file(out, "0003").write_bytes(b"short")
    again = run(recipe, source, out)
    assert {case: result.reused for case, result in again.items()} == {
        "0001": True,
        "0002": False,
        "0003": False,
    }
    assert Store.open(out).cases["0002"].image_sha256 == (files.sha256(source / "img/img0002.nii.gz"),)


def _exchange(first: Path, second: Path) -> None:
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])


def _flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)


def _slope(entry: Path) -> int:
    """Where an entry says by what voxels are multiplied, which no other number can contradict."""
    return entry.read_bytes().index(b'"slope": ') + len(b'"slope": ')


DAMAGES: dict[str, tuple[set[str], Callable[[Path], None]]] = {
    "image": ({"0002"}, lambda cases: _flip(cases / "0002.bin", 5)),
    "label": ({"0002"}, lambda cases: _flip(cases / "0002.bin", -1)),
    "exchanged": ({"0001", "0003"}, lambda cases: _exchange(cases / "0001.bin", cases / "0003.bin")),
    "entry": ({"0002"}, lambda cases: _flip(cases / "0002.json", _slope(cases / "0002.json"))),
    "entries": ({"0001", "0003"}, lambda cases: _exchange(cases / "0001.json", cases / "0003.json")),
    "both": (
        {"0001", "0003"},
        lambda cases: [_exchange(cases / f"0001{e}", cases / f"0003{e}") for e in (".bin", ".json")],
    ),
    "manifest": (set(), lambda cases: _flip(cases.parent / MANIFEST, 60)),
    "its recipe": (
        set(),
        lambda cases: _flip(cases.parent / MANIFEST, (cases.parent / MANIFEST).read_bytes().index(b"tiny")),
    ),
    "appended": ({"0002"}, lambda cases: (cases / "0002.bin").open("ab").write(b"0")),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_made_anew(recipe: Recipe, source: Path, out: Path, name: str) -> None:
    run(recipe, source, out)
    before, (cases, damage) = contents(out), DAMAGES[name]
    damage(out / "cases")
    assert contents(out) != before
    results = run(recipe, source, out)
    assert {case for case, result in results.items() if not result.reused} == cases
    assert contents(out) == before


def test_a_data_file_of_another_recipe_is_made_anew(
    recipe: Recipe, source: Path, out: Path, tmp_path: Path
) -> None:
    run(recipe, source, out)
    before = contents(out)
    other = load_recipe(str(write_recipe(tmp_path / "other", id="other", intensity={"window": [0, 400]})))
    run(other, source, tmp_path / "others")
    for names in (["0002.bin"], ["0002.bin", "0002.json"]):
        for file in names:
            shutil.copy(tmp_path / "others" / "cases" / file, out / "cases" / file)
        assert not run(recipe, source, out)["0002"].reused
        assert contents(out) == before


def test_what_is_hashed_is_what_was_read(
    recipe: Recipe, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not what lay there before, or lies there after."""
    read, read_of = reading.read_image, {}

    def exchanged(path: Path, **options: Any) -> Any:
        write_volume(path, voxels_of(77)[0])
        read_of[path.name] = files.sha256(path)
        volume = read(path, **options)
        write_volume(path, voxels_of(78)[0])
        return volume

    monkeypatch.setattr(reading, "read_image", exchanged)
    stored = run(recipe, source, out)["0002"].stored
    assert stored is not None and stored.image_sha256 == (read_of["img0002.nii.gz"],)
    monkeypatch.undo()
    assert not run(recipe, source, out)["0002"].reused


def test_volumes_without_geometry_are_noted_and_refused_on_demand(
    recipe: Recipe, source: Path, out: Path
) -> None:
    for kind in ("img", "label"):
        path = source / f"{kind}/{kind}0002.nii.gz"
        image = nib.load(path)
        image.header["sform_code"] = image.header["qform_code"] = 0
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), None, image.header), path)
    assert run(recipe, source, out)["0002"].error is None
    for _ in range(2):
        (note,) = Store.open(out).cases["0002"].unstated
        assert any(note in finding.message for each in examine_store(out) for finding in each.findings)
        assert run(recipe, source, out)["0002"].reused
    told = run(recipe, source, out, require_geometry=True)["0002"].error
    assert told is not None and note in told and "leave out --require-geometry" in told
    check_only_0002_failed(recipe, source, out, note, require_geometry=True)


def test_the_voxels_of_a_pair_of_files_are_hashed_too(tmp_path: Path, source: Path, out: Path) -> None:
    rows = [f"{n},{n},img{n}.img,label/label{n}.nii.gz" for n in ("0001", "0002", "0003")]
    keys = {"layout": "table", "cases": "cases.csv", "image": None, "label": None}
    path = write_recipe(tmp_path / "recipe", **keys)
    (path.parent / "cases.csv").write_text("\n".join(["case,subject,image,label", *rows]))
    for case in ("0001", "0002", "0003"):
        nib.save(nib.Nifti1Pair(voxels_of(int(case))[0], AFFINE), source / f"img{case}.img")
    recipe = load_recipe(str(path))
    assert not any(result.error for result in run(recipe, source, out).values())
    _flip(source / "img0002.img", 1)
    assert {case for case, result in run(recipe, source, out).items() if not result.reused} == {"0002"}


def test_a_folder_that_is_written_has_one_owner(
    recipe: Recipe, source: Path, out: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from dsnet_med.files import locked\n"
        "with locked(Path(sys.argv[1]), 'preprocesses into'): print('mine', flush=True); sys.stdin.read()"
    )
    other = [sys.executable, "-c", program, str(out)]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "mine\n"
        with pytest.raises(InputError, match=f"process {owner.pid} on .* preprocesses into") as refused:
            run(recipe, source, out)
        owner.communicate()
    assert "\n" not in str(refused.value) and not (out / "cases").exists()
    run(recipe, source, out)
    assert len(Store.open(out).cases) == 3 and not (out / ".lock").exists()


def test_a_case_that_something_else_replaces_or_removes_meanwhile_is_made_anew(
    recipe: Recipe, source: Path, out: Path, tmp_path: Path
) -> None:
    run(recipe, source, tmp_path / "undisturbed")
    other = load_recipe(str(write_recipe(tmp_path / "other", intensity={"window": [0, 400]})))
    working = convert(recipe, source, out, workers=1)
    for _ in range(3):
        next(working)
    first = next(case for case in find_cases(other, source) if case.id == "0001")
    module.convert_case(other, source, out, first)
    data_file(out, "0003").unlink()
    assert {result.case: result.reused for result in working} == {"0001": False, "0003": False}
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_a_folder_that_is_removed_meanwhile_is_made_anew(recipe: Recipe, source: Path, out: Path) -> None:
    run(recipe, source, out)
    before = contents(out)
    working = convert(recipe, source, out, workers=1)
    next(working)
    shutil.rmtree(out)
    assert [result.error for result in working] == [None] * 3
    assert contents(out) == before


def test_all_is_on_the_disk_before_the_manifest_appears(
    recipe: Recipe, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronised, sync = [], os.fsync

    def fsync(descriptor: int) -> None:
        time.sleep(0.02)  # as a disk takes its time
        synchronised.append((os.fstat(descriptor).st_ino, (out / MANIFEST).exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    run(recipe, source, out)
    before = {inode for inode, finished in synchronised if not finished}
    wanted = [out / "cases", *(out / "cases").iterdir(), out / MANIFEST]
    assert {file.stat().st_ino for file in wanted} <= before
    assert synchronised[-1] == (out.stat().st_ino, True)


def test_changed_recipe_does_everything_again(recipe: Recipe, source: Path, out: Path, tmp_path: Path) -> None:
    run(recipe, source, out)
    other = load_recipe(str(write_recipe(tmp_path / "other", intensity={"window": [-100, 240]})))
    assert not any(result.reused for result in run(other, source, out).values())
    assert Store.open(out).cases["0001"].clip == ((-100, 240),)


def test_reused_case_gets_its_new_split(tmp_path: Path, out: Path) -> None:
    seeded = {"seed": 0, "val": 0.0, "test": 0.34}
    recipe = load_recipe(str(write_recipe(tmp_path / "recipe", splits=seeded)))
    source = write_source(tmp_path / "source", ("0001",))
    run(recipe, source, out)
    assert Store.open(out).cases["0001"].split == "train"
    write_source(source, tuple(f"{n:04d}" for n in range(2, 12)))
    assert run(recipe, source, out)["0001"].reused
    store = Store.open(out)
    assert len(store.cases_of("test")) == round(0.34 * 11)
    assert json.loads(entry_file(out, "0001").read_text())["split"] == store.cases["0001"].split


def test_repaired_case_joins_the_finished_ones(recipe: Recipe, source: Path, out: Path) -> None:
    whole = (source / "img/img0002.nii.gz").read_bytes()
    (source / "img/img0002.nii.gz").write_bytes(whole[:-40])
    run(recipe, source, out)
    (source / "img/img0002.nii.gz").write_bytes(whole)
    again = run(recipe, source, out)
    assert {case: result.reused for case, result in again.items()} == {
        "0001": True,
        "0002": False,
        "0003": True,
    }
    assert Store.open(out).failed == {}


def test_excluded_cases_stay_out(recipe: Recipe, source: Path, out: Path) -> None:
    assert set(run(recipe, source, out, exclude={"0002"})) == {"0001", "0003"}
    assert set(Store.open(out).cases) == {"0001", "0003"}
    with pytest.raises(InputError, match="unknown case to exclude '002': did you mean '0002'"):
        run(recipe, source, out, exclude=["002"])
    with pytest.raises(InputError, match="every case is excluded"):
        run(recipe, source, out, exclude=["0001", "0002", "0003"])


def test_store_of_another_recipe_is_left_alone(recipe: Recipe, source: Path, out: Path, tmp_path: Path) -> None:
    run(recipe, source, out)
    before = contents(out)
    other = load_recipe(str(write_recipe(tmp_path / "other", id="other")))
    with pytest.raises(InputError, match="holds a store of recipe 'tiny', not 'other'"):
        run(other, source, out)
    assert contents(out) == before


@pytest.mark.parametrize("text", ['{"files": 1}', '{"a": 1, "a": 2}', "// no JSON", "[1]"])
def test_a_manifest_of_something_else_is_left_alone(recipe: Recipe, source: Path, out: Path, text: str) -> None:
    out.mkdir()
    (out / MANIFEST).write_text(text)
    with pytest.raises(InputError, match="is there already, and was not written by preprocess"):
        run(recipe, source, out)
    assert (out / MANIFEST).read_text() == text


def test_a_manifest_that_cannot_be_read_is_not_replaced(recipe: Recipe, source: Path, out: Path) -> None:
    (out / MANIFEST).mkdir(parents=True)
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read \(Is a directory\)"):
        run(recipe, source, out)


def test_cases_are_written_to_the_disk_without_a_thread_where_none_may_be_started(
    recipe: Recipe, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    run(recipe, source, out)
    assert len(Store.open(out).cases) == 3


def test_wrong_source_costs_a_finished_store_nothing(
    recipe: Recipe, source: Path, out: Path, tmp_path: Path
) -> None:
    run(recipe, source, out)
    before = contents(out)
    with pytest.raises(InputError, match="no such folder"):
        run(recipe, tmp_path / "typo", out)
    assert contents(out) == before


def test_out_that_is_a_file_is_refused(recipe: Recipe, source: Path, out: Path) -> None:
    out.write_text("in the way")
    with pytest.raises(InputError, match="a file lies where a folder is wanted"):
        run(recipe, source, out)


def test_no_workers_are_refused(recipe: Recipe, source: Path, out: Path) -> None:
    with pytest.raises(InputError, match="0 workers, wanted at least 1"):
        run(recipe, source, out, workers=0)


def test_read_only_folder_is_refused(recipe: Recipe, source: Path, mounted: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="the file system is read-only; choose another folder"):
        run(recipe, source, mounted("ro") / "store")


def test_really_full_disk_keeps_what_is_finished(
    recipe: Recipe, tmp_path: Path, mounted: Callable[[str], Path]
) -> None:
    disk, source = mounted("size=300k"), tmp_path / "source"
    for case in ("0001", "0002", "0003"):
        image, label = voxels_of(int(case), (40, 40, 40))
        write_volume(source / f"img/img{case}.nii.gz", image)
        write_volume(source / f"label/label{case}.nii.gz", label)
    results = run(recipe, source, disk / "store")
    assert [bool(r.error) for r in results.values()] == [False, True, True]
    assert "no space left on the device" in str(results["0002"].error)
    assert list(Store.open(disk / "store").cases) == ["0001"]


def test_unreadable_file_is_one_line(
    recipe: Recipe, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = io.open

    def denied(path: Any, *arguments: Any, **named: Any) -> Any:
        if "img0002" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments, **named)

    monkeypatch.setattr(io, "open", denied)  # by which Path.open opens
    check_only_0002_failed(recipe, source, out, "permission denied; ask its owner")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "not enough memory; close other programs"),
        (KeyError("x"), "unexpected KeyError: 'x'"),
    ],
)
def test_whatever_one_case_meets_stays_with_it(
    recipe: Recipe, source: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    out = source.parent / "store"
    read = reading.read_image

    def fail(path: Path, **options: Any) -> Any:
        if "0002" in path.name:
            raise error
        return read(path, **options)

    monkeypatch.setattr(reading, "read_image", fail)
    results = run(recipe, source, out)
    assert told in str(results["0002"].error)
    assert set(Store.open(out).cases) == {"0001", "0003"}


SCRIPT = """
import sys
from pathlib import Path
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.recipe import load_recipe
if __name__ == "__main__":
    recipe, source, out, workers = sys.argv[1:]
    for result in convert(load_recipe(recipe), Path(source), Path(out), workers=int(workers)):
        print(result.case, flush=True)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_run_leaves_whole_cases_and_no_orphans(
    recipe: Recipe, tmp_path: Path, out: Path, workers: int
) -> None:
    """SIGKILL after the first finished case; then the same command finishes the rest."""
    source = tmp_path / "source"
    cases = [f"{n:04d}" for n in range(1, 9)]
    for case in cases:
        image, label = voxels_of(int(case), (96, 96, 60))
        write_volume(source / f"img/img{case}.nii.gz", image)
        write_volume(source / f"label/label{case}.nii.gz", label)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(recipe.path), str(source), str(out), str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline().strip()
        process.kill()
        process.wait()
        assert first in cases
        assert process.returncode == -signal.SIGKILL
        wait_until(lambda: not alive_in_session(process.pid))
    with pytest.raises(InputError, match="has not ended"):
        Store.open(out)
    finished = [case for case in cases if entry_file(out, case).exists()]
    assert first in finished
    assert len(finished) < len(cases)
    results = run(recipe, source, out)
    assert sorted(case for case, result in results.items() if result.reused) == finished
    assert list(Store.open(out).cases) == cases
    assert not list(out.rglob("*.partial.*"))


def wait_until(condition: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive_in_session(session: int) -> list[int]:
    """Processes of the session that are not yet gone (zombies are)."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,sess=,stat="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, sess, state in rows if int(sess) == session and not state.startswith("Z")]


def _die_on_two(item: int) -> int:
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def test_killed_worker_costs_only_its_own_item() -> None:
    assert dict(in_parallel(_die_on_two, [1, 2, 3], 2)) == {1: 1, 2: None, 3: 9}


def test_killed_worker_is_a_reason(
    recipe: Recipe, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(work: Any, cases: list[Any], workers: int) -> Any:
        yield from ((case, None if case.id == "0002" else work(case)) for case in cases)

    monkeypatch.setattr(module, "in_parallel", killed)
    results = run(recipe, source, out, workers=2)
    assert results["0002"].error == "its process was killed, most likely for want of memory; use fewer workers"
    assert set(Store.open(out).cases) == {"0001", "0003"}


def test_stopping_early_ends_the_workers(recipe: Recipe, source: Path, out: Path) -> None:
    running = convert(recipe, source, out, workers=2)
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()
    assert not (out / MANIFEST).exists()
    assert any(result.reused for result in run(recipe, source, out).values())


def test_store_that_is_being_redone_is_none_until_the_end(recipe: Recipe, source: Path, out: Path) -> None:
    run(recipe, source, out)
    leftover = out / "cases/.99.partial.0001.bin"
    leftover.touch()
    again = convert(recipe, source, out, workers=1)
    next(again)
    assert not leftover.exists()
    with pytest.raises(InputError, match="has not ended"):
        Store.open(out)
    list(again)
    assert len(Store.open(out).cases) == 3


ORIENTATIONS = ["RAS", "LPS", "LAS", "SPR", "ILP", "PSL"]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_of_one_anatomy_is_one_store(recipe: Recipe, tmp_path: Path, codes: str) -> None:
    image, label = voxels_of(1)
    slices = []
    for name, target in (("given", "".join(nib.aff2axcodes(AFFINE))), ("turned", codes)):
        source = tmp_path / name
        for kind, voxels in (("img", image), ("label", label)):
            volume = nib.Nifti1Image(voxels, AFFINE)
            turn = nib.orientations.ornt_transform(
                nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(target)
            )
            turned = volume.as_reoriented(turn)
            write_volume(source / f"{kind}/{kind}0001.nii.gz", np.asarray(turned.dataobj), turned.affine)
        run(recipe, source, tmp_path / f"{name}_store")
        slices.append(Store.open(tmp_path / f"{name}_store").read_case("0001"))
    np.testing.assert_array_equal(slices[0][0], slices[1][0])
    np.testing.assert_array_equal(slices[0][1], slices[1][1])


def test_real_hippocampus_with_two_workers(volumes: Path, out: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
        for file in sorted((volumes / "hippocampus" / folder).glob("*.nii.gz")):
            (source / folder / file.name).symlink_to(file)
    results = run(load_recipe("hippocampus"), source, out, workers=2)
    assert [result.error for result in results.values()] == [None] * 3
    store = Store.open(out)
    for case in store.cases.values():
        image, labels = store.read_case(case.id)
        assert (image.min(), image.std(dtype=np.float64)) == (0, pytest.approx(1, abs=1e-4))
        raw = np.asarray(nib.load(source / case.label_files[0]).dataobj)
        np.testing.assert_array_equal(case.order.to_volume(labels), raw)


def test_real_abdomen_maps_to_the_eight_organs(shared: Path, out: Path, tmp_path: Path) -> None:
    reference = shared / "data/abdomen_ct_totalseg/tests/reference_files"
    source = tmp_path / "source"
    for folder, name in (("images", "example_ct_sm"), ("labels", "example_seg")):
        (source / folder).mkdir(parents=True)
        (source / folder / "s0001.nii.gz").symlink_to(reference / f"{name}.nii.gz")
    assert run(load_recipe("totalsegmentator"), source, out)["s0001"].error is None
    raw = np.asarray(nib.load(reference / "example_seg.nii.gz").dataobj)
    voxels = Store.open(out).cases["s0001"].label_voxels
    assert voxels["liver"] == (raw == 5).sum()
    assert voxels["aorta"] == (raw == 52).sum()
