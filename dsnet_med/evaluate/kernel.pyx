# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The passes over voxels and border voxels that take the time, compiled; backend_scipy.py is the same in SciPy.

Volumes are C-contiguous (I, J, K). Places are voxels (N, 3) in the order of memory, so along K first: a column is
all voxels with one (i, j). Nothing here checks its arguments: callers do.
"""

from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

ctypedef fused label_t:
    uint8_t
    uint16_t


def survey(
    const label_t[:, :, ::1] reference,
    const label_t[:, :, ::1] prediction,
    int64_t[:, ::1] counts,
    int64_t[::1] along_i,
    int64_t[::1] along_j,
    int64_t[::1] along_k,
    int32_t[:, :, ::1] extents,
):
    """One pass over two label maps of one shape; adds to zeroed arrays.

    counts (labels, 3): the voxels of each label in the reference, in the prediction and in both; of background
    only what is near a label, so row 0 means nothing. along_*: how many voxels differ at each index of an axis.
    extents (I, J, 2): from where to where a row holds labels in either map; left alone where it holds none.
    """
    cdef Py_ssize_t i, j, k, m, start, ni = reference.shape[0], nj = reference.shape[1], nk = reference.shape[2]
    cdef Py_ssize_t step = sizeof(uint64_t) // sizeof(label_t)
    cdef const label_t *a
    cdef const label_t *b
    cdef label_t r, p
    cdef uint64_t wa, wb
    cdef uint64_t four[8]
    with nogil:
        for i in range(ni):
            for j in range(nj):
                a = &reference[i, j, 0]
                b = &prediction[i, j, 0]
                k = 0
                while k < nk:
                    if k + step <= nk:
                        memcpy(&wa, a + k, sizeof(uint64_t))
                        memcpy(&wb, b + k, sizeof(uint64_t))
                        if (wa | wb) == 0:
                            k += step
                            # Most of a volume is background: four words at a time.
                            while k + 4 * step <= nk:
                                memcpy(four, a + k, 4 * sizeof(uint64_t))
                                memcpy(four + 4, b + k, 4 * sizeof(uint64_t))
                                if (
                                    four[0] | four[1] | four[2] | four[3]
                                    | four[4] | four[5] | four[6] | four[7]
                                ) != 0:
                                    break
                                k += 4 * step
                            continue
                    r = a[k]
                    p = b[k]
                    start = k
                    k += 1
                    if (r | p) == 0:
                        continue
                    while k < nk and a[k] == r and b[k] == p:
                        k += 1
                    if extents[i, j, 1] == 0:
                        extents[i, j, 0] = <int32_t> start
                    extents[i, j, 1] = <int32_t> k
                    counts[r, 0] += k - start
                    counts[p, 1] += k - start
                    if r == p:
                        counts[r, 2] += k - start
                        continue
                    along_i[i] += k - start
                    along_j[j] += k - start
                    for m in range(start, k):
                        along_k[m] += 1


def borders(
    const label_t[:, :, ::1] volume,
    const int32_t[:, :, ::1] extents,
    bint planar,
    const int64_t[::1] starts,
    int64_t[::1] ends,
    int32_t[:, ::1] places,
):
    """The border voxels of every label in one pass: voxels with a face neighbour of another value or beyond the array.

    Labels lie within `extents` (survey). The places of label v fill places[starts[v] : ends[v]]. `starts`
    (labels + 1) leaves room for each label, none for those that are not wanted; `ends` begins as starts[:-1].
    `planar`: neighbours along I do not count.
    """
    cdef Py_ssize_t i, j, k, end, ni = volume.shape[0], nj = volume.shape[1], nk = volume.shape[2]
    cdef Py_ssize_t plane = nj * nk, step = sizeof(uint64_t) // sizeof(label_t)
    cdef const label_t *a
    cdef label_t v
    cdef uint64_t word
    cdef bint edge_row
    with nogil:
        for i in range(ni):
            for j in range(nj):
                a = &volume[i, j, 0]
                k = extents[i, j, 0]
                end = extents[i, j, 1]
                if k == end:
                    continue
                edge_row = j == 0 or j == nj - 1 or (not planar and (i == 0 or i == ni - 1))
                while k < end:
                    if k + step <= end:
                        memcpy(&word, a + k, sizeof(uint64_t))
                        if word == 0:
                            k += step
                            continue
                    v = a[k]
                    if v != 0 and starts[v] != starts[v + 1] and (
                        edge_row
                        or k == 0
                        or k == nk - 1
                        or a[k - 1] != v
                        or a[k + 1] != v
                        or a[k - nk] != v
                        or a[k + nk] != v
                        or (not planar and (a[k - plane] != v or a[k + plane] != v))
                    ):
                        places[ends[v], 0] = <int32_t> i
                        places[ends[v], 1] = <int32_t> j
                        places[ends[v], 2] = <int32_t> k
                        ends[v] += 1
                    k += 1


cdef struct Box:
    int32_t lo[3]
    int32_t hi[3]


# Targets in ascending order, by column and as a tree of boxes around 16, 256 and 4096 successive ones.
cdef struct Targets:
    int64_t count
    const int32_t *at
    int32_t i0
    int32_t j0
    int32_t ni
    int32_t nj
    int64_t *column
    Box *boxes[3]
    int64_t size[3]


cdef enum:
    FAN = 16


cdef inline double _square(double value) noexcept nogil:
    return value * value


cdef inline double _between(const int32_t *a, const int32_t *b, const double *spacing) noexcept nogil:
    return (
        _square((a[0] - b[0]) * spacing[0])
        + _square((a[1] - b[1]) * spacing[1])
        + _square((a[2] - b[2]) * spacing[2])
    )


cdef inline double _to_box(const int32_t *q, const Box *box, const double *spacing) noexcept nogil:
    cdef double total = 0
    cdef int axis
    for axis in range(3):
        if q[axis] < box.lo[axis]:
            total += _square((box.lo[axis] - q[axis]) * spacing[axis])
        elif q[axis] > box.hi[axis]:
            total += _square((q[axis] - box.hi[axis]) * spacing[axis])
    return total


cdef void _include(Box *box, const int32_t *lo, const int32_t *hi, bint first) noexcept nogil:
    cdef int axis
    for axis in range(3):
        if first or lo[axis] < box.lo[axis]:
            box.lo[axis] = lo[axis]
        if first or hi[axis] > box.hi[axis]:
            box.hi[axis] = hi[axis]


cdef bint _grow_tree(Targets *t) noexcept nogil:
    """Build the boxes; False when there is no memory for them."""
    cdef int level
    cdef int64_t n, m, below = t.count
    for level in range(3):
        t.size[level] = (below + FAN - 1) // FAN
        t.boxes[level] = <Box *> malloc(t.size[level] * sizeof(Box))
        if t.boxes[level] == NULL:
            return False
        for n in range(below):
            m = n // FAN
            if level == 0:
                _include(&t.boxes[0][m], &t.at[3 * n], &t.at[3 * n], n % FAN == 0)
            else:
                _include(&t.boxes[level][m], t.boxes[level - 1][n].lo, t.boxes[level - 1][n].hi, n % FAN == 0)
        below = t.size[level]
    return True


cdef double _from_tree(Targets *t, const int32_t *q, const double *spacing, double best, int64_t *last) noexcept nogil:
    """The squared distance to the nearest target, given that of the target `last` as a bound."""
    cdef int64_t a, b, c, n
    cdef double d
    for a in range(t.size[2]):
        if _to_box(q, &t.boxes[2][a], spacing) >= best:
            continue
        for b in range(FAN * a, min(FAN * (a + 1), t.size[1])):
            if _to_box(q, &t.boxes[1][b], spacing) >= best:
                continue
            for c in range(FAN * b, min(FAN * (b + 1), t.size[0])):
                if _to_box(q, &t.boxes[0][c], spacing) >= best:
                    continue
                for n in range(FAN * c, min(FAN * (c + 1), t.count)):
                    d = _between(q, &t.at[3 * n], spacing)
                    if d < best:
                        best = d
                        last[0] = n
    return best


cdef int64_t _in_column(Targets *t, int64_t low, int64_t high, int32_t k) noexcept nogil:
    """The first target of a column's (low to high - 1) at k or beyond it; high where there is none."""
    cdef int64_t middle
    while high - low > 0:
        middle = (low + high) // 2
        if t.at[3 * middle + 2] < k:
            low = middle + 1
        else:
            high = middle
    return low


cdef bint _prepare(Targets *t) noexcept nogil:
    """For each (i, j) around the targets, where its column begins; False without memory."""
    cdef int64_t n, cell
    cdef int32_t j_low = t.at[1], j_high = t.at[1]
    for n in range(1, t.count):
        j_low = min(j_low, t.at[3 * n + 1])
        j_high = max(j_high, t.at[3 * n + 1])
    t.i0 = t.at[0]
    t.j0 = j_low
    t.ni = t.at[3 * (t.count - 1)] - t.i0 + 1
    t.nj = j_high - j_low + 1
    t.column = <int64_t *> calloc(<size_t> t.ni * t.nj + 1, sizeof(int64_t))
    if t.column == NULL:
        return False
    for n in range(t.count):
        cell = <int64_t> (t.at[3 * n] - t.i0) * t.nj + t.at[3 * n + 1] - t.j0
        t.column[cell + 1] = n + 1
    for cell in range(<int64_t> t.ni * t.nj):
        if t.column[cell + 1] == 0:
            t.column[cell + 1] = t.column[cell]
    return True


cdef void _release(Targets *t) noexcept nogil:
    cdef int level
    free(t.column)
    for level in range(3):
        free(t.boxes[level])


cdef double _walk(
    Targets *t,
    const int32_t *q,
    const double *spacing,
    const int32_t[:, ::1] steps,
    const double[::1] lengths,
    double best,
    int64_t *last,
    bint *settled,
) noexcept nogil:
    """The squared distance to the nearest target in the columns around q, nearest columns first.

    `settled` says whether no column further away can hold a nearer one.
    """
    cdef Py_ssize_t n
    cdef int64_t low, high, m, other
    cdef int32_t i, j
    cdef double d
    settled[0] = True
    for n in range(steps.shape[0]):
        if lengths[n] >= best:
            return best
        i = q[0] + steps[n, 0] - t.i0
        j = q[1] + steps[n, 1] - t.j0
        if i < 0 or i >= t.ni or j < 0 or j >= t.nj:
            continue
        low = t.column[<int64_t> i * t.nj + j]
        high = t.column[<int64_t> i * t.nj + j + 1]
        if low == high:
            continue
        m = _in_column(t, low, high, q[2])
        for other in range(max(low, m - 1), min(high, m + 1)):
            d = lengths[n] + _square((t.at[3 * other + 2] - q[2]) * spacing[2])
            if d < best:
                best = d
                last[0] = other
    settled[0] = False
    return best


def nearest(
    const int32_t[:, ::1] points,
    const int32_t[:, ::1] targets,
    tuple spacing_mm,
    const int32_t[:, ::1] steps,
    const double[::1] lengths,
    double[::1] distances,
):
    """For each of `points` the exact distance to the nearest of `targets`; at least one of each, both places.

    steps (N, 2) are offsets along I and J in the order of their squared lengths (N,); the first must be (0, 0).
    They decide how far columns are walked before the tree is asked, so only the time depends on how many there are.
    """
    cdef Targets t
    cdef double spacing[3]
    cdef const int32_t *q
    cdef int64_t n, last = 0
    cdef double best
    cdef bint settled, has_tree = False, enough = True
    cdef int level
    for level in range(3):
        spacing[level] = spacing_mm[level]
        t.boxes[level] = NULL
    t.at = &targets[0, 0]
    t.count = targets.shape[0]
    t.column = NULL
    with nogil:
        enough = _prepare(&t)
        if enough:
            for n in range(points.shape[0]):
                q = &points[n, 0]
                # Neighbours in order tend to be neighbours in space: the last answer is a good bound for the next.
                best = _between(q, &t.at[3 * last], spacing)
                best = _walk(&t, q, spacing, steps, lengths, best, &last, &settled)
                if not settled:
                    if not has_tree:
                        enough = _grow_tree(&t)
                        if not enough:
                            break
                        has_tree = True
                    best = _from_tree(&t, q, spacing, best, &last)
                distances[n] = sqrt(best)
        _release(&t)
    if not enough:
        raise MemoryError("no memory for the border voxels of a label")
