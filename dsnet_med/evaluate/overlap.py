"""The Dice coefficient: how much of two masks is shared.

Dice = 2 |R and P| / (|R| + |P|), counted in voxels (Dice, Ecology 1945; Sorensen 1948). One empty mask gives 0;
two empty masks give NaN, because there is nothing to agree about (conventions.py).
"""

from math import nan

import numpy as np
from numpy.typing import ArrayLike

from dsnet_med.evaluate import arrays


def dice(reference: ArrayLike, prediction: ArrayLike) -> float:
    """Dice of two boolean masks of one 2-D or 3-D shape: 0 to 1, NaN when both are empty.

    Raises InputError for other shapes and for values that are neither boolean nor 0 and 1.
    """
    a, b = arrays.masks(reference, prediction)
    return dice_of_counts(int(np.count_nonzero(a & b)), int(np.count_nonzero(a)), int(np.count_nonzero(b)))


def dice_of_counts(shared_voxels: int, reference_voxels: int, prediction_voxels: int) -> float:
    """Dice from the voxels in both masks and in each; NaN when both are empty."""
    total = reference_voxels + prediction_voxels
    return 2 * shared_voxels / total if total else nan
