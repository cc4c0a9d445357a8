"""Many cases: failures do not spread, finished work is kept, files are whole and the same every time."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import made
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tiny
from PIL import Image
from scipy.spatial.transform import Rotation

from dsnet_med.dicom.read import read_series
from dsnet_med.errors import InputError
from dsnet_med.inference import Predictor
from dsnet_med.inference.outputs import Outputs
from dsnet_med.inference.segment import Choice, Segmented, segment_cases
from dsnet_med.inference.sidecar import input_of
from dsnet_med.inference.sources import find_sources, load
from dsnet_med.methods import build_network

ALL = Outputs(("nifti",), probabilities=True, statistics=True, preview=True)


def _run(
    images: Path, out: Path, outputs: Outputs | None = None, predictor: Predictor | None = None
) -> dict[str, Segmented]:
    sources = find_sources([images])
    results = segment_cases(predictor or tiny.predictor(), sources, out, outputs or Outputs())
    return {result.case: result for result in results}


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_files_keep_their_grid(tmp_path: Path) -> None:
    voxels, affine = tiny.volume()
    affine[:3, :3] = Rotation.from_euler("xyz", [11, -7, 5], degrees=True).as_matrix() @ affine[:3, :3]
    image = nib.Nifti1Image((voxels * 10).astype(np.int16), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "a.nii.gz")
    assert _run(tmp_path / "a.nii.gz", tmp_path / "out")["a"].error is None
    mask = nib.load(tmp_path / "out" / "a.nii.gz")
    assert mask.shape == image.shape
    np.testing.assert_array_equal(mask.affine, nib.load(tmp_path / "a.nii.gz").affine)
    for field in ("sform_code", "qform_code", "pixdim", "xyzt_units"):
        np.testing.assert_array_equal(mask.header[field], nib.load(tmp_path / "a.nii.gz").header[field])
    assert mask.get_data_dtype() == np.uint8


def test_what_is_written_of_a_case(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "ab")
    results = _run(tmp_path / "in", tmp_path / "out", ALL)
    assert [result.error for result in results.values()] == [None, None]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [f"{case}{ending}" for case in "ab" for ending in (".json", ".nii.gz", ".npz", ".png")]
        + ["labels.json", "run.json", "statistics.csv"]
    )
    mask = tiny.predictor().predict(tmp_path / "in" / "a.nii.gz", probabilities=True)
    np.testing.assert_array_equal(nib.load(tmp_path / "out" / "a.nii.gz").dataobj, mask)
    with np.load(tmp_path / "out" / "a.npz") as held:
        np.testing.assert_array_equal(held["probabilities"], mask.probabilities)
        assert held["probabilities"].dtype == np.float16
        assert held["class_names"].tolist() == list(tiny.CLASSES)
        np.testing.assert_array_equal(held["affine"], mask.affine)
    picture = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert picture.shape[2] == 3
    assert (picture.max(axis=2) - picture.min(axis=2) > 60).mean() > 0.1  # organs in colour
    sidecar = json.loads((tmp_path / "out" / "a.json").read_text())
    assert sidecar["labels"] == {"0": "background", "1": "a", "2": "b", "3": "c"}
    assert sidecar["grid"]["orientation"] == "RAS"
    rows = list(csv.DictReader((tmp_path / "out" / "statistics.csv").open()))
    assert [row["case"] for row in rows] == ["a"] * 3 + ["b"] * 3
    voxels, _ = tiny.volume(0)
    for row in rows[:3]:
        inside = mask.voxels == int(row["label"])
        assert int(row["voxels"]) == inside.sum() == sidecar["statistics"][row["name"]]["voxels"]
        assert float(row["volume_ml"]) == pytest.approx(inside.sum() * 0.8 * 0.9 * 3 / 1000, abs=1e-4)
        if inside.any():
            assert float(row["mean_intensity"]) == pytest.approx(voxels[inside].mean(), abs=1e-3)


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "ac")
    (tmp_path / "in" / "b.nii.gz").write_text("not a volume")
    results = _run(tmp_path / "in", tmp_path / "out", ALL)
    assert results["a"].error is None
    assert results["c"].error is None
    assert "b.nii.gz" in str(results["b"].error)
    assert not list((tmp_path / "out").glob("b.*"))
    assert len(list(csv.DictReader((tmp_path / "out" / "statistics.csv").open()))) == 6


def test_a_failure_of_any_kind_is_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_images(tmp_path / "in", "abc")
    predictor = tiny.predictor()
    segment = predictor.segment

    def failing(channels, *rest):  # type: ignore[no-untyped-def]
        if channels[0].path.name == "b.nii.gz":
            raise RuntimeError("a bug\nof two lines")
        return segment(channels, *rest)

    monkeypatch.setattr(predictor, "segment", failing)
    results = _run(tmp_path / "in", tmp_path / "out", predictor=predictor)
    assert [case for case, result in results.items() if result.error] == ["b"]
    assert str(results["b"].error).endswith("b.nii.gz: RuntimeError: a bug of two lines")


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    tiny.write_images(tmp_path, "a")
    before = _digests(tmp_path)
    with pytest.raises(InputError, match="overwritten"):
        list(segment_cases(tiny.predictor(), find_sources([tmp_path / "a.nii.gz"]), tmp_path))
    assert _digests(tmp_path) == before


def test_finished_cases_are_kept_and_the_rest_is_done(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "abc")
    _run(tmp_path / "in", tmp_path / "out", ALL)
    whole = _digests(tmp_path / "out")
    assert all(result.kept for result in _run(tmp_path / "in", tmp_path / "out", ALL).values())
    for missing in ("a.nii.gz", "b.npz", "c.png", "a.json"):
        case = missing[0]
        (tmp_path / "out" / missing).unlink()
        if missing == "a.json":  # a mask that nobody vouches for
            assert "was not written by infer" in str(_run(tmp_path / "in", tmp_path / "out", ALL)["a"].error)
            for left in (tmp_path / "out").glob("a.*"):
                left.unlink()
        results = _run(tmp_path / "in", tmp_path / "out", ALL)
        assert [name for name, result in results.items() if not result.kept] == [case]
        assert _digests(tmp_path / "out") == whole


def test_more_outputs_asked_for_later_are_made(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    _run(tmp_path / "in", tmp_path / "out")
    assert not _run(tmp_path / "in", tmp_path / "out", ALL)["a"].kept
    assert (tmp_path / "out" / "a.png").is_file()


@pytest.mark.parametrize(
    ("what", "predictor", "seed"),
    [
        ("by another model", tiny.predictor(fingerprints=("other",)), 0),
        ("with other settings", tiny.predictor(mirror=True), 0),
        ("of another input", tiny.predictor(), 9),
    ],
)
def test_other_peoples_masks_are_not_replaced_unasked(
    what: str, predictor: Predictor, seed: int, tmp_path: Path
) -> None:
    tiny.write_images(tmp_path / "in", "a")
    _run(tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out" / "a.nii.gz").read_bytes()
    nib.save(nib.Nifti1Image(*tiny.volume(seed)), tmp_path / "in" / "a.nii.gz")
    assert what in str(_run(tmp_path / "in", tmp_path / "out", predictor=predictor)["a"].error)
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == before
    again = _run(tmp_path / "in", tmp_path / "out", Outputs(overwrite=True), predictor)["a"]
    assert (again.error, again.kept) == (None, False)
    assert _run(tmp_path / "in", tmp_path / "out", predictor=predictor)["a"].kept


def test_a_mask_from_elsewhere_is_not_replaced(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"days of work")
    assert "was not written by infer" in str(_run(tmp_path / "in", tmp_path / "out")["a"].error)
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == b"days of work"


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    _run(tmp_path / "in", tmp_path / "clean")
    (tmp_path / "out").mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "out" / f".{dead.pid}.partial.0a1b2c3d.gz").write_bytes(b"half")
    (tmp_path / "out" / f".{dead.pid}.partial.0a1b2c3d").mkdir()
    (tmp_path / "out" / f".{dead.pid}.partial.0a1b2c3d" / "a.nii.gz").write_bytes(b"half")
    shutil.copy(tmp_path / "clean" / "a.json", tmp_path / "out")  # the first to be moved into place
    _run(tmp_path / "in", tmp_path / "out")
    assert _digests(tmp_path / "out") == _digests(tmp_path / "clean")


def test_formats() -> None:
    with pytest.raises(InputError, match="did you mean 'nifti'"):
        Outputs(("nift",))
    with pytest.raises(InputError, match="got no format"):
        Outputs(())


def test_a_dicom_segmentation_of_what_is_not_dicom(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    assert "is no DICOM series" in str(
        _run(tmp_path / "in", tmp_path / "out", Outputs(("dicom-seg",)))["a"].error
    )


def test_the_chosen_volume(tmp_path: Path) -> None:
    voxels, affine = tiny.volume()
    (tmp_path / "in").mkdir()
    stack = np.stack([voxels, voxels[::-1]], axis=3)
    nib.save(nib.Nifti1Image(stack, affine), tmp_path / "in" / "a.nii.gz")
    assert "--volume-index 0 to 1" in str(_run(tmp_path / "in", tmp_path / "no")["a"].error)
    sources = find_sources([tmp_path / "in"])
    results = list(segment_cases(tiny.predictor(), sources, tmp_path / "out", choice=Choice(volume_index=1)))
    assert [result.error for result in results] == [None]
    mask = nib.load(tmp_path / "out" / "a.nii.gz")
    assert mask.shape == voxels.shape
    np.testing.assert_array_equal(mask.dataobj, tiny.predictor().predict(stack[..., 1], affine))


@pytest.mark.parametrize("shape", [(28, 22, 1), (1, 22, 12), (5, 4, 3), (1, 1, 1)])
@pytest.mark.parametrize("slice_axis", ["superior", "coarsest"])
def test_thin_and_tiny_volumes(shape: tuple[int, int, int], slice_axis: str, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(voxels, np.diag((0.8, 0.9, 3, 1))), tmp_path / "in" / "a.nii")
    predictor = tiny.predictor(slice_axis=slice_axis)
    assert _run(tmp_path / "in", tmp_path / "out", ALL, predictor)["a"].error is None
    assert nib.load(tmp_path / "out" / "a.nii.gz").shape == shape


def _files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


def _other(**changes: object) -> Predictor:
    return tiny.predictor(tiny.model(seed=4), fingerprints=("other",), **changes)


def test_no_output_of_another_model_survives_beside_a_new_one(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    out, only = tmp_path / "out", Outputs(("nifti",))
    _run(tmp_path / "in", out, Outputs(probabilities=True))
    (out / "a.nii.gz").unlink()  # as after a kill between the two
    assert "by another model" in str(_run(tmp_path / "in", out, only, _other())["a"].error)
    assert _run(tmp_path / "in", out, Outputs(overwrite=True), _other())["a"].error is None
    assert not (out / "a.npz").exists()
    again = _run(tmp_path / "in", out, Outputs(probabilities=True), _other())["a"]
    assert (again.error, again.kept) == (None, False)
    _run(tmp_path / "in", tmp_path / "clean", Outputs(probabilities=True), _other())
    assert _files(out) == _files(tmp_path / "clean")


def test_probabilities_do_not_change_a_mask(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    _run(tmp_path / "in", tmp_path / "out")
    mask = (tmp_path / "out" / "a.nii.gz").read_bytes()
    _run(tmp_path / "in", tmp_path / "out", ALL)
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == mask
    results = _run(tmp_path / "in", tmp_path / "out")  # the rest stays, and is still vouched for
    assert results["a"].kept
    assert set(json.loads((tmp_path / "out" / "a.json").read_text())["files"]) == {".nii.gz", ".npz", ".png"}


def test_a_mask_that_was_corrected_by_hand_is_kept(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    _run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"corrected")
    assert "was changed since" in str(_run(tmp_path / "in", tmp_path / "out")["a"].error)
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == b"corrected"


@pytest.mark.parametrize("ending", [".json", ".png", ".npz", ".nii.gz"])
def test_nobodys_files_are_replaced_unasked(ending: str, tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"a{ending}").write_text("{}")
    assert "was not written by infer" in str(_run(tmp_path / "in", tmp_path / "out", ALL)["a"].error)
    assert (tmp_path / "out" / f"a{ending}").read_text() == "{}"


def test_overwriting_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("mine")
    _run(tmp_path / "in", tmp_path / "out", Outputs(overwrite=True))
    assert (tmp_path / "out" / "a.png").read_text() == "mine"


def test_overwriting_fails_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_images(tmp_path / "in", "a")
    _run(tmp_path / "in", tmp_path / "out")
    before = _files(tmp_path / "out")

    def full(*_: object) -> None:
        raise InputError("no space left")

    monkeypatch.setattr("dsnet_med.inference.outputs.write_preview", full)
    assert _run(tmp_path / "in", tmp_path / "out", Outputs(preview=True, overwrite=True), _other())["a"].error
    assert _files(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.json", '{"0": "background", "1": "heart"}', "names other classes"),
        ("labels.json", "[", "names other classes"),
        ("run.json", '{"mine": 1}', "was not written by infer"),
        ("statistics.csv", "a,b\n", "was not written by infer"),
    ],
)
def test_a_folder_with_other_labels_is_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    with pytest.raises(InputError, match=message):
        _run(tmp_path / "in", tmp_path / "out", ALL)
    assert (tmp_path / "out" / name).read_text() == content
    assert len(list((tmp_path / "out").iterdir())) == 1
    _run(tmp_path / "in", tmp_path / "out", Outputs(overwrite=True, statistics=True))
    assert (tmp_path / "out" / name).read_text() != content


def test_an_input_that_a_link_leads_to_is_not_overwritten(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "out", "a")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.nii.gz").symlink_to(tmp_path / "out" / "a.nii.gz")
    with pytest.raises(InputError, match="could be overwritten"):
        _run(tmp_path / "links", tmp_path / "out", Outputs(overwrite=True))


def test_changed_voxels_of_two_file_volumes_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, write in {
        "a.img": lambda v, path: nib.save(nib.Nifti1Pair(v, np.eye(4)), path),
        "b.nhdr": lambda v, path: sitk.WriteImage(sitk.GetImageFromArray(v.T), str(path)),
        "c.mhd": lambda v, path: sitk.WriteImage(sitk.GetImageFromArray(v.T), str(path)),
    }.items():
        write(tiny.volume(0)[0], tmp_path / "in" / name)
    first = _run(tmp_path / "in", tmp_path / "out")
    assert [result.error for result in first.values()] == [None] * 3
    assert all(result.kept for result in _run(tmp_path / "in", tmp_path / "out").values())
    for voxels in [*(tmp_path / "in").glob("*.img"), *(tmp_path / "in").glob("*.raw*")]:
        content = bytearray(voxels.read_bytes())
        content[-40] ^= 1
        voxels.write_bytes(content)
    again = _run(tmp_path / "in", tmp_path / "out")
    assert all(result.error for result in again.values())
    assert "of another input" in str(again["a"].error)


def test_volumes_on_a_sheared_grid(tmp_path: Path) -> None:
    voxels, affine = tiny.volume()
    affine[0, 2] = 2.0  # slices lean; edges grow, the volume of a voxel does not
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    _run(tmp_path / "a.nii.gz", tmp_path / "out", Outputs(statistics=True))
    rows = list(csv.DictReader((tmp_path / "out" / "statistics.csv").open()))
    for row in rows:
        assert float(row["volume_ml"]) == pytest.approx(int(row["voxels"]) * 0.8 * 0.9 * 3 / 1000, abs=1e-4)


def test_statistics_are_of_all_masks_in_the_folder(tmp_path: Path) -> None:
    a, b = tiny.write_images(tmp_path / "in", "ab")
    _run(a, tmp_path / "out", Outputs(statistics=True))
    _run(b, tmp_path / "out", Outputs(statistics=True))
    rows = list(csv.DictReader((tmp_path / "out" / "statistics.csv").open()))
    assert [row["case"] for row in rows] == ["a"] * 3 + ["b"] * 3


def test_another_process_may_write_beside(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    (tmp_path / "out").mkdir()
    theirs = tmp_path / "out" / f".{os.getppid()}.partial.0a1b2c3d.gz"
    theirs.write_bytes(b"being written")
    (tmp_path / "out" / ".x.partial.y").mkdir()
    _run(tmp_path / "in", tmp_path / "out")
    assert theirs.read_bytes() == b"being written"


def test_long_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    name = "n" * 240
    nib.save(nib.Nifti1Image(*tiny.volume()), tmp_path / "in" / "a.nii.gz")
    (tmp_path / "in" / "a.nii.gz").rename(tmp_path / "in" / f"{name}.nii.gz")
    assert _run(tmp_path / "in", tmp_path / "out", ALL)[name].error is None


def test_a_disk_too_small_for_probabilities_is_one_case(tmp_path: Path, mounted: Callable[[str], Path]) -> None:
    (tmp_path / "in").mkdir()
    tiny.write_images(tmp_path / "in", "a")
    noise = np.random.default_rng(0).normal(size=(160, 160, 60)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "in" / "z.nii.gz")
    results = _run(tmp_path / "in", mounted("size=3m"), Outputs(probabilities=True))
    assert results["a"].error is None
    assert "no space left" in str(results["z"].error)


def test_progress_adds_up(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "ab")
    shares: dict[str, list[float]] = {"a": [], "b": []}
    sources = find_sources([tmp_path / "in"])
    list(segment_cases(tiny.predictor(), sources, tmp_path / "out", progress=lambda c, s: shares[c].append(s)))
    for parts in shares.values():
        assert len(parts) == 3  # twelve slices, four at a time
        assert sum(parts) == pytest.approx(1)


def _vouching(case: str, **files: object) -> str:
    """A sidecar of the right form for a case."""
    form: dict[str, object] = {"labels": {}, "input": {}, "model": [], "settings": {}}
    return json.dumps({"case": case, **form, "files": files})


@pytest.mark.parametrize(
    "content",
    [
        _vouching("a", **{"_notes.txt": "x", "/../../victim.txt": "y"}),
        _vouching("a", **{".nii.gz": 3}),
        _vouching("b", **{".nii.gz": "x"}),
        json.dumps({"files": {}, "my": "notes"}),
        json.dumps({"case": "a", "files": {"raw": "x"}}),
        "[" * 100_000,
        "\ud800",
    ],
)
def test_json_files_that_are_no_sidecars(content: str, tmp_path: Path) -> None:
    """They are somebody's, and lead to no other file."""
    tiny.write_images(tmp_path / "in", "a")
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (tmp_path / "victim.txt").write_text("mine")
    (out / "a_notes.txt").write_text("mine")
    for name in ("a", "dataset"):
        (out / f"{name}.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    before = (out / "a.json").read_bytes()
    assert "was not written by infer" in str(_run(tmp_path / "in", out, ALL)["a"].error)
    assert (out / "a.json").read_bytes() == before
    _run(tmp_path / "in", out, Outputs(statistics=True, overwrite=True))
    assert (tmp_path / "victim.txt").read_text() == (out / "a_notes.txt").read_text() == "mine"
    assert len(list(csv.DictReader((out / "statistics.csv").open()))) == 3


def test_copies_of_sidecars_and_changed_masks_do_not_count(tmp_path: Path) -> None:
    a, b = tiny.write_images(tmp_path / "in", "ab")
    out, statistics = tmp_path / "out", Outputs(statistics=True)
    _run(a, out, statistics)
    shutil.copy(out / "a.json", out / "a_backup.json")
    _run(a, out, statistics)
    assert len(list(csv.DictReader((out / "statistics.csv").open()))) == 3
    (out / "a.nii.gz").write_bytes(b"corrected by hand")
    _run(b, out, statistics)
    assert {row["case"] for row in csv.DictReader((out / "statistics.csv").open())} == {"b"}


def test_what_is_not_a_file_in_the_folder(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "ab")
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / "pipe.json")
    (out / "a.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")  # a mask that has not been fetched
    results = _run(tmp_path / "in", out)
    assert "was not written by infer" in str(results["a"].error)
    assert (out / "a.nii.gz").is_symlink()
    assert results["b"].error is None


def test_a_hand_made_preview_survives_another_model(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    _run(tmp_path / "in", tmp_path / "out", Outputs(preview=True))
    (tmp_path / "out" / "a.png").write_text("edited")
    _run(tmp_path / "in", tmp_path / "out", Outputs(overwrite=True), _other())
    assert (tmp_path / "out" / "a.png").read_text() == "edited"


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_stopped_while_overwriting(moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has been moved into place, no old file lies beside a new sidecar."""
    tiny.write_images(tmp_path / "in", "a")
    out, both = tmp_path / "out", Outputs(preview=True)
    _run(tmp_path / "in", out, both)
    replace, done = Path.replace, []

    def stopping(self: Path, target: Path) -> Path:
        if target.parent == out and target.name.startswith("a."):
            if len(done) == moved:
                raise OSError(5, "stopped")
            done.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stopping)
    assert _run(tmp_path / "in", out, Outputs(preview=True, overwrite=True), _other())["a"].error
    monkeypatch.undo()
    assert _run(tmp_path / "in", out, both, _other())["a"].error is None
    _run(tmp_path / "in", tmp_path / "clean", both, _other())
    assert _files(out) == _files(tmp_path / "clean")


def test_names_too_long_to_write(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(*tiny.volume()), tmp_path / "in" / "a.nii")
    name = "n" * 251
    (tmp_path / "in" / "a.nii").rename(tmp_path / "in" / f"{name}.nii")
    assert "its name is too long for a file" in str(_run(tmp_path / "in", tmp_path / "out")[name].error)


def test_probabilities_take_batches_of_the_same_size() -> None:
    voxels = np.random.default_rng(0).normal(50, 200, (64, 64, 40)).astype(np.float32)
    network = build_network("fcn", num_classes=4, width=0.125, backbone={"layers": [1, 1, 1, 1]}).eval()
    predictor = tiny.predictor(tiny.model(net=network), batch_size=None)
    plain = predictor.predict(voxels, np.eye(4))
    np.testing.assert_array_equal(plain, predictor.predict(voxels, np.eye(4), probabilities=True).voxels)


def test_a_foreign_mask_beside_the_sidecar_of_another_model(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    _run(tmp_path / "in", tmp_path / "out", Outputs(preview=True), _other())
    (tmp_path / "out" / "a.png").unlink()
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"drawn by hand")
    assert "by another model" in str(_run(tmp_path / "in", tmp_path / "out")["a"].error)
    sidecar = json.loads((tmp_path / "out" / "a.json").read_text())
    (tmp_path / "out" / "a.json").write_text(json.dumps(sidecar | {"files": {}}))
    assert _run(tmp_path / "in", tmp_path / "out")["a"].error
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == b"drawn by hand"


def test_the_hash_of_an_input_is_that_of_its_file(tmp_path: Path) -> None:
    (a,) = tiny.write_images(tmp_path / "in", "a")
    nib.save(nib.Nifti1Pair(tiny.volume(1)[0], np.eye(4)), tmp_path / "in" / "b.img")
    _run(tmp_path / "in", tmp_path / "out")
    one, two = (json.loads((tmp_path / "out" / f"{case}.json").read_text())["input"] for case in "ab")
    listed = dict(reversed(line.split()) for line in _sha256sum(a, *sorted((tmp_path / "in").glob("b.*"))))
    assert one == {"files": 1, "sha256": listed["a.nii.gz"]}
    assert two == {"files": 2, "sha256": {name: listed[name] for name in ("b.hdr", "b.img")}}


def _sha256sum(*files: Path) -> list[str]:
    return subprocess.check_output(
        ["sha256sum", *(f.name for f in files)], cwd=files[0].parent, text=True
    ).splitlines()


def test_sidecars_of_earlier_versions_still_vouch(tmp_path: Path) -> None:
    """They held the hash of the files' hashes."""
    tiny.write_images(tmp_path / "in", "a")
    nib.save(nib.Nifti1Pair(tiny.volume(1)[0], np.eye(4)), tmp_path / "in" / "b.img")
    _run(tmp_path / "in", tmp_path / "out")
    for case, files in {"a": ["a.nii.gz"], "b": ["b.hdr", "b.img"]}.items():
        sidecar = json.loads((tmp_path / "out" / f"{case}.json").read_text())
        each = "".join(hashlib.sha256((tmp_path / "in" / name).read_bytes()).hexdigest() for name in files)
        sidecar["input"] = {"files": len(files), "sha256": hashlib.sha256(each.encode()).hexdigest()}
        del sidecar["seal"]
        (tmp_path / "out" / f"{case}.json").write_text(json.dumps(sidecar))
    assert all(result.kept for result in _run(tmp_path / "in", tmp_path / "out").values())
    again = _run(tmp_path / "in", tmp_path / "out", Outputs(preview=True))
    assert [result.error for result in again.values()] == [None, None]
    assert isinstance(json.loads((tmp_path / "out" / "b.json").read_text())["input"]["sha256"], dict)
    nib.save(nib.Nifti1Image(*tiny.volume(9)), tmp_path / "in" / "a.nii.gz")
    assert "of another input" in str(_run(tmp_path / "in", tmp_path / "out")["a"].error)


# ---------------------------------------------------------------- formats of which one is impossible


BOTH = Outputs(("nifti", "dicom-seg"))


@pytest.mark.parametrize(
    ("attributes", "line"),
    [
        ({}, "has no FrameOfReferenceUID"),
        ({"FrameOfReferenceUID": ""}, "has no FrameOfReferenceUID"),
        ({"FrameOfReferenceUID": "1.2.9", "StudyInstanceUID": ""}, "has no StudyInstanceUID"),
        ({"FrameOfReferenceUID": "1.2.9", "SeriesInstanceUID": ""}, "has no SeriesInstanceUID"),
    ],
)
def test_a_mask_stays_where_only_its_segmentation_is_impossible(
    attributes: dict[str, object], line: str, tmp_path: Path
) -> None:
    made.write(tmp_path / "ct", made.images(4, **({"StudyInstanceUID": "1.2.1"} | attributes)))
    done = _run(tmp_path / "ct", tmp_path / "out", BOTH)["ct"]
    assert line in str(done.error)
    assert str(done.error).endswith("(no DICOM segmentation; the other files of the case are written)")
    assert done.written
    assert sorted(_digests(tmp_path / "out")) == ["ct.json", "ct.nii.gz", "labels.json", "run.json"]
    assert list(json.loads((tmp_path / "out" / "ct.json").read_text())["files"]) == [".nii.gz"]
    assert _run(tmp_path / "ct", tmp_path / "out", BOTH)["ct"].error == done.error
    assert _run(tmp_path / "ct", tmp_path / "out")["ct"].kept


@pytest.mark.parametrize("name", ["SeriesInstanceUID", "FrameOfReferenceUID"])
def test_series_of_several_identities_keep_their_mask(name: str, tmp_path: Path) -> None:
    torn = made.images(4, StudyInstanceUID="1.2.1", FrameOfReferenceUID="1.2.9")
    for k, one in enumerate(torn):
        setattr(one, name, f"1.3.{k}")
    made.write(tmp_path / "ct", torn)
    done = _run(tmp_path / "ct", tmp_path / "out", BOTH)["ct"]
    assert f"differ in {name} (1.3.0, 1.3.1, 1.3.2)" in str(done.error)
    assert nib.load(tmp_path / "out" / "ct.nii.gz").shape == (8, 6, 4)


def test_a_segmentation_of_a_nifti_file_is_a_failure_beside_its_mask(tmp_path: Path) -> None:
    [path] = tiny.write_images(tmp_path / "in", "a")
    done = _run(path, tmp_path / "out", BOTH)["a"]
    assert "is no DICOM series" in str(done.error)
    assert done.written
    assert (tmp_path / "out" / "a.nii.gz").is_file()


def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    [path] = tiny.write_images(tmp_path / "in", "a")
    made.write(tmp_path / "ct", made.images(4))
    (tmp_path / "bad.nii.gz").write_text("no volume")
    (tmp_path / "there").mkdir()
    for source, outputs in (
        (path, Outputs(("dicom-seg",))),
        (tmp_path / "ct", Outputs(("dicom-seg",))),
        (tmp_path / "bad.nii.gz", Outputs(statistics=True)),
    ):
        for out in ("new", "there"):
            [done] = _run(source, tmp_path / out, outputs).values()
            assert done.error is not None
            assert not done.written
        assert list((tmp_path / "there").iterdir()) == []
        assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- what is reported is what is there


def _removing(out: Path, names: Sequence[str]) -> Callable[[str, float], None]:
    """Removes files of finished cases when the last case is being segmented."""

    def progress(case: str, _share: float) -> None:
        if case == "c":
            for name in names:
                (out / name).unlink(missing_ok=True)

    return progress


@pytest.mark.parametrize("name", ["a.json", "a.png"])
def test_a_case_that_is_lost_while_others_are_done_is_told(name: str, tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "abc")
    out = tmp_path / "out"
    results = segment_cases(
        tiny.predictor(),
        find_sources([tmp_path / "in"]),
        out,
        Outputs(preview=True),
        progress=_removing(out, [name]),
    )
    *ended, last = results
    assert [result.error for result in ended] == [None] * 3
    assert last.lost
    assert last.error == f"{out / name} was removed or changed while infer worked; run the same command again"
    again = _run(tmp_path / "in", out, Outputs(preview=True))
    assert [(result.case, result.kept) for result in again.values()] == [("a", False), ("b", True), ("c", True)]


def test_a_mask_that_is_changed_while_others_are_done_is_lost(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "abc")
    out = tmp_path / "out"

    def progress(case: str, _share: float) -> None:
        if case == "c":
            (out / "a.nii.gz").write_bytes(b"another")

    *_, last = segment_cases(
        tiny.predictor(), find_sources([tmp_path / "in"]), out, Outputs(), progress=progress
    )
    assert (last.case, last.lost) == ("a", True)


def test_an_input_that_is_exchanged_has_the_hash_of_what_was_segmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exchanged after everything that looks at it before it is read."""
    (path,) = tiny.write_images(tmp_path / "in", "a")
    nib.save(nib.Nifti1Image(*tiny.volume(7)), tmp_path / "other.nii.gz")
    new = (tmp_path / "other.nii.gz").read_bytes()

    def exchanging(*arguments: Any, **options: Any) -> Any:
        path.write_bytes(new)
        return load(*arguments, **options)

    monkeypatch.setattr("dsnet_med.inference.channels.load", exchanging)
    assert _run(tmp_path / "in", tmp_path / "out")["a"].error is None
    sidecar = json.loads((tmp_path / "out" / "a.json").read_text())
    assert sidecar["input"]["sha256"] == hashlib.sha256(new).hexdigest()
    mask = nib.load(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(mask.dataobj, tiny.predictor().predict(path))


def test_a_series_that_is_exchanged_while_it_is_read_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.write(tmp_path / "in" / "ct", made.images())

    def exchanging(*arguments: Any) -> Any:
        volume = read_series(*arguments)
        file = next((tmp_path / "in" / "ct").iterdir())
        file.write_bytes(file.read_bytes() + bytes(2))
        return volume

    monkeypatch.setattr("dsnet_med.dicom.read.read_series", exchanging)
    assert "changed while it was read" in str(_run(tmp_path / "in", tmp_path / "out")["ct"].error)
    assert not (tmp_path / "out" / "ct.nii.gz").exists()


def test_files_of_one_name_in_several_folders_are_told_apart() -> None:
    files = {Path("s/1/IM0"): "x", Path("s/2/IM0"): "y", Path("s/2/IM1"): "z"}
    assert input_of(files) == {"files": 3, "sha256": {"1/IM0": "x", "2/IM0": "y", "IM1": "z"}}


# ---------------------------------------------------------------- geometry that no header states


def test_geometry_that_is_a_guess(tmp_path: Path) -> None:
    voxels, _ = tiny.volume()
    (tmp_path / "in").mkdir()
    image = sitk.GetImageFromArray(voxels.T)
    image.SetSpacing((0.8, 0.8, 3))
    sitk.WriteImage(image, str(tmp_path / "in" / "a.mha"))
    content = (tmp_path / "in" / "a.mha").read_bytes()
    (tmp_path / "in" / "b.mha").write_bytes(content.replace(b"ElementSpacing", b"ElementSpacinh"))
    results = _run(tmp_path / "in", tmp_path / "out")
    assert results["a"].notes == ()
    assert "no spacing that ITK reads: voxels of 1 mm are a guess" in results["b"].notes[0]
    sidecars = [json.loads((tmp_path / "out" / f"{case}.json").read_text()) for case in "ab"]
    assert [len(sidecar["unstated"]) for sidecar in sidecars] == [0, 1]
    assert sidecars[1]["unstated"][0] in sidecars[1]["notes"]

    def required(out: Path) -> dict[str, Segmented]:
        sources, choice = find_sources([tmp_path / "in"]), Choice(require_geometry=True)
        return {each.case: each for each in segment_cases(tiny.predictor(), sources, out, choice=choice)}

    for out in (tmp_path / "out", tmp_path / "new"):  # masks that were made without asking, too
        results = required(out)
        assert results["a"].error is None
        assert results["a"].kept == (out.name == "out")
        assert "no spacing that ITK reads" in str(results["b"].error)
        assert "leave out --require-geometry" in str(results["b"].error)
    assert not (tmp_path / "new" / "b.nii.gz").exists()
