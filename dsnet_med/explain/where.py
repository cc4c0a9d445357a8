"""Where the plug-ins act, and whether they act where the plain network errs.

The plain network is the same one with every plug-in replaced by the identity. Against it stands the intact
network and, as null, the network with shuffled plug-ins: a correction of the same values in other channels and
places. Both are counted alike (counts.py), so what a shuffle does as well is no sign of attention that knows
where to look.

Shares are of volumes, all cases together: of a bin's ml, the ml that are changed or wrong. Whatever is in ml
is of a case, on average. `net_ml` is what the correction fixes less what it breaks, with a t interval over
cases (effects.py); `difference_ml` is that of the plug-ins less that of the shuffles, paired over cases, a
case's draws averaged.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.evaluate.arrays import LabelMap
from dsnet_med.evaluate.voxel_spacing import VoxelSpacing
from dsnet_med.explain.counts import (
    BORDER,
    BORDERS,
    BORDERS_MM,
    COUNTED,
    INSIDE,
    OUTSIDE,
    SHUFFLED,
    STRENGTH,
    STRENGTH_BINS,
    STRENGTHS,
    Bins,
    Count,
    Encoding,
    Maps,
    border_bins,
    count_case,
)
from dsnet_med.explain.effects import mean_with_interval
from dsnet_med.explain.records import EVERY, INTACT, Altered, CaseMasks, Score

IDENTITY = "identity"
COUNTED_WORDS = (
    "voxels within 16 mm of the border of an organ, and all that are changed or wrong; the last bin of "
    "distances is the whole rest of the volume"
)
CALIBRATION_WORDS = "change in the plain network's probability of what it decided at a voxel, without sign"
_FEWEST_POINTS = 3


class Where:
    """Counts of a run, case by case. Of each case the identity comes first, then its shuffles.

    What is kept of a case are counts; masks of one case only, and of its plain network, while it is added.
    """

    def __init__(self) -> None:
        self._rows: list[Count] = []
        self._case: _Case | None = None

    def add(self, masks: CaseMasks, altered: Altered) -> None:
        """Count the intact network against `altered` where that is the identity, and shuffles against that.

        Other kinds, and other plug-ins than all together, are passed over. Raises InputError for a shuffle
        before the identity of its case, and for masks of another shape.
        """
        if altered.plugin != EVERY or altered.kind not in (IDENTITY, SHUFFLED):
            return
        if altered.kind == IDENTITY:
            self._case = _Case(masks, altered)
            self._rows += self._case.against(INTACT, 0, self._case.intact, altered)
            return
        if self._case is None or (self._case.run, self._case.case) != (masks.run, masks.case):
            raise InputError(f"{masks.case}: got a shuffle before the identity, which it is compared with")
        shuffled = self._case.codes(altered)
        self._rows += self._case.against(SHUFFLED, altered.draw, shuffled, altered)

    def rows(self) -> list[Count]:
        """The rows of where.csv."""
        return list(self._rows)


class _Case:
    """The codes of a case in the plain network, the intact one and the reference, in the order of memory."""

    def __init__(self, masks: CaseMasks, plain: Altered) -> None:
        every = [masks.intact, plain.mask, *([masks.reference] if masks.reference else [])]
        self.run, self.case = masks.run, masks.case
        self._encoding = Encoding.of(masks.labels, every)
        strides = masks.intact.layers[0].strides
        self._axes = sorted(range(len(strides)), key=lambda axis: -abs(strides[axis]))
        self._spacing = VoxelSpacing.of(masks.affine[:3, :3], 3).of_axes(self._axes)
        self.intact = self._encoding.codes(masks.intact).transpose(self._axes)
        self._plain = self.codes(plain)
        self._organs = self.intact
        self._has_reference = masks.reference is not None
        if masks.reference is not None:
            self._organs = self._encoding.codes(masks.reference).transpose(self._axes)
        self._bins: Bins = border_bins(self._encoding.borders(self._organs), self._spacing)
        self._voxel_ml = float(abs(np.linalg.det(self._spacing.steps))) / 1000

    def codes(self, altered: Altered) -> LabelMap:
        if altered.mask.layers[0].shape != tuple(np.array(self.intact.shape)[np.argsort(self._axes)]):
            raise InputError(f"{self.case}: masks of {altered.kind} differ in shape from the intact network's")
        return self._encoding.codes(altered.mask).transpose(self._axes)

    def against(self, network: str, draw: int, corrected: LabelMap, altered: Altered) -> list[Count]:
        strength: NDArray[np.floating] = altered.strength.transpose(self._axes)
        maps = Maps(self._plain, corrected, self._organs, self._has_reference, self._bins)
        identity = (self.run, network, draw, self.case)
        return count_case(identity, self._encoding, self._voxel_ml, maps, strength)


def summarise(
    rows: Iterable[Count], scores: Iterable[Score], run: str, labels: Sequence[str]
) -> dict[str, Any] | None:
    """The part `where` of a run in explain.json; None where there are no rows of it.

    `labels` are the organs' names.
    """
    own = [row for row in rows if row.run == run]
    if not own:
        return None
    real, null = _Sums(INTACT, own), _Sums(SHUFFLED, own)
    return {
        "counted": COUNTED_WORDS,
        "labels": {name: _organ(real, name) for name in labels},
        "by_size": _by_size([score for score in scores if score.run == run], labels),
        "by_border_mm": [
            {
                "from": low,
                "to": high,
                "changed_share": real.share(BORDER, name, "changed", "voxels"),
                "null_share": null.share(BORDER, name, "changed", "voxels"),
            }
            for name, low, high in zip(BORDERS, (0.0, *BORDERS_MM), (*BORDERS_MM, None), strict=True)
        ],
        "errors": _errors(own),
        "calibration_of": CALIBRATION_WORDS,
        "calibration": [
            {
                "from": low,
                "to": high,
                "voxels": real.voxels(STRENGTH, name),
                "error_share": real.share(STRENGTH, name, "wrong", "voxels"),
                "fixed_share": real.share(STRENGTH, name, "fixed", "wrong"),
                "null_error_share": null.share(STRENGTH, name, "wrong", "voxels"),
                "null_fixed_share": null.share(STRENGTH, name, "fixed", "wrong"),
            }
            for name, low, high in zip(STRENGTH_BINS, STRENGTHS, STRENGTHS[1:], strict=False)
        ],
    }


class _Sums:
    """Sums over the cases (and draws) of one network, in ml."""

    def __init__(self, network: str, rows: Iterable[Count]) -> None:
        self._ml: dict[tuple[str, str, str], float] = defaultdict(float)
        self._voxels: dict[tuple[str, str], int] = defaultdict(int)
        self._cases: set[str] = set()
        for row in rows:
            if row.network == network:
                self._cases.add(row.case)
                self._voxels[row.part, row.bin] += row.voxels
                for what in ("voxels", "changed", "wrong", "wrong_changed", "fixed", "broken"):
                    many = getattr(row, what)
                    self._ml[row.part, row.bin, what] += nan if many is None else many * row.voxel_ml

    def voxels(self, part: str, name: str) -> int:
        return self._voxels[part, name]

    def ml(self, part: str, name: str, what: str) -> float | None:
        """Of a case, on average; None where that is not known."""
        found = self._ml.get((part, name, what), nan)
        return None if isnan(found) else found / len(self._cases)

    def share(self, part: str, name: str, what: str, of: str) -> float | None:
        """None where that is not known, or of nothing."""
        some, every = (self._ml.get((part, name, each), nan) for each in (what, of))
        return None if isnan(some) or isnan(every) or not every else some / every


def _organ(real: _Sums, name: str) -> dict[str, float | None]:
    inside, outside = (real.ml(part, name, "changed") for part in (INSIDE, OUTSIDE))
    return {
        "changed_share_inside": real.share(INSIDE, name, "changed", "voxels"),
        "changed_ml_inside": inside,
        "changed_ml": None if inside is None or outside is None else inside + outside,
    }


def _by_size(scores: Sequence[Score], labels: Sequence[str]) -> dict[str, Any]:
    """Each organ of each case: its size, and the difference of its Dice with the identity for all plug-ins."""
    intact = {(score.case, score.label): score for score in scores if score.kind == INTACT}
    points = [
        [score.size_ml, difference, score.case, score.label]
        for score in scores
        if (score.plugin, score.kind) == (EVERY, IDENTITY) and (score.case, score.label) in intact
        for difference in [score.dice - intact[score.case, score.label].dice]
        if not isnan(difference) and not isnan(score.size_ml)
    ]
    points.sort(key=lambda point: (labels.index(point[3]) if point[3] in labels else -1, point[2]))
    spearman = p = None
    values = np.array([point[:2] for point in points], np.float64).reshape(-1, 2)
    if len(points) >= _FEWEST_POINTS and np.ptp(values, axis=0).all():
        from scipy.stats import spearmanr  # noqa: PLC0415 -- takes a second to load

        found = spearmanr(values[:, 0], values[:, 1])
        spearman, p = float(found.statistic), float(found.pvalue)
    return {"points": points, "spearman": spearman, "p": p, "n": len(points)}


def _errors(rows: Sequence[Count]) -> dict[str, Any] | None:
    """Whether the correction lies on the plain network's errors, and what comes of it."""
    counted = [row for row in rows if row.part == COUNTED]
    if any(row.wrong is None for row in counted):
        return None
    real, shuffled = _Sums(INTACT, counted), _Sums(SHUFFLED, counted)
    net, null = _net_ml(counted, INTACT), _net_ml(counted, SHUFFLED)
    both = [net[case] - null[case] for case in net if case in null]
    return {
        "plain": IDENTITY,
        "error_share": real.share(COUNTED, "", "wrong", "voxels"),
        "changed_share": real.share(COUNTED, "", "changed", "voxels"),
        "null_changed_share": shuffled.share(COUNTED, "", "changed", "voxels"),
        "error_share_where_changed": real.share(COUNTED, "", "wrong_changed", "changed"),
        "null_error_share_where_changed": shuffled.share(COUNTED, "", "wrong_changed", "changed"),
        "fixed_ml": real.ml(COUNTED, "", "fixed"),
        "broken_ml": real.ml(COUNTED, "", "broken"),
        "net_ml": mean_with_interval(list(net.values())),
        "null_net_ml": mean_with_interval(list(null.values())),
        "difference_ml": mean_with_interval(both),
    }


def _net_ml(counted: Iterable[Count], network: str) -> Mapping[str, float]:
    """What each case gains, in ml; its draws averaged."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in counted:
        if row.network == network:
            found[row.case].append(((row.fixed or 0) - (row.broken or 0)) * row.voxel_ml)
    return {case: float(np.mean(each)) for case, each in sorted(found.items())}
