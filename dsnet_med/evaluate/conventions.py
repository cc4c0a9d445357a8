"""What an empty mask and a missed organ mean: every case there is, and the word for it.

For one label of one case the reference and the prediction each hold the label or do not. Both hold it: the
measures are defined and every protocol reports them. Only the reference holds it: the organ was `missed`. Only
the prediction holds it: it was `invented`. Neither holds it: it is `absent`, and there is nothing to measure.
For the last three overlap and distance are undefined (0/0, the distance to nothing), so what is reported is a
convention, and a protocol is the choice of one (protocols.py). The plain functions make the mildest choice that
hides nothing: `dice` gives 0 when one mask is empty and NaN when both are; `hd95` gives infinity when one mask
is empty and NaN when both are. Means are taken over cases first, then over organs, and leave NaN out; so only a
protocol that never turns a missed organ into NaN or 0 mm can promise that missing an organ does not help. That
is `strict`.
"""

from enum import StrEnum


class Presence(StrEnum):
    """Which of the two masks hold a label."""

    BOTH = "both"
    MISSED = "missed"
    INVENTED = "invented"
    ABSENT = "absent"


def presence(reference_voxels: int, prediction_voxels: int) -> Presence:
    """Which of the two masks hold voxels."""
    if reference_voxels and prediction_voxels:
        return Presence.BOTH
    if reference_voxels:
        return Presence.MISSED
    return Presence.INVENTED if prediction_voxels else Presence.ABSENT
