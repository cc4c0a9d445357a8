"""Random and hand-made masks that the tests of this folder share."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

SPACINGS = st.floats(0.3, 5.0).map(lambda size: round(size, 3))
LAYOUTS = (np.asarray, np.asfortranarray, lambda array: np.repeat(array, 2, axis=-1)[..., ::2])


def _blob(draw: st.DrawFn, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    for _ in range(draw(st.integers(1, 4))):
        corners = [sorted((draw(st.integers(0, n - 1)), draw(st.integers(0, n - 1)))) for n in shape]
        mask[tuple(slice(low, high + 1) for low, high in corners)] = True
    return mask


@st.composite
def masks(draw: st.DrawFn, ndim: int | None = None) -> tuple[NDArray, NDArray, tuple[float, ...]]:
    """Two non-empty masks, boxes and specks that often touch the borders, and a spacing."""
    ndim = ndim or draw(st.integers(2, 3))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(ndim))
    pair = []
    for _ in range(2):
        if draw(st.booleans()):
            mask = _blob(draw, shape)
        else:
            mask = draw(hnp.arrays(bool, shape))
            mask[tuple(draw(st.integers(0, n - 1)) for n in shape)] = True
        pair.append(
            draw(st.sampled_from(LAYOUTS))(mask.astype(draw(st.sampled_from((bool, np.uint8, np.int64)))))
        )
    return pair[0], pair[1], tuple(draw(SPACINGS) for _ in shape)


@st.composite
def grids(draw: st.DrawFn, ndim: int) -> NDArray:
    """The steps (ndim, ndim) along the axes of a grid: turned, mirrored, anisotropic, and sheared or not."""
    turn, _ = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=(ndim, ndim)))
    turn = draw(st.sampled_from((turn, np.eye(ndim), np.diag((-1.0, *np.ones(ndim - 1))))))
    shear = np.eye(ndim)
    for above in zip(*np.triu_indices(ndim, 1), strict=True):
        shear[above] = draw(st.sampled_from((0.0, 0.0, 2e-5, 0.01)) | st.floats(-2, 2))
    steps = turn @ shear
    return steps / np.linalg.norm(steps, axis=0) * [draw(SPACINGS) for _ in range(ndim)]


def surface_distances(reference: NDArray, prediction: NDArray, steps: NDArray) -> tuple[NDArray, NDArray]:
    """The two directed sets by brute force, border voxel by border voxel, at their places in mm."""
    a, b = (np.argwhere(border(mask)) @ np.asarray(steps).T for mask in (reference, prediction))
    between = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return between.min(axis=1), between.min(axis=0)


@st.composite
def label_maps(draw: st.DrawFn, labels: int = 3) -> tuple[NDArray, NDArray, tuple[float, float, float]]:
    """Two small label maps in which any label may be missing, and a spacing."""
    shape = tuple(draw(st.integers(1, 6)) for _ in range(3))
    values = st.integers(0, labels)
    pair = [draw(hnp.arrays(np.uint8, shape, elements=values, fill=st.just(0))) for _ in range(2)]
    return pair[0], pair[1], (draw(SPACINGS), draw(SPACINGS), draw(SPACINGS))


def border(mask: NDArray) -> NDArray:
    """The voxels of a mask with a face neighbour outside it or beyond the array: padded, shifted all ways."""
    padded = np.pad(np.asarray(mask, bool), 1)
    inner = tuple(slice(1, -1) for _ in mask.shape)
    inside = [np.roll(padded, by, axis)[inner] for axis in range(mask.ndim) for by in (-1, 1)]
    return padded[inner] & ~np.logical_and.reduce(inside)
