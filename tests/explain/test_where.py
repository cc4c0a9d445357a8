"""Where plug-ins act: counts by hand and by brute force, planted truths, and what they come to."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from dsnet_med.errors import InputError
from dsnet_med.evaluate.classes import Classes
from dsnet_med.evaluate.labels import labels_of
from dsnet_med.evaluate.voxel_spacing import VoxelSpacing
from dsnet_med.explain import counts, where
from dsnet_med.explain.counts import BORDERS, STRENGTHS, Count, Encoding, border_bins
from dsnet_med.explain.records import Altered, CaseMasks, Score
from dsnet_med.explain.tables import read_where, write_where
from dsnet_med.explain.where import Where

LABELS = {1: "liver", 2: "spleen"}
EDGES = (1.0, 2.0, 4.0, 8.0, 16.0)


def counted(reference, intact, plain, shuffles=(), *, affine=None, strengths=None, labels=LABELS, case="a"):
    """The rows of one case; the masks are label maps, or Classes."""
    as_classes = [
        each if each is None or isinstance(each, Classes) else Classes((np.asarray(each),))
        for each in (reference, intact, plain, *shuffles)
    ]
    affine = np.eye(4) if affine is None else affine
    masks = CaseMasks("run", case, labels, affine, *as_classes[:2])
    counting = Where()
    for draw, one in enumerate(as_classes[2:]):
        shape = one.layers[0].shape
        strength = np.zeros(shape, np.float16) if strengths is None else strengths[draw]
        kind = "shuffled" if draw else "identity"
        counting.add(masks, Altered("all", kind, max(draw - 1, 0), one, strength))
    return counting.rows()


def row_of(rows, part, name="", network="intact", draw=0):
    (row,) = [r for r in rows if (r.part, r.bin, r.network, r.draw) == (part, name, network, draw)]
    return row


def numbers(row):
    return (row.voxels, row.changed, row.wrong, row.wrong_changed, row.fixed, row.broken)


def line(*values):
    return np.array(values, np.uint8).reshape(-1, 1, 1)


def on_grid(steps):
    affine = np.eye(4)
    affine[:3, :3] = steps
    return affine


# ---------------------------------------------------------------- by hand


def test_a_line_of_voxels_by_hand():
    # voxels of 2 x 5 x 10 mm; the liver's borders are at places 2 and 5, the spleen's at 8
    reference = line(0, 0, 1, 1, 1, 1, 0, 0, 2, 0)
    plain = line(0, 0, 0, 1, 1, 1, 1, 0, 2, 1)  # wrong at 2, 6 and 9
    intact = line(0, 0, 1, 1, 1, 0, 1, 0, 0, 1)  # fixes 2, breaks 5 and 8, leaves 6 and 9
    rows = counted(reference, intact, plain, affine=np.diag([2.0, 5, 10, 1]))
    assert [row.voxel_ml for row in rows] == pytest.approx([0.1] * len(rows))
    assert numbers(row_of(rows, "counted")) == (10, 3, 3, 1, 1, 2)
    # distances in mm: 4 2 0 2 2 0 2 2 0 2
    assert [numbers(row_of(rows, "border", name)) for name in BORDERS] == [
        (3, 3, 1, 1, 1, 2),
        (6, 0, 2, 0, 0, 0),
        (1, 0, 0, 0, 0, 0),
        *[(0,) * 6] * 3,
    ]
    unknown = (None,) * 4
    assert numbers(row_of(rows, "inside", "liver")) == (4, 2, *unknown)
    assert numbers(row_of(rows, "outside", "liver")) == (6, 0, *unknown)
    assert numbers(row_of(rows, "inside", "spleen")) == (1, 1, *unknown)
    assert numbers(row_of(rows, "outside", "spleen")) == (9, 0, *unknown)


def test_an_organ_for_another_changes_both():
    reference, plain, intact = line(1, 1, 2), line(1, 1, 1), line(1, 2, 2)
    rows = counted(reference, intact, plain)
    assert numbers(row_of(rows, "counted")) == (3, 2, 1, 1, 1, 1)
    changed = {(row.part, row.bin): row.changed for row in rows if row.part in ("inside", "outside")}
    assert changed == {
        ("inside", "liver"): 1, ("outside", "liver"): 1, ("inside", "spleen"): 1, ("outside", "spleen"): 1
    }  # fmt: skip


def test_without_a_reference_nothing_is_wrong_and_distances_are_to_the_intact_mask():
    rows = counted(None, line(0, 0, 0, 1, 1), line(0, 0, 0, 1, 0))
    assert numbers(row_of(rows, "counted")) == (5, 1, None, None, None, None)
    assert [row_of(rows, "border", name).voxels for name in BORDERS[:3]] == [3, 1, 1]
    assert row_of(rows, "inside", "liver").changed == 1
    found = where.summarise(rows, [], "run", ["liver", "spleen"])
    assert found["errors"] is None
    assert found["calibration"][0]["error_share"] is None
    assert found["labels"]["liver"]["changed_share_inside"] == 0.5


def test_background_far_away_is_in_the_last_bin_of_distances_alone():
    reference = np.zeros((60, 3, 3), np.uint8)
    reference[:2] = 1
    plain, intact = reference.copy(), reference.copy()
    plain[50, 0, 0] = intact[50, 0, 0] = 2  # an island 49 mm off that the plug-in leaves
    intact[55, 1, 1] = 2  # and one that it makes
    rows = counted(reference, intact, plain)
    near = 18 * 9  # slices 0 and 1, whose voxels are all border, and 16 more
    assert numbers(row_of(rows, "counted")) == (near + 2, 1, 1, 0, 0, 1)
    assert numbers(row_of(rows, "border", "16-")) == (60 * 9 - near, 1, 1, 0, 0, 1)


def test_bins_of_strength_hold_their_lower_end_and_the_last_both():
    sizes = [0.0, 0.009, 0.0101, 0.0501, 0.1001, 0.2001, 0.4001, 0.6001, 1.0, np.nan]
    strength = (np.array(sizes) * np.where(np.arange(10) % 2, -1, 1)).astype(np.float16).reshape(10, 1, 1)
    reference = line(*[1] * 10)
    rows = counted(reference, reference, reference, strengths=[strength])
    of = [row for row in rows if row.part == "strength"]
    assert [row.voxels for row in of] == [3, 1, 1, 1, 1, 1, 2]  # what was not asked moved by nothing
    assert [row.bin for row in of] == [f"{low:g}-{high:g}" for low, high in pairwise(STRENGTHS)]
    ends = np.array(STRENGTHS, np.float32).reshape(8, 1, 1)
    rows = counted(line(*[1] * 8), line(*[1] * 8), line(*[1] * 8), strengths=[ends])
    assert [row.voxels for row in rows if row.part == "strength"] == [1, 1, 1, 1, 1, 1, 2]


def test_a_distance_that_a_header_rounded_stays_in_its_bin():
    reference = line(1, 0, 0, 0, 0)
    for size in (1.0000001, 0.9999999):
        rows = counted(reference, reference, reference, affine=np.diag([size] * 3 + [1]))
        assert [row_of(rows, "border", name).voxels for name in BORDERS[:3]] == [2, 1, 2]


# ---------------------------------------------------------------- by brute force


def brute_bins(codes, organs, steps, bits):
    """The bin of every voxel: each against every border voxel, found neighbour by neighbour."""
    lies = (lambda code, organ: code >> organ & 1) if bits else (lambda code, organ: code == organ + 1)
    border = [
        place
        for place in np.ndindex(codes.shape)
        for organ in range(organs)
        if lies(int(codes[place]), organ)
        and any(
            not (0 <= other[axis] < codes.shape[axis]) or not lies(int(codes[tuple(other)]), organ)
            for axis in range(3)
            if codes.shape[axis] > 1
            for step in (-1, 1)
            for other in [[*place[:axis], place[axis] + step, *place[axis + 1 :]]]
        )
    ]
    found = np.full(codes.shape, len(EDGES), np.uint8)
    if border:
        for place in np.ndindex(codes.shape):
            nearest = np.linalg.norm(np.subtract(place, border) @ steps.T, axis=1).min()
            found[place] = sum(nearest > edge * (1 + 1e-6) for edge in EDGES)
    return found


def codes_and_steps(rng):
    """Boxes of organs, some of which fill the volume, and specks; a grid that may be turned or sheared."""
    bits = bool(rng.integers(2))
    codes = np.zeros(rng.integers((3, 1, 1), (17, 10, 10)), np.uint8)
    for _ in range(rng.integers(0, 5)):
        corners = [sorted(rng.integers(-2, size + 3, 2).clip(0, size)) for size in codes.shape]
        codes[tuple(slice(low, high) for low, high in corners)] = rng.choice(
            (1, 1, 2, 3, 3, 0) if bits else (1, 2, 0)
        )
    specks = rng.random(codes.shape) < rng.choice((0, 0.02))
    codes[specks] = rng.integers(0, 3)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0] if rng.integers(2) else np.eye(3)
    shear = np.eye(3)
    shear[rng.integers(2), 2] = rng.choice((0, 0, 0.6))
    return codes, bits, turn @ shear * rng.choice((0.5, 1, 3, 7.5), 3)


@pytest.mark.parametrize("slab", [1, 300, 1 << 22])
def test_distances_to_borders_are_those_of_brute_force(slab, monkeypatch):
    monkeypatch.setattr(counts, "_SLAB_VOXELS", slab)
    for seed in range(60):
        codes, bits, steps = codes_and_steps(np.random.default_rng((seed, slab)))
        bins = border_bins(Encoding(("a", "b"), (1, 2), bits).borders(codes), VoxelSpacing.of(steps, 3))
        np.testing.assert_array_equal(bins, brute_bins(codes, 2, steps, bits), f"seed {seed}")


def test_a_border_of_an_organ_within_another_is_its_own():
    codes = np.ones((9, 9, 9), np.uint8)
    codes[3:6, 3:6, 3:6] = 3  # the second organ, in the middle of the first
    border = Encoding(("whole", "core"), (1, 2), True).borders(codes)
    assert border[2:7, 2:7, 2:7].sum() == 27 - 1
    assert border.sum() == 9**3 - 7**3 + 27 - 1


def members(classes, place):
    """The organs of a voxel."""
    return {label for label in LABELS if classes.mask(label)[place]}


def brute_counts(reference, corrected, plain):
    """Changed, wrong, wrong and changed, fixed, broken voxels, one by one; those changed of each organ."""
    found, organs = [0] * 5, {label: [0, 0] for label in LABELS}
    for place in np.ndindex(plain.layers[0].shape):
        truth, after, before = (members(each, place) for each in (reference, corrected, plain))
        changed, wrong, left_wrong = before != after, before != truth, after != truth
        each = (changed, wrong, wrong and changed, wrong and not left_wrong, left_wrong and not wrong)
        found = [many + one for many, one in zip(found, each, strict=True)]
        for label in before ^ after:
            organs[label][label not in truth] += 1
    return found, organs


def three_masks(rng):
    """Masks that agree in half of their voxels, of organs that overlap or not."""
    shape = rng.integers(1, (9, 6, 6))
    maps = [rng.choice(4, shape, p=(0.4, 0.3, 0.2, 0.1)).astype(np.uint8) for _ in range(3)]
    for other in maps[1:]:
        keep = rng.random(shape) < 0.5
        other[keep] = maps[0][keep]
    if rng.integers(2):
        return [Classes((np.asfortranarray(each % 3),)) for each in maps]
    regions = labels_of({"liver": [1, 3], "spleen": [2, 3]}).regions
    return [Classes((each,)).as_regions(regions) for each in maps]


@pytest.mark.parametrize("slab", [1, 1 << 22])
@pytest.mark.parametrize("seed", range(12))
def test_counts_are_those_of_voxel_by_voxel(seed, slab, monkeypatch):
    monkeypatch.setattr(counts, "_SLAB_VOXELS", slab)
    reference, intact, plain = three_masks(np.random.default_rng(seed))
    rows = counted(reference, intact, plain, [intact], affine=np.diag([3.0, 1, 2, 1]))
    expected, organs = brute_counts(reference, intact, plain)
    for network in ("intact", "shuffled"):  # here the same masks
        assert list(numbers(row_of(rows, "counted", network=network)))[1:] == expected
        for part in ("border", "strength"):
            own = [numbers(row) for row in rows if (row.part, row.network) == (part, network)]
            assert np.sum(own, axis=0).tolist()[1:] == expected
    everything = sum(row.voxels for row in rows if (row.part, row.network) == ("border", "intact"))
    assert everything == plain.layers[0].size
    for label, name in LABELS.items():
        size = int(reference.mask(label).sum())
        for place, part in enumerate(("inside", "outside")):
            row = row_of(rows, part, name)
            assert (row.changed, row.voxels) == (organs[label][place], [size, everything - size][place])


def test_the_order_of_memory_changes_nothing():
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 3, (6, 5, 4)).astype(np.uint8) for _ in range(3)]
    strength = rng.random((6, 5, 4)).astype(np.float16)
    affine = on_grid([[0, 2, 0.3], [1.5, 0, 0], [0, 0, 4]])
    layouts = np.ascontiguousarray, np.asfortranarray
    first, second = (
        counted(*map(layout, maps), affine=affine, strengths=[layout(strength)]) for layout in layouts
    )
    assert first == second


# ---------------------------------------------------------------- planted truth


def test_a_correction_of_the_errors_alone_is_told_from_its_shuffles():
    rng = np.random.default_rng(1)
    rows = []
    for case in "abcdef":
        reference = np.zeros((24, 24, 12), np.uint8)
        reference[6:18, 6:18, 3:9] = 1
        plain = reference.copy()
        wrong = rng.random(plain.shape) < 0.03
        plain[wrong] = 1 - plain[wrong]
        shuffles = []
        for _ in range(3):
            moved = rng.permutation(wrong.ravel()).reshape(wrong.shape)
            shuffles.append(np.where(moved, 1 - plain, plain))
        strengths = [np.float16(0.5) * (mask != plain) for mask in (reference, *shuffles)]
        rows += counted(reference, reference, plain, shuffles, strengths=strengths, case=case)
    found = where.summarise(rows, [], "run", ["liver"])
    errors = found["errors"]
    assert errors["error_share_where_changed"] == 1
    assert errors["broken_ml"] == 0
    assert errors["fixed_ml"] == pytest.approx(errors["net_ml"]["mean"])
    assert errors["changed_share"] == errors["error_share"]
    assert errors["null_error_share_where_changed"] == pytest.approx(errors["error_share"], abs=0.01)
    assert errors["null_net_ml"]["ci95"][1] < 0 < errors["difference_ml"]["ci95"][0]
    strong, weak = found["calibration"][5], found["calibration"][0]
    assert (strong["from"], strong["error_share"], strong["fixed_share"]) == (0.4, 1, 1)
    assert (weak["error_share"], weak["fixed_share"]) == (0, None)
    assert strong["null_fixed_share"] == 1
    assert strong["null_error_share"] == pytest.approx(0.03, abs=0.01)


def net_rows(rng, cases, draws):
    """A plug-in and its shuffles that are drawn alike: what each gains is the case's, and chance."""
    rows = []
    for case in range(cases):
        of_case = rng.normal(0, 30)
        for network, draw in [("intact", 0), *(("shuffled", draw) for draw in range(draws))]:
            fixed, broken = 500 + np.array((1, -1)) * round((of_case + rng.normal(0, 20)) / 2)
            rows.append(
                Count("run", network, draw, str(case), "counted", "", 0.001, 9999, 1000, 800, 500,
                      int(fixed), int(broken))
            )  # fmt: skip
    return rows


def test_shuffles_that_are_drawn_as_the_plug_in_is_differ_from_it_at_the_level_of_the_interval():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(1000):
        found = where.summarise(net_rows(rng, 5, 3), [], "run", [])["errors"]["difference_ml"]
        held.append(found["ci95"][0] <= 0 <= found["ci95"][1])
    assert 0.93 <= np.mean(held) <= 0.97


# ---------------------------------------------------------------- what the counts come to


def test_shares_are_of_volumes_and_ml_of_a_case():
    def count(case, voxel_ml, voxels, changed):
        return Count("run", "intact", 0, case, "inside", "liver", voxel_ml, voxels, changed, *[None] * 4)

    rows = [count("a", 0.001, 1000, 100), count("b", 0.01, 1000, 500)]
    rows += [Count(*list(vars(row).values())[:4], "outside", *list(vars(row).values())[5:]) for row in rows]
    found = where.summarise(rows, [], "run", ["liver"])["labels"]["liver"]
    assert found == {
        "changed_share_inside": pytest.approx(5.1 / 11),
        "changed_ml_inside": pytest.approx(5.1 / 2),
        "changed_ml": pytest.approx(5.1),
    }


def test_the_net_gain_is_of_cases_with_draws_averaged():
    def count(network, draw, case, fixed, broken):
        return Count("run", network, draw, case, "counted", "", 0.5, 99, 20, 20, 10, fixed, broken)

    rows = [count("intact", 0, "a", 6, 2), count("intact", 0, "b", 9, 1)]  # 2 and 4 ml
    rows += [count("shuffled", draw, case, 4, broken) for case in "ab" for draw, broken in ((0, 4), (1, 2))]
    errors = where.summarise(rows, [], "run", [])["errors"]
    assert errors["plain"] == "identity"
    assert (errors["fixed_ml"], errors["broken_ml"], errors["net_ml"]["mean"]) == (3.75, 0.75, 3)
    low, high = stats.t.interval(0.95, 1, loc=3, scale=1)
    assert errors["net_ml"]["ci95"] == pytest.approx([low, high])
    assert errors["null_net_ml"] == {"mean": 0.5, "ci95": [0.5, 0.5], "n": 2}
    assert errors["difference_ml"]["mean"] == 2.5


def score(kind, case, label, dice, size_ml, plugin="all", draw=0):
    return Score("run", plugin, kind, draw, case, label, dice, np.nan, 1.0, 0.0, size_ml)


def test_size_is_set_against_what_the_score_loses():
    sizes, losses = [1.0, 2, 5, 9, 20], [-0.3, -0.2, -0.25, -0.1, 0.0]
    scores = []
    for case, size, loss in zip("abcde", sizes, losses, strict=True):
        scores += [score("intact", case, "liver", 0.8, size, plugin="")]
        scores += [score("identity", case, "liver", 0.8 + loss, size)]
        scores += [
            score("identity", case, "liver", 0.1, size, plugin="layer4"),
            score("mean", case, "liver", 0, 1),
        ]
    scores += [score("intact", "f", "liver", np.nan, 0, plugin=""), score("identity", "f", "liver", 0, 0)]
    found = where.summarise(net_rows(np.random.default_rng(0), 5, 1), scores, "run", ["liver"])["by_size"]
    assert [point[0] for point in found["points"]] == sizes
    assert [point[1] for point in found["points"]] == pytest.approx(losses)
    expected = stats.spearmanr(sizes, losses)
    assert (found["spearman"], found["p"], found["n"]) == pytest.approx(
        (expected.statistic, expected.pvalue, 5)
    )


def test_points_that_are_all_alike_have_no_rank_correlation():
    scores = [score(kind, case, "liver", 0.5, 3, plugin) for case in "abcd"
              for kind, plugin in (("intact", ""), ("identity", "all"))]  # fmt: skip
    found = where.summarise(net_rows(np.random.default_rng(0), 4, 1), scores, "run", ["liver"])["by_size"]
    assert (found["spearman"], found["p"], len(found["points"])) == (None, None, 4)


def test_a_run_without_rows_has_no_part():
    assert where.summarise(net_rows(np.random.default_rng(0), 2, 1), [], "other", []) is None


# ---------------------------------------------------------------- refused, and read back


def test_a_shuffle_before_its_identity_is_refused():
    masks = CaseMasks("run", "a", LABELS, np.eye(4), None, Classes((line(1, 0),)))
    shuffled = Altered("all", "shuffled", 0, Classes((line(1, 0),)), np.zeros((2, 1, 1), np.float16))
    with pytest.raises(InputError, match="before the identity"):
        Where().add(masks, shuffled)


def test_masks_of_another_shape_are_refused():
    with pytest.raises(InputError, match="differ in shape"):
        counted(None, line(1, 0), line(1, 0, 0), strengths=[np.zeros((2, 1, 1), np.float16)])


def test_other_kinds_and_single_plugins_are_passed_over():
    masks = CaseMasks("run", "a", LABELS, np.eye(4), None, Classes((line(1, 0),)))
    counting = Where()
    for plugin, kind in (("all", "mean"), ("all", "other"), ("layer4", "identity")):
        counting.add(masks, Altered(plugin, kind, 0, Classes((line(1, 1),)), np.zeros((2, 1, 1), np.float16)))
    assert counting.rows() == []


@pytest.mark.parametrize("with_reference", [True, False])
def test_where_csv_reads_back_as_it_was_written(tmp_path, with_reference):
    rng = np.random.default_rng(2)
    maps = [rng.integers(0, 3, (4, 4, 4)).astype(np.uint8) for _ in range(4)]
    rows = counted(
        maps[0] if with_reference else None, *maps[1:3], [maps[3]], case="=1+1", affine=np.eye(4) / 3
    )
    write_where(tmp_path / "where.csv", rows)
    assert read_where(tmp_path / "where.csv") == rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("voxel_ml", "ml"), "first line"),
        (lambda text: text + text.splitlines()[-1] + "\n", "given before"),
        (lambda text: text.replace("border,0-1", "border,0-2", 1), "wanted one of"),
        (lambda text: text.replace(",intact,", ",plain,", 1), "one of intact, shuffled"),
        (lambda text: text.replace(",counted,,0.001,2,", ",counted,,0.001,0,"), "contradict"),
        (lambda text: text.replace(",counted,,0.001,2,", ",counted,,0.001,-2,"), "whole number"),
        (lambda text: text.replace(",counted,,0.001,2,", ",counted,,0,2,"), "above 0"),
        (lambda text: text.rstrip("\n") + ",1\n", "cells"),
        (lambda text: text + '"', "table of comma"),
    ],
)
def test_where_csv_that_is_otherwise_is_refused(tmp_path, change, words):
    file = tmp_path / "where.csv"
    write_where(file, counted(line(1, 0), line(1, 1), line(1, 0)))
    changed = change(file.read_text())
    assert changed != file.read_text()
    file.write_text(changed)
    with pytest.raises(InputError, match=words):
        read_where(file)


def test_too_many_organs_that_overlap_are_refused():
    labels = {value: str(value) for value in range(1, 18)}
    several = Classes((line(1, 0), line(0, 1)))
    with pytest.raises(InputError, match="at most 16"):
        Encoding.of(labels, [several])
