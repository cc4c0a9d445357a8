"""Where images lie: affines by the formula of the standard, volumes of one series, bad geometry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import images, oblique, write

from dsnet_med.dicom.frames import frames_of
from dsnet_med.dicom.slice_stack import stack_of
from dsnet_med.errors import InputError, SeveralVolumesError

NORMAL = np.array([0.0, 0.0, 1.0])


def stacked(folder, made, index=None, reverse=False):
    frames = [frame for file in write(folder, made, reverse) for frame in frames_of(file)]
    return stack_of(frames, "DIR: series number 4", index)


def refused(folder, made, words, index=None):
    with pytest.raises(InputError, match=words) as caught:
        stacked(folder, made, index)
    assert str(caught.value).startswith("DIR: series number 4")
    assert "\n" not in str(caught.value)


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.floats(0.1, 5),
    columns=st.floats(0.1, 5),
    step=st.floats(0.5, 9),
    lean=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    reverse=st.booleans(),
)
def test_voxels_lie_where_the_standard_puts_them(tmp_path_factory, seed, rows, columns, step, lean, reverse):
    """PS3.3 C.7.6.2.1.1: position + column index * column spacing * X + row index * row spacing * Y."""
    directions, rng = oblique(seed), np.random.default_rng(seed)
    along = (np.cross(*directions) + np.array(lean) @ directions) * step
    origin = rng.uniform(-300, 300, 3)
    made = images(4, (6, 8), directions, (round(rows, 6), round(columns, 6)), along, origin)
    stack = stacked(tmp_path_factory.mktemp("oblique"), made, reverse=reverse)
    for _ in range(5):
        column, row, k = (int(rng.integers(n)) for n in (8, 6, 4))
        source = made[k]
        x, y = np.reshape([float(value) for value in source.ImageOrientationPatient], (2, 3))
        position = np.array([float(value) for value in source.ImagePositionPatient])
        lps = position + x * float(source.PixelSpacing[1]) * column + y * float(source.PixelSpacing[0]) * row
        assert stack.frames[k].uid == source.SOPInstanceUID
        ras = (stack.affine @ [column, row, k, 1])[:3]
        np.testing.assert_allclose(ras, lps * (-1, -1, 1), atol=1e-5)


def test_axial_by_hand(tmp_path):
    affine = stacked(tmp_path, images()).affine
    np.testing.assert_allclose(
        affine, [[-0.9, 0, 0, 20], [0, -0.7, 0, -15], [0, 0, 3, 100], [0, 0, 0, 1]], atol=1e-9
    )


def test_slices_ascend_along_the_normal(tmp_path):
    """However the files are named and whichever way the scanner went."""
    made = images(5, step=(0, 0, -3))
    stack = stacked(tmp_path, made)
    assert [frame.uid for frame in stack.frames] == [one.SOPInstanceUID for one in reversed(made)]
    assert stack.affine[2, 2] == pytest.approx(3)


@pytest.mark.parametrize(("degrees", "noted"), [(0.0, False), (0.09, False), (0.2, True), (15.0, True)])
def test_gantry_tilt_shears(tmp_path, degrees, noted):
    lean = np.array([0, np.tan(np.radians(degrees)), 1]) * 2
    stack = stacked(tmp_path, images(step=lean))
    assert stack.tilt_degrees == pytest.approx(degrees, abs=1e-4)
    np.testing.assert_allclose(stack.affine[:3, 2], lean * (-1, -1, 1), atol=1e-8)
    assert (stack.tilt_note is not None) == noted
    assert not noted or f"{degrees:.1f} degrees" in stack.tilt_note


def test_a_fall_is_no_tilt(tmp_path):
    refused(tmp_path, images(step=(0, 10, 1)), "lean 84 degrees from their normal")


# ---------------------------------------------------------------- distances


def moved(made, index, by):
    position = np.array([float(value) for value in made[index].ImagePositionPatient]) + by
    made[index].ImagePositionPatient = [f"{value:.8g}" for value in position]
    return made


def test_missing_slice(tmp_path):
    made = images(8)
    del made[4]
    refused(
        tmp_path, made, r"between slices 4 and 5 \(IM004, IM005\) the distance is 6 mm, elsewhere 3 mm; wanted"
    )


def test_variable_spacing(tmp_path):
    made = moved(moved(images(6), 5, NORMAL), 0, -2 * NORMAL)
    refused(tmp_path, made, r"between slices 1 and 2 .* is 5 mm, mostly 3 mm")


@pytest.mark.parametrize("off", [0.04, 0.06])
def test_five_percent(tmp_path, off):
    made = moved(images(2), 0, -off * 3 * NORMAL)
    made = [*made, *images(1, origin=(-20, 15, 106)), *images(1, origin=(-20, 15, 109))]
    if off < 0.05:
        assert stacked(tmp_path, made).affine[2, 2] == pytest.approx(3 + off)
    else:
        refused(tmp_path, made, "between slices 1 and 2")


def test_drift(tmp_path):
    """Every distance is within the tolerance, and yet the middle lies more than a slice off."""
    heights = np.cumsum([0, *[3.08] * 30, *[2.92] * 30])
    made = [images(1, origin=(0, 0, z))[0] for z in heights]
    refused(tmp_path, made, r"slice 31 \(IM031\) lies 2\.4 mm away from where even distances")


def test_a_step_aside(tmp_path):
    refused(tmp_path, moved(images(7), 3, (0.9, 0, 0)), "the distance is|lies 0.9 mm away")


# ---------------------------------------------------------------- one grid


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"shape": (6, 9)}, r"pictures of 6 x 8 and 6 x 9 pixels \(IM001, IM006\)"),
        ({"orientation": ((1, 0, 0), (0, 0, -1))}, "pictures of different orientations"),
        ({"spacing": (0.7, 0.91)}, r"pixel spacings of \[0\.7, 0\.9\] and \[0\.7, 0\.91\] mm"),
    ],
)
def test_mixed_grids(tmp_path, other, words):
    refused(tmp_path, [*images(5), *images(1, origin=(-20, 15, 115), **other)], words)


@pytest.mark.parametrize(
    "directions", [((1, 0, 0), (0.1, 0.995, 0)), ((1, 0, 0), (0, 1.01, 0)), ((0, 0, 0), (0, 0, 0))]
)
def test_bad_orientation(tmp_path, directions):
    refused(tmp_path, images(2, orientation=directions, step=(0, 0, 1)), "wanted two perpendicular directions")


@pytest.mark.parametrize("spacing", [(0, 0.9), (0.7, -0.9)])
def test_bad_spacing(tmp_path, spacing):
    refused(tmp_path, images(spacing=spacing), r"PixelSpacing \[.*\] mm, wanted above 0")


def test_tiles_beside_each_other(tmp_path):
    refused(tmp_path, [*images(1), *images(1, origin=(60, 15, 100))], "beside each other in one plane")


# ---------------------------------------------------------------- a single slice


@pytest.mark.parametrize(
    ("sizes", "thick"),
    [
        ({"SliceThickness": 5}, 5),
        ({"SliceThickness": 5, "SpacingBetweenSlices": 6}, 6),
        ({"SliceThickness": 5, "SpacingBetweenSlices": -6}, 5),
        ({"SpacingBetweenSlices": 0}, None),
        ({}, None),
    ],
)
def test_single_slice(tmp_path, sizes, thick):
    made = images(1, **sizes)
    if thick is None:
        refused(tmp_path, made, "is a single slice of unknown thickness, wanted SpacingBetweenSlices")
    else:
        np.testing.assert_allclose(stacked(tmp_path, made).affine[:3, 2], (0, 0, thick))


# ---------------------------------------------------------------- several volumes


def phases(count, **attributes):
    """As many passes over the same four places, numbered through, the second number by phase where asked."""
    made = []
    for phase in range(count):
        own = {name: values[phase] for name, values in attributes.items()}
        one = images(4, seed=phase, **own)
        for index, image in enumerate(one):
            image.InstanceNumber = phase * 4 + index + 1
        made += one
    return made


def uids(stack):
    return [frame.uid for frame in stack.frames]


def test_volumes_by_instance_number(tmp_path):
    made = phases(3)
    refused(
        tmp_path, made, r"holds 3 volumes of 4 slices each, wanted one; choose it with --volume-index 0\.\.2"
    )
    with pytest.raises(SeveralVolumesError) as caught:
        stacked(tmp_path, made)
    assert caught.value.count == 3
    for k in range(3):
        assert uids(stacked(tmp_path, made, k)) == [one.SOPInstanceUID for one in made[4 * k : 4 * k + 4]]
    for wrong in (-1, 3):
        refused(tmp_path, made, f"has no volume {wrong}: it holds 3 volumes, indices 0..2", wrong)


def test_order_of_keys(tmp_path):
    """A temporal position goes before an acquisition number, and that before the number of the instance."""
    by_time = phases(2, TemporalPositionIdentifier=[2, 1], AcquisitionNumber=[1, 2])
    assert uids(stacked(tmp_path / "t", by_time, 0)) == [one.SOPInstanceUID for one in by_time[4:]]
    by_pass = phases(2, AcquisitionNumber=[9, 3])
    assert uids(stacked(tmp_path / "a", by_pass, 0)) == [one.SOPInstanceUID for one in by_pass[4:]]


def test_a_volume_without_one_slice(tmp_path):
    made = phases(3)
    del made[6]
    refused(tmp_path, made, r"has 11 images at 4 positions, 3 at most of them and 2 at that of IM003", 0)


def test_images_that_nothing_tells_apart(tmp_path):
    made = phases(2)
    for one in made:
        one.InstanceNumber = 1
    refused(tmp_path, made, "that neither temporal position, acquisition nor instance number tells apart", 0)


@pytest.mark.parametrize(
    ("name", "values", "what"),
    [
        ("EchoTime", (10, 80), "echo time"),
        ("DiffusionBValue", (0.0, 1000.0), "b-value"),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), "image type"),
    ],
)
def test_numbers_that_would_mix_volumes(tmp_path, name, values, what):
    """At one place the second echo is numbered first: order alone would put it into the first volume."""
    made = phases(2, **{name: values})
    made[2].InstanceNumber, made[6].InstanceNumber = 7, 3
    refused(tmp_path, made, f"cannot be parted into volumes: .* differ in {what}", 0)


def test_a_plain_series_has_volume_0(tmp_path):
    assert stacked(tmp_path, images(), 0).frames
    refused(tmp_path, images(), "has no volume 1: it holds one volume, index 0", 1)
