from typing import Any

import numpy as np
from numpy.typing import NDArray

def class_ids(
    logits: NDArray[np.float32],
    rows: NDArray[np.int32],
    down: NDArray[np.float32],
    columns: NDArray[np.int32],
    across: NDArray[np.float32],
    scratch: NDArray[np.float32],
    lines: NDArray[np.float32],
    ids: NDArray[np.unsignedinteger[Any]],
) -> None: ...
