"""What users name: files, folders, patterns, series."""

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


def _series(shared: Path, into: Path, most: int = 99) -> Path:
    into.mkdir(parents=True)
    for file in sorted((shared / "data" / "dicom" / "torchio_ct17").iterdir())[:most]:
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
    (tmp_path / "a.nii").touch()
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(InputError, match="two inputs are called 'a'"):
        find_sources([tmp_path])


@pytest.mark.parametrize("name", ["labels", "run", "statistics"])
def test_names_that_are_taken(name: str, tmp_path: Path) -> None:
    tiny.write_images(tmp_path, "a")
    (tmp_path / "a.nii.gz").rename(tmp_path / f"{name}.nii.gz")
    with pytest.raises(InputError, match=f"cannot be called '{name}'"):
        find_sources([tmp_path])


def test_links_in_circles(tmp_path: Path) -> None:
    tiny.write_images(tmp_path / "in", "a")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    assert _cases(tmp_path / "in") == ["a"]


def test_volumes_of_other_formats_are_named_not_passed_over(shared: Path) -> None:
    folder = shared / "data" / "nifti_hard" / "nibabel"
    sources = {source.case: source for source in find_sources([folder])}
    volumes = [path for path in folder.iterdir() if path.name != "COPYING"]
    assert len(sources) == len(volumes) == 12
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


def test_a_dicom_folder_is_one_case(shared: Path, tmp_path: Path) -> None:
    folder = _series(shared, tmp_path / "study" / "ct")
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
    with pytest.raises(InputError, match="no such file"):
        load(sources["absent"])


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


def test_many_files_are_found_quickly(shared: Path, tmp_path: Path) -> None:
    file = next((shared / "data" / "dicom" / "torchio_ct17").iterdir())
    for number in range(3000):
        (tmp_path / str(number)).symlink_to(file)
    (source,) = find_sources([tmp_path])
    assert len(source.files) == 3000
    assert len(find_sources(sorted(tmp_path.iterdir()))) == 1


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
