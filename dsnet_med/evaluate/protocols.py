"""A protocol: one choice of HD95, unit and conventions, as a row of data.

| name | HD95 | missed | invented | absent | mean |
|---|---|---|---|---|---|
| strict | pooled, mm | Dice 0, diagonal | Dice 0, diagonal | not counted | over cases, then organs |
| transunet | pooled, voxels | 0, 0 | Dice 1, HD95 0 | 0, 0 | over cases, then organs |
| dpcnet | pooled, voxels, all slices of all cases as one volume | 0, 0 | Dice 1, HD95 0 | 0, 0 | over organs |
| monai | max, mm | Dice 0, HD95 NaN | NaN | NaN | over cases, then organs, NaN left out |

`transunet` is `calculate_metric_percase` of TransUNet (Chen et al. 2021), which DPC-Net's published tables were
scored with; `dpcnet` is what DPC-Net's code became later. The reference implementation rounds each case to two
decimals of a per cent before it takes means; nothing here is rounded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isnan, nan
from types import MappingProxyType
from typing import Any, Literal

from numpy.typing import ArrayLike

from dsnet_med.errors import InputError, unknown
from dsnet_med.evaluate.conventions import Presence
from dsnet_med.evaluate.measurements import LabelMeasurement, measure_case
from dsnet_med.evaluate.overlap import dice_of_counts
from dsnet_med.evaluate.surface import HausdorffRule
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


@dataclass(frozen=True)
class Record:
    """One row of cases.csv: one label of one case under a protocol. NaN: not counted."""

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


_NOT_COUNTED = Verdict(nan, nan)
_LENIENT = MappingProxyType(
    {Presence.MISSED: Verdict(0, 0), Presence.INVENTED: Verdict(1, 0), Presence.ABSENT: Verdict(0, 0)}
)

STRICT = Protocol(
    "strict",
    "pooled",
    "mm",
    MappingProxyType(
        {
            Presence.MISSED: Verdict(0, "diagonal"),
            Presence.INVENTED: Verdict(0, "diagonal"),
            Presence.ABSENT: _NOT_COUNTED,
        }
    ),
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
    MappingProxyType(
        {Presence.MISSED: Verdict(0, nan), Presence.INVENTED: _NOT_COUNTED, Presence.ABSENT: _NOT_COUNTED}
    ),
    stacked=False,
    words="MONAI's defaults. HD95 is the larger of the two directed 95th percentiles, in mm. Where the "
    "reference is empty nothing is counted; a missed organ scores Dice 0 and no HD95. Means are over cases, "
    "then over organs, and leave out what was not counted. A missed organ leaves the HD95 mean.",
)
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({p.name: p for p in (STRICT, TRANSUNET, DPCNET, MONAI)})

_NOTES = MappingProxyType(
    {
        Presence.BOTH: "",
        Presence.MISSED: "missed: in the reference only",
        Presence.INVENTED: "invented: in the prediction only",
        Presence.ABSENT: "absent from both",
    }
)


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
    reference: ArrayLike, prediction: ArrayLike, spacing_mm: GridSpacing, labels: Mapping[Any, Any]
) -> list[Record]:
    """Score one case under `strict`: one record per label, in the order of the labels' values.

    `reference` and `prediction` are integer label maps of one 2-D or 3-D shape, `spacing_mm` has one number per
    axis or is a matrix of the steps along them (see `hd95`), `labels` maps values to names (0 is background).
    Raises InputError, also for values without a name.
    """
    measures = measure_case(reference, prediction, spacing_mm, labels).measures
    return [record(measure, STRICT) for measure in measures]


def record(measure: LabelMeasurement, protocol: Protocol) -> Record:
    """What `protocol` reports for a measurement (for a stacked protocol: of this case alone)."""
    scores = _scores(measure, protocol)
    return Record(
        label=measure.label,
        name=measure.name,
        reference_voxels=measure.reference_voxels,
        prediction_voxels=measure.prediction_voxels,
        note=_note(measure, protocol),
        **scores,
    )


def _scores(measure: LabelMeasurement, protocol: Protocol) -> dict[str, float]:
    if measure.presence is not Presence.BOTH:
        judged = _judged(protocol.verdicts[measure.presence], measure.diagonal_mm, protocol.unit)
        # A stack of cases has no spacing, so nothing in mm is known of it, not even where there is nothing.
        return (
            judged | dict.fromkeys(("hd95_mm", "assd_mm", "nsd"), nan) if isnan(measure.diagonal_mm) else judged
        )
    return {
        "dice": dice_of_counts(measure.shared_voxels, measure.reference_voxels, measure.prediction_voxels),
        "hd95_mm": measure.hd95_pooled_mm if protocol.rule == "pooled" else measure.hd95_max_mm,
        "hd95_voxels": measure.hd95_pooled_voxels,
        "assd_mm": measure.assd_mm,
        "nsd": measure.nsd,
    }


def _judged(verdict: Verdict, diagonal_mm: float, unit: Unit) -> dict[str, float]:
    distance = diagonal_mm if verdict.distance == "diagonal" else verdict.distance
    return {
        "dice": verdict.overlap,
        "hd95_mm": distance,
        "hd95_voxels": distance if unit == "voxels" else nan,
        "assd_mm": distance,
        "nsd": verdict.overlap,
    }


def _note(measure: LabelMeasurement, protocol: Protocol) -> str:
    note = _NOTES[measure.presence]
    if measure.presence is Presence.BOTH:
        return note
    verdict = protocol.verdicts[measure.presence]
    counted = verdict.overlap == verdict.overlap  # not NaN
    return note if counted else f"{note}; not counted"
