"""What users name: files, folders, patterns, series."""

import gzip
import json
import os
import shutil
from pathlib import Path

import made
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tiny

from dsnet_med.errors import InputError
from dsnet_med.inference.sources import find_sources, load


def _cases(*paths: Path, leave_out: Path | None = None) -> list[str]:
    return [source.case for source in find_sources(paths, leave_out)]


def _series(volumes: Path, into: Path, most: int = 99) -> Path:
    into.mkdir(parents=True)
    for file in sorted((volumes / "dicom" / "torchio_ct17").iterdir())[:most]:
        shutil.copy(file, into)
    return into


def test_files_and_folders(tmp_path: Path) -> None:
    a, b = tiny.write_images(tmp_path / "in", "ab")
    tiny.write_images(tmp_path / "in" / "patient1" / "scan", "a")
    (tmp_path / "in" / "notes.txt").write_text("not a volume")
    (tmp_path / "in" / ".hidden").mkdir()
    shutil.copy(a, tmp_path / "in" / ".hidden" / "x.nii.gz")
    assert _cases(a) == ["a"]
    assert _cases(tmp_path / "in") == ["a", "b", "patient1_scan_a"]
    assert _cases(tmp_path / "in" / "patient1") == ["scan_a"]
    assert _cases(b, a) == ["b", "a"]
    assert _cases(a, a) == ["a"]
    assert _cases(tmp_path / "in", leave_out=tmp_path / "in" / "patient1") == ["a", "b"]


def test_patterns_that_the_shell_left(tmp_path: Path) -> None:
    tiny.write_images(tmp_path, "abc")
    assert _cases(tmp_path / "*.nii.gz") == ["a", "b", "c"]
    assert _cases(tmp_path / "[ab].nii*") == ["a", "b"]
    with pytest.raises(InputError, match="matches no file"):
        find_sources([tmp_path / "*.nrrd"])


def test_a_file_may_have_a_pattern_for_a_name(tmp_path: Path) -> None:
    tiny.write_images(tmp_path, "a")
    (tmp_path / "a.nii.gz").rename(tmp_path / "a[1].nii.gz")
    assert _cases(tmp_path / "a[1].nii.gz") == ["a[1]"]


def test_inputs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        find_sources([tmp_path / "x.nii"])
    with pytest.raises(InputError, match=r"holds no \.nii"):
        find_sources([tmp_path])


def test_inputs_of_one_name_fail_and_the_others_go_on(tmp_path: Path) -> None:
    tiny.write_images(tmp_path, "ab")
    (tmp_path / "a.nii").touch()
    (tmp_path / "Über.nii").touch()
    (tmp_path / "über.nii").touch()
    (tmp_path / "u\u0308ber.nii").touch()  # as macOS writes it
    tiny.write_images(tmp_path / "more", "b")
    sources = {source.case: source for source in find_sources([tmp_path, tmp_path / "more" / "b.nii.gz"])}
    assert sorted(sources) == sorted(["a", "b", "more_b", "Über", "über", "u\u0308ber"])
    assert str(sources["a"].refused).startswith("two inputs are called 'a': ")
    assert "b.nii.gz and " in str(sources["b"].refused)
    assert sources["more_b"].refused is None
    for case in ("Über", "über", "u\u0308ber"):
        assert str(sources[case].refused).startswith(
            "3 inputs are called 'u\u0308ber' and 'Über' and 'über', which"
        )
        with pytest.raises(InputError, match="one file on some disks"):
            load(sources[case])


@pytest.mark.parametrize("name", ["labels", "run", "statistics"])
def test_names_that_are_taken(name: str, tmp_path: Path) -> None:
    tiny.write_images(tmp_path, "a")
    (tmp_path / "a.nii.gz").rename(tmp_path / f"{name}.nii.gz")
    tiny.write_images(tmp_path, "a")
    taken, other = sorted(find_sources([tmp_path]), key=lambda source: source.case == "a")
    assert f"cannot be called '{name}'" in str(taken.refused)
    assert other.refused is None


def test_links_in_circles(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    assert _cases(tmp_path / "in") == ["a"]


def test_volumes_of_other_formats_are_named_not_passed_over(volumes: Path) -> None:
    folder = volumes / "nifti_hard" / "nibabel"
    sources = {source.case: source for source in find_sources([folder])}
    found = [path for path in folder.iterdir() if path.name != "COPYING"]
    assert len(sources) == len(found) == 11
    for case, words in {
        "test": "MGHImage, wanted NIfTI",
        "analyze": "analyze",
        "row_major.dconn": "wanted one 3-D|CIFTI|Cifti",
    }.items():
        with pytest.raises(InputError, match=words):
            load(sources[case])


def test_a_pair_is_one_case(tmp_path: Path) -> None:
    voxels, affine = tiny.volume()
    nib.save(nib.Nifti1Pair(voxels, affine), tmp_path / "a.img")
    assert _cases(tmp_path) == ["a"]
    for path in (tmp_path / "a.img", tmp_path / "a.hdr"):
        (source,) = find_sources([path])
        np.testing.assert_array_equal(load(source).voxels, voxels)


@pytest.mark.parametrize(
    ("header", "image"), [("p.hdr.gz", "p.img.gz"), ("P.HDR.GZ", "P.IMG.GZ"), ("p.hdr", "p.img.gz")]
)
def test_a_compressed_pair_is_one_case(header: str, image: str, tmp_path: Path) -> None:
    voxels, affine = tiny.volume()
    nib.save(nib.Nifti1Pair(voxels, affine), tmp_path / "q.hdr")
    for old, new in (("q.hdr", header), ("q.img", image)):
        content = (tmp_path / old).read_bytes()
        (tmp_path / old).unlink()
        (tmp_path / new).write_bytes(gzip.compress(content) if new.lower().endswith(".gz") else content)
    case = header[0]
    assert _cases(tmp_path) == [case]
    for path in (tmp_path, tmp_path / header, tmp_path / image):
        (source,) = find_sources([path])
        assert source.case == case
        assert source.files == (tmp_path / header, tmp_path / image)
        np.testing.assert_array_equal(load(source).voxels, voxels)
    (tmp_path / header).unlink()
    (alone,) = find_sources([tmp_path])
    assert alone.case == case
    with pytest.raises(InputError, match=r"its header, .\.hdr, is not there"):
        load(alone)


@pytest.mark.parametrize("name", ["a.nii.bz2", "a.nii.xz", "a.nii.zst"])
def test_every_compression_of_a_volume_is_a_case(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xfd7zXZ\x00" + bytes(99))
    (source,) = find_sources([tmp_path])
    assert source.case == "a"
    with pytest.raises(InputError, match=r"compressed with xz, wanted NIfTI; unpack it first"):
        load(source)


def test_a_dicom_folder_is_one_case(volumes: Path, tmp_path: Path) -> None:
    folder = _series(volumes, tmp_path / "study" / "ct")
    (folder / "README").write_text("not DICOM")
    assert _cases(folder) == ["ct"]
    assert _cases(tmp_path / "study") == ["ct"]
    assert _cases(*sorted(folder.glob("IMG*"))) == ["ct"]
    assert _cases(folder / "IMG0003.dcm") == ["IMG0003"]
    (source,) = find_sources([folder])
    assert load(source).shape == (88, 128, 17)


def test_volume_index(tmp_path: Path) -> None:
    voxels, affine = tiny.volume()
    stack = np.stack([voxels, voxels * 2, voxels * 3], axis=3)
    nib.save(nib.Nifti1Image(stack, affine), tmp_path / "a.nii.gz")
    image = sitk.JoinSeries([sitk.GetImageFromArray(stack[..., k].T.copy()) for k in range(3)])
    sitk.WriteImage(image, str(tmp_path / "b.mha"))
    sitk.WriteImage(sitk.Compose([image[:, :, :, k] for k in range(3)]), str(tmp_path / "c.nrrd"))
    for source in find_sources([tmp_path]):
        for k in range(3):
            np.testing.assert_array_equal(load(source, volume_index=k).voxels, stack[..., k])
        with pytest.raises(InputError, match="take one with --volume-index 0 to 2"):
            load(source)
        for bad in (3, -1):
            with pytest.raises(InputError, match=f"got volume index {bad}, wanted 0 to 2"):
                load(source, volume_index=bad)


def test_a_series_of_a_file(tmp_path: Path) -> None:
    tiny.write_images(tmp_path, "a")
    with pytest.raises(InputError, match="picks among DICOM series"):
        load(find_sources([tmp_path])[0], series="3")


def test_doubtful_headers_are_noted(tmp_path: Path) -> None:
    voxels, affine = tiny.volume()
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, 0)
    image.set_qform(affine, 0)
    nib.save(image, tmp_path / "none.nii.gz")
    image.set_sform(affine, 1)
    moved = affine.copy()
    moved[0, 3] += 40
    image.set_qform(moved, 1)
    nib.save(image, tmp_path / "two.nii.gz")
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "well.nii.gz")
    notes = {source.case: load(source).notes for source in find_sources([tmp_path])}
    assert "left and right are a guess" in notes["none"][0]
    assert "sform and qform disagree" in notes["two"][0]
    assert notes["well"] == ()


@pytest.mark.parametrize(("unit", "name"), [("meter", "metres"), ("micron", "micrometres")])
def test_other_units_are_refused(unit: str, name: str, tmp_path: Path) -> None:
    image = nib.Nifti1Image(*tiny.volume())
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=f"counts in {name}"):
        load(find_sources([tmp_path])[0])


def test_names_in_capitals_and_links(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "elsewhere", "ab")
    (tmp_path / "in").mkdir()
    shutil.copy(tmp_path / "elsewhere" / "a.nii.gz", tmp_path / "in" / "A.NII.GZ")
    (tmp_path / "in" / "patient").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "absent.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    assert _cases(tmp_path / "in") == ["A", "absent", "patient_a", "patient_b"]
    sources = {source.case: source for source in find_sources([tmp_path / "in"])}
    np.testing.assert_array_equal(load(sources["A"]).voxels, load(sources["patient_a"]).voxels)
    (alone,) = find_sources([tmp_path / "in" / "absent.nii.gz"])
    for source in (sources["absent"], alone):
        assert "nowhere.nii.gz, which is not there; fetch the data" in str(source.refused)


def test_one_file_named_in_several_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_images(tmp_path / "in", "a")
    monkeypatch.chdir(tmp_path)
    assert _cases(Path("in/a.nii.gz"), tmp_path / "in" / "a.nii.gz", Path("in/../in/a.nii.gz")) == ["a"]


def test_what_is_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    for path in (tmp_path / "pipe.nii.gz", Path("/dev/zero")):
        with pytest.raises(InputError, match="neither a file nor a folder"):
            find_sources([path])
    with pytest.raises(InputError, match=r"holds no \.nii"):
        find_sources([tmp_path])


def test_the_folder_to_write_to_as_input(tmp_path: Path) -> None:
    tiny.write_images(tmp_path, "a")
    with pytest.raises(InputError, match="is the folder to write to"):
        find_sources([tmp_path / "."], leave_out=tmp_path)


def test_a_nrrd_without_a_space_is_noted(tmp_path: Path) -> None:
    head = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(head.encode() + bytes(range(8)))
    assert "names no space" in load(find_sources([tmp_path])[0]).notes[0]


def test_voxels_in_several_files(tmp_path: Path) -> None:
    head = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: LIST\na.raw\nb.raw\n"
    (tmp_path / "a.nhdr").write_text(head)
    (source,) = find_sources([tmp_path])
    with pytest.raises(InputError, match="several files"):
        load(source)


def test_many_files_are_one_series(volumes: Path, tmp_path: Path) -> None:
    file = next((volumes / "dicom" / "torchio_ct17").iterdir())
    for number in range(300):
        (tmp_path / str(number)).symlink_to(file)
    (source,) = find_sources([tmp_path])
    assert len(source.files) == 300
    assert len(find_sources(sorted(tmp_path.iterdir()))) == 1


def test_links_that_lead_nowhere_are_cases_that_fail(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    names = ("b.nii.gz", "c.nrrd", "d.mgz", "patient2", "README.txt")
    for name in names:
        (tmp_path / "in" / name).symlink_to("../.git/annex/objects/x")
    for paths in ([tmp_path / "in"], [tmp_path / "in" / "*"]):
        sources = {source.case: source for source in find_sources(paths)}
        assert sources.pop("a").refused is None
        assert {"b", "c", "d"} < sources.keys()
        for source in sources.values():
            assert (
                "no such file, it is a link to ../.git/annex/objects/x, which is not there; fetch the data"
                in str(source.refused)
            )


@pytest.mark.parametrize("name", ["IM0099", "IMG0099.dcm", "1.2.840.99"])
def test_a_series_of_which_a_slice_was_not_fetched(name: str, volumes: Path, tmp_path: Path) -> None:
    """Without its last slice it would look whole."""
    folder = _series(volumes, tmp_path / "ct")
    (folder / name).symlink_to("nowhere")
    (source,) = find_sources([folder])
    assert (
        "a link to nowhere, which is not there; fetch the data (git annex get, dvc pull) or mend the link (1 of"
        in str(source.refused)
    )
    for file in folder.iterdir():
        file.unlink()
        file.symlink_to("nowhere")
    (source,) = find_sources([tmp_path])
    assert source.case == "ct"
    assert "(18 of 18 files)" in str(source.refused)


def test_what_may_not_be_read(volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _series(volumes, tmp_path / "ct")
    tiny.write_images(tmp_path, "ab")
    closed = {tmp_path / "a.nii.gz", folder / "IMG0003.dcm"}
    open_it, may = Path.open, os.access

    def opened(self: Path, *rest: str, **more: str) -> object:
        if self in closed:
            raise PermissionError(13, "Permission denied")
        return open_it(self, *rest, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(os, "access", lambda path, mode: path not in closed and may(path, mode))
    refused = {source.case: source.refused for source in find_sources([tmp_path])}
    assert "a.nii.gz: cannot be read (permission denied)" in str(refused["a"])
    assert refused["b"] is None
    assert "cannot be read (permission denied) (1 of 17 files)" in str(refused["ct"])


def test_a_folder_that_may_not_be_listed_is_a_case_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_images(tmp_path, "a")
    (tmp_path / "closed").mkdir()
    listed = Path.iterdir

    def closed(self: Path) -> object:
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", closed)
    a, other = find_sources([tmp_path])
    assert a.refused is None
    assert str(other.refused).endswith(
        "closed: cannot be read: permission denied; ask its owner for the right to read it"
    )


def _sidecar(folder: Path, case: str, *endings: str) -> None:
    form: dict[str, object] = {"labels": {}, "input": {}, "model": [], "settings": {}}
    content = {"case": case, **form, "files": dict.fromkeys(endings, "0")}
    (folder / f"{case}.json").write_text(json.dumps(content))


def test_masks_of_earlier_runs_are_no_images(tmp_path: Path) -> None:
    tiny.write_images(tmp_path, "ab")
    tiny.write_images(tmp_path / "fcn", "ac")
    _sidecar(tmp_path / "fcn", "a", ".nii.gz", ".dcm")
    _sidecar(tmp_path / "fcn", "c", ".nii.gz")
    (tmp_path / "fcn" / "a.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "link.nii.gz").symlink_to("fcn/a.nii.gz")
    notes: list[str] = []
    assert [source.case for source in find_sources([tmp_path], note=notes.append)] == ["a", "b"]
    (note,) = notes
    assert note.startswith("passed over 4 masks that infer wrote, in ")
    with pytest.raises(InputError, match="holds nothing but masks that infer wrote"):
        find_sources([tmp_path / "fcn"])
    for named in (tmp_path / "fcn" / "a.nii.gz", tmp_path / "fcn" / "*.dcm", tmp_path / "link.nii.gz"):
        (source,) = find_sources([named])
        assert "is a mask that infer wrote, wanted an image" in str(source.refused)


def test_what_lies_among_masks_may_be_one(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "out", "abc")
    (tmp_path / "out" / "labels.json").write_text('{"0": "background", "1": "liver"}')
    tiny.write_images(tmp_path / "out" / "patient1", "a")
    assert not [source for source in find_sources([tmp_path]) if source.refused]  # a user's own labels.json
    (tmp_path / "out" / "run.json").write_text('{"method": "FCN"}')
    refused = {source.case: source.refused for source in find_sources([tmp_path])}
    assert refused.pop("out_patient1_a") is None
    assert all("lies among masks that infer wrote" in str(line) for line in refused.values())
    (tmp_path / "out" / "run.json").unlink()
    _sidecar(tmp_path / "out", "a", ".nii.gz")
    refused = {source.case: source.refused for source in find_sources([tmp_path])}
    assert sorted(refused) == ["out_b", "out_c", "out_patient1_a"]
    assert "lies among masks" in str(refused["out_b"])


def test_predictions_of_a_bundle_are_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_images(tmp_path, "a")
    tiny.write_images(tmp_path / "run" / "predictions", "b")
    tiny.write_images(tmp_path / "predictions", "c")  # of another tool, or images that are called so
    assert _cases(tmp_path) == ["a", "predictions_c", "run_predictions_b"]
    (tmp_path / "run" / "configs").mkdir()
    (tmp_path / "run" / "configs" / "inference.yaml").touch()
    assert _cases(tmp_path) == ["a", "predictions_c"]
    monkeypatch.chdir(tmp_path / "run" / "predictions")
    (source,) = find_sources([Path("b.nii.gz")])
    assert "is a mask that infer wrote" in str(source.refused)


def test_a_copy_of_a_mask_under_another_name(tmp_path: Path) -> None:
    (a,) = tiny.write_images(tmp_path / "fcn", "a")
    _sidecar(tmp_path / "fcn", "a", ".nii.gz")
    shutil.copy(a, tmp_path / "a_fcn.nii.gz")
    shutil.copy(a, tmp_path / "other.nii.gz")
    with (tmp_path / "other.nii.gz").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    refused = {source.case: source.refused for source in find_sources([tmp_path])}
    assert "is a copy of " in str(refused["a_fcn"])
    assert refused["other"] is None


def test_images_that_are_called_like_masks(tmp_path: Path) -> None:
    tiny.write_images(tmp_path, "abc")
    for name, other in {"a": "a_seg", "b": "mask", "c": "label"}.items():
        (tmp_path / f"{name}.nii.gz").rename(tmp_path / f"{other}.nii.gz")
        (tmp_path / f"{other}.json").write_text('{"Modality": "MR"}')  # as dcm2niix writes
    assert [source.refused for source in find_sources([tmp_path])] == [None] * 3


@pytest.mark.parametrize("torn", [True, False])
@pytest.mark.parametrize("each", [1, 4, 5])
def test_a_stack_over_several_folders_is_one_case(torn: bool, each: int, tmp_path: Path) -> None:
    """As media hold them, or as programs export a series for each image: never some of the slices alone."""
    slices = made.images(12)
    values = made.hounsfield(slices)
    for k, one in enumerate(slices):
        if torn:
            one.SeriesInstanceUID = f"1.2.{k // each}"
        made.write(tmp_path / "in" / "study" / f"{k // each:02d}", [one])[0].rename(
            tmp_path / "in" / "study" / f"{k // each:02d}" / f"{k}.dcm"
        )
    made.write(tmp_path / "in" / "other", made.images(3, PatientID="2"))
    for given, case in ((tmp_path / "in" / "study", "study"), (tmp_path / "in", "study")):
        found = {source.case: source for source in find_sources([given])}
        assert sorted(found) == [case] if given.name == "study" else ["other", case]
        volume = load(found[case])
        np.testing.assert_array_equal(volume.voxels, values)
        assert "joined" in volume.notes[0] if torn else "folders" in volume.notes[0]


@pytest.mark.parametrize("change", [{}, {"PatientID": "2"}, {"origin": (-20, 15, 101)}, {"step": (0, 0, 2)}])
def test_whole_series_in_several_folders_are_several_cases(change: dict[str, object], tmp_path: Path) -> None:
    """Time points, reconstructions, patients: each folder holds every slice of its own."""
    made.write(tmp_path / "a", made.images(4, SeriesInstanceUID="1.2"))
    made.write(tmp_path / "b", made.images(4, SeriesInstanceUID="1.2", **change))
    made.write(tmp_path / "c", [made.multi_frame(made.images(4))])
    assert [source.case for source in find_sources([tmp_path])] == ["a", "b", "c"]
