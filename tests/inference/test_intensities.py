"""Warnings about images that cannot be what a network was trained on; of usual ones there are none."""

import numpy as np
import pytest
import tiny

from dsnet_med.inference.intensities import implausible
from dsnet_med.phantoms.synapse import make_synapse
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.volumes import read_image

CT, MR = Intensity("window", -125, 275), Intensity("unit_variance", 0.5, 99.5)
NOISE = np.random.default_rng(0).normal(size=(40, 30, 20))


@pytest.mark.parametrize(
    ("voxels", "rule", "line"),
    [
        (np.zeros((4, 5, 6), np.int16), CT, "the image is constant, every voxel is 0"),
        (np.full((250, 4, 4), 7.5), MR, "the image is constant, every voxel is 7.5"),
        (
            NOISE * 10 - 1000,
            CT,
            "100.0% of the voxels lie below the -125 to 275 that the network was trained on",
        ),
        (NOISE * 10 + 3000, CT, "0.0% of the voxels lie below the -125 to 275"),
        (np.where(NOISE > 0, -1000, 3000), CT, "% above: is this the kind of image?"),
        (np.clip(NOISE / 6 + 0.5, 0, 1), CT, "next to nothing of the -125 to 275"),
        (np.clip(NOISE * 40 + 128, 0, 255), CT, "looks windowed to 8 bits"),
        (np.clip(NOISE * 400 + 1024, 0, 4000), CT, "looks offset by some 1024"),
        (np.where(NOISE > 3.5, 9, 0), MR, "of the voxels are 0: there is next to nothing to segment in it"),
    ],
)
def test_what_a_network_cannot_know(voxels: np.ndarray, rule: Intensity, line: str) -> None:
    (said,) = implausible(voxels, [rule, rule])
    assert line in said


def test_one_odd_voxel_among_the_others_is_no_constant() -> None:
    voxels = np.zeros((250, 250, 3), np.int16)
    voxels[1, 1, 1] = 400
    (said,) = implausible(voxels, [MR])
    assert "constant" not in said


def test_usual_images_are_not_remarked_on(tmp_path, volumes) -> None:  # type: ignore[no-untyped-def]
    assert implausible(NOISE, [MR]) == ()
    assert implausible(np.clip(NOISE * 40, 0, None), [MR]) == ()
    for _ in make_synapse(tmp_path, cases=2, seed=0, size=(64, 64, 16)):
        pass
    images = sorted(tmp_path.rglob("img*.nii.gz"))
    assert len(images) == 2
    for image in images:
        assert implausible(read_image(image).voxels, [CT, MR]) == ()


def test_the_warning_leads_the_notes() -> None:
    voxels, affine = tiny.volume()
    mask = tiny.predictor().predict(np.full_like(voxels, 3), affine)
    assert mask.notes[0].startswith("the image is constant, every voxel is 3")
    assert tiny.predictor().predict(voxels, affine).notes == ()
