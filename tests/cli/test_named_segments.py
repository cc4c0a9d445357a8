"""`evaluate` scores files that name their segments, in every form that `infer` and others write, by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import seg_source
import SimpleITK as sitk
from scipy import ndimage

from dsnet_med.cli import scoring
from dsnet_med.dicom.segmentation import write_segmentation
from dsnet_med.dicom.structures import write_structures
from dsnet_med.errors import CasesFailedError, InputError
from dsnet_med.evaluate import dice
from dsnet_med.evaluate.labels import read_label_file
from dsnet_med.evaluate.pairing import listed_files, pair_folders
from dsnet_med.inference.itk_snap import write_label_descriptions
from dsnet_med.inference.slicer import write_seg_nrrd
from dsnet_med.volumes import Grid, write_labels

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

NAMES = ("background", "liver", "left_kidney", "spleen")
LABELS = {"1": "liver", "2": "left_kidney", "3": "spleen"}
AFFINE = np.diag((-0.8, 0.9, 3.0, 1.0))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pred", "ref"):
        Path(name).mkdir()
    Path("labels.json").write_text(json.dumps(LABELS))
    return tmp_path


def labels(seed: int, shape=seg_source.SHAPE) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 0.7)
    return np.digitize(noise, [0.05, 0.2, 0.35]).astype(np.uint8)


def evaluate(prediction="pred", reference="ref", protocols=("strict",), given="labels.json") -> dict:
    scoring.evaluate(
        [Path(prediction)],
        Path(reference),
        given,
        Path("out"),
        images=None,
        options=scoring.Options(protocols=protocols, workers=1),
        overwrite=True,
    )
    return json.loads(Path("out/summary.json").read_text())


def dices(summary: dict) -> dict[str, float]:
    return {name: entry["dice"]["mean"] for name, entry in summary["labels"].items()}


def wanted(reference: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    return {
        name: pytest.approx(dice(reference == value, prediction == value))
        for value, name in enumerate(NAMES)
        if value
    }


# ---------------------------------------------------------------- the forms of `infer`


@pytest.mark.parametrize("where", ["oblique"])
def test_every_dicom_form_scores_as_the_nifti_mask_does(place, where):
    source = seg_source.single_frames(Path("ct"), seg_source.PLACES[where])
    a, b = labels(1), labels(2)
    write_labels(Path("ref/a.nii.gz"), a, source)
    for form, write in {
        "dcm": lambda path: write_segmentation(path, b, source, NAMES, ("m", "1")),
        "labelmap.dcm": lambda path: write_segmentation(path, b, source, NAMES, ("m", "1"), kind="LABELMAP"),
        "rtstruct.dcm": lambda path: write_structures(path, b, source, NAMES, ("m", "1")),
    }.items():
        file = Path(f"pred/a.{form}")
        write(file)
        assert dices(evaluate()) == wanted(a, b)
        assert dices(evaluate("ref", "pred")) == wanted(b, a)
        scoring.verify(Path("out/summary.json"))
        file.unlink()


def test_slicer_s_form_scores_as_the_nifti_mask_does_and_all_forms_count_once(place):
    a, b = labels(1), labels(2)
    grid = Grid(Path("a"), a.shape, AFFINE, None)
    write_labels(Path("ref/a.nii.gz"), a, grid)
    write_seg_nrrd(Path("pred/a.seg.nrrd"), b, grid, NAMES)
    assert dices(evaluate()) == wanted(a, b)
    write_labels(Path("pred/a.nii.gz"), b, grid)
    assert list(pair_folders(Path("pred"), Path("ref")).orphans) == ["a.seg"]  # somebody's
    Path("pred/a.json").write_text("{}")  # as `infer` leaves it
    assert [path.name for path in listed_files(Path("pred"))] == ["a.nii.gz"]
    assert dices(evaluate()) == wanted(a, b)


def test_the_label_file_of_itk_snap_names_the_labels(place):
    write_label_descriptions(place, NAMES)
    assert read_label_file(place / "itksnap_labels.txt").names == {1: "Liver", 2: "Left kidney", 3: "Spleen"}


# ---------------------------------------------------------------- the files of others


def slicer(path: Path, layers: list[np.ndarray], segments: list[tuple[str, int, int]]) -> None:
    """A file as 3D Slicer writes it; `segments` are (name, value, layer)."""
    stacked = np.stack(layers, axis=-1).transpose(2, 1, 0, 3)
    image = sitk.GetImageFromArray(stacked if len(layers) > 1 else stacked[..., 0], isVector=len(layers) > 1)
    lps = np.diag((-1, -1, 1, 1)) @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    for number, (name, value, layer) in enumerate(segments):
        for key, said in (("Name", name), ("LabelValue", value), ("Layer", layer)):
            image.SetMetaData(f"Segment{number}_{key}", str(said))
    sitk.WriteImage(image, path)


def test_segments_count_by_their_names_whatever_their_values(place):
    a, b = labels(1), labels(2)
    write_labels(Path("ref/a.nii.gz"), a, Grid(Path("a"), a.shape, AFFINE, None))
    other = np.array([0, 9, 1, 4], np.uint8)[b]
    other[0, 0, 0] = 7
    segments = [("Left Kidney", 1, 0), ("spleen", 4, 0), ("Tumor", 7, 0), ("liver", 9, 0)]
    slicer(Path("pred/a.seg.nrrd"), [other], segments)
    found = evaluate()
    b[0, 0, 0] = 0
    assert dices(found) == wanted(a, b)
    assert any("a.seg.nrrd: left out, for no label is called so: Tumor" in note for note in found["notes"])


def test_segments_that_overlap_are_each_scored_whole(place):
    shape = (9, 8, 7)
    liver, kidney, spleen = (np.zeros(shape, np.uint8) for _ in range(3))
    liver[1:6], kidney[3:8, 2:6], spleen[8] = 1, 1, 1
    slicer(
        Path("ref/a.seg.nrrd"),
        [liver + 2 * spleen, kidney],
        [("liver", 1, 0), ("spleen", 2, 0), ("left kidney", 1, 1)],
    )
    shifted = np.roll(kidney, 1, axis=1)
    slicer(
        Path("pred/a.seg.nrrd"),
        [shifted, np.roll(liver, 1, axis=0)],
        [("left kidney", 1, 0), ("liver", 1, 1)],
    )
    assert dices(evaluate()) == {
        "liver": pytest.approx(dice(liver > 0, np.roll(liver, 1, axis=0) > 0)),
        "left_kidney": pytest.approx(dice(kidney > 0, shifted > 0)),
        "spleen": 0,
    }
    assert "slice" in Path("out/report.html").read_text()
    alone = evaluate(protocols=("transunet",))["labels"]
    assert evaluate(protocols=("dpcnet",))["labels"]["liver"]["dice"] == alone["liver"]["dice"] | {
        "ci95": None
    }  # one case is its own stack


def test_what_cannot_be_told_is_refused(place):
    shape = (5, 4, 3)
    one = np.ones(shape, np.uint8)
    write_labels(Path("ref/a.nii.gz"), one, Grid(Path("a"), shape, AFFINE, None))
    for layers, segments, why in (
        (
            [one, one],
            [("Segment_1", 1, 0), ("Segment_2", 1, 1)],
            "its segments overlap, so their names have to",
        ),
        ([one], [("Liver", 1, 0), ("liver", 2, 0)], "and its value 1 'Liver', too; join or rename"),
    ):
        slicer(Path("pred/a.seg.nrrd"), layers, segments)
        with pytest.raises((InputError, CasesFailedError), match=why):
            evaluate()


def test_a_recipe_whose_data_set_numbers_its_organs_otherwise(place):
    """Synapse's own files call the liver 6, the class is 5; a file that names its organs is right, too."""
    from dsnet_med.prepare.recipe import load_recipe

    recipe = load_recipe("synapse")
    raw = {value: found for value, found in recipe.label_map.items() if found}
    maps = np.random.default_rng(0).choice([0, *raw], (9, 8, 7)).astype(np.uint8)
    grid = Grid(Path("a"), maps.shape, AFFINE, None)
    write_labels(Path("ref/label0035.nii.gz"), maps, grid)
    ids = np.zeros(maps.shape, np.uint8)
    for value, found in raw.items():
        ids[maps == value] = found
    write_seg_nrrd(Path("pred/img0035.seg.nrrd"), ids, grid, recipe.classes)
    found = evaluate(given="synapse")
    assert found["mean"]["dice"] == 1
    assert list(found["labels"]) == list(recipe.classes[1:])
