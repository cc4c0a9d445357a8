"""A protocol: one choice of HD95, unit and conventions, as a row of data.

| name | HD95 | missed | invented | absent | mean |
|---|---|---|---|---|---|
| strict | pooled, mm | Dice 0, diagonal | Dice 0, diagonal | not counted | over cases, then organs |
| transunet | pooled, voxels | 0, 0 | Dice 1, HD95 0 | 0, 0 | over cases, then organs |
| dpcnet | pooled, voxels, all slices of all cases as one volume | 0, 0 | Dice 1, HD95 0 | 0, 0 | over organs |
| monai | max, mm | Dice 0, HD95 NaN | NaN | NaN | over cases, then organs, NaN left out |

For one label of one case the reference and the prediction each hold the label or do not. Both hold it: every
protocol reports what was measured. Only the reference holds it: the organ was `missed`; only the prediction: it
was `invented`; neither: it is `absent`. Then overlap and distance are undefined (0/0, the distance to nothing),
and what is reported is the protocol's convention. Means are taken over cases first, then over organs, and leave
NaN out; so only a protocol that never turns a missed organ into NaN or 0 mm can promise that missing an organ
does not help. That is `strict`.

`transunet` is `calculate_metric_percase` of TransUNet (Chen et al. 2021), which DPC-Net's published tables were
scored with; `dpcnet` is what DPC-Net's code became later. The reference implementation rounds each case to two
decimals of a per cent before it takes means; nothing here is rounded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Literal

from numpy.typing import ArrayLike

from dsnet_med.errors import InputError, unknown
from dsnet_med.evaluate.classes import classes_of_arrays, measured
from dsnet_med.evaluate.labels import Labels, labels_of
from dsnet_med.evaluate.mask_scores import HausdorffRule, dice_of_counts
from dsnet_med.evaluate.measurements import TOLERANCES_MM, LabelMeasurement, Presence
from dsnet_med.evaluate.voxel_spacing import GridSpacing

Unit = Literal["mm", "voxels"]


@dataclass(frozen=True)
class Verdict:
    """What is reported where nothing can be measured; `distance` "diagonal" is the volume's diagonal in mm."""

    overlap: float
    distance: float | Literal["diagonal"]


@dataclass(frozen=True)
class Protocol:
    """How measurements become scores."""

    name: str
    rule: HausdorffRule
    unit: Unit
    verdicts: Mapping[Presence, Verdict]
    stacked: bool
    words: str

    @property
    def hd95_key(self) -> str:
        """The HD95 that it reports: a key of its summaries, a field of its records."""
        return f"hd95_{self.unit}"

    @property
    def metrics(self) -> tuple[str, str, str]:
        """What is shown and compared under it."""
        return ("dice", self.hd95_key, "nsd")


@dataclass(frozen=True)
class Record:
    """One row of cases.csv: one label of one case under a protocol. NaN: not counted.

    `nsd_at` is the NSD at each of TOLERANCES_MM.
    """

    label: int
    name: str
    dice: float
    hd95_mm: float
    assd_mm: float
    nsd: float
    reference_voxels: int
    prediction_voxels: int
    note: str
    hd95_voxels: float = nan
    nsd_at: tuple[float, ...] = ()


_NOT_COUNTED = Verdict(nan, nan)
_LENIENT = {Presence.MISSED: Verdict(0, 0), Presence.INVENTED: Verdict(1, 0), Presence.ABSENT: Verdict(0, 0)}

STRICT = Protocol(
    "strict",
    "pooled",
    "mm",
    {
        Presence.MISSED: Verdict(0, "diagonal"),
        Presence.INVENTED: Verdict(0, "diagonal"),
        Presence.ABSENT: _NOT_COUNTED,
    },
    stacked=False,
    words="HD95 pools both directed distance sets, in mm. An organ missed, or invented where there is none, "
    "scores Dice 0 and the volume's diagonal, and is counted. An organ in neither is shown and not counted. "
    "Means are over cases, then over organs, so missing an organ never improves a score.",
)
TRANSUNET = Protocol(
    "transunet",
    "pooled",
    "voxels",
    _LENIENT,
    stacked=False,
    words="TransUNet's rules, behind the published Synapse tables. HD95 pools both directed distance sets, in "
    "voxels. An organ invented where there is none scores Dice 1 and HD95 0; an organ missed, or in neither, "
    "scores Dice 0 and HD95 0. Means are over cases, then over organs. A missed organ lowers HD95.",
)
DPCNET = Protocol(
    "dpcnet",
    "pooled",
    "voxels",
    _LENIENT,
    stacked=True,
    words="DPC-Net's present code: the slices of all cases, in the order of their names, form one volume that "
    "is scored once by TransUNet's rules in voxels, so distances also run between neighbouring cases. The mean "
    "is over organs. It needs slices of one size.",
)
MONAI = Protocol(
    "monai",
    "max",
    "mm",
    {Presence.MISSED: Verdict(0, nan), Presence.INVENTED: _NOT_COUNTED, Presence.ABSENT: _NOT_COUNTED},
    stacked=False,
    words="MONAI's defaults. HD95 is the larger of the two directed 95th percentiles, in mm. Where the "
    "reference is empty nothing is counted; a missed organ scores Dice 0 and no HD95. Means are over cases, "
    "then over organs, and leave out what was not counted. A missed organ leaves the HD95 mean.",
)
PROTOCOLS = {protocol.name: protocol for protocol in (STRICT, TRANSUNET, DPCNET, MONAI)}

_NOTES = {
    Presence.BOTH: "",
    Presence.MISSED: "missed: in the reference only",
    Presence.INVENTED: "invented: in the prediction only",
    Presence.ABSENT: "absent from both",
}


def find_protocols(names: Iterable[str]) -> tuple[Protocol, ...]:
    """The named protocols, in the order given, each once. Raises InputError."""
    wanted = list(dict.fromkeys(names))
    if not wanted:
        raise InputError(f"no protocol given; choose among {', '.join(PROTOCOLS)}")
    for name in wanted:
        if name not in PROTOCOLS:
            raise unknown("protocol", name, PROTOCOLS)
    return tuple(PROTOCOLS[name] for name in wanted)


def score_case(
    reference: ArrayLike, prediction: ArrayLike, spacing_mm: GridSpacing, labels: Mapping[Any, Any] | Labels
) -> list[Record]:
    """Score one case under `strict`: one record per label, in the order of the labels' values.

    `reference` and `prediction` are integer label maps of one 2-D or 3-D shape, `spacing_mm` has one number per
    axis or is a matrix of the steps along them (see `hd95`), `labels` maps values to names (0 is background),
    or names to values: those with a list of values are regions, `{"whole": [1, 2], "core": [2]}`, of which each
    is scored as the union of its values, in this order. Raises InputError, also for values without a name.
    """
    given = labels_of(labels)
    a, b, _ = classes_of_arrays(reference, prediction, given)
    return [record(measure, STRICT) for measure in measured(a, b, spacing_mm, given.names)]


def record(measure: LabelMeasurement, protocol: Protocol) -> Record:
    """What `protocol` reports for a measurement (for a stacked protocol: of this case alone)."""
    presence, note = measure.presence, _NOTES[measure.presence]
    if presence is Presence.BOTH:
        overlap = dice_of_counts(measure.shared_voxels, measure.reference_voxels, measure.prediction_voxels)
        hd95_mm = measure.hd95_pooled_mm if protocol.rule == "pooled" else measure.hd95_max_mm
        assd_mm, nsd, hd95_voxels = measure.assd_mm, measure.nsd, measure.hd95_pooled_voxels
        nsd_at = measure.nsd_at or (nan,) * len(TOLERANCES_MM)
    else:
        overlap, distance = protocol.verdicts[presence].overlap, protocol.verdicts[presence].distance
        hd95_mm = assd_mm = measure.diagonal_mm if distance == "diagonal" else distance
        nsd, hd95_voxels = overlap, hd95_mm if protocol.unit == "voxels" else nan
        if isnan(measure.diagonal_mm):  # a stack of cases has no spacing: nothing in mm is known of it
            hd95_mm = assd_mm = nsd = nan
        nsd_at = (nsd,) * len(TOLERANCES_MM)
        note += "; not counted" if isnan(overlap) else ""
    return Record(
        label=measure.label,
        name=measure.name,
        dice=overlap,
        hd95_mm=hd95_mm,
        assd_mm=assd_mm,
        nsd=nsd,
        reference_voxels=measure.reference_voxels,
        prediction_voxels=measure.prediction_voxels,
        note=note,
        hd95_voxels=hd95_voxels,
        nsd_at=nsd_at,
    )
