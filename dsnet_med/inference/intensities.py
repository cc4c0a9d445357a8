"""Can these intensities be what the network was trained on? Warnings that never change a mask.

What a network makes of a volume of one value, or of one whose values its clipping flattens, looks like any
other mask.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.prepare.doctor_case import odd_range_of_ct
from dsnet_med.prepare.intensity import Intensity

_ENOUGH_PER_AXIS = 100  # voxels: a million tell shares to a thousandth
_MOST_CLIPPED = 0.99
_LEAST_SPREAD = 0.02  # of the window, without the outermost thousandth at either end
_ENDS = (0.1, 99.9)


def implausible(voxels: NDArray[Any], rules: Iterable[Intensity]) -> tuple[str, ...]:
    """One line for each thing that makes a volume (X, Y, Z) no image that networks of these rules can know."""
    steps = (slice(None, None, -(-length // _ENOUGH_PER_AXIS)) for length in voxels.shape)
    sample = voxels[tuple(steps)]
    low, high = float(sample.min()), float(sample.max())
    if low == high:  # most likely all of it
        low, high = float(voxels.min()), float(voxels.max())
        if low == high:
            return (f"the image is constant, every voxel is {low:g}: there is nothing to segment in it",)
    found = (line for rule in rules for line in _lines(sample, rule, low, high))
    return tuple(dict.fromkeys(found))


def _lines(sample: NDArray[Any], rule: Intensity, low: float, high: float) -> Iterator[str]:
    if rule.kind != "window":
        sample = sample[sample != 0] if rule.foreground and sample.any() else sample
        ends = np.percentile(sample, (rule.low, rule.high))
        if ends[0] == ends[1]:
            share = float((sample == ends[0]).mean())
            yield f"{share:.1%} of the voxels are {ends[0]:g}: there is next to nothing to segment in it"
        return
    trained = f"the {rule.low:g} to {rule.high:g} that the network was trained on"
    below, above = float((sample <= rule.low).mean()), float((sample >= rule.high).mean())
    first, last = (float(end) for end in np.percentile(sample, _ENDS))
    if below + above > _MOST_CLIPPED:
        yield f"{below:.1%} of the voxels lie below {trained}, {above:.1%} above: is this the kind of image?"
    elif min(last, rule.high) - max(first, rule.low) < _LEAST_SPREAD * (rule.high - rule.low):
        yield f"intensities run from {first:g} to {last:g}, next to nothing of {trained}: were they scaled?"
    elif rule.low < 0 and (reason := odd_range_of_ct(low, high)):  # a window of Hounsfield units
        yield f"implausible for CT: intensities run from {low:g} to {high:g}, {reason}"
